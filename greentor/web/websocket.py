"""`GreenWebSocketHandler`: a websocket, each of whose messages has a greenlet and a scope of its own.

Invariants
- The handshake is a request, in a greenlet, as in `BaseRequestHandler`; that ends before ``open`` begins.
- ``open``, each ``on_message``, ``on_ping``, ``on_pong`` and ``on_close`` run in a greenlet with a scope of
  their own, one at a time for each socket and in order. Between them a socket holds nothing but itself.
- The next frame is read when a message is done with: who sends faster is slowed down by TCP. Only with
  ``cancel_on_disconnect`` it is read ahead, by one, to notice that the client leaves.
- ``on_close`` runs once for each socket whose ``open`` has succeeded, when nothing else of it runs.
- What fails is logged in its greenlet, and the connection is closed at once, as Tornado does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import transaction
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from greentor import bridge
from greentor.web import draining
from greentor.web.coroutines import wait_for
from greentor.web.handler import BaseRequestHandler

_open: set[GreenWebSocketHandler] = set()


def close_websockets(code: int = 1001, reason: str | None = None) -> int:
    """Begin to close every `GreenWebSocketHandler` that is open; return how many there are.

    To be called at the end of a server, before `drain`: Tornado's server does not close them. 1001 tells the
    clients that it goes away.
    """
    for handler in list(_open):
        handler.close(code, reason)
    return len(_open)


class GreenWebSocketHandler(BaseRequestHandler, WebSocketHandler):
    """A WebSocketHandler whose methods, sync or async, may use the Django ORM as they stand.

    The connections that a message has borrowed are given back when it is done with. With
    ``ATOMIC_REQUESTS`` each ``on_message`` is a transaction; what it sends is not held back until the
    commit: use ``transaction.on_commit``. With ``cancel_on_disconnect`` the message at work is
    cancelled when the client goes, and ``on_close`` runs after it in any case.
    """

    _in_greenlet = ("prepare", "open", "on_message", "on_ping", "on_pong", "on_close")
    _socket: _Socket | None = None

    # --- the handshake ------------------------------------------------------------------------

    async def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> None:
        try:
            await super()._execute(transforms, *args, **kwargs)
        except asyncio.CancelledError:
            if self._socket is not None:
                self._socket._abort()
            raise
        if self._socket is not None and self._socket.accepted:
            await self._live(self._socket)

    def _wrap_verb(self) -> str | None:
        return None  # a handshake is no transaction: its answer could not be held back

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        protocol = super().get_websocket_protocol()
        if isinstance(protocol, WebSocketProtocol13):
            # Tornado calls open() at the end of the handshake, in its greenlet: see _live().
            self.open = _not_yet
            protocol = self._socket = _Socket(self, protocol.mask_outgoing, protocol.params)
        return protocol

    # --- the life of the socket ---------------------------------------------------------------

    async def _live(self, socket: _Socket) -> None:
        del self.open
        _open.add(self)
        try:
            if not await self._serve(self.open, *self.open_args, **self.open_kwargs):
                return
            try:
                await socket.receive()
            except asyncio.CancelledError:
                await socket.end(cancel=True)
                await self._serve(self.on_close)
                raise
            await socket.end(cancel=bool(self._option("cancel_on_disconnect")))
            await self._serve(self.on_close)
        finally:
            _open.discard(self)
            socket._abort()
            self._on_close_called = True
            self._break_cycles()

    async def _serve(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Run a method in a greenlet and a scope of its own; return whether it came to its end.

        If not, the connection is closed.
        """
        assert self._socket is not None
        if getattr(method, "__func__", None) in _NOTHING_TO_DO:
            return True
        done = False
        draining.enter(self)
        try:
            name = f"{self.request.path} {getattr(method, '__name__', 'websocket')}"
            done = await bridge.run_in_scope(name, self._serve_green, method, args, kwargs)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # what it waited for was cancelled: an error
                self.log_exception(*sys.exc_info())
            else:
                raise
        finally:
            if not done:
                self._socket._abort()
            draining.leave(self)
        return done

    def _serve_green(self, method: Callable[..., Any], args: Any, kwargs: Any) -> bool:
        if self.hold is not None:
            bridge.current_green("a websocket").frame.scope.hold = self.hold
        try:
            with self._transactions(method):
                result = method(*args, **kwargs)
                if result is not None:
                    bridge.await_(wait_for(result))
        except Exception:
            self.log_exception(*sys.exc_info())
            return False
        return True

    @contextmanager
    def _transactions(self, method: Callable[..., Any]) -> Iterator[None]:
        with ExitStack() as transactions:
            if method == self.on_message:
                for alias in self._atomic_aliases(method):
                    transactions.enter_context(transaction.atomic(using=alias))
            yield

    def on_connection_close(self) -> None:
        # Not super(): Tornado's calls on_close(), outside any greenlet. _live() does, in its time.
        self._note_close()
        if self.ws_connection is not None:
            self.ws_connection.on_connection_close()
            self.ws_connection = None


class _Socket(WebSocketProtocol13):
    """The protocol of one socket: has its frames handled in greenlets, in order."""

    accepted = False
    handler: GreenWebSocketHandler

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._calls: list[asyncio.Task[None]] = []  # at work, and those that wait for it
        self._called: asyncio.Future[Any] | None = None

    async def _receive_frame_loop(self) -> None:
        """Only note that the handshake, at whose end this is called, has succeeded."""
        self.accepted = True

    async def receive(self) -> None:
        """Read frames, and have them handled, until the connection is closed."""
        if self.handler._option("cancel_on_disconnect"):
            # While a call waits for the one before it, nobody reads.
            self.stream.set_close_callback(self._cancel)
        await super()._receive_frame_loop()

    async def end(self, cancel: bool) -> None:
        """Wait for the calls that are left, having cancelled them if that is wanted."""
        self.stream.set_close_callback(None)
        if cancel:
            self._cancel()
        while self._calls:
            await asyncio.wait(self._calls)

    def _cancel(self) -> None:
        for call in self._calls:
            call.cancel()

    def _handle_message(self, opcode: int, data: bytes) -> asyncio.Future[None] | None:
        # Tornado waits for on_message and on_pong, but not for on_ping.
        self._called = None
        super()._handle_message(opcode, data)
        return self._called

    def _run_callback(
        self, callback: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> asyncio.Future[Any] | None:
        """Have a method called in a greenlet; return what to wait for before the next frame is read."""
        if getattr(callback, "__func__", None) in _NOTHING_TO_DO:
            return None  # no task for each ping
        before = self._calls[-1] if self._calls else None
        call = asyncio.create_task(self._call(before, callback, *args, **kwargs))
        self._calls.append(call)
        call.add_done_callback(self._calls.remove)
        self._called = before if self.handler._option("cancel_on_disconnect") else call
        return self._called

    async def _call(
        self,
        before: asyncio.Task[None] | None,
        method: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Call a method when the one before it has ended; raise nothing, the reader being waiting."""
        try:
            if before is not None and not before.done():
                await asyncio.wait([before])
            if not self._is_aborted():
                await self.handler._serve(method, *args, **kwargs)
        except asyncio.CancelledError:
            self._abort()

    def _is_aborted(self) -> bool:
        return self.client_terminated and self.server_terminated


_NOTHING_TO_DO = (  # Tornado's own
    WebSocketHandler.open,
    WebSocketHandler.on_close,
    WebSocketHandler.on_ping,
    WebSocketHandler.on_pong,
)


def _not_yet(*args: Any, **kwargs: Any) -> None:
    """Stand in for ``open`` until the handshake has ended."""
