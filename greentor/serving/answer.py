"""`Answer`: what a request writes its answer to, in place of Tornado's HTTP1Connection.

Invariants
- The same bytes as Tornado's for the same calls: framing by ``Content-Length`` or in chunks, ``Connection``,
  and what is refused (a line break in a header, more or less of a body than was announced).
- The future of a write is done when the kernel has taken the last byte; nobody has to wait for it.
- One request, one answer. When it is finished and sent, the next request of the connection begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado.escape import native_str, utf8
from tornado.http1connection import parse_int
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream

if TYPE_CHECKING:
    from greentor.serving.front import Front


class Answer(HTTPConnection):
    """The answer to one request of a `greentor.serving.front.Front`."""

    def __init__(
        self, front: Front, request: RequestStartLine, headers: HTTPHeaders, keep_alive: bool
    ) -> None:
        #: None when somebody has taken the connection over
        self.stream: Front | None = front
        #: what HTTPServer's ``xheaders`` work on: whose request it is, as far as is known
        self.context = front.context
        self.keep_alive = keep_alive
        self.received = False  # all of the request
        self.finished = False  # by the application; bytes may wait to be sent
        self.max_body_size: int | None = None
        self.body_timeout: float | None = None
        self._request = request
        self._request_headers = headers
        self._on_close: Callable[[], None] | None = None
        self._chunked = False
        self._left: int | None = None  # of the body that was announced

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Have ``callback`` called if the client is gone before its answer is finished."""
        self._on_close = callback

    def set_body_timeout(self, timeout: float) -> None:
        """Give up if the body of this request takes longer."""
        self.body_timeout = timeout

    def set_max_body_size(self, max_body_size: int) -> None:
        """Refuse the body of this request if it is larger."""
        self.max_body_size = max_body_size

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """Send the head and perhaps a first part of the body."""
        assert isinstance(start_line, ResponseStartLine)
        method, _, version = self._request
        code = start_line.code
        bodiless = method == "HEAD" or code == 304
        self._chunked = (
            version == "HTTP/1.1"
            and not bodiless
            and code != 204
            and not 100 <= code < 200
            and "Content-Length" not in headers
        )
        if version == "HTTP/1.1":
            if not self.keep_alive:
                headers["Connection"] = "close"
        elif self._request_headers.get("Connection", "").lower() == "keep-alive":
            headers["Connection"] = "Keep-Alive"
        if self._chunked:
            headers["Transfer-Encoding"] = "chunked"
        if bodiless:
            self._left = 0
        elif "Content-Length" in headers:
            self._left = parse_int(headers["Content-Length"])
        else:
            self._left = None
        first = utf8(f"HTTP/1.1 {code:d} {start_line.reason}")
        lines = [f"\r\n{native_str(n)}: {native_str(v)}" for n, v in headers.get_all()]
        head = first + "".join(lines).encode("latin1")
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            bad = [
                line for line in (native_str(first), *lines) if _breaks(line.removeprefix("\r\n"))
            ]
            raise ValueError(f"Illegal characters (CR or LF) in header: {bad[0]!r}")
        front = self.stream
        if front is None:
            raise _taken_over()
        if front.closed():
            return front.refused()
        head += b"\r\n\r\n"
        return front.write(head + self._framed(front, chunk) if chunk else head)

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Send a part of the body."""
        front = self.stream
        if front is None:
            raise _taken_over()
        if front.closed():
            return front.refused()
        return front.write(self._framed(front, chunk))

    def finish(self) -> None:
        """End the answer. Raise HTTPOutputError if there was less of it than announced."""
        front = self.stream
        if front is None:
            raise _taken_over()
        if self._left and not front.closed():
            front.abort()
            raise HTTPOutputError(f"Tried to write {self._left} bytes less than Content-Length")
        if self._chunked and not front.closed():
            front.write(b"0\r\n\r\n")
        self.finished = True
        if not self.received:
            self.keep_alive = False  # the rest of the body will not be read
        front.answered(self)

    def detach(self) -> IOStream:
        """Take the connection over; what follows is not HTTP any more.

        Raise RuntimeError while a part of the answer waits to be sent: await ``flush()`` before.
        """
        if self.stream is None:
            raise _taken_over()
        stream = self.stream.detach()
        self._on_close = None
        self.stream = None
        return stream

    def close(self) -> None:
        """Close the connection, also under half an answer."""
        self._on_close = None
        if self.stream is not None:
            self.stream.abort()

    def lost(self) -> None:
        """Tell who is at work on the answer that the client is gone."""
        callback, self._on_close = self._on_close, None
        if callback is not None:
            callback()

    def _framed(self, front: Front, chunk: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                front.abort()
                raise HTTPOutputError("Tried to write more data than Content-Length")
        if self._chunked and chunk:  # an empty one would be the end
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return chunk


def _breaks(line: str) -> bool:
    return "\r" in line or "\n" in line


def _taken_over() -> RuntimeError:
    return RuntimeError("the connection was taken over by detach(): write to its stream")
