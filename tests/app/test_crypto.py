"""The technical indicators over HTTP: which token is meant, and what is answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.app.pages import Site, open_site

INDICATORS = "/api/crypto/technical-indicators"


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with open_site(request, tmp_path_factory) as site:
        yield site


@pytest.mark.parametrize(
    ("symbol", "found"),
    [
        ("BTC", "BTC"),
        ("btc", "BTC"),
        ("BTCUSDT", "BTC"),
        ("btc-usd", "BTC"),
        ("ETH/EUR", "ETH"),
        ("eth%2Feur", "ETH"),
        ("ETHBTC", "ETH"),
        ("sol_usdc", "SOL"),
        ("USDT", None),
        ("XYZ", None),
        ("XYZUSDT", None),
        ("BTCC", None),
        ("B%C5%A4C", None),  # MariaDB takes an accented letter for the plain one
        ("%EF%BC%A2TC", None),
        ("%00", None),
        ("%F0%9F%90%98", None),
        ("x" * 5000, None),
        ("BTC%25", None),
        ("'OR'1'='1", None),
    ],
)
def test_a_token_is_found_by_its_symbol_or_by_a_market(site, symbol, found):
    for slash in ("/", ""):
        answer = site.get(f"{INDICATORS}/{symbol}{slash}")
        if found is None:
            assert (answer.status, answer.json) == (404, {"error": "there is no such token"})
        else:
            assert (answer.status, answer.json["symbol"]) == (200, found)


def test_a_symbol_that_is_not_utf8_is_400(site):
    assert site.get(f"{INDICATORS}/%FF/").status == 400


def test_the_indicators_do_not_depend_on_how_many_candles_are_shown(site):
    all_candles = site.get(f"{INDICATORS}/BTC/?limit=500").json["candles"]
    assert len(all_candles) == 240
    assert all_candles[0]["sma"] is None
    assert all(value is not None for value in all_candles[-1].values())
    assert [candle["time"] for candle in all_candles] == sorted(c["time"] for c in all_candles)
    for limit in (1, 100):
        assert site.get(f"{INDICATORS}/BTC/?limit={limit}").json["candles"] == all_candles[-limit:]
    other = site.get(f"{INDICATORS}/BTC/?period=5&rsi_period=7&limit=1").json["candles"][0]
    assert other["sma"] != all_candles[-1]["sma"]
    assert other["macd"] == all_candles[-1]["macd"]


def test_a_token_with_few_candles_has_nulls(site):
    site.execute("INSERT INTO app_token (symbol, name) VALUES ('NEW', 'New')")
    try:
        assert site.get(f"{INDICATORS}/NEW/").json["candles"] == []
        site.execute(
            "INSERT INTO app_candle (token_id, time, open, high, low, close, volume)"
            " SELECT id, '2025-01-01 00:00:00', 1, 1, 1, 1.5, 1 FROM app_token WHERE symbol = 'NEW'"
        )
        (candle,) = site.get(f"{INDICATORS}/NEW/").json["candles"]
        assert (candle.pop("close"), candle.pop("time")) == (1.5, "2025-01-01T00:00:00+00:00")
        assert set(candle.values()) == {None}
    finally:
        site.execute("DELETE FROM app_candle WHERE close = 1.5")
        site.execute("DELETE FROM app_token WHERE symbol = 'NEW'")
