"""`Stream`: what a blocking driver takes for its socket, on an asyncio transport.

Invariants
- Registered with the loop once, for the life of the connection: TLS, unix sockets and uvloop come from
  the loop, and a connection that the server drops is noticed while it is idle.
- One greenlet at a time. A second one is refused by name before a byte is written or taken.
- Whatever interrupts a read or a write (timeout, cancel, kill) closes the connection: no half packet is
  sent on, and no answer reaches the next question.
- `sendall` returns when the last byte has gone to the kernel (over TLS: all but the last `WRITE_CHUNK`).
  However much it sends, a transport never holds more than a `WRITE_CHUNK` of it, and the loop goes round
  after each `WRITE_TURN`.
- At most about `READ_LIMIT` bytes are read ahead of whoever consumes them.
- Outside a greenlet nothing ever waits; from garbage collection, other threads and forked children it
  only closes, a forked child its copy alone.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import ssl
from contextlib import suppress
from contextvars import Context
from threading import get_ident
from typing import Any, cast

from greenlet import getcurrent

from greentor import bridge, process, selector
from greentor.receiving import receive_buffer
from greentor.waiter import Waiter

#: stop reading from the peer above this many unconsumed bytes
READ_LIMIT = 256 * 1024
#: hand a transport so many bytes at a time: it copies what the kernel does not take at once, and one for
#: TLS does not count what it has passed on
WRITE_CHUNK = 64 * 1024
#: let the loop go round after so many bytes that the kernel took at once
WRITE_TURN = 1024 * 1024

_HUNG_UP = "the server has closed the connection"


class ConcurrentUseError(RuntimeError):
    """A second greenlet used a connection on which another one is waiting for its answer."""


class Stream(asyncio.BufferedProtocol):
    """A connected stream that parks the calling greenlet instead of blocking the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self._pid = process.pid
        self._transport: asyncio.Transport | None = None
        self._received = receive_buffer(loop)
        #: what has been received and not yet taken: ``data`` from ``pos`` on, then the chunks; see `fill`
        self.data = b""
        self.pos = 0
        self._chunks: list[bytes] = []
        self._chunked = 0  # bytes in the chunks
        self._need = 0  # bytes in the chunks that the reader waits for; 0 while a writer waits
        self._waiter: asyncio.Future[None] | None = None
        self._user: Any = None  # the greenlet that waits, or is in the TLS handshake
        #: seconds that a read or a write may wait, each
        self.timeout: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0  # when a part of what the reader waits for came, or the wait began
        self._fd = -1
        #: our end of the socket: a tuple of host and port, an empty string for a unix socket
        self.address: Any = None
        self._error: BaseException | None = None
        self._eof = False
        self._reading = True
        self._write_paused = False
        self._mid_write = False

    # --- what a driver expects of a socket and of its file ------------------------------------

    def settimeout(self, seconds: float | None) -> None:
        """Limit each read and each write that follows; None for no limit."""
        self.timeout = seconds

    def makefile(self, mode: str) -> StreamReader:
        """Return a reader; closing it leaves the stream open."""
        return StreamReader(self)

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only if the peer closed; raise OSError if it was lost."""
        if not self.fill(size):
            size = self.unread
        end = self.pos + size
        result = self.data[self.pos : end]
        self.advance(end)
        return result

    def fill(self, size: int) -> bool:
        """Wait until ``size`` bytes, counted from ``pos``, are in ``data``; take none of them.

        ``data`` may get longer than that, and ``pos`` move. Return False if the peer closed before; then
        all that came is in ``data``. Raise OSError if the connection was lost.
        """
        if self._user is not None:
            self._check_free("reading")
        missing = size - (len(self.data) - self.pos)
        if missing <= 0:
            return True
        if self._chunked < missing and not self._eof:
            if not self._reading:
                self._resume_reading()
            self._wait(missing, "reading")
        chunks = self._chunks
        if self.pos < len(self.data):
            chunks.insert(0, self.data[self.pos :])
        self.data = data = b"".join(chunks)  # which copies nothing if there is one
        self.pos = self._chunked = 0
        chunks.clear()
        return len(data) >= size

    def advance(self, pos: int) -> None:
        """Take what is in ``data`` up to ``pos``."""
        if pos == len(self.data):
            self.data = b""
            self.pos = 0
        else:
            self.pos = pos
        if not self._reading and self.unread < READ_LIMIT:
            self._resume_reading()

    @property
    def unread(self) -> int:
        """Bytes that have been received and not yet taken."""
        return len(self.data) - self.pos + self._chunked

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``; return when the kernel has taken the last byte."""
        green = bridge.check_alive("writing")
        if self._user is not None:
            self._check_free("writing")
        if green.loop is not self._loop or process.pid != self._pid:
            raise ConcurrentUseError("the connection was opened on another event loop or process")
        if self._error is not None:
            raise self._error
        transport = self._transport
        if transport is None or self._eof or transport.is_closing():
            raise ConnectionResetError(_HUNG_UP)
        self._mid_write = True
        try:
            if len(data) > WRITE_CHUNK:
                self._send_pieces(transport, data)
            else:
                transport.write(data)
                if self._write_paused:
                    self._wait(0, "writing")
            if self._eof and not self.unread:  # else it has said why: a packet too large for it
                raise ConnectionResetError(_HUNG_UP)
        except BaseException:
            self.close()
            raise
        self._mid_write = False

    def _send_pieces(self, transport: asyncio.Transport, data: bytes) -> None:
        view = memoryview(data)
        end = None if self.timeout is None else self._loop.time() + self.timeout
        sent = 0  # since the loop last went round
        for start in range(0, len(view), WRITE_CHUNK):
            transport.write(view[start : start + WRITE_CHUNK])
            sent += WRITE_CHUNK
            if not self._write_paused:
                if sent < WRITE_TURN:
                    continue
                self._loop.call_soon(self._wake, context=Context())
            self._wait(0, "writing", end)
            sent = 0
            if self._eof:
                break

    def wait_beside(self, future: asyncio.Future[Any], doing: str) -> None:
        """Park until ``future`` is done, or the peer has hung up: look which.

        For what a driver needs in mid-exchange from elsewhere. Nobody else can use the stream meanwhile,
        and what interrupts the wait closes it. The loop goes round at least once.
        """
        self._check_free(doing)
        self._user = getcurrent()
        try:
            while not self._eof:
                waiter = self._waiter = self._loop.create_future()
                future.add_done_callback(functools.partial(_finish, waiter), context=Context())
                bridge.wait(waiter, doing)
                if future.done():
                    break
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = self._user = None

    def start_tls(self, context: ssl.SSLContext, server_hostname: str | None) -> Stream:
        """Encrypt from here on; return the stream itself. Raise OSError if the handshake fails."""
        self._check_free("the TLS handshake")
        transport = self._transport
        if transport is None:
            raise ConnectionResetError(_HUNG_UP)
        if self.unread:
            # Somebody on the way could slip plain text in front of the encrypted.
            self.close()
            raise ConnectionAbortedError("data received before the TLS handshake")
        timeout = self.timeout
        self._user = getcurrent()

        async def handshake() -> asyncio.Transport | None:
            async with asyncio.timeout(timeout):
                return await self._loop.start_tls(
                    transport, self, context, server_hostname=server_hostname
                )

        try:
            self._transport = cast(asyncio.Transport, bridge.step_detached(handshake()))
            # As in connection_made(), but a TLS transport pauses *at* the limit, 0 included.
            self._transport.set_write_buffer_limits(high=1, low=0)
        except BaseException as exc:
            self.close()
            if isinstance(exc, TimeoutError) and not isinstance(exc, bridge.DeadlineExceeded):
                raise TimeoutError("timed out") from exc
            raise
        finally:
            self._user = None
        return self

    def send_last(self, data: bytes) -> None:
        """Write a farewell without waiting for anybody; the next call is `close`."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Drop the connection at once, whoever calls and from wherever; the kernel sends what it has."""
        transport = self._transport
        if transport is None:
            return  # never opened, or closed
        if process.pid != self._pid:
            self._transport = None
            _replace_fd(transport.get_extra_info("socket").fileno())
        elif self._loop.is_closed():
            # The transport is past using; end the connection below it.
            self._transport = None
            with suppress(OSError, TypeError):
                transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        elif get_ident() != self._thread:
            try:
                self._loop.call_soon_threadsafe(self.close)
            except RuntimeError:  # closed meanwhile
                self.close()
        else:
            self._eof = True
            self.data = b""
            self.pos = self._chunked = 0
            self._chunks.clear()
            # At once: after a handshake that failed nobody tells of the end.
            selector.forget(self._loop, self._fd, self)
            # Not gracefully: TLS would wait for the peer's farewell.
            transport.abort()

    # --- what a pool asks ---------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the connection is still usable, as far as the loop has seen."""
        transport = self._transport
        return (
            transport is not None
            and not self._eof
            and self._error is None
            and not transport.is_closing()
            and not self._loop.is_closed()
        )

    @property
    def quiet(self) -> bool:
        """Whether nobody waits on the stream and nothing unread lies in it."""
        return self._user is None and not self.unread and not self._mid_write

    @property
    def local(self) -> bool:
        """Whether the caller runs in the thread and the process that opened the stream."""
        return get_ident() == self._thread and process.pid == self._pid

    # --- what the loop calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # pause_writing() as soon as a byte is left over: see sendall
        self._transport.set_write_buffer_limits(high=0)
        self.address = transport.get_extra_info("sockname")
        sock = transport.get_extra_info("socket")
        self._fd = sock.fileno()
        selector.prefer(self._loop, self._fd, self)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):  # reset already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._received[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._chunked = chunked = self._chunked + len(data)
        need = self._need
        if chunked > READ_LIMIT and chunked >= need and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if need:
            if chunked >= need:
                self._wake()  # at last: all sorts of things happen in it
            else:
                self._heard = self._loop.time()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._error = self._error or exc
        self._transport = None
        selector.forget(self._loop, self._fd, self)
        self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if not self._need:
            self._wake()

    # --- waiting ------------------------------------------------------------------------------

    def _wait(self, need: int, doing: str, end: float | None = None) -> None:
        """Park until ``need`` bytes are in the chunks, or (0) until the write buffer is empty.

        As with a blocking socket the timeout limits each silence in reading, and the whole of a write, which
        is over at ``end``.
        """
        if self._user is not None:
            self._check_free(doing)
        if self._error is not None:
            raise self._error
        loop = self._loop
        waiter = Waiter(loop=loop)
        if self.timeout is not None:
            self._heard = loop.time()
            until = end or self._heard + self.timeout
            # In a context of its own: once cancelled it may stay with the loop until its time.
            self._timer = loop.call_at(until, self._expire, waiter, context=Context())
        self._need = need
        self._waiter = waiter
        self._user = getcurrent()
        try:
            bridge.wait(waiter, doing)
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = self._user = None
            self._need = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self._error is not None:
            raise self._error

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def _check_free(self, doing: str) -> None:
        if self._user is not None:
            raise ConcurrentUseError(
                f"{doing} refused to {_describe(getcurrent())}: {_describe(self._user)} is waiting "
                "on this connection; give each greenlet a connection of its own"
            )

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _expire(self, waiter: Waiter) -> None:
        if waiter.done():
            return
        again = self._heard + (self.timeout or 0)
        if self._need and again > self._loop.time():  # some of it has come meanwhile
            self._timer = self._loop.call_at(again, self._expire, waiter, context=Context())
        else:
            waiter.set_exception(TimeoutError("timed out"))


class StreamReader:
    """The file that `Stream.makefile` returns: buffered by the stream, not by itself."""

    __slots__ = ("_stream", "read")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.read = stream.read

    def close(self) -> None:
        """Do nothing: the stream is closed by itself."""


def _finish(waiter: asyncio.Future[None], future: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _replace_fd(fd: int) -> None:
    """Close a descriptor whose owner, an inherited transport, may not be touched."""
    if fd >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, fd, inheritable=False)
        os.close(null)


def _describe(g: Any) -> str:
    task = getattr(g, "task", None)
    if task is None:
        return "code outside any greenlet of ours"
    return f"the greenlet of {task.get_name()} ({g.frame.scope.name})"
