"""`FrontServer`: what could go wrong with connections that it reads, hands over, and closes."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler, websocket_connect

from greentor import serving
from greentor.serving import upstream
from greentor.serving.front import READ_AHEAD, Front
from greentor.serving.front_server import FrontServer
from greentor.serving.server import Server, _request_tasks
from greentor.web import BaseRequestHandler
from tests.serving.client import Client as Asking
from tests.serving.client import NotAnswered, Program
from tests.serving.conversations import chunked, get, post
from tests.serving.conversing import Client, go_deaf, half_close, leave, listening, reset
from tests.waiting import await_until

LARGE = 20_000_000


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello")

    post = get


class Wait(RequestHandler):
    """Begins an answer, and ends it when it is told to."""

    def initialize(self, gate: asyncio.Event) -> None:
        self.gate = gate

    async def get(self) -> None:
        await self.gate.wait()
        self.write("waited")


class UntilGone(RequestHandler):
    """Has an answer when nobody waits for it any more."""

    def prepare(self) -> None:
        self.gone = asyncio.Event()

    def on_connection_close(self) -> None:
        self.gone.set()

    async def get(self) -> None:
        await self.gone.wait()


class Socket(WebSocketHandler):
    def open(self) -> None:
        self.write_message("open")


def app(gate: asyncio.Event | None = None, *routes: Any) -> Application:
    waiting = ("/wait", Wait, {"gate": gate or asyncio.Event()})
    own = [("/", Hello), waiting, ("/until-gone", UntilGone), ("/socket", Socket)]
    return Application([*own, *routes])


@contextmanager
def serve(*routes: Any, gate: asyncio.Event | None = None, **options: Any) -> Iterator[FrontServer]:
    with listening(FrontServer(app(gate, *routes), **options)) as server:
        assert isinstance(server, FrontServer)
        yield server


@contextmanager
def client(server: Server, **options: Any) -> Iterator[Client]:
    [listening] = server._sockets.values()
    connected = Client(listening.getsockname(), **options)
    try:
        yield connected
    finally:
        connected.socket.close()


async def heard(client: Client, mark: bytes, times: int = 1) -> bytes:
    """Wait until what came has the mark so many times; return it, and forget it."""

    def look() -> bool:
        client.hear()
        return client.received.count(mark) >= times or client.closed

    await await_until(look)
    data = bytes(client.received)
    client.received.clear()
    assert data.count(mark) == times, (data, client.closed)
    return data


async def closed(client: Client) -> bytes:
    """Wait until the server has closed the connection; return what came before."""
    await await_until(lambda: client.hear() and client.closed)
    return bytes(client.received)


def fronts() -> list[Front]:
    return [each for each in gc.get_objects() if type(each) is Front]


# --- requests are kept apart --------------------------------------------------------------------

marked: contextvars.ContextVar[str] = contextvars.ContextVar("marked", default="")


def test_context_variables_of_a_request_never_reach_the_next(run: Callable[..., Any]) -> None:
    found: list[str] = []

    class Marks(RequestHandler):
        def initialize(self) -> None:  # called without a task of its own
            found.append(marked.get())
            marked.set(f"initialize {self.request.uri}")

        async def get(self) -> None:
            marked.set(f"get {self.request.uri}")
            self.write(b"x" * int(self.get_argument("size", "1")))
            await self.flush()
            await asyncio.sleep(0)
            self.finish("end.")

        post = get

    async def main() -> None:
        with serve(("/marks", Marks)) as server, client(server) as each:
            marked.set("")
            each.send(get("/marks?1") + get("/marks?2") + get("/marks?3"))
            await heard(each, b"end.", 3)
            each.send(get("/marks?4"))
            await heard(each, b"end.")
            # One whose answer does not fit, and requests until the reading pauses.
            go_deaf(each)
            rest = each.send(get(f"/marks?size={LARGE}") + post("/marks", b"x" * 9000) * 20)
            await await_until(lambda: any(not front._reading for front in server._fronts))
            each.deaf = False
            while rest:
                each.hear()
                rest = each.send(rest)
                await asyncio.sleep(0)
            await heard(each, b"end.", 21)
            each.send(get("/marks?5"))
            await heard(each, b"end.")

    run(main)
    assert found == [""] * 26


def test_a_request_that_has_ended_is_not_told_of_the_end_of_its_connection(
    run: Callable[..., Any],
) -> None:
    told: list[str] = []

    class Listens(RequestHandler):
        def get(self) -> None:
            self.request.connection.stream.set_close_callback(lambda: told.append("stream"))
            self.request.connection.set_close_callback(lambda: told.append("connection"))
            self.write("listens")

    async def main() -> None:
        with serve(("/listens", Listens)) as server, client(server) as each:
            each.send(get("/listens"))
            await heard(each, b"listens")
            leave(each)
            await await_until(lambda: not server._connections)
            await asyncio.sleep(0)

    run(main)
    assert told == []


# --- who does not read --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1_000_000, 20_000])
def test_flush_waits_for_a_client_that_does_not_read(run: Callable[..., Any], size: int) -> None:
    flushed: list[int] = []
    gone: list[str] = []

    class Large(RequestHandler):
        async def get(self) -> None:
            try:
                for number in range(50_000_000 // size):
                    self.write(b"x" * size)
                    await self.flush()
                    flushed.append(number)
            except StreamClosedError:
                gone.append("write")

        def on_connection_close(self) -> None:
            gone.append("told")

    async def main() -> None:
        with serve(("/large", Large)) as server, client(server) as each:
            go_deaf(each)
            each.send(get("/large"))
            await await_until(lambda: any(front._paused for front in server._fronts))
            for _ in range(50):
                await asyncio.sleep(0)
            [front] = server._fronts
            assert front._transport is not None
            assert front._transport.get_write_buffer_size() <= size + 10
            assert len(flushed) * size < LARGE
            leave(each)
            await await_until(lambda: len(gone) == 2)
            assert gone == ["told", "write"]

    run(main)


def test_requests_of_a_client_that_does_not_read_are_not_read_either(
    run: Callable[..., Any],
) -> None:
    begun: list[str] = []

    class Begun(RequestHandler):
        def get(self) -> None:
            begun.append(self.request.uri)
            self.write(b"x" * LARGE)

    async def main() -> None:
        with serve(("/begun", Begun)) as server, client(server) as each:
            go_deaf(each)
            data = get("/begun", "A: " + "x" * 1000) * 10_000
            rest = each.send(data)
            [front] = await await_until(
                lambda: [front for front in server._fronts if not front._reading]
            )
            while len(rest) != len(rest := each.send(rest)):
                for _ in range(5):
                    await asyncio.sleep(0)
            assert rest  # the kernel's buffers are full
            assert begun == ["/begun"]
            assert len(front._data) <= READ_AHEAD + 256 * 1024

    run(main)


# --- the end of a connection --------------------------------------------------------------------


def test_idle_connections_are_closed_and_those_at_work_are_not(run: Callable[..., Any]) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        with (
            serve(gate=gate, idle_connection_timeout=0.3) as server,
            client(server) as silent,
            client(server) as slow,
            client(server) as used,
            client(server) as left,
            client(server) as busy,
            client(server) as body,
        ):
            slow.send(b"GET / HTTP/1.1\r\nHost:")
            used.send(get())
            left.send(chunked("/", b"x"))
            busy.send(get("/wait"))
            body.send(post("/", b"abc")[:-1])
            await heard(used, b"hello")
            await heard(left, b"hello")
            for each in (silent, slow, used, left):
                assert await closed(each) == b""
            assert not busy.hear()
            assert not body.hear()  # there is body_timeout for this
            gate.set()
            await heard(busy, b"waited")
            body.send(b"c")
            await heard(body, b"hello")
            for each in (busy, body):
                assert await closed(each) == b""
            assert server._look is None or not server._fronts

    run(main)


@pytest.mark.parametrize(
    ("data", "answers"),
    [
        (get(), 1),
        (get() * 3, 3),
        (post("/", b"abc") * 2, 2),
        (get() + get()[:-3], 1),
        (get() + post("/", b"abc")[:-1], 1),
        (get() + get("/until-gone"), 1),
        (get("/until-gone"), 0),
        (get("/stream"), 1),
        (get("/stream?wait=1"), 1),
        (post("/stream", b"abc"), 1),
        (get() + post("/stream?wait=1", b"abc"), 2),
        (post("/stream", b"abc")[:-1], 0),
        (post("/stream?wait=1", b"abc")[:-1], 0),
        (get("/round") + get(), 2),
        (post("/stream?wait=1", b"abc") + get("/until-gone"), 1),
    ],
)
def test_requests_that_come_with_the_end_of_their_client_are_answered(
    run: Callable[..., Any], data: bytes, answers: int
) -> None:
    """As from `printf | nc -N`: the answers are read by who sends nothing more."""

    class Round(RequestHandler):
        async def get(self) -> None:
            for _ in range(5):
                await asyncio.sleep(0)

    @stream_request_body
    class Stream(RequestHandler):
        async def prepare(self) -> None:
            for _ in range(5 if self.get_query_argument("wait", None) else 0):
                await asyncio.sleep(0)

        def data_received(self, chunk: bytes) -> Any:
            return asyncio.sleep(0)

        def get(self) -> None:
            self.write("stream")

        post = get

    async def main() -> None:
        with serve(("/stream", Stream), ("/round", Round)) as server, client(server) as each:
            await await_until(lambda: server._fronts)
            each.send(data)
            half_close(each)
            answer = await closed(each)
            assert answer.count(b"HTTP/1.1 200 OK") == answers
            await await_until(lambda: not server._connections and not _request_tasks())

    run(main)


@pytest.mark.parametrize("which", ["the server's", "the request's"])
def test_a_body_that_takes_too_long_ends_its_connection(
    run: Callable[..., Any], which: str
) -> None:
    told: list[str] = []

    @stream_request_body
    class Slow(RequestHandler):
        def prepare(self) -> None:
            if which == "the request's":
                self.request.connection.set_body_timeout(0.1)

        def data_received(self, chunk: bytes) -> None:
            told.append(f"{len(chunk)} bytes")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            told.append("closed")

        def post(self) -> None:
            told.append("post")

    async def main() -> None:
        options = {"body_timeout": 0.1} if which == "the server's" else {}
        with serve(("/slow", Slow), **options) as server, client(server) as each:
            each.send(post("/slow", b"abc")[:-1])
            assert await closed(each) == b""
            await await_until(lambda: not server._connections)

    run(main)
    assert told == ["2 bytes", "closed"]


def test_a_client_that_is_gone_when_it_is_accepted_does_no_harm(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with serve() as server:
            for gone in (reset, leave, half_close):
                for data in (b"", get(), get("/until-gone")):
                    with client(server) as each:  # the kernel accepts, the loop has not turned
                        each.send(data)
                        gone(each)
            with client(server) as each:
                each.send(get())
                await heard(each, b"hello")
            await await_until(lambda: not server._connections)

    run(main)


def test_a_connection_that_the_loop_refuses_is_closed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no more transports")

    async def main() -> None:
        with serve() as server, client(server) as each:
            loop = asyncio.get_running_loop()
            if not hasattr(loop, "__dict__"):
                pytest.skip("this loop cannot be patched")
            monkeypatch.setattr(loop, "connect_accepted_socket", refuse)
            await closed(each)
            assert not server._connections
            await server.close_all_connections()

    run(main)


def test_close_all_connections_closes_whatever_they_are_at(run: Callable[..., Any]) -> None:
    told: list[str] = []

    class Told(Wait):
        def on_connection_close(self) -> None:
            told.append(self.request.uri)

    async def main() -> None:
        gate = asyncio.Event()
        with (
            serve(("/told", Told, {"gate": gate})) as server,
            client(server) as silent,
            client(server) as busy,
            client(server) as used,
            client(server) as left,
            client(server) as body,
            client(server),  # that the loop has not seen
        ):
            busy.send(get("/told"))
            body.send(post("/", b"abc")[:-1])
            used.send(get())
            left.send(chunked("/", b"x"))
            await heard(used, b"hello")
            await heard(left, b"hello")
            await await_until(lambda: len(server._connections) == 6)
            server.stop()
            await server.close_all_connections()
            assert not server._connections
            for each in (silent, busy, used, left, body):
                assert await closed(each) == b""
            await await_until(lambda: told == ["/told"])
            gate.set()
            await asyncio.sleep(0)

    run(main)


def test_the_end_in_good_order(run: Callable[..., Any]) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        with (
            serve(gate=gate) as server,
            client(server) as fresh,
            client(server) as silent,
            client(server) as busy,
            client(server) as piped,
            client(server) as used,
            client(server) as left,
            client(server) as part,
            client(server) as body,
        ):
            port = next(iter(server._sockets.values())).getsockname()[1]
            connection = await websocket_connect(f"ws://127.0.0.1:{port}/socket")
            assert await connection.read_message() == "open"
            for each in (used, part, left):
                each.send(chunked("/", b"x") if each is left else get())
                await heard(each, b"hello")
            part.send(get()[:-7])
            busy.send(get("/wait"))
            piped.send(get("/wait") + get())
            body.send(post("/", b"abc")[:-1])
            await await_until(lambda: len(server._fronts) == 7)
            for _ in range(10):
                await asyncio.sleep(0)
            end = asyncio.create_task(server.end(30))
            for each in (used, left):
                assert await closed(each) == b""
            assert await connection.read_message() is None
            assert connection.close_code == 1001
            fresh.send(get())  # it has a moment for this
            assert not any(each.hear() for each in (busy, part, body))
            part.send(get()[-7:])
            body.send(b"c")
            gate.set()
            for each, said in (
                (fresh, b"hello"),
                (part, b"hello"),
                (body, b"hello"),
                (busy, b"waited"),
                (piped, b"waited"),
            ):
                answer = await closed(each)
                assert answer.endswith(said), answer
                assert b"Connection: close" in answer
            assert await closed(silent) == b""
            assert await end == 0
            connection.close()

    run(main)


def test_what_was_taken_over_is_waited_for_and_cut(run: Callable[..., Any]) -> None:
    class Takes(RequestHandler):
        async def get(self) -> None:
            await self.flush()
            taken.append(self.detach())

    taken: list[IOStream] = []

    async def main() -> None:
        with serve(("/takes", Takes)) as server, client(server) as each:
            each.send(get("/takes"))
            await await_until(lambda: taken)
            assert await server.end(0.1) == 1
            assert taken[0].closed()
            taken.clear()

    run(main)


# --- taking a connection over -------------------------------------------------------------------


def test_a_connection_with_unsent_bytes_is_not_given_away(run: Callable[..., Any]) -> None:
    errors: list[str] = []

    class Takes(RequestHandler):
        async def get(self) -> None:
            self.write(b"x" * LARGE)
            flushed = self.flush()
            try:
                self.detach()
            except RuntimeError as exc:
                errors.append(str(exc))
            self._finished = False  # detach() has set it
            await flushed
            stream = self.detach()
            await stream.write(b"detached")
            stream.close()
            try:
                self.request.connection.write(b"")
            except RuntimeError as exc:
                errors.append(str(exc))

    async def main() -> None:
        with serve(("/takes", Takes)) as server, client(server) as each:
            go_deaf(each)
            each.send(get("/takes"))
            await await_until(lambda: errors)
            each.deaf = False
            answer = await closed(each)
            assert answer.endswith(b"xxx\r\ndetached")
            assert answer.count(b"x") >= LARGE

    run(main)
    assert "await flush() before" in errors[0]
    assert "taken over" in errors[1]


@pytest.mark.parametrize("why", ["request_timeout", "cancel_on_disconnect", "error"])
def test_half_an_answer_ends_with_its_connection_though_bytes_are_unsent(
    run: Callable[..., Any], why: str
) -> None:
    """`BaseRequestHandler` breaks it off; an orderly end would pass for the whole."""
    ended: list[int] = []

    class Half(BaseRequestHandler):
        request_timeout = 0.2 if why == "request_timeout" else None
        cancel_on_disconnect = why == "cancel_on_disconnect"

        async def get(self) -> None:
            self.set_header("Content-Length", str(LARGE * 2))
            self.write(b"x" * LARGE)
            flushed = self.flush()
            if why == "error":
                raise ZeroDivisionError
            await flushed
            await asyncio.sleep(60)

        def on_finish(self) -> None:
            ended.append(self.get_status())

    async def main() -> None:
        with serve(("/half", Half)) as server, client(server) as each:
            go_deaf(each)
            each.send(get("/half"))
            await await_until(lambda: ended or any(front._paused for front in server._fronts))
            if why == "cancel_on_disconnect":
                leave(each)
            await await_until(lambda: ended and not server._connections)
            if not each.closed:
                each.deaf = False
                assert len(await closed(each)) < LARGE + 1000

    run(main)
    assert ended == [499 if why == "cancel_on_disconnect" else 200]


def test_unix_sockets_are_served(run: Callable[..., Any], tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        server = FrontServer(app())
        server.add_socket(bind_unix_socket(path))
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(get() + chunked("/", b"x"))
        for _ in range(2):
            await reader.readuntil(b"hello")
        writer.close()
        await await_until(lambda: not server._connections)
        server.stop()

    run(main)


# --- nothing is left over -----------------------------------------------------------------------


def test_connections_leave_nothing_behind(run: Callable[..., Any]) -> None:
    """A thousand, of all kinds; a loop keeps what it closes until it has gone round."""

    async def round(server: FrontServer, times: int) -> None:
        for number in range(times):
            with client(server) as each:
                kind = number % 5
                if kind == 0:
                    each.send(get())
                    await heard(each, b"hello")
                elif kind == 1:
                    each.send(chunked("/", b"x") + get())
                    await heard(each, b"hello", 2)
                elif kind == 2:
                    each.send(get("/until-gone"))
                    await asyncio.sleep(0)
                    reset(each)
                elif kind == 3:
                    each.send(post("/", b"abc")[:-1])
                    await asyncio.sleep(0)
        await await_until(lambda: not server._connections and len(asyncio.all_tasks()) <= 2)
        gc.collect()

    async def main() -> None:
        with serve() as server:
            await round(server, 50)
            before = len(os.listdir("/proc/self/fd")), len(gc.get_objects())
            await round(server, 1000)
            assert fronts() == []
            assert len(os.listdir("/proc/self/fd")) <= before[0]
            assert len(gc.get_objects()) < before[1] + 200

    run(main)


@pytest.mark.parametrize("base", [RequestHandler, BaseRequestHandler])
def test_handlers_go_without_the_garbage_collector(run: Callable[..., Any], base: Any) -> None:
    """Also on a connection that stays, as with Tornado's server."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Noted(base):  # type: ignore[misc]
        async def get(self) -> None:
            alive.add(self)
            alive.add(self.request)
            self.write("noted")
            await self.flush()
            self.finish(".")

        post = get

    async def main(server_class: type[Server]) -> int:
        with listening(server_class(Application([("/", Noted)]))) as server, client(server) as each:
            each.send(get() + post("/", b"abc"))
            await heard(each, b"noted", 2)
            each.send(post("/", b"abc")[:-1])
            await asyncio.sleep(0)
            each.send(b"c")
            await heard(each, b"noted")
            for _ in range(5):
                await asyncio.sleep(0)
            return len(alive)

    gc.collect()
    gc.disable()
    try:
        for server_class in (Server, FrontServer):
            assert run(main, server_class) == 0, server_class
    finally:
        gc.enable()


