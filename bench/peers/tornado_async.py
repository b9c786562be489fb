"""The handlers that the peers on plain Tornado with an asyncio ORM share: coroutines, without an ETag."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import django
from tornado.web import Application, RequestHandler

from bench.peers import options, pages, tornado_serving


class Work(Protocol):
    """What an ORM does for the routes: each takes a connection from the pool, and gives it back."""

    async def world(self) -> dict[str, int]: ...
    async def worlds(self, number: int) -> list[dict[str, int]]: ...
    async def updated_worlds(self, number: int) -> list[dict[str, int]]: ...
    async def fortunes(self) -> Sequence[Any]: ...
    async def sleep(self, ms: int) -> None: ...
    async def books(self) -> tuple[Sequence[Any], int]: ...


class Handler(RequestHandler):
    @property
    def work(self) -> Work:
        return self.application.settings["work"]

    def compute_etag(self) -> None:
        return None

    def get_queries(self) -> int:
        return pages.number_of_queries(self.get_query_argument("queries", None))

    def write_json(self, value: Any) -> None:
        self.set_header("Content-Type", pages.JSON)
        self.write(pages.dumps(value))


class JSON(Handler):
    async def get(self) -> None:
        self.write_json({"message": pages.HELLO})


class Plaintext(Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", pages.PLAIN)
        self.write(pages.HELLO)


class SingleQuery(Handler):
    async def get(self) -> None:
        self.write_json(await self.work.world())


class MultipleQueries(Handler):
    async def get(self) -> None:
        self.write_json(await self.work.worlds(self.get_queries()))


class Updates(Handler):
    async def get(self) -> None:
        self.write_json(await self.work.updated_worlds(self.get_queries()))


class Fortunes(Handler):
    async def get(self) -> None:
        self.write(pages.render_fortunes(await self.work.fortunes()))


class Sleep(Handler):
    async def get(self) -> None:
        ms = pages.milliseconds(self.get_query_argument("ms", None))
        await self.work.sleep(ms)
        self.write_json({"ms": ms})


class Books(Handler):
    async def get(self) -> None:
        books, total = await self.work.books()
        self.write(pages.render_page(pages.first_page(books, total)))


ROUTES = [
    ("/json", JSON),
    ("/plaintext", Plaintext),
    ("/db", SingleQuery),
    ("/queries", MultipleQueries),
    ("/updates", Updates),
    ("/fortunes", Fortunes),
    ("/sleep", Sleep),
    ("/page", Books),
]


def serve(given: argparse.Namespace, open_work: Callable[[], Work]) -> None:
    """Serve until a signal ends it; ``open_work`` is called in each process, on its loop."""
    options.choose()
    django.setup()
    tornado_serving.serve(
        lambda: Application(ROUTES, work=open_work()), given.port, given.processes
    )
