"""`Front`: a connection whose plain requests are parsed by llhttp, and handed to Tornado's application.

Invariants
- Requests are begun in the order in which they came, one at a time: pipelined ones wait, `READ_AHEAD` bytes
  of them, until the answer before them is sent. Each begins in a context of its own.
- An application is called as by Tornado's HTTP1Connection: ``headers_received`` as soon as the head is there,
  the body piece by piece, then ``finish``; or else ``on_connection_close``.
- What is not plain goes to Tornado, with all that has not been answered, before the application has heard of
  it, and the connection stays there.
- A connection has no timer of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
)
from tornado.iostream import IOStream, StreamClosedError
from tornado.log import app_log, gen_log

from greentor.receiving import receive_buffer
from greentor.serving.answer import Answer
from greentor.serving.heads import END, Heads, may_be_plain
from greentor.serving.server import is_readable
from greentor.serving.upstream import request_context
from greentor.serving.wire import Wire

if TYPE_CHECKING:
    from greentor.serving.front_server import FrontServer

#: stop reading above so many bytes of requests that have not begun
READ_AHEAD = 64 * 1024


class Front(Wire):
    """A connection of a client, until it is lost, or left to Tornado."""

    def __init__(self, server: FrontServer, stream: IOStream, address: Any) -> None:
        self._server = server
        self._params = server.conn_params
        super().__init__(stream.socket)
        self._base = copy_context()  # of which each request has a copy
        self._address = address
        self._received = receive_buffer(self._loop)
        self.context = request_context(server, stream, address)
        self._data = b""  # that nobody has taken
        self._searched = 0  # bytes of it without the end of a head
        self._heads = Heads()
        self._answer: Answer | None = None  # to the request that is at work
        self._arrival: asyncio.Future[None] | None = None  # of more of its body
        self._receiver: asyncio.Task[None] | None = None
        self._eof = False  # and yet there is something to be answered
        self._fresh = True  # no request has begun yet
        #: since when a head is waited for; 0 while a request is at work
        self.idle_since = self._loop.time()

    # --- what the loop calls ------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._received[:nbytes])
        self._data = self._data + data if self._data else data
        if self._answer is None:
            self._next()
            return
        self._wake()
        if len(self._data) > READ_AHEAD and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Return whether there is something to be answered before the connection is closed."""
        self._eof = True
        self._wake()
        answer = self._answer
        if answer is None:
            if self._data:
                self._loop.call_soon(self._read_on, context=self._base)
            return bool(self._data)
        if answer.received:
            self._loop.call_soon(self._note_eof, answer)
            return True
        # Tornado looks for this only if somebody has asked for it, or it needs more of the body.
        return bool(self._data) or self._on_close is None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost.done():
            return
        self._server.forget(self)
        self._note_loss()
        answer, self._answer = self._answer, None
        if answer is not None and answer.received and not answer.finished:
            self._loop.call_soon(answer.lost)
        self._wake()
        self._end_writes()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answer is not None and self._answer.finished:
            # Not from here: asyncio's transports, closed in here, end twice (python/cpython#156512).
            self._loop.call_soon(self.answered, self._answer, context=self._base)

    def _wake(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    # --- requests -----------------------------------------------------------------------------

    def _next(self) -> None:
        """Begin the next request if its head has come; leave to Tornado what is not plain."""
        if self._closing:
            return
        data = self._data
        begin = self._searched
        end = data.find(END, begin) + len(END)
        if end < len(END):  # not yet
            limit = self._params.max_header_size
            if len(data) >= limit or not may_be_plain(data[max(begin - 1, 0) :]):
                self._leave_to_tornado()
            elif self._eof:
                self._end()
            else:
                self._searched = max(len(data) - len(END) + 1, 0)
            return
        self._searched = 0
        params = self._params
        plain = None
        if end <= params.max_header_size:
            plain = self._heads.read(data[:end], params.decompress)
        if plain is None or plain[2] > self._server.largest:
            self._leave_to_tornado()
            return
        self._data = data[end:]
        self._base.copy().run(self._begin, *plain)

    def _begin(self, line: RequestStartLine, headers: HTTPHeaders, length: int) -> None:
        """Hand a request to the application: as a whole, or else what there is of it."""
        self._fresh = False
        self.idle_since = 0
        self._answer = answer = Answer(self, line, headers, self._can_keep_alive(line, headers))
        delegate = None
        try:
            delegate = self._server.start_request(self, answer)
            waiting = delegate.headers_received(line, headers)
            if waiting is None and answer.stream is not None:
                if length and len(self._data) >= length <= self._params.chunk_size:
                    body = self._take(length)
                    length = 0
                    if not answer.finished:
                        waiting = delegate.data_received(body)
                if waiting is None and not length:
                    self._complete(delegate, answer)
                    return
        except Exception as exc:
            self._failed(delegate, answer, exc)
            return
        self._receiver = self._loop.create_task(self._receive(delegate, answer, waiting, length))

    async def _receive(
        self,
        delegate: HTTPMessageDelegate,
        answer: Answer,
        waiting: Awaitable[None] | None,
        left: int,
    ) -> None:
        """Hand over the body as it comes, to an application that may take its time."""
        timer = None
        try:
            if waiting is not None:
                await waiting
            if answer.stream is None:  # it was taken over
                return
            if left:
                if answer.max_body_size is not None and left > answer.max_body_size:
                    raise HTTPInputError("Content-Length too long")
                if answer.body_timeout is not None:
                    timer = self._loop.call_later(answer.body_timeout, self._time_out)
            while left:
                while not self._data:
                    await self._more()
                piece = self._take(min(left, self._params.chunk_size))
                left -= len(piece)
                if not answer.finished:
                    waiting = delegate.data_received(piece)
                    if waiting is not None:
                        await waiting
            if timer is not None:
                timer.cancel()
            if answer.stream is not None:
                self._complete(delegate, answer)
        except (Exception, asyncio.CancelledError) as exc:
            self._failed(delegate, answer, exc)
        finally:
            self._receiver = None
            if timer is not None:
                timer.cancel()

    async def _more(self) -> None:
        if self._closing or self._eof:
            raise StreamClosedError
        self._arrival = self._loop.create_future()
        await self._arrival

    def _take(self, most: int) -> bytes:
        """Return what there is of a body, up to so many bytes."""
        piece, self._data = self._data[:most], self._data[most:]
        self._heads.skip(piece)
        if not self._reading and len(self._data) <= READ_AHEAD:
            self._resume()
        return piece

    def _time_out(self) -> None:
        gen_log.info("Timeout reading body from %s", self.context)
        self.abort()

    def _complete(self, delegate: HTTPMessageDelegate, answer: Answer) -> None:
        answer.received = True
        if answer.finished:
            delegate.on_connection_close()  # as Tornado has it
            return
        delegate.finish()
        if self._eof or self._closing:
            self._loop.call_soon(self._note_eof, answer)

    def _note_eof(self, answer: Answer) -> None:
        """Give up a request that is not answered at once: its client may be gone as a whole."""
        if self._lost.done():
            if not answer.finished:
                answer.lost()
        elif answer is self._answer and not answer.finished and not self._data:
            self._end()

    def _failed(
        self, delegate: HTTPMessageDelegate | None, answer: Answer, exc: BaseException
    ) -> None:
        """End the connection under a request that the application could not be given."""
        if answer is self._answer:
            self._answer = None  # nobody is at work on it who would have to be told
        if isinstance(exc, HTTPInputError):
            gen_log.info("Malformed HTTP message from %s: %s", self.context, exc)
            if not self.closed():
                self.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self._end()
        elif isinstance(exc, StreamClosedError | asyncio.CancelledError):
            self._end()
        else:
            app_log.error("Uncaught exception", exc_info=exc)
            self.abort()
        if delegate is None:
            return
        try:
            delegate.on_connection_close()
        except Exception:
            app_log.error("Uncaught exception", exc_info=True)

    def _can_keep_alive(self, line: RequestStartLine, headers: HTTPHeaders) -> bool:
        """Return what Tornado would."""
        if self._params.no_keep_alive:
            return False
        wish = headers.get("Connection", "").lower()
        if line.version == "HTTP/1.1":
            return wish != "close"
        return wish == "keep-alive" and (
            line.method in ("GET", "HEAD") or "Content-Length" in headers
        )

    # --- what an answer asks ------------------------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """Go on with the next request, once all of the answer is sent."""
        if answer is self._answer and not self._paused:
            self._go_on(answer)

    def _go_on(self, answer: Answer) -> None:
        self._answer = None
        self._on_close = None
        if not answer.keep_alive or (self._eof and not self._data):
            self._end()
            return
        self.idle_since = self._loop.time()
        if self._data or not self._reading:
            # Not from here: it would be in the context of the request that has ended.
            self._loop.call_soon(self._read_on, context=self._base)

    def _read_on(self) -> None:
        if not self._reading:
            self._resume()
        if self._answer is None and self._data:
            self._next()

    # --- the end ------------------------------------------------------------------------------

    def close_if_idle(self, fresh_too: bool) -> None:
        """Close if nothing has come, on a fresh connection if told so; let a request be the last."""
        if self._answer is not None:
            self._answer.keep_alive = False
        elif (
            (fresh_too or not self._fresh)
            and not (self.closed() or self._data)
            and not is_readable(self.socket)
        ):
            self._end()

    def detach(self) -> IOStream:
        """Return the connection as one of Tornado's streams, and have no part in it any more."""
        if self._paused:
            raise RuntimeError(
                "detach() with a part of the answer unsent would lose it: await flush() before"
            )
        if self.closed():
            raise StreamClosedError
        stream = self._leave()
        self._server.detached(stream)
        return stream

    def _leave_to_tornado(self) -> None:
        try:
            stream = self._leave()
        except OSError:  # there are no descriptors left
            app_log.error("Uncaught exception", exc_info=True)
            self.abort()
        else:
            self._server.leave_to_tornado(stream, self._address)

    def _leave(self) -> IOStream:
        assert self._transport is not None
        # The transport closes its own descriptor, but not the connection.
        own = socket.socket(fileno=os.dup(self.socket.fileno()))
        data, self._data = self._data, b""
        self._answer = None
        self._on_close = None
        self._closing = True
        self._server.forget(self)
        self._transport.abort()
        return self._server.resume(own, data)
