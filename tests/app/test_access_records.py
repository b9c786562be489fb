"""Page views are written after the answer, each once, whatever the database does meanwhile."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.client import Client, hammer
from tests.app.server import Server
from tests.waiting import wait_until

VIEWS = 500  # by hand: 5,000
AT_ONCE = 100

Execute = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(params=["sqlite", "mariadb"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[dict[str, str], Execute]]:
    """Give the application's environment, and a way to its database past it."""
    options = "pool_size=8&max_overflow=0"
    environ = {"DATA_DIR": str(tmp_path)}
    if request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb")
        mariadb.create_database("views")
        environ["DATABASE_URL"] = f"{mariadb.url('views')}?{options}"
        yield (
            environ,
            lambda sql, *args: [
                tuple(row.values()) for row in mariadb.execute(sql, *args, database="views")
            ],
        )
    else:
        path = tmp_path / "app.sqlite3"
        environ["DATABASE_URL"] = f"sqlite:///{path}?{options}"

        def execute(sql: str, *args: Any) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                return connection.execute(sql, args).fetchall()

        yield environ, execute


@pytest.fixture
def execute(database: tuple[dict[str, str], Execute]) -> Execute:
    return database[1]


@pytest.fixture
def server(database: tuple[dict[str, str], Execute]) -> Iterator[Server]:
    with Server(database[0]) as server:
        yield server
    assert "Traceback" not in server.log


def recorded(execute: Execute) -> list[str]:
    """Return the queries of the views, by which the tests tell them apart."""
    return [query for (query,) in execute("SELECT query FROM app_accessrecord")]


def view(server: Server, path: str, **headers: str) -> int:
    connection = server.connect()
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


async def ask(server: Server, answered: set[str], views: int = VIEWS, at: int = 0) -> None:
    """Ask for pages, note which were answered, and send SIGTERM at a certain number of them."""

    async def one(client: Client, number: int) -> None:
        try:
            status, _ = await client.get(f"/books/detail/{number % 40 + 1}?n={number}")
        except OSError:
            client.vanish()
            return
        assert status == 200
        answered.add(f"n={number}")
        if len(answered) == at:
            server.send(signal.SIGTERM)

    await hammer(server.port, views, AT_ONCE, one)


def test_every_view_of_many_at_once_is_written_once(server, execute):
    answered: set[str] = set()
    asyncio.run(ask(server, answered))
    assert server.stop() == 0
    assert len(answered) == VIEWS
    assert sorted(recorded(execute)) == sorted(answered)


def test_a_signal_loses_no_view_that_was_answered(server, execute):
    answered: set[str] = set()
    many = 20 * VIEWS  # more than can be answered before the signal is
    asyncio.run(ask(server, answered, many, at=VIEWS // 2))
    begin = time.monotonic()
    assert server.wait() == 0
    # Who keeps asking on an open connection does not keep it up.
    assert time.monotonic() - begin < 15
    assert "did not finish" not in server.log
    found = recorded(execute)
    assert VIEWS // 2 <= len(answered) <= len(found) < many
    assert len(found) == len(set(found))
    assert answered <= set(found)


def test_what_is_written_of_a_view(server, execute):
    headers = {"User-Agent": "Test/1.0 (é)", "Referer": "http://example.com/?a=b"}
    for path, status in (("/books/?q=a%20b&page=1", 200), ("/nothing", 404), ("/books", 301)):
        assert view(server, path, **headers) == status
    (first, second) = wait_until(lambda: _at_least(2, server.get("/api/access-records").json))
    assert first.items() >= {"path": "/nothing", "query": "", "status": 404}.items()
    del second["id"], second["time"]
    assert second == {
        "method": "GET",
        "path": "/books/",
        "query": "q=a%20b&page=1",
        "status": 200,
        "address": "127.0.0.1",
        "user_agent": "Test/1.0 (é)",
        "referrer": "http://example.com/?a=b",
    }


def _at_least(number: int, page: dict[str, Any]) -> list[dict[str, Any]]:
    return page["items"] if page["total"] >= number else []


def test_long_texts_are_cut(server, execute):
    path = "/" + "%C3%A9" * 200
    headers = {"User-Agent": "a" * 3000, "Referer": "r" * 3000}
    assert view(server, f"{path}?{'q' * 3000}", **headers) == 404
    wait_until(lambda: recorded(execute))
    assert execute("SELECT path, query, user_agent, referrer FROM app_accessrecord") == [
        (path[:255], "q" * 1000, "a" * 500, "r" * 1000)
    ]


def test_what_is_no_page_is_not_written(server, execute):
    for path in ("/json", "/plaintext", "/fortunes", "/db", "/api/users", "/static/style.css"):
        assert server.get(path).status == 200
    assert server.stop() == 0
    assert recorded(execute) == []


def test_views_are_counted_by_path(server):
    for path, times in (("/books/?a=1", 3), ("/", 2), ("/nothing", 1)):
        for _ in range(times):
            server.get(path)
    wait_until(lambda: server.get("/api/access-records").json["total"] == 6)
    found = server.get("/api/access-records/paths?size=2").json
    assert [(row["path"], row["views"]) for row in found["items"]] == [("/books/", 3), ("/", 2)]
    assert (found["total"], found["pages"]) == (3, 2)
    for wrong in ("page=0", "page=-1", "size=101", "page=x", "page=99999999999"):
        for path in ("/api/access-records", "/api/access-records/paths"):
            assert server.get(f"{path}?{wrong}").status == 400
            assert server.get(f"{path}?page=9").status == 404


def test_a_table_that_is_away_delays_no_answer_and_loses_no_view(server, execute):
    execute("ALTER TABLE app_accessrecord RENAME TO elsewhere")
    begin = time.monotonic()
    for number in range(20):
        assert server.get(f"/?n={number}").status == 200
    assert time.monotonic() - begin < 10  # a batch that failed waits for 1 s
    wait_until(lambda: "could not be written" in server.log)
    execute("ALTER TABLE elsewhere RENAME TO app_accessrecord")
    wait_until(lambda: len(recorded(execute)) == 20)
    assert sorted(recorded(execute)) == sorted(f"n={number}" for number in range(20))


def test_an_end_without_the_table_is_bounded_and_said(server, execute):
    execute("DROP TABLE app_accessrecord")
    assert server.get("/").status == 200
    server.send(signal.SIGTERM)
    begin = time.monotonic()
    assert server.wait() == 0
    assert time.monotonic() - begin < 15
    assert "1 page views are lost" in server.log
