"""The page that shows what ran when, and the drawing."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from app.timeline import Bar, Timeline, draw, find_ticks
from tests.app.pages import Site, find, open_site
from tests.noise import undisturbed
from tests.waiting import wait_until

CHARTS = ["side-by-side", "by-turns", "semaphore", "http"]
Row = tuple[str, float, float, float, int]


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with open_site(request, tmp_path_factory, "pool_size=12&max_overflow=0") as site:
        yield site


@pytest.fixture(params=["sqlite", "mariadb"])
def narrow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The application with two connections, for which nobody waits for long."""
    with open_site(request, tmp_path_factory, "pool_size=2&max_overflow=0&pool_timeout=20") as site:
        yield site


def read(html: str) -> dict[str, list[Row]]:
    """Return the rows of the tables, by the chart that they belong to."""
    tables = find("<tbody>(.*?)</tbody>", html)
    rows = {}
    for chart, table in zip(CHARTS, tables, strict=True):
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("</tr>")]
        rows[chart] = [(c[0], *map(float, c[1:4]), int(c[4])) for c in cells if c]
    return rows


def most_at_once(rows: list[Row]) -> int:
    return max(sum(b[2] <= a[2] < b[3] for b in rows) for a in rows)


def test_ten_queries_overlap_on_one_thread(site):
    # To open a connection may take longer than a query does: later visitors find them open.
    def all_at_once() -> str:
        html = site.get("/demo/concurrency").text
        charts = read(html)
        most = [most_at_once(charts[name]) for name in ("side-by-side", "semaphore", "http")]
        return html if most == [10, 3, 4] else ""

    html = wait_until(all_at_once, timeout=60)
    charts = read(html)
    assert {name: len(rows) for name, rows in charts.items()} == dict(
        zip(CHARTS, (10, 4, 10, 4), strict=True)
    )
    assert most_at_once(charts["by-turns"]) == 1
    for name, most in (("side-by-side", 10), ("by-turns", 1), ("semaphore", 3), ("http", 4)):
        assert f"at most {most} at once" in find(f'<h2 id="{name}">(.*?)</section>', html)[0]
    assert len({row[4] for rows in charts.values() for row in rows}) == 1
    for rows in charts.values():
        for _, asked, began, ended, _ in rows:
            assert 0 <= asked <= began < ended
            assert 95 < ended - began < 30_000
    # those who take turns do so in the order in which they asked
    turns = charts["by-turns"]
    assert [row[2] for row in turns] == sorted(row[2] for row in turns)
    assert "failed" not in html


def test_the_drawing_says_what_the_table_says(site):
    html = site.get("/demo/concurrency").text
    drawings = re.findall("<svg.*?</svg>", html, re.DOTALL)
    for drawing, rows in zip(drawings, read(html).values(), strict=True):
        svg = ElementTree.fromstring(drawing)
        assert len(svg.findall(".//*[@class='ran']")) == len(rows)
        assert svg.get("role") == "img"
        ids = {svg.find("title").get("id"), svg.find("desc").get("id")}
        assert set(svg.get("aria-labelledby").split()) == ids
        said = re.findall(r"(\w+ \d+) from (\d+) to (\d+) ms", svg.find("desc").text)
        assert [name for name, _, _ in said] == [row[0] for row in rows]
        for (_, began, ended), row in zip(said, rows, strict=True):
            assert (int(began), int(ended)) == pytest.approx(row[2:4], abs=0.6)


def test_the_page_shows_the_code_that_ran(site):
    html = site.get("/demo/concurrency").text
    shown = find("<code>(.*?)</code>", html)
    assert any("async def three_at_a_time" in code and "Semaphore(3)" in code for code in shown)
    assert len(shown) == 5


def test_many_visitors_at_once_with_two_connections_all_see_the_page(narrow):
    begin = time.monotonic()
    answers = narrow.get_at_once(["/demo/concurrency"] * 3)
    assert [answer.status for answer in answers] == [200] * 3
    assert time.monotonic() - begin < 20
    for answer in answers:
        charts = read(answer.text)
        assert (
            max(map(most_at_once, charts.values())) <= 4
        )  # two over HTTP, and what those wait for
        assert most_at_once(charts["side-by-side"]) <= 2
        assert "failed" not in answer.text


def test_one_connection_is_enough(request, tmp_path_factory):
    request.param = "sqlite"
    with open_site(request, tmp_path_factory, "pool_size=1&max_overflow=0") as site:
        assert site.get("/demo/concurrency").status == 200


