"""Two databases: reads go to the replica, writes to the other one.

Here they are two schemas, and nothing is replicated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

import greentor
from app.routers import ReplicaRouter
from tests.app.api import send
from tests.app.server import Server, start
from tests.mariadb import MariaDB
from tests.testapp.models import Book

BOOK = (
    "INSERT INTO app_book (name, author_id, published, price)"
    " SELECT %s, MIN(id), 2000, 1 FROM app_author"
)


class Pair:
    """A database and its replica, with the application's tables in both."""

    def __init__(self, mariadb: MariaDB, directory: Path):
        self.mariadb = mariadb
        self.names = {"default": "pair_default", "replica": "pair_replica"}
        self.environ = {"DATA_DIR": str(directory)}
        for name in self.names.values():
            mariadb.create_database(name)
            with Server(self.environ | {"DATABASE_URL": mariadb.url(name)}):
                pass
        self.environ["DATABASE_URL"] = mariadb.url("pair_default") + "?pool_size=3&max_overflow=0"
        self.environ["REPLICA_URL"] = mariadb.url("pair_replica") + "?pool_size=2&max_overflow=0"

    def execute(self, alias: str, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        found = self.mariadb.execute(sql, *args, database=self.names[alias])
        return [tuple(row.values()) for row in found]


@pytest.fixture(scope="module")
def pair(mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(mariadb, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def server(pair: Pair) -> Iterator[Server]:
    with Server(pair.environ) as server:
        yield server
    assert "Traceback" not in server.log


@pytest.fixture(autouse=True)
def tidy(pair: Pair) -> Iterator[None]:
    yield
    for alias in pair.names:
        pair.execute(alias, "DELETE FROM app_book WHERE published = 2000")
        pair.execute(alias, "DELETE FROM app_user WHERE id > 5")


def test_a_read_sees_the_replica(pair, server):
    pair.execute("replica", BOOK, "Only in the replica")
    pair.execute("default", BOOK, "Only in the other one")
    for path in ("/books/", "/async/books/"):
        text = server.get(f"{path}?q=Only+in").text
        assert "Only in the replica" in text
        assert "Only in the other one" not in text


def test_a_write_goes_to_the_other_one(pair, server):
    user = {"username": "eve", "email": "eve@example.com", "password": "correct horse"}
    answer = send(server, "POST", "/api/users", user)
    assert answer.status == 201
    count = "SELECT COUNT(*) FROM app_user WHERE username = 'eve'"
    assert pair.execute("default", count) == [(1,)]
    assert pair.execute("replica", count) == [(0,)]
    assert server.get(answer.headers["Location"]).status == 404  # it has not been replicated
    # What is read to be written is read from where it will be written.
    assert send(server, "PATCH", answer.headers["Location"], {"full_name": "Eve"}).status == 200
    # So is what is read after writing: which name was taken.
    again = send(server, "POST", "/api/users", user)
    assert (again.status, again.json["fields"].keys()) == (409, {"username", "email"})


def test_rows_that_were_read_from_the_replica_are_saved_to_the_other_one(pair, server):
    before = {alias: dict(pair.execute(alias, "SELECT * FROM world")) for alias in pair.names}
    changed = {row["id"]: row["randomNumber"] for row in server.get("/updates?queries=50").json}
    after = {alias: dict(pair.execute(alias, "SELECT * FROM world")) for alias in pair.names}
    assert after["replica"] == before["replica"]
    assert after["default"] == before["default"] | changed


def test_a_transaction_and_a_write_pin_the_reads_that_follow(run, clean_tables):
    router = ReplicaRouter()

    def read() -> str:
        return router.db_for_read(Book)

    @greentor.green
    def request():
        assert read() == "replica"
        with transaction.atomic():
            assert read() == "default"
        assert read() == "replica"
        assert router.db_for_write(Book) == "default"
        greentor.sleep(0)
        assert read() == "default"

    @greentor.green
    async def async_request():
        async def child():
            return read()

        assert await asyncio.gather(child(), child()) == ["replica"] * 2
        router.db_for_write(Book)
        assert await asyncio.gather(child(), child()) == ["default"] * 2

    async def requests():
        await asyncio.gather(request(), request())
        await request()
        await async_request()

    run(requests)


def test_page_views_are_written_to_the_default_database(pair):
    with Server(pair.environ) as server:
        server.get("/books/?written=1")
    count = "SELECT COUNT(*) FROM app_accessrecord WHERE query = 'written=1'"
    assert pair.execute("default", count) == [(1,)]
    assert pair.execute("replica", count) == [(0,)]


def test_nothing_is_migrated_on_the_replica(mariadb, tmp_path):
    for name in ("bare_default", "bare_replica"):
        mariadb.create_database(name)
    environ = {
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": mariadb.url("bare_default"),
        "REPLICA_URL": mariadb.url("bare_replica"),
    }
    with Server(environ):
        pass
    assert mariadb.execute("SHOW TABLES", database="bare_replica") == []
    assert len(mariadb.execute("SHOW TABLES", database="bare_default")) > 5


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://h/n?pool_size=x", "REPLICA_URL: pool_size must be an integer, not 'x'"),
        ("no url", "REPLICA_URL: "),
    ],
)
def test_a_wrong_url_is_said_in_a_line(tmp_path, url, said):
    process = start({"DATA_DIR": str(tmp_path), "REPLICA_URL": url}, "--port", "0")
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1
    assert said in errors
    assert "Traceback" not in errors