def test_a_server_without_connections_has_no_timer(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with serve(idle_connection_timeout=0.1) as server:
            assert server._look is None
            with client(server) as each:
                each.send(get())
                await heard(each, b"hello")
                assert server._look is not None
            await await_until(lambda: server._look is None)

    run(main)


# --- the program --------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sigterm_ends_a_program_on_the_front_in_good_order(
    tmp_path: Path, processes: int, loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    url = f"sqlite:///{tmp_path}/test.sqlite3"

    async def main(program: Program) -> None:
        async with (
            Asking(program.port) as idle,
            Asking(program.port) as green,
            Asking(program.port) as left,
        ):
            assert (await idle.ask("/pid")).status == 200
            left.send("/upload", ["Expect: 100-continue", "Content-Length: 3"], b"abc")
            await left.read_until(b"(Continue)\r\n\r\n")
            assert (await left.receive()).body == b"3"
            green.send("/echo?token=mine&ms=500")
            await await_until(lambda: "begin /echo\n" in program.out)
            program.send(signal.SIGTERM)
            for each in (idle, left):
                with pytest.raises(NotAnswered):
                    await each.receive()
            answer = await green.receive()
            assert (answer.status, answer.body) == (200, b"mine")
            assert answer.headers["connection"] == "close"
            assert await green.rest() == b""

    with Program(url, http="httptools", processes=processes, loop=loop).serving() as program:
        asyncio.run(main(program))
        assert program.wait() == 0, program.log
    assert "Traceback" not in program.log
    assert program.out.count("at stop, ") == processes


def test_a_parser_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'tornado' or 'httptools', not 'h11'"):
        serving.serve(Application, 0, http="h11")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    for name in ("front_server", "front", "heads"):
        monkeypatch.delitem(sys.modules, f"greentor.serving.{name}", raising=False)
        monkeypatch.delattr(serving, name, raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'greentor\[httptools\]'"):
        serving.serve(Application, 0, http="httptools")


# --- what is relied on of Tornado ---------------------------------------------------------------


def test_upstream_context_of_a_connection_is_what_its_server_makes(run: Callable[..., Any]) -> None:
    contexts: list[Any] = []

    class Contexts(RequestHandler):
        def get(self) -> None:
            contexts.append(self.request.connection.context)

    async def main() -> None:
        made = Application([("/", Contexts)])
        for server_class in (HTTPServer, FrontServer):
            server = server_class(made, protocol="https", trusted_downstream=["1.2.3.4"])
            with listening(server), client(server) as each:
                each.send(get())
                await heard(each, b"200 OK")
                leave(each)
                await await_until(lambda server=server: not server._connections)

    run(main)
    stock, front = contexts
    assert type(stock) is type(front)
    assert {**vars(stock), "address": None} == {**vars(front), "address": None}


def test_upstream_stream_begins_with_what_is_put_back(run: Callable[..., Any]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        stream = IOStream(ours)
        upstream.put_back(stream, b"head\r\nbo")
        theirs.send(b"dy")
        assert await stream.read_until(b"\r\n") == b"head\r\n"
        assert await stream.read_bytes(4) == b"body"
        stream.close()
        theirs.close()

    run(main)


def test_upstream_strips_values_as_it_is_taken_to_do() -> None:
    value = "\xa0\x85 \t v\x1c\t \xa0"
    try:
        parsed = HTTPHeaders.parse(f"Name: {value}")["Name"]
    except Exception:  # this version refuses control characters
        value = value.replace("\x1c", "")
        parsed = HTTPHeaders.parse(f"Name: {value}")["Name"]
    assert value.strip(upstream.WHITESPACE) == parsed
