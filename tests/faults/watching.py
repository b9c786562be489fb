"""What a struck session could leave behind, and the event loops that tell of their timers."""

import asyncio
import importlib.util
import logging
import socket
import weakref
from typing import Any

from greentor.bridge import running
from tests.mariadb import MariaDB
from tests.proxy import Proxy, sockets
from tests.waiting import await_until

LOOPS = ("asyncio", "uvloop") if importlib.util.find_spec("uvloop") else ("asyncio",)


class _Watched:
    """A loop that remembers its timers, as uvloop has no list of them, and whose sends have to wait."""

    def __init__(self) -> None:
        self.timers: list[asyncio.TimerHandle] = []
        super().__init__()

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        transport, protocol = await super().create_connection(*args, **kwargs)  # type: ignore[misc]
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return transport, protocol

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return self._remember(super().call_later(*args, **kwargs))  # type: ignore[misc]

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return self._remember(super().call_at(*args, **kwargs))  # type: ignore[misc]

    def _remember(self, handle: asyncio.TimerHandle) -> asyncio.TimerHandle:
        self.timers.append(handle)
        return handle

    def running_timers(self) -> list[asyncio.TimerHandle]:
        """Return those that have neither run nor been cancelled, and forget the others."""
        now = self.time()  # type: ignore[attr-defined]
        # uvloop makes no timer for what is due at once.
        self.timers = [
            t for t in self.timers if not t.cancelled() and hasattr(t, "when") and t.when() > now
        ]
        return self.timers


class _Loop(_Watched, asyncio.SelectorEventLoop):
    """asyncio's, which can be made to take so many bytes at a time from its sockets."""

    receive: int | None = None

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_socket_transport(*args, **kwargs)  # type: ignore[misc]
        if self.receive is not None:
            transport.max_size = self.receive
        return transport


def new_loop(name: str, receive: int | None = None) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return type("UVLoop", (_Watched, uvloop.Loop), {})()
    loop = _Loop()
    loop.receive = receive
    return loop


class Watch(logging.Handler):
    """Compares what is there after a session with what was there before it."""

    def __init__(self, server: MariaDB, proxy: Proxy | None) -> None:
        super().__init__(logging.ERROR)
        self._server = server
        self._proxy = proxy
        self._loop: Any = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._report)
        self._greens: weakref.WeakSet[Any] = weakref.WeakSet()
        self._outer = running.watch
        self.reports: list[str] = []

    def __enter__(self) -> "Watch":
        running.watch = self._greens.add
        logging.getLogger("asyncio").addHandler(self)
        self._server.processlist()  # opens the connection that it keeps
        return self

    def __exit__(self, *exc_info: object) -> None:
        running.watch = self._outer
        logging.getLogger("asyncio").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.reports.append(record.getMessage())

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        report = f"{context.get('message')}: {context.get('exception')!r}"
        if "_call_connection_lost" not in report or "'NoneType'" not in report:
            # That one is asyncio's, over TLS: it tells of a lost connection twice (cpython #156512).
            self.reports.append(report)

    def begin(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._sockets = set(sockets())
        self._ids = self._server_ids()
        self._greens.clear()
        self.reports.clear()

    def _server_ids(self) -> set[int]:
        return {row["ID"] for row in self._server.processlist()}

    def left(self) -> list[str]:
        """Name what is there now and was not there when it began."""
        found = [f"the task {task}" for task in asyncio.all_tasks() - self._tasks]
        found += [f"the greenlet {green}" for green in self._greens if not green.dead]
        found += [f"the timer {timer}" for timer in self._loop.running_timers()]
        found += sorted(set(sockets()) - self._sockets)
        if self._proxy is not None and self._proxy.open:
            found.append("a connection of the proxy")
        if not found:  # asked last: it is the dearest
            found += [f"the server's connection {n}" for n in self._server_ids() - self._ids]
        return found

    async def settled(self) -> list[str]:
        """Wait until nothing is left; return what is left all the same, and what the loop reported."""
        try:
            await await_until(lambda: not self.left())
        except AssertionError:
            return [*self.left(), *self.reports]
        return list(self.reports)
