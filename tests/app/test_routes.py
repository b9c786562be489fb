"""Every route of the running application, on SQLite and on MariaDB."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest

from tests.app import techempower
from tests.app.server import Server

Rows = list[tuple[Any, ...]]
HTML = "text/html; charset=UTF-8"
JSON = "application/json; charset=UTF-8"


class Site(Server):
    """The application, with a way to its database past it."""

    def __init__(
        self, environ: dict[str, str], execute: Callable[[str], Rows], mariadb: Any = None
    ):
        self.execute = execute
        self.mariadb = mariadb
        super().__init__(environ)

    def worlds(self) -> dict[int, int]:
        """Return the table ``world``."""
        return dict(self.execute("SELECT id, randomnumber FROM world"))


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("data")
    environ = {"DATA_DIR": str(data)}
    mariadb = None

    def execute(sql: str) -> Rows:
        if mariadb:
            return [tuple(row.values()) for row in mariadb.execute(sql, database="app")]
        with closing(sqlite3.connect(data / "app.sqlite3", isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    if request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb")
        mariadb.create_database("app")
        environ["DATABASE_URL"] = mariadb.url("app") + "?pool_size=8&max_overflow=0&pool_timeout=90"
    with Site(environ, execute, mariadb) as server:
        yield server
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", HTML),
        ("/books/", HTML),
        ("/books/detail/1", HTML),
        ("/json", JSON),
        ("/plaintext", "text/plain; charset=UTF-8"),
        ("/db", JSON),
        ("/queries?queries=3", JSON),
        ("/fortunes", HTML),
        ("/updates?queries=3", JSON),
        ("/sleep?ms=1", JSON),
        ("/echo?token=a&ms=1", JSON),
        ("/static/style.css", "text/css"),
        ("/favicon.ico", None),
    ],
)
def test_every_route_answers(site, path, content_type):
    answer = site.get(path)
    assert answer.status == 200
    if content_type:
        assert answer.headers["Content-Type"] == content_type


def test_the_links_of_the_home_page_work(site):
    links = re.findall(r'href="(/[^"]*)"', site.get("/").text)
    assert len(links) > 12
    for link in links:
        assert site.get(link.replace("&amp;", "&")).status == 200, link


def test_a_book_has_a_page_that_names_its_author_and_the_other_books(site):
    ((pk,),) = site.execute("SELECT id FROM app_book WHERE name = 'Emma'")
    text = site.get(f"/books/detail/{pk}").text
    assert "<h1>Emma</h1>" in text
    assert "by Jane Austen" in text
    assert "Persuasion</a>" in text


def test_what_is_in_the_database_is_escaped(site):
    site.execute(
        "INSERT INTO app_book (name, author_id, published, price)"
        " SELECT '<script>\"&', id, 2000, 1.5 FROM app_author WHERE name = 'Mary Shelley'"
    )
    try:
        assert "&lt;script&gt;&quot;&amp;</a>" in site.get("/books/").text
        assert "<script" not in site.get("/books/").text
    finally:
        site.execute("DELETE FROM app_book WHERE published = 2000")


@pytest.mark.parametrize(
    "path",
    [
        "/books/detail/0",
        "/books/detail/999999999999999999",
        "/books/detail/" + "9" * 5000,
        "/books/detail/-1",
        "/books/detail/x",
        "/books/detail/%00",
        "/books/detail/",
        "/nothing",
        "/%3Cscript%3E",
    ],
)
def test_what_is_not_there_is_404_with_a_page(site, path):
    answer = site.get(path)
    assert answer.status == 404
    assert "<h1>404 Not Found</h1>" in answer.text
    assert "<script" not in answer.text


def test_the_list_without_its_slash_redirects(site):
    answer = site.get("/books")
    assert (answer.status, answer.headers["Location"]) == (301, "/books/")


def test_a_page_has_no_post(site):
    connection = site.connect()
    connection.request("POST", "/books/", b"")
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize(
    "ms", ["", "-1", "10001", "1.5", "1_0", "x", "1e3", "%20", "%FF", "%D9%A3", "9" * 5000]
)
@pytest.mark.parametrize("path", ["/sleep?ms=", "/echo?token=a&ms="])
def test_a_wrong_ms_is_400_and_named(site, path, ms):
    answer = site.get(path + ms)
    assert (answer.status, answer.headers["Content-Type"]) == (400, JSON)
    assert "ms" in answer.json["error"]


def test_sleep_needs_its_ms(site):
    assert site.get("/sleep").status == 400


def test_sleepers_sleep_at_the_same_time(site):
    start = time.monotonic()
    answers = site.get_at_once(["/sleep?ms=500"] * 24)
    assert [answer.json for answer in answers] == [{"ms": 500}] * 24
    assert 0.5 <= time.monotonic() - start < 6  # one after the other, 12 s


@pytest.mark.parametrize("token", ["", "a b", " a ", "%", "%s", "'\"\\", "<é>", "🐘", "x" * 5000])
@pytest.mark.parametrize("more", ["", "&ms=2", "&atomic=1", "&ms=2&atomic=1"])
def test_echo_brings_the_token_back(site, token, more):
    answer = site.get(f"/echo?token={quote(token)}{more}")
    assert (answer.status, answer.json) == (200, {"token": token})


@pytest.mark.parametrize(
    "query", ["", "?ms=1", "?token=%FF", "?token=a&atomic=2", "?token=a&atomic="]
)
def test_echo_refuses(site, query):
    assert site.get(f"/echo{query}").status == 400


def test_nobody_gets_the_token_of_another(site):
    paths = [f"/echo?token={i}&ms={i % 3}&atomic={i % 2}" for i in range(200)]
    answers = site.get_at_once(paths)
    assert [answer.json for answer in answers] == [{"token": str(i)} for i in range(200)]


# The rules of the TechEmpower Framework Benchmarks


def test_techempower_json(site):
    answer = site.get("/json")
    assert techempower.check_answer(answer, "json") + techempower.check_json(answer) == []


def test_techempower_plaintext(site):
    answer = site.get("/plaintext")
    assert techempower.check_answer(answer, "plain") + techempower.check_plaintext(answer) == []


def test_techempower_db(site):
    answer = site.get("/db")
    assert techempower.check_answer(answer, "json") + techempower.check_world(answer.json) == []


@pytest.mark.parametrize("path", ["/queries", "/updates"])
@pytest.mark.parametrize("queries", techempower.QUERIES)
def test_techempower_worlds(site, path, queries):
    before = site.worlds()
    answer = site.get(f"{path}?queries={queries}")
    assert techempower.check_answer(answer, "json") == []
    assert techempower.check_worlds(answer, techempower.QUERIES[queries]) == []
    after = site.worlds()
    if path == "/queries":
        assert after == before
    else:
        assert all(after[row["id"]] == row["randomNumber"] for row in answer.json)
        if queries == "501":
            assert techempower.check_changes(before, after) == []


@pytest.mark.parametrize("path", ["/queries", "/updates"])
def test_techempower_worlds_without_a_number(site, path):
    assert techempower.check_worlds(site.get(path), 1) == []


def test_techempower_fortunes(site):
    answer = site.get("/fortunes")
    assert techempower.check_answer(answer, "html") + techempower.check_fortunes(answer) == []


def test_techempower_dates(site):
    paths = ["/json", "/plaintext", "/db", "/queries?queries=2", "/fortunes", "/updates?queries=2"]
    first = [site.get(path) for path in paths]
    time.sleep(3)
    for path, answer in zip(paths, first, strict=True):
        assert techempower.check_dates(answer, site.get(path)) == [], path


@pytest.mark.parametrize(
    ("path", "selects", "updates"),
    [
        ("/db", 1, 0),
        ("/queries?queries=20", 20, 0),
        ("/fortunes", 1, 0),
        ("/updates?queries=20", 20, 20),
    ],
)
def test_techempower_under_load(site, path, selects, updates):
    names = ["Com_select", "Com_update"] if site.mariadb else []
    before = [site.mariadb.status(name) for name in names]
    requests = 512 if site.mariadb else 64
    answers = site.get_at_once([path] * requests)
    assert {answer.status for answer in answers} == {200}
    for name, count, expected in zip(names, before, [selects, updates], strict=False):
        found = site.mariadb.status(name) - count
        assert techempower.check_count(name, found, expected * requests) == []
