"""Tokens by the names that exchanges give to their markets, and the indicators over their candles."""

from __future__ import annotations

import re
from typing import Any

from django.http import Http404

from app import indicators
from app.models import Candle, Token

#: what tokens are traded for, longer names before those that they end with
QUOTES = (
    "FDUSD",
    "USDT",
    "USDC",
    "TUSD",
    "BUSD",
    "USD",
    "EUR",
    "GBP",
    "JPY",
    "CHF",
    "DAI",
    "BTC",
    "ETH",
)

#: so many candles are looked at; the averages of all before them no longer tell
MAX_CANDLES = 1000

#: digits after the point; what comes behind is the error of floating point
DIGITS = 8


async def find_token(symbol: str) -> Token:
    """Return the token of a symbol or a market: BTC, btc, BTCUSDT, BTC-USD, ETH/EUR; raise Http404."""
    candidates = symbols(symbol)
    found = {token.symbol: token async for token in Token.objects.filter(symbol__in=candidates)}
    for candidate in candidates:
        if candidate in found:
            return found[candidate]
    raise Http404("there is no such token")


def symbols(text: str) -> list[str]:
    """Return what the symbol may be: the text in upper case, else with a quote currency cut off."""
    text = text.upper()
    cut = [text.removesuffix(quote).rstrip("-_/:") for quote in QUOTES if text.endswith(quote)]
    return [symbol for symbol in (text, *cut) if re.fullmatch("[A-Z0-9]{1,15}", symbol)]


async def compute_indicators(
    token: Token, *, limit: int, period: int, rsi_period: int
) -> list[dict[str, Any]]:
    """Return the token's last ``limit`` candles with their indicators, the oldest first.

    An indicator is None where too few candles have gone before.
    """
    last = Candle.objects.filter(token=token).order_by("-time").values_list("time", "close")
    candles = [candle async for candle in last[:MAX_CANDLES]][::-1]
    closes = [float(close) for _, close in candles]
    upper, middle, lower = indicators.bollinger(closes, period)
    macd, signal, histogram = indicators.macd(closes)
    series = {
        "close": closes,
        "sma": indicators.sma(closes, period),
        "ema": indicators.ema(closes, period),
        "rsi": indicators.rsi(closes, rsi_period),
        "macd": macd,
        "macd_signal": signal,
        "macd_histogram": histogram,
        "bollinger_upper": upper,
        "bollinger_middle": middle,
        "bollinger_lower": lower,
    }
    first = max(0, len(candles) - limit)
    return [
        {
            "time": candles[i][0].isoformat(),
            **{name: _rounded(of[i]) for name, of in series.items()},
        }
        for i in range(first, len(candles))
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
