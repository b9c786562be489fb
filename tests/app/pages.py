"""The application for the tests of its pages, and a visitor who fills in forms without a browser."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.app.server import Response, Server

FORM = "application/x-www-form-urlencoded"


class Site(Server):
    """The application, with a way to its database past it."""

    def __init__(self, environ: dict[str, str], execute: Callable[..., list[tuple[Any, ...]]]):
        self.execute = execute
        super().__init__(environ)

    def post(
        self, path: str, fields: Any, content_type: str | None = FORM, **headers: str
    ) -> Response:
        """Send a form; bytes are sent as they are."""
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        if content_type is not None:
            headers["Content-Type"] = content_type
        connection = self.connect()
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def post_at_once(self, path: str, forms: list[dict[str, str]]) -> list[Response]:
        """Send all forms at the same time, on a connection each."""

        async def gather() -> list[Response]:
            calls = [asyncio.to_thread(self.post, path, fields) for fields in forms]
            return await asyncio.gather(*calls)

        return asyncio.run(gather())


@contextmanager
def open_site(
    request: pytest.FixtureRequest, factory: pytest.TempPathFactory, options: str = ""
) -> Iterator[Site]:
    """Run the application on the database that the fixture's parameter names; nothing may go wrong in it.

    ``options`` are the pool's.
    """
    data = factory.mktemp("data")
    name = request.module.__name__.rpartition(".")[2]
    environ = {"DATA_DIR": str(data)}
    if request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb")
        mariadb.create_database(name)
        environ["DATABASE_URL"] = f"{mariadb.url(name)}?{options}"
    else:
        environ["DATABASE_URL"] = f"sqlite:///{data}/app.sqlite3?{options}"

    def execute(sql: str, *args: Any) -> list[tuple[Any, ...]]:
        if request.param == "mariadb":
            return [tuple(row.values()) for row in mariadb.execute(sql, *args, database=name)]
        with closing(sqlite3.connect(data / "app.sqlite3", isolation_level=None)) as connection:
            return connection.execute(sql.replace("%s", "?"), args).fetchall()

    with Site(environ, execute) as site:
        yield site
    for wrong in ("Traceback", "ERROR tornado.access: 500"):
        assert wrong not in site.log, site.log[site.log.index(wrong) - 500 :][:5000]


def find(pattern: str, html: str) -> list[str]:
    """Return what the group of the pattern matches, as a reader sees it."""
    return [unescape(text) for text in re.findall(pattern, html, re.DOTALL)]


def names(html: str) -> list[str]:
    """Return the books of a list, in its order."""
    return find(r'<li>\s*<a href="[^"]*">(.*?)</a>', html)


def errors(html: str) -> dict[str, str]:
    """Return what a form says is wrong, by the fields that refer to it."""
    found: dict[str, str] = {}
    for field in re.findall("<input [^>]*>", html):
        name = re.search('name="([^"]*)"', field)[1]
        for id in " ".join(re.findall(r'aria-describedby="([^"]*)"', field)).split():
            for text in find(rf'<ul class="errorlist" id="{id}"><li>(.*?)</li>', html):
                found[name] = text
    return found
