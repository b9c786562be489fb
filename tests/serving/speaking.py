"""An application that tells what it sees, for conversations with it."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler, stream_request_body

Seen = list[Any]


class Told(RequestHandler):
    """A handler whose life is written down."""

    def initialize(self, seen: Seen) -> None:
        self.seen = seen

    def see(self, *what: Any) -> None:
        self.seen.append((self.request.path, *what))

    def on_finish(self) -> None:
        self.see("on_finish")

    def on_connection_close(self) -> None:
        self.see("on_connection_close")
        super().on_connection_close()

    def options(self, *args: str) -> None:
        self.write("options")


class Echo(Told):
    """Says what was asked."""

    def get(self) -> None:
        request = self.request
        self.see(
            request.method,
            request.uri,
            request.version,
            list(request.headers.get_all()),
            request.body,
            request.arguments,
            {name: len(files) for name, files in request.files.items()},
            request.remote_ip,
            request.protocol,
            request.host,
            request.host_name,
        )
        self.write(f"{request.method} {request.uri} {len(request.body)}")

    post = put = patch = delete = head = get


class Status(Told):
    def get(self, code: str) -> None:
        self.set_status(int(code), self.get_argument("reason", None))

    post = head = get


class Chunks(Told):
    """Several writes of an answer whose length is not announced."""

    async def get(self) -> None:
        for number in range(3):
            self.write(f"chunk {number} ")
            if self.get_argument("empty", None):
                self.request.connection.write(b"")
            await self.flush()

    head = get


class Late(Told):
    """An answer that takes some rounds of the loop."""

    async def get(self) -> None:
        for _ in range(int(self.get_argument("rounds", "4"))):
            await asyncio.sleep(0)
        self.write(f"late {self.request.uri}")

    post = get


class Wait(Told):
    """An answer that comes when the client is gone, if ever."""

    gone: asyncio.Event

    def prepare(self) -> None:
        self.gone = asyncio.Event()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.gone.set()

    async def get(self) -> None:
        if self.get_argument("begin", None):
            self.write("half")
            await self.flush()
        await self.gone.wait()
        try:
            self.write("the rest")
            await self.flush()
        except StreamClosedError:
            self.see("StreamClosedError")
        self.see("closed", self.request.connection.stream.closed())

    post = get


class Large(Told):
    """So many bytes, at once or in several writes; and how far it came."""

    async def get(self) -> None:
        size, times = int(self.get_argument("size")), int(self.get_argument("times", "1"))
        try:
            for _ in range(times):
                self.write(b"x" * size)
                await self.flush()
        except StreamClosedError:
            self.see("StreamClosedError")
        if not times:
            self.write(b"x" * size)


class Length(Told):
    """An answer that is longer or shorter than its Content-Length says."""

    async def get(self) -> None:
        self.set_header("Content-Length", self.get_argument("length"))
        for part in self.get_arguments("part"):
            self.write(part)
            if self.get_argument("flush", None):
                await self.flush()


class Raw(Told):
    """What handlers are kept from: a line break in a header."""

    def get(self) -> None:
        headers = HTTPHeaders()
        headers["Content-Length"] = "0"
        headers["X"] = "a"
        headers._as_list["X"] = [self.get_argument("value")]
        start = ResponseStartLine("HTTP/1.1", 200, self.get_argument("reason", "OK"))
        try:
            self.request.connection.write_headers(start, headers)
        except ValueError as exc:
            self.see(type(exc))
            raise
        self.request.connection.finish()
        self._finished = True


class Fail(Told):
    """One that raises, before or within its answer."""

    async def get(self) -> None:
        if self.get_argument("begin", None):
            self.write("half")
            await self.flush()
        raise ZeroDivisionError

    post = get


class Early(Told):
    """One that answers before it looks at anything."""

    def prepare(self) -> None:
        self.finish("early")

    post = get = lambda self: None


class Detach(Told):
    """One that goes on in a language of its own."""

    async def get(self) -> None:
        self.write("head")
        await self.flush()
        stream = self.detach()
        self.see("detached", self.request.connection.stream)
        await stream.write(b"\r\nspeak: ")
        try:
            said = await stream.read_until(b"!")
            await stream.write(b"you said " + said)
        except StreamClosedError:
            self.see("silent")
        stream.close()

    post = get


class Socket(Told):
    """What is asked of the connection besides."""

    def get(self) -> None:
        stream = self.request.connection.stream
        stream.set_nodelay(True)
        try:
            self.request.get_ssl_certificate()
        except AttributeError:
            self.see("no certificate")
        peer = stream.socket.getpeername()[0]
        self.write(f"{peer} {stream.socket.family} {stream.closed()}")


@stream_request_body
class Stream(Told):
    """One that takes its body as it comes."""

    async def prepare(self) -> None:
        self.taken = b""
        self.see("prepare", self.request.headers.get("Content-Length"))
        if size := self.get_query_argument("max", None):
            self.request.connection.set_max_body_size(int(size))
        if seconds := self.get_query_argument("timeout", None):
            self.request.connection.set_body_timeout(float(seconds))
        if self.get_query_argument("wait", None):
            for _ in range(3):
                await asyncio.sleep(0)
        if self.get_query_argument("finish", None):
            self.finish("enough")
        if self.get_query_argument("detach", None):
            self.detach().close()

    def data_received(self, chunk: bytes) -> Any:
        self.taken += chunk
        if self.get_query_argument("enough", None) and not self._finished:
            self.finish("enough")
        if self.get_query_argument("fail", None):
            raise ZeroDivisionError
        return self.later() if self.get_query_argument("async", None) else None

    async def later(self) -> None:
        await asyncio.sleep(0)

    def post(self) -> None:
        self.see("body", self.taken)
        self.write(f"{len(self.taken)} taken")

    get = put = post


def make_app(seen: Seen, **settings: Any) -> Application:
    """Return an application that writes into ``seen``."""
    routes = [
        ("/chunks", Chunks),
        ("/detach", Detach),
        ("/early", Early),
        ("/fail", Fail),
        ("/large", Large),
        ("/late", Late),
        ("/length", Length),
        ("/raw", Raw),
        ("/socket", Socket),
        ("/status/([0-9]+)", Status),
        ("/stream", Stream),
        ("/wait", Wait),
        (r"(?!/none).*", Echo),
    ]
    return Application([(path, handler, {"seen": seen}) for path, handler in routes], **settings)


class Custom(HTTPServerConnectionDelegate):
    """An application that is none of Tornado's."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def start_request(self, server_conn: Any, request_conn: Any) -> HTTPMessageDelegate:
        return CustomMessage(self.seen, request_conn)

    def on_close(self, server_conn: Any) -> None:
        self.seen.append("on_close")


