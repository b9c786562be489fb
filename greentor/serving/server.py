"""`Server`: Tornado's HTTPServer, able to end in good order; `run`: such a server's life on a loop.

Invariants, from the moment it is told to stop
- Who has connected is accepted; then nobody is any more.
- A request under way is finished and answered with ``Connection: close``.
- A keep-alive connection that has nothing to read is closed at once. One that has not brought a request
  yet gets `LINGER` seconds for it: its client, unlike that of a connection in use, would not try again.
- A websocket is closed with 1001.
- An answer is written to its end: what is waited for is the end of the connections.
- What is left after the grace period is cancelled, and has `CUT` seconds to answer and roll back.
- The pools are closed last.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import select
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from socket import socket
from typing import Any
from weakref import WeakSet

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import IOStream
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from greentor.db import close_pools
from greentor.serving.listening import BACKLOG

LINGER = 0.5
CUT = 1.0
#: seconds that ``at_stop`` gets at least, when the grace period is over
AT_STOP = 2.0
#: seconds between two looks at what is still under way
INTERVAL = 0.02

GOING_AWAY = 1001

#: new objects between two quick collections, at least; Python's own number is 700, or 2,000
YOUNG = 10_000

logger = logging.getLogger("greentor.serving")

_stopping = False


def stopping() -> bool:
    """Tell whether this process was told to stop: an answer without an end should end now."""
    return _stopping


class Server(HTTPServer):
    """An HTTPServer that knows which of its connections are at work."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        #: by connection: its current request, or the next one, and whether that is its first
        self._requests: dict[object, tuple[HTTP1Connection, bool]] = {}
        #: what websockets, and others who took a connection over, go on with
        self._detached: WeakSet[IOStream] = WeakSet()

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        # Called before the first byte of the request is there.
        if isinstance(request_conn, HTTP1Connection):
            self._requests[server_conn] = request_conn, server_conn not in self._requests
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: Any) -> None:
        request, _ = self._requests.pop(server_conn, (None, False))
        if request is not None and request.stream is None:
            self._detached.add(server_conn.stream)
        super().on_close(server_conn)

    async def end(self, grace: float) -> int:
        """Finish what is under way, within ``grace`` seconds; return how much of it was cut."""
        now = asyncio.get_running_loop().time
        end_of_linger, end_of_grace = now() + LINGER, now() + grace
        for each in self._sockets.values():
            self._accept_waiting(each)
        self.stop()
        self.conn_params.no_keep_alive = True
        said_goodbye: WeakSet[IOStream] = WeakSet()
        while True:
            self.close_idle(now() > end_of_linger)
            if not self._websockets() <= said_goodbye:
                said_goodbye |= self._websockets()
                _close_websockets()
            if not self._left():
                return 0
            if now() > end_of_grace:
                return await self._cut()
            await asyncio.sleep(INTERVAL)

    def _accept_waiting(self, listening: socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, address = listening.accept()
            except ConnectionAbortedError:
                continue
            except OSError:  # BlockingIOError: nobody is left
                return
            self._handle_connection(connection, address)

    def close_idle(self, fresh_too: bool) -> None:
        """Close who has nothing to read; have each request at work be the last of its connection."""
        for request, fresh in list(self._requests.values()):
            stream = request.stream
            if stream is None or stream.closed():
                continue
            if request._request_start_line is not None:
                request._disconnect_on_finish = True
            elif (fresh_too or not fresh) and not _readable(stream):
                stream.close()

    def _websockets(self) -> set[IOStream]:
        return {stream for stream in self._detached if not stream.closed()}

    def _left(self) -> int:
        # A request may be at work without a connection, and a connection without a request.
        return max(len(_request_tasks()), len(self._connections) + len(self._websockets()))

    async def _cut(self) -> int:
        """Cancel the requests, let those who can answer do so, and close the rest."""
        cut = self._left()
        for task in _request_tasks():
            task.cancel()
        now = asyncio.get_running_loop().time
        end = now() + CUT
        while self._left() and now() < end:
            await asyncio.sleep(INTERVAL)
        for stream in self._websockets():
            stream.close()
        await self.close_all_connections()
        return cut


async def run(
    make_app: Callable[[], Application | Awaitable[Application]],
    sockets: Sequence[socket],
    *,
    grace: float,
    at_stop: Callable[[float], Awaitable[None]] | None,
    ready: Callable[[], None],
    parent: int | None,
    options: dict[str, Any],
    server_class: type[Server] = Server,
) -> None:
    """Serve until SIGTERM or SIGINT, or until the pipe ``parent`` ends, then end in good order.

    With a parent it is for that one to act on a second signal. Without, it ends the process at once.
    """
    global _stopping
    _stopping = False
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    app = make_app()
    if inspect.isawaitable(app):
        app = await app
    if parent is None:
        numbers = [signal.SIGTERM, signal.SIGINT]
    else:
        numbers = [signal.SIGTERM]
        loop.add_reader(parent, stop.set)
    for number in numbers:  # until now a signal has ended the process
        loop.add_signal_handler(number, stop.set)
    if parent is not None and app.settings.get("autoreload"):
        logger.warning("autoreload is for a single process; set it to False")
    server = server_class(app, **options)
    server.add_sockets(sockets)
    freeze()
    ready()

    await stop.wait()
    _stopping = True
    logger.info("stopping")
    if parent is None:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
    else:
        loop.remove_reader(parent)
    end_of_grace = loop.time() + grace
    if cut := await server.end(grace):
        logger.warning("cut off after %g s: %d requests or connections", grace, cut)
    if at_stop is not None:
        await _run_at_stop(at_stop, max(end_of_grace - loop.time(), AT_STOP))
    close_pools()


def freeze() -> None:
    """Spare the garbage collector what is there by now: modules and code, which stay to the end.

    Requests that wait while it runs seem to live long, so it goes through everything again and again: of a
    small query's CPU time that was a tenth. Before a fork it also keeps the memory shared. With hundreds of
    requests at work its quick collections come too often as well; a larger threshold that is set is kept.
    """
    gc.collect()
    gc.freeze()
    young, *older = gc.get_threshold()
    if 0 < young < YOUNG:
        gc.set_threshold(YOUNG, *older)


async def _run_at_stop(at_stop: Callable[[float], Awaitable[None]], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await at_stop(seconds)
    except TimeoutError:
        logger.error("at_stop did not end within %.1f s", seconds)
    except Exception:
        logger.exception("at_stop failed")


def _readable(stream: IOStream) -> bool:
    """Tell whether the client has sent what nobody has taken note of: part of a request, or its end."""
    return bool(stream._read_buffer_size) or is_readable(stream)


def is_readable(source: Any) -> bool:
    """Tell whether there is something to read from a socket, or from what has the ``fileno()`` of one."""
    poll = select.poll()
    poll.register(source.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _close_websockets() -> None:
    for handler in _websocket_handlers():
        try:
            handler.close(GOING_AWAY, "the server stops")
        except Exception:
            logger.exception("%r could not be closed", handler)


def _websocket_handlers() -> Iterator[WebSocketHandler]:
    # Tornado keeps no list of them. The type is asked, not the object: one that is lazy would wake up.
    for each in gc.get_objects():
        if issubclass(type(each), WebSocketHandler) and each.ws_connection is not None:
            yield each


def _request_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks of all requests under way, and of greentor's websockets."""
    return [
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__name__", None) == "_execute"
    ]
