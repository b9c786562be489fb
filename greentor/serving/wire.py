"""`Wire`: the transport of a connection, as something to write to and to close.

Invariants
- It stands where handlers expect a stream of Tornado's, ``request.connection.stream``, as far as that is not
  read from.
- The future of a write is done when the kernel has taken the last byte, or when the connection is lost: then
  it is the next write that is refused, as with Tornado.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from tornado.iostream import StreamClosedError


class Wire(asyncio.BufferedProtocol):
    """A connection, on the side of its transport."""

    def __init__(self, connection: Any) -> None:
        self._loop = loop = asyncio.get_running_loop()
        #: the socket, as of Tornado's streams; None when it is closed
        self.socket: Any = connection
        self._transport: asyncio.Transport | None = None
        self._on_close: Callable[[], None] | None = None
        self._sent: asyncio.Future[None] = loop.create_future()
        self._sent.set_result(None)
        self._writes: list[asyncio.Future[None]] = []  # that the kernel has not taken
        self._paused = False  # there are such
        self._reading = True
        self._closing = False
        self._lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # pause_writing() as soon as a byte is left over
        self._transport.set_write_buffer_limits(high=0)
        if self._closing:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._end_writes()

    def _end_writes(self) -> None:
        writes, self._writes = self._writes, []
        for write in writes:
            if not write.done():
                write.set_result(None)

    def _note_loss(self) -> None:
        self._closing = True
        self._transport = None
        self.socket = None
        self._lost.set_result(None)
        callback, self._on_close = self._on_close, None
        if callback is not None:
            self._loop.call_soon(callback)

    def closed(self) -> bool:
        """Tell whether nothing can be sent any more."""
        return self._closing or self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Send; return what is done when the kernel has all of it."""
        if self._transport is None:
            raise StreamClosedError
        self._transport.write(data)
        if not self._paused:
            return self._sent
        write: asyncio.Future[None] = self._loop.create_future()
        self._writes.append(write)
        return write

    def refused(self) -> asyncio.Future[None]:
        """Return what a write to a closed connection returns."""
        write: asyncio.Future[None] = self._loop.create_future()
        write.set_exception(StreamClosedError())
        write.exception()  # nobody has to look
        return write

    def _resume(self) -> None:
        self._reading = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _end(self) -> None:
        """Close, when what was written is sent."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> Awaitable[None]:
        """Close at once; return what is done when that has been noticed."""
        self.abort()
        return self._lost

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Have ``callback`` called when the connection is closed."""
        self._on_close = callback
        if callback is not None and self._lost.done():
            self._loop.call_soon(callback)

    def set_nodelay(self, value: bool) -> None:
        """Do nothing: nothing is ever delayed."""