class CustomMessage(HTTPMessageDelegate):
    """Does what the path says, at the time that it says."""

    def __init__(self, seen: Seen, connection: Any) -> None:
        self.seen = seen
        self.connection = connection

    def _do(self, when: str) -> Any:
        self.seen.append((when, self.path))
        if f"answer-{when}" in self.path:
            headers = HTTPHeaders({"Content-Length": "4"})
            start = ResponseStartLine("HTTP/1.1", 200, "OK")
            self.connection.write_headers(start, headers, b"done")
            self.connection.finish()
        if f"fail-{when}" in self.path:
            raise ZeroDivisionError
        if f"detach-{when}" in self.path:
            stream = self.connection.detach()
            stream.write(b"detached")
            stream.close()
        if f"close-{when}" in self.path:
            self.connection.close()
        if when == "finish" or f"wait-{when}" not in self.path:
            return None
        return asyncio.sleep(0)

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        self.path = start_line.path
        return self._do("headers")

    def data_received(self, chunk: bytes) -> Any:
        self.seen.append(chunk)
        return self._do("data")

    def finish(self) -> None:
        self._do("finish")

    def on_connection_close(self) -> None:
        self.seen.append("on_connection_close")


def make_callable(seen: Seen) -> Any:
    """Return an application of the old kind."""

    def answer(request: HTTPServerRequest) -> None:
        seen.append((request.method, request.uri, request.body, request.arguments))
        request.connection.write_headers(
            ResponseStartLine("HTTP/1.1", 200, "OK"), HTTPHeaders({"Content-Length": "2"}), b"hi"
        )
        request.connection.finish()

    return answer
