"""The server: prepares the database, serves from as many processes as it is told, and ends in good order."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError
from tornado.web import Application

from greentor.selector import new_event_loop
from greentor.serving import GRACE, serve

#: bytes; a longer request is refused unread
MAX_BODY = 10_000_000

logger = logging.getLogger("app")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server as the command line says, until a signal ends it."""
    options = parse_arguments(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    try:
        status = serve(
            partial(make_app, options.processes),
            options.port,
            options.address,
            processes=options.processes,
            grace=options.grace,
            loop_factory=loop_factory(options.loop),
            http=options.http,
            prepare=prepare,
            ready=say_where,
            at_stop=flush,
            max_body_size=MAX_BODY,
        )
    except OSError as error:
        sys.exit(str(error))
    except ModuleNotFoundError as error:
        if error.name != "httptools":
            raise
        sys.exit(f"--http {options.http}: {error}")
    sys.exit(status)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    add = parser.add_argument
    add("--port", type=port, default=8000, help="8000 by default; 0 takes a free one")
    add("--address", default="127.0.0.1", help="127.0.0.1 by default; 0.0.0.0 for all of IPv4")
    add("--processes", type=number, default=1, help="1 by default; 0 for one a processor")
    add(
        "--grace",
        type=seconds,
        default=GRACE,
        help=f"to finish requests in; {GRACE:g} s by default",
    )
    add("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="the event loop")
    add(
        "--http",
        choices=("tornado", "httptools"),
        default="tornado",
        help="what parses requests; httptools takes less CPU time: pip install httptools",
    )
    levels = ("debug", "info", "warning", "error")
    add("--log-level", choices=levels, default="info", help="info shows every request")
    return parser.parse_args(arguments)


def port(text: str) -> int:
    """Convert a port number for argparse."""
    if not 0 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def number(text: str) -> int:
    """Convert a number that is not negative for argparse."""
    if int(text) < 0:
        raise ValueError(text)
    return int(text)


def seconds(text: str) -> float:
    """Convert a duration for argparse."""
    if not 0 <= float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop of that name; for asyncio the one that `serve` makes by itself."""
    if name == "asyncio":
        return new_event_loop
    try:
        return importlib.import_module(name).new_event_loop
    except ImportError as error:
        sys.exit(f"--loop {name}: {error}")


def prepare() -> None:
    """Set Django up, migrate and fill in sample data, once and before any process is forked.

    It ends the program with a line that says what is wrong.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "app.settings")
    try:
        django.setup()
        from app import sample

        call_command("migrate", interactive=False, verbosity=0)
        sample.fill()
    except (ImproperlyConfigured, DatabaseError, OSError) as error:
        sys.exit(f"cannot start: {error}")
    import app.application  # noqa: F401  (by the parent: all processes run the same code)


async def make_app(processes: int) -> Application:
    """Open the connections that ``min_size`` asks for, and return the application.

    Tornado reloads changed files in a single process only.
    """
    from app import application
    from greentor.db import warm_pools

    await warm_pools()
    return application.make_app(**({} if processes == 1 else {"autoreload": False}))


def say_where(listening: Sequence[socket.socket]) -> None:
    """Tell where the server is to be found, now that it serves."""
    for each in listening:
        print(f"Listening on {url(each)}", flush=True)


async def flush(seconds: float) -> None:
    """Write the page views that wait, within so many seconds."""
    from app.services import access

    if lost := await access.flush(seconds * 0.9):
        logger.error("%d page views were not written within %.1f s", lost, seconds)


def url(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, number = listening.getsockname()[:2]
    return f"http://[{host}]:{number}/" if ":" in host else f"http://{host}:{number}/"
