"""Tornado's private names and habits that serving relies on; a test fails when one of them moves."""

from __future__ import annotations

from typing import Any

from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream

#: what is no part of a header's value at its ends: Tornado 6.4.0 strips all that Python calls whitespace
WHITESPACE = " \t" if HTTPHeaders.parse("Name: \xa0")["Name"] else None


def request_context(server: HTTPServer, stream: IOStream, address: Any) -> Any:
    """Return what a server knows of whoever has connected: ``remote_ip``, ``protocol``."""
    return _HTTPRequestContext(stream, address, server.protocol, server.trusted_downstream)


def put_back(stream: IOStream, data: bytes) -> None:
    """Have a stream that nobody has read from begin with these bytes."""
    stream._read_buffer += data
    stream._read_buffer_size += len(data)