def test_a_crowd_is_told_to_come_back(request, tmp_path_factory):
    request.param = "sqlite"
    options = "pool_size=1&max_overflow=0&pool_timeout=0.3"
    with open_site(request, tmp_path_factory, options) as site:
        answers = site.get_at_once(["/demo/concurrency"] * 4)
        assert {answer.status for answer in answers} <= {200, 503}
        assert 503 in {answer.status for answer in answers}
        assert site.get("/books/").status == 200


def test_a_timeout_within_a_task_group_is_no_error_of_ours(request, tmp_path_factory):
    request.param = "sqlite"
    options = "pool_size=1&max_overflow=0&pool_timeout=1.3"
    with open_site(request, tmp_path_factory, options) as site:
        connection = site.connect()
        connection.request("GET", "/demo/concurrency")
        time.sleep(
            1.6
        )  # the third program runs from about 1.4 s to 2.4 s; any other is 503 as well
        sleeper = site.connect()
        sleeper.request("GET", "/sleep?ms=3000")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (503, "text/html; charset=UTF-8")
        assert sleeper.getresponse().status == 200
        connection.close()
        sleeper.close()


def test_a_server_that_stops_cannot_be_called_and_the_page_says_so(request, tmp_path_factory):
    request.param = "sqlite"
    undisturbed(lambda: _stop_before_it_calls_itself(request, tmp_path_factory), 0.3)


def _stop_before_it_calls_itself(request, tmp_path_factory):
    with open_site(request, tmp_path_factory) as site:
        connection = site.connect()
        connection.request("GET", "/demo/concurrency")
        assert site.get("/json").status == 200  # which came after it
        site.send(signal.SIGTERM)  # its HTTP calls come after some 900 ms
        answer = connection.getresponse()
        html = answer.read().decode()
        connection.close()
        assert answer.status == 200
        assert "HTTP 1 failed: [Errno" in html
        assert site.wait() == 0


@pytest.mark.parametrize("host", ["evil.example:1", "127.0.0.1:1", "[::1]", "", "\xff"])
def test_the_host_header_does_not_say_whom_the_server_calls(site, host):
    connection = site.connect()
    connection.putrequest("GET", "/demo/concurrency", skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    html = answer.read().decode()
    connection.close()
    if answer.status != 400:  # Tornado refuses some by itself
        assert "failed" not in html
        assert len(read(html)["http"]) == 4


# --- the drawing ------------------------------------------------------------------------------


def bars(*times: tuple[float, float, float]) -> list[Bar]:
    timeline = Timeline()
    return [Bar(f"b{i}", timeline, *each, thread=1) for i, each in enumerate(times)]


def test_the_drawing_is_the_same_for_the_same_bars():
    some = bars((0, 1, 50), (0, 50, 100))
    assert draw(some, "n", "t") == draw(some, "n", "t")


def test_a_label_is_escaped():
    bar = bars((0, 0, 10))[0]
    bar.label = "<b>&\"'"
    svg = draw([bar], "n", "</title><script>")
    assert "<b>" not in svg
    assert "<script" not in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    "times",
    [
        [(0, 0, 0)],
        [(0, 0, 0.01)],
        [(0, 5, 5)],
        [(0, 0, 100)],
        [(0, 99.999, 100.001)],
        [(0, 0, 123_456)],
        [(3, 4, 5)] * 30,
    ],
)
def test_nothing_is_drawn_outside(times):
    svg = ElementTree.fromstring(draw(bars(*times), "n", "t"))
    for rect in svg.iter("rect"):
        x, width = (float(rect.get(name).rstrip("%")) for name in ("x", "width"))
        assert 20 <= x <= 100
        assert width >= 0
        assert x + width <= 100.02
    for group in svg.iter("g"):
        assert float(re.search(r"0 (\d+)", group.get("transform"))[1]) < int(svg.get("height"))


@pytest.mark.parametrize("span", [0, 0.1, 1, 5, 9.9, 10, 99, 100, 101, 249, 250, 404, 1e5, 1e9])
def test_ticks_are_few_and_round(span):
    ticks = list(find_ticks(span))
    assert 2 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-1] >= span
    assert ticks[-2] < max(span, 1)
    step = str(ticks[1])
    assert step[0] in "125"
    assert set(step[1:]) <= {"0"}


def test_the_most_at_once_are_counted():
    timeline = Timeline()
    timeline.bars = bars((0, 0, 10), (0, 10, 20), (0, 5, 15), (0, 6, 7))
    assert timeline.most_at_once == 3
    assert (timeline.span, timeline.work) == (20, 31)
