"""The server: prepares the database, listens, and on SIGINT or SIGTERM ends in good order."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connections
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from greentor.db import close_pools
from greentor.web import drain

#: seconds that requests in flight get to finish in, and after them what is still to be written
DRAIN_TIMEOUT = 30
FLUSH_TIMEOUT = 10

#: bytes; a longer request is refused unread
MAX_BODY = 10_000_000

logger = logging.getLogger("app")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server as the command line says, until a signal ends it."""
    options = parse_arguments(arguments)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        sockets = bind_sockets(options.port, options.address)
    except OSError as error:
        sys.exit(f"cannot listen on {options.address} port {options.port}: {error.strerror}")
    try:
        prepare()
    except (ImproperlyConfigured, DatabaseError, OSError) as error:
        sys.exit(f"cannot start: {error}")
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(serve(sockets))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    add = parser.add_argument
    add("--port", type=port, default=8000, help="8000 by default; 0 takes a free one")
    add("--address", default="127.0.0.1", help="127.0.0.1 by default; 0.0.0.0 for all of IPv4")
    add("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="the event loop")
    levels = ("debug", "info", "warning", "error")
    add("--log-level", choices=levels, default="info", help="info shows every request")
    return parser.parse_args(arguments)


def port(text: str) -> int:
    """Convert a port number for argparse."""
    if not 0 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop of that name."""
    try:
        return importlib.import_module(name).new_event_loop
    except ImportError as error:
        sys.exit(f"--loop {name}: {error}")


def prepare() -> None:
    """Set Django up, migrate and fill in sample data; it may block, as there is no loop yet."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "app.settings")
    django.setup()
    from app import sample

    call_command("migrate", interactive=False, verbosity=0)
    sample.fill()
    connections.close_all()


async def serve(sockets: list[socket.socket]) -> None:
    """Serve until SIGINT or SIGTERM, then let the requests in flight finish, and what they left to write.

    The pools are closed last. A second signal does not wait for anything.
    """
    from app.application import make_app
    from app.services import access

    server = HTTPServer(make_app(), max_body_size=MAX_BODY)
    server.add_sockets(sockets)
    for each in sockets:
        print(f"Listening on {url(each)}", flush=True)

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    for number in signals:
        loop.remove_signal_handler(number)

    logger.info("stopping")
    server.stop()
    # A client that asks on and on over an open connection would keep the requests from ever being none.
    server.conn_params.no_keep_alive = True
    if unfinished := await drain(DRAIN_TIMEOUT):
        logger.warning("%d requests did not finish in %d s", unfinished, DRAIN_TIMEOUT)
    await server.close_all_connections()
    if lost := await access.flush(FLUSH_TIMEOUT):
        logger.error("%d page views were not written within %d s", lost, FLUSH_TIMEOUT)
    close_pools()


def url(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, number = listening.getsockname()[:2]
    return f"http://[{host}]:{number}/" if ":" in host else f"http://{host}:{number}/"
