"""The program that is measured: the peers' handlers, and the same with less and less behind them.

    python -m bench.split.server --way greentor --port 8001

``/<variant>/<workload>``; the variants are those of `VARIANTS`, each with what the ones before it have.
``/-/canned?mode=learn`` (``give``, ``stop``) says where the driver takes its answers from. The database is
that of ``BENCH_DATABASE``, as for `bench.peers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import django

from bench.peers import options
from bench.split.canned import Answers

WAYS = ("greentor", "floor", "threads-pymysql")

#: a ready body from a plain RequestHandler; the work but without the ORM; that in the handler of the way; and
#: all of it, with a driver that answers from memory, or the real one
VARIANTS = ("http", "application", "handler", "canned", "real")
WORKLOADS = ("db", "queries-20", "fortunes", "updates-20")

Work = Callable[[], bytes]


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--way", choices=WAYS, default="greentor")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    given = parser.parse_args()
    if given.way == "greentor":
        options.choose(options.GREEN_ENGINE, pool=given.pool)
    else:
        options.choose(options.DJANGOS_ENGINE, driver=options.PYMYSQL)
    if given.way == "floor":
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    django.setup()
    {"greentor": green, "floor": blocking, "threads-pymysql": threaded}[given.way](given)


# --- the ways -----------------------------------------------------------------------------------


def green(given: Any) -> None:
    from app.server import loop_factory
    from bench.peers.tornado_routes import Blocking
    from greentor.db import warm_pools
    from greentor.drivers.pymysql import Connection
    from greentor.serving import serve
    from greentor.web import BaseRequestHandler

    class Green(Blocking, BaseRequestHandler):
        pass

    async def make() -> Any:
        await warm_pools()
        return make_app(Green, Answers(Connection))

    serve(
        make,
        given.port,
        "127.0.0.1",
        loop_factory=loop_factory(given.loop),
    )


def blocking(given: Any) -> None:
    from django.db import connections
    from pymysql.connections import Connection

    from bench.peers.tornado_routes import Blocking
    from bench.peers.tornado_serving import serve

    def make() -> Any:
        # On a thread with a loop Django keeps a connection for each context; all requests inherit this one.
        connections["default"].ensure_connection()
        return make_app(Blocking, Answers(Connection))

    serve(make, given.port)


def threaded(given: Any) -> None:
    from pymysql.connections import Connection
    from tornado.ioloop import IOLoop

    from bench.peers.tornado_routes import Answering
    from bench.peers.tornado_serving import serve

    executor = ThreadPoolExecutor(given.pool)

    class Threaded(Answering):
        async def get(self) -> None:
            self.answer(await IOLoop.current().run_in_executor(executor, self.work))

    serve(lambda: make_app(Threaded, Answers(Connection)), given.port)


# --- the application ----------------------------------------------------------------------------


def make_app(handler: Any, answers: Answers) -> Any:
    """Return the application; ``handler`` runs what has a database behind it."""
    from tornado.web import Application

    from bench.peers import pages
    from bench.peers.tornado_routes import Blocking

    routes: list[Any] = [("/-/canned", Blocking, {"work": _switch(answers), **_MODE})]
    all_work, prepared = real_work(), prepared_work()
    for name in WORKLOADS:
        kind = {"content_type": pages.HTML if name == "fortunes" else pages.JSON}
        body = prepared[name]()
        routes += [
            (f"/http/{name}", Blocking, {"work": partial(_same, body), **kind}),
            (f"/application/{name}", Blocking, {"work": prepared[name], **kind}),
            (f"/handler/{name}", handler, {"work": prepared[name], **kind}),
            (f"/canned/{name}", handler, {"work": all_work[name], **kind}),
            (f"/real/{name}", handler, {"work": all_work[name], **kind}),
        ]
    return Application(routes)


def _same(body: bytes) -> bytes:
    return body


def real_work() -> dict[str, Work]:
    """Return the workloads, as all peers on Django's ORM have them."""
    from bench.peers import work

    return {
        "db": work.db,
        "queries-20": lambda: work.queries(20),
        "fortunes": work.fortunes,
        "updates-20": lambda: work.updates(20),
    }


def prepared_work() -> dict[str, Work]:
    """Return what is left of the workloads when the objects are there already."""
    from app.models import Fortune, World
    from bench.peers import pages
    from tests.app.techempower import FORTUNES

    worlds = [World(id=id, randomnumber=id) for id in pages.ids_to_update(20)]
    fortunes = [Fortune(id=id, message=message) for id, message in FORTUNES if id]

    def db() -> bytes:
        pages.random_id()
        return pages.dumps(worlds[0].as_dict())

    def queries() -> bytes:
        pages.random_ids(20)
        return pages.dumps([world.as_dict() for world in worlds])

    def updates() -> bytes:
        pages.ids_to_update(20)
        for _ in worlds:
            pages.random_id()
        return pages.dumps([world.as_dict() for world in worlds])

    return {
        "db": db,
        "queries-20": queries,
        "fortunes": lambda: pages.render_fortunes(fortunes),
        "updates-20": updates,
    }


_MODES = ("stop", "learn", "give")
_MODE = {"argument": "mode", "read": lambda text: _MODES.index(text or "stop")}


def _switch(answers: Answers) -> Callable[[int], bytes]:
    def switch(mode: int) -> bytes:
        getattr(answers, _MODES[mode])()
        return str(answers.given).encode()

    return switch


if __name__ == "__main__":
    main()
