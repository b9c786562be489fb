"""Serves a Tornado application from as many processes as it is told, without greentor.

As in Tornado's guide (Running and deploying): processes that are forked before there is an event loop, each
with a listening socket of its own on the same port (``reuse_port``), so that the kernel spreads the clients
over them. Unlike ``tornado.process.fork_processes``, the parent hands SIGTERM on to them.

SIGTERM ends a process at once: a loop that is blocked would take note of it only after all that waits.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

#: connections that wait to be accepted: nobody is to be refused
BACKLOG = 2048

_ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def serve(make_app: Callable[[], Application], port: int, processes: int = 1) -> None:
    """Serve until a signal ends the process; ``make_app`` is called in each process."""
    if processes == 1:
        asyncio.run(_serve(make_app, port, reuse_port=False))
    else:
        _fork(processes, lambda: asyncio.run(_serve(make_app, port, reuse_port=True)))


async def _serve(make_app: Callable[[], Application], port: int, reuse_port: bool) -> None:
    server = HTTPServer(make_app())
    server.add_sockets(bind_sockets(port, "127.0.0.1", backlog=BACKLOG, reuse_port=reuse_port))
    await asyncio.Event().wait()


def _fork(processes: int, work: Callable[[], None]) -> None:
    """Run ``work`` in so many processes; when a signal comes, or one of them ends, end all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # they wait for `sigwait`
    children = []
    for _ in range(processes):
        child = os.fork()
        if not child:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            work()
            sys.exit(0)
        children.append(child)
    received = signal.sigwait(_ENDS)
    for child in children:
        os.kill(child, signal.SIGTERM)  # nobody has waited for it yet: the id is still its own
    for child in children:
        os.waitpid(child, 0)
    sys.exit(1 if received == signal.SIGCHLD else 0)
