"""`Heads`: the heads of a connection's requests, read by llhttp, as far as they are plain.

Invariants
- A head is plain if llhttp and Tornado both take it, for the same, and all that follows is a body of a known
  length. In doubt it is not: what Tornado makes of it is for Tornado to say.
- The first line and the values are Tornado's own reading of the same bytes: llhttp, which takes RTSP for HTTP
  and several spaces for one, finds where headers begin and end.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    RequestStartLine,
    parse_request_start_line,
)

from greentor.serving.upstream import WHITESPACE

#: what ends a head
END = b"\r\n\r\n"

_VERSIONS = ("HTTP/1.1", "HTTP/1.0")


class Heads:
    """The reader of one connection; it has to be told of the bodies, too."""

    __slots__ = ("_fields", "_parser")

    def __init__(self) -> None:
        self._fields = _Fields()  # not self: the parser refers to it, and that would be a cycle
        self._parser = HttpRequestParser(self._fields)

    def read(
        self, head: bytes, decompress: bool
    ) -> tuple[RequestStartLine, HTTPHeaders, int] | None:
        """Return the first line, the headers and the length of the body; None if it is not plain."""
        fields = self._fields
        fields.headers = headers = HTTPHeaders()
        fields.lines = 2  # the first, and the empty one
        try:
            self._parser.feed_data(head)
            first = head[: head.index(b"\r\n")].decode("latin1")
            line = parse_request_start_line(first)
            length = int(headers["Content-Length"]) if "Content-Length" in headers else 0
        except (HttpParserError, HttpParserUpgrade, HTTPInputError, ValueError):
            return None
        if (
            line.version not in _VERSIONS
            or "Transfer-Encoding" in headers
            or "Expect" in headers
            or self._parser.should_upgrade()
            or (decompress and "Content-Encoding" in headers)
            # Each line is a header of its own: none is folded, or ends with LF alone. And llhttp has read it:
            # after what it takes for the last request, an older version passes over all that comes.
            or head.count(b"\n") != fields.lines
            or head.count(b"\r\n") != fields.lines
            or "\r" in first
        ):
            return None
        return line, headers, length

    def skip(self, body: bytes) -> None:
        """Take note of a part of a body."""
        self._parser.feed_data(body)


class _Fields:
    __slots__ = ("headers", "lines")

    headers: HTTPHeaders
    lines: int

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.add(name.decode("latin1"), value.decode("latin1").strip(WHITESPACE))
        self.lines += 1


def may_be_plain(part: bytes) -> bool:
    """Tell whether each line of a part of a head ends with CR LF: Tornado takes LF alone, too."""
    return part.count(b"\n") == part.count(b"\r\n")
