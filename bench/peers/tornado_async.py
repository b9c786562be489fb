"""The handlers and the server that the peers on plain Tornado with an asyncio ORM share.

Stock Tornado: coroutines, its own HTTP server, no ETag. With several processes each has a socket of its own
(SO_REUSEPORT) and a loop; the first process only waits for them, and hands SIGTERM and SIGINT on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any, Protocol

import django
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from bench.peers import options, pages

BACKLOG = 2048
GRACE = 5  # seconds


class Work(Protocol):
    """What an ORM does for the routes: each takes a connection from the pool, and gives it back."""

    async def world(self) -> dict[str, int]: ...
    async def worlds(self, number: int) -> list[dict[str, int]]: ...
    async def updated_worlds(self, number: int) -> list[dict[str, int]]: ...
    async def fortunes(self) -> Sequence[Any]: ...
    async def sleep(self, ms: int) -> None: ...
    async def books(self) -> tuple[Sequence[Any], int]: ...
    async def close(self) -> None: ...


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
    """Serve until SIGTERM or SIGINT; ``open_work`` is called in each process, on its loop."""
    options.choose()
    django.setup()
    listening = [
        bind_sockets(given.port, "127.0.0.1", backlog=BACKLOG, reuse_port=given.processes > 1)
        for _ in range(given.processes)
    ]
    own = listening if given.processes == 1 else [listening[fork(given.processes)]]
    for sockets in listening:
        if sockets not in own:
            close(sockets)
    asyncio.run(run(own[0], open_work))


def fork(processes: int) -> int:
    """Return the number of the process, in each; where it was called, wait for them and end."""
    children: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        for child in children:
            os.kill(child, number)

    ending = signal.SIGTERM, signal.SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    for number in range(processes):
        child = os.fork()
        if not child:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
            return number
        children.append(child)
    for each in ending:
        signal.signal(each, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


def close(sockets: list[socket]) -> None:
    for each in sockets:
        each.close()


async def run(sockets: list[socket], open_work: Callable[[], Work]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    work = open_work()
    server = HTTPServer(Application(ROUTES, work=work))
    server.add_sockets(sockets)
    await ended.wait()
    server.stop()
    await server.close_all_connections()
    await finish_requests()
    await work.close()


async def finish_requests() -> None:
    """Let what waits for the database come to its end, though its clients are gone: cancelled it is a 500."""
    requests = asyncio.all_tasks() - {asyncio.current_task()}
    if not requests:
        return
    _, late = await asyncio.wait(requests, timeout=GRACE)
    for request in late:
        request.cancel()
    await asyncio.gather(*late, return_exceptions=True)
