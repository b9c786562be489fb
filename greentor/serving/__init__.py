"""`serve`: a Tornado application as a program, in one process or several, from its start to its end.

    sys.exit(serve(make_app, 8000, "127.0.0.1", processes=4))

What is done here: listening, forking, starting crashed processes again, signals, an end in good order, and
what was loaded until then is taken from the garbage collector (``gc.freeze``), which runs less often.
Pools are made by the processes that use them, at their first query; the parent has neither an event loop
nor a connection to a database.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from socket import socket
from typing import Any

from django.db import connections
from tornado.process import cpu_count
from tornado.web import Application

from greentor.selector import new_event_loop
from greentor.serving.listening import close, listen
from greentor.serving.server import Server, freeze, run, stopping
from greentor.serving.supervisor import Supervisor

__all__ = ["GRACE", "serve", "stopping"]

#: seconds; with what it takes to kill, it stays below the 30 s after which Kubernetes does
GRACE = 20.0


def serve(
    make_app: Callable[[], Application | Awaitable[Application]],
    port: int,
    address: str | None = None,
    *,
    processes: int = 1,
    grace: float = GRACE,
    max_restarts: int = 5,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    prepare: Callable[[], None] | None = None,
    ready: Callable[[Sequence[socket]], None] | None = None,
    at_stop: Callable[[float], Awaitable[None]] | None = None,
    http: str = "tornado",
    **options: Any,
) -> int:
    """Serve until SIGTERM or SIGINT, then finish what is under way; return the exit status.

    Call it in the main thread, outside of any event loop. The status is 0 after a signal, also if requests
    were cut off after ``grace`` seconds; 1 if a process crashed more than ``max_restarts`` times in a row,
    or had to be killed. A second signal ends everything at once: then it does not return.

    :param make_app: called on the event loop of each process; it returns the Application, or is a
        coroutine function that does
    :param address: an IP address or a host name; None for all addresses
    :param processes: how many; 0 for one for each processor. One runs right here, without a parent
    :param grace: seconds that requests get to finish in
    :param loop_factory: makes an event loop, `uvloop.new_event_loop` for one; None for asyncio's, hearing of
        the database's answers first: `greentor.selector.new_event_loop`
    :param prepare: called once, when the port is taken, before there are processes or loops: the place
        for migrations. Django's connections are closed after it
    :param ready: called once, with the listening sockets, when all processes serve
    :param at_stop: awaited in each process after its last request, while its pools are open, with the
        seconds that it may take
    :param http: "httptools" has plain requests parsed in C (see docs/deployment.md), "tornado" by
        Tornado
    :param options: of Tornado's HTTPServer: ``xheaders``, ``max_body_size``, ``ssl_options``, ...

    Raise OSError if the port cannot be had, and whatever ``prepare`` raises. In a single process, raise
    what ``make_app`` raises.
    """
    processes = processes or _processors()
    if processes < 1 or grace < 0 or max_restarts < 0:
        raise ValueError("processes, grace and max_restarts must not be negative")
    server_class = _server_class(http)
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("serve() runs event loops of its own: call it outside of any")
    listening = listen(port, address, processes)
    everything = [each for sockets in listening for each in sockets]
    thresholds = gc.get_threshold()
    try:
        if prepare is not None:
            prepare()
        connections.close_all()

        def on_ready() -> None:
            if ready is not None:
                ready(listening[0])

        def work(number: int, parent: int | None, ready: Callable[[], None]) -> None:
            close(each for each in everything if each not in listening[number])
            with asyncio.Runner(loop_factory=loop_factory or new_event_loop) as runner:
                runner.run(
                    run(
                        make_app,
                        listening[number],
                        grace=grace,
                        at_stop=at_stop,
                        ready=ready,
                        parent=parent,
                        options=options,
                        server_class=server_class,
                    )
                )

        if processes == 1:
            work(0, None, on_ready)
            return 0
        freeze()
        return Supervisor(
            work,
            processes,
            grace=grace,
            max_restarts=max_restarts,
            on_ready=on_ready,
            on_stop=partial(close, everything),
        ).run()
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        close(everything)


def _server_class(http: str) -> type[Server]:
    if http == "tornado":
        return Server
    if http != "httptools":
        raise ValueError(f"http must be 'tornado' or 'httptools', not {http!r}")
    try:
        from greentor.serving.front_server import FrontServer
    except ModuleNotFoundError as exc:
        if exc.name != "httptools":
            raise
        raise ModuleNotFoundError(
            "http='httptools' needs the package httptools: pip install 'greentor[httptools]'",
            name=exc.name,
        ) from None
    return FrontServer


def _processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return cpu_count()
