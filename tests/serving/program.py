"""A program on `serve`: ``python -m tests.serving.program '{"url": "sqlite:////tmp/x", "processes": 2}'``.

The options are those of `serve`, as JSON, with ``url`` for the database, ``loop`` for the event loop, and
``fault``, the name of a function here that ``make_app`` calls, and ``kill_after``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import time

import django
from django.conf import settings
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from app import database
from app.server import loop_factory, say_where
from greentor.serving import serve, stopping, supervisor


def say(line: str) -> None:
    """Print a line in one piece: several processes write to the same pipe."""
    os.write(1, f"{line}\n".encode())


def begin(handler: RequestHandler) -> None:
    """Tell that a request is under way."""
    say(f"begin {handler.request.path}")


class Pid(RequestHandler):
    def get(self) -> None:
        self.write(str(os.getpid()))


class Frozen(RequestHandler):
    """How many objects the garbage collector passes over, and how many new ones it waits for."""

    def get(self) -> None:
        self.write({"frozen": gc.get_freeze_count(), "young": gc.get_threshold()[0]})


class Wait(RequestHandler):
    """A plain Tornado handler, without a greenlet."""

    async def get(self) -> None:
        begin(self)
        await asyncio.sleep(float(self.get_query_argument("s")))
        self.write("waited")


class Stubborn(RequestHandler):
    """One that takes no notice of being cancelled."""

    async def get(self) -> None:
        begin(self)
        end = time.monotonic() + float(self.get_query_argument("s"))
        while time.monotonic() < end:
            try:
                await asyncio.sleep(end - time.monotonic())
            except asyncio.CancelledError:
                say("cancelled")


class Block(RequestHandler):
    """One that holds the event loop."""

    def get(self) -> None:
        begin(self)
        time.sleep(float(self.get_query_argument("s")))


class Stream(RequestHandler):
    """An answer without an end, until the server stops."""

    async def get(self) -> None:
        begin(self)
        self.write("begin\n")
        while not stopping():
            await self.flush()
            await asyncio.sleep(0.02)
        self.write("end\n")


class Upload(RequestHandler):
    def post(self) -> None:
        self.write(str(len(self.request.body)))


class Large(RequestHandler):
    """More than the buffers of the kernel take."""

    def get(self) -> None:
        begin(self)
        self.write("x" * 30_000_000)


class Die(RequestHandler):
    def get(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Socket(WebSocketHandler):
    def open(self) -> None:
        self.write_message("open")

    def on_close(self) -> None:
        say(f"closed {self.close_code}")


def make_app() -> Application:
    import greentor
    from greentor.web import BaseRequestHandler, GreenWebSocketHandler

    class Echo(BaseRequestHandler):
        """Send a token through the database, which takes ``ms``."""

        def get(self) -> None:
            from django.db import connection

            begin(self)
            ms = int(self.get_query_argument("ms", "0"))
            with connection.cursor() as cursor:
                if connection.vendor == "mysql":
                    cursor.execute("SELECT SLEEP(%s)", [ms / 1000])
                else:
                    greentor.sleep(ms / 1000)
                cursor.execute("SELECT %s", [self.get_query_argument("token")])
                self.write(str(cursor.fetchone()[0]))

    class GreenSocket(GreenWebSocketHandler, Socket):
        def on_close(self) -> None:
            from django.db import connection

            greentor.sleep(0.05)
            with connection.cursor() as cursor:
                cursor.execute("SELECT %s", [self.close_code])
                say(f"closed {cursor.fetchone()[0]}")

    return Application(
        [
            ("/green-socket", GreenSocket),
            ("/pid", Pid),
            ("/frozen", Frozen),
            ("/wait", Wait),
            ("/stubborn", Stubborn),
            ("/block", Block),
            ("/stream", Stream),
            ("/upload", Upload),
            ("/large", Large),
            ("/die", Die),
            ("/socket", Socket),
            ("/echo", Echo),
        ]
    )


def crash() -> None:
    raise RuntimeError("this application cannot be made")


def leave() -> None:
    sys.exit("this application does not want to be made")


def hang() -> None:
    say("hanging")
    time.sleep(60)


def query_in_the_parent() -> None:
    """Use the ORM before there is a loop, and leave the connection open."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    say(f"prepared {os.getpid()}")


async def at_stop(seconds: float) -> None:
    say(f"at stop, {seconds:.1f} s")


def main() -> None:
    options = json.loads(sys.argv[1])
    url, fault = options.pop("url"), options.pop("fault", None)
    supervisor.KILL_AFTER = options.pop("kill_after", supervisor.KILL_AFTER)
    logging.basicConfig(level="INFO", format="%(process)d %(name)s: %(message)s")
    settings.configure(
        DATABASES={"default": database.parse(url)}, INSTALLED_APPS=["greentor"], USE_TZ=True
    )
    django.setup()

    def make() -> Application:
        if fault is not None:
            globals()[fault]()
        return make_app()

    before = gc.get_freeze_count(), gc.get_threshold()
    status = serve(
        make,
        options.pop("port", 0),
        "127.0.0.1",
        loop_factory=loop_factory(options.pop("loop", "asyncio")),
        prepare=query_in_the_parent,
        ready=say_where,
        at_stop=at_stop,
        **options,
    )
    if (gc.get_freeze_count(), gc.get_threshold()) == before:
        say("the garbage collector is as it was")
    say("the parent ends")
    sys.exit(status)


if __name__ == "__main__":
    main()
