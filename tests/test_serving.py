"""One process: what becomes of connections, requests and websockets when it is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import websocket_connect

from greentor.serving import serve
from greentor.serving.front_server import FrontServer
from greentor.serving.server import Server
from tests.serving.client import Client, NotAnswered, Program
from tests.waiting import await_until, wait_until

SERVERS = [Server, FrontServer]
REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def lite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.sqlite3"


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return request.param


@pytest.fixture(params=["tornado", "httptools"])
def http(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def begun(program: Program, path: str, times: int = 1) -> None:
    """Wait until so many requests for a path are under way, or were."""
    await await_until(lambda: program.out.count(f"begin {path}\n") == times)


async def stop(program: Program, number: signal.Signals = signal.SIGTERM) -> None:
    """Tell the program to stop and wait until nobody is accepted any more."""
    program.send(number)
    await await_until(lambda: refused(program.port))


def fine(program: Program) -> None:
    """Check that the program ended in good order, and left nothing behind."""
    assert program.wait() == 0, program.log
    assert "the parent ends" in program.out
    for bad in ("Traceback", "never", "destroyed", "ResourceWarning", "was closed while"):
        assert bad not in program.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_is_closed_requests_finish_newcomers_are_refused(lite, loop, number):
    async def main() -> None:
        async with (
            Client(program.port) as idle,
            Client(program.port) as plain,
            Client(program.port) as green,
        ):
            assert (await idle.ask("/pid")).status == 200
            assert (await green.ask("/pid")).status == 200
            plain.send("/wait?s=0.7")
            green.send("/echo?token=mine&ms=700")
            await begun(program, "/wait")
            await begun(program, "/echo")
            answers = asyncio.gather(plain.receive(), green.receive())
            await stop(program, number)
            with pytest.raises(NotAnswered):
                await idle.receive()
            assert not answers.done()
            for answer, body in zip(await answers, (b"waited", b"mine"), strict=True):
                assert (answer.status, answer.body) == (200, body)
                assert answer.headers["connection"] == "close"
            assert await plain.rest() == await green.rest() == b""

    with Program(lite, loop=loop).serving() as program:
        asyncio.run(main())
        fine(program)
    assert "cut off" not in program.log
    assert "at stop, " in program.out


def test_half_a_request_is_waited_for(lite, http):
    async def main() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(program.port)) for _ in range(4)]
            head, body, silent, other = clients
            assert (await head.ask("/pid")).status == 200
            head.write(b"GET /pid HTTP/1.1\r\nHo")
            body.send("/upload", ["Content-Length: 6"], b"abc")
            assert (await other.ask("/pid")).status == 200  # what came before it has been read
            await stop(program)
            with pytest.raises(NotAnswered):
                await silent.receive()
            head.write(b"st: test\r\n\r\n")
            body.write(b"def")
            for client in (head, body):
                answer = await client.receive()
                assert answer.status == 200
                assert answer.headers["connection"] == "close"
            assert answer.body == b"6"

    with Program(lite, grace=30, http=http).serving() as program:
        begin = time.monotonic()
        asyncio.run(main())
        fine(program)
        assert time.monotonic() - begin < 15


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello")


@contextmanager
def connected(address: Any) -> Iterator[socket.socket]:
    """Connect without the loop: the kernel accepts."""
    with socket.create_connection(address) as client:
        client.setblocking(False)
        yield client


@pytest.mark.parametrize("server_class", SERVERS)
def test_what_the_loop_has_not_seen_yet_is_answered(run: Callable[..., Any], server_class):
    """A client whom the kernel has accepted, and a request that nobody has read."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = server_class(Application([("/", Hello)]))
        [listening] = bind_sockets(0, "127.0.0.1")
        server.add_socket(listening)
        address = listening.getsockname()
        with connected(address) as used, connected(address) as idle:
            for client in (used, idle):
                client.send(REQUEST)
                assert (await loop.sock_recv(client, 4096)).endswith(b"hello")
            with connected(address) as new:
                new.send(REQUEST)
                used.send(REQUEST)
                assert await server.end(5) == 0
                for client in (used, new):
                    assert client.recv(4096).endswith(b"hello")
                    assert client.recv(4096) == b""
                assert idle.recv(4096) == b""

    run(main)


@pytest.mark.parametrize("server_class", SERVERS)
def test_a_new_connection_gets_a_moment_for_its_request(run: Callable[..., Any], server_class):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = server_class(Application([("/", Hello)]))
        [listening] = bind_sockets(0, "127.0.0.1")
        server.add_socket(listening)
        address = listening.getsockname()
        with connected(address) as new, connected(address) as silent:
            end = loop.create_task(server.end(60))
            await await_until(lambda: refused(address[1]))
            await asyncio.sleep(0.05)  # it has looked at its connections, more than once
            new.send(REQUEST)
            assert (await loop.sock_recv(new, 4096)).endswith(b"hello")
            assert await loop.sock_recv(silent, 4096) == b""
            assert await end == 0

    run(main)


def test_those_whom_the_kernel_has_accepted_are_answered(lite, http):
    async def main() -> None:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(Client(program.port))
            first.send("/block?s=0.5")
            await begun(program, "/block")
            clients = [await stack.enter_async_context(Client(program.port)) for _ in range(20)]
            for client in clients:
                client.send("/echo?token=mine&ms=10")
            program.send(signal.SIGTERM)
            for client in clients:
                assert (await client.receive()).body == b"mine"

    with Program(lite, http=http).serving() as program:
        asyncio.run(main())
        fine(program)


def test_what_takes_longer_than_grace_is_cut(lite, loop, http):
    async def main() -> None:
        async with Client(program.port) as plain, Client(program.port) as green:
            plain.send("/wait?s=30")
            green.send("/echo?token=mine&ms=30000")
            await begun(program, "/wait")
            await begun(program, "/echo")
            await stop(program)
            assert (await plain.receive()).status == 500
            assert (await green.receive()).status == 500

    with Program(lite, loop=loop, grace=0.3, http=http).serving() as program:
        begin = time.monotonic()
        asyncio.run(main())
        fine(program)
        assert time.monotonic() - begin < 15
    assert "cut off after 0.3 s: 2 requests or connections" in program.log
    assert "at stop, 2.0 s" in program.out


def test_an_answer_without_an_end_sees_that_it_should_end(lite, http):
    async def main() -> None:
        async with Client(program.port) as client:
            client.send("/stream")
            await begun(program, "/stream")
            await stop(program)
            assert (await client.rest()).endswith(b"end\n\r\n0\r\n\r\n")

    with Program(lite, http=http).serving() as program:
        asyncio.run(main())
        fine(program)


def test_an_answer_is_written_to_its_end(lite, loop, http):
    async def main() -> None:
        async with Client(program.port) as client:
            client.send("/large")
            await begun(program, "/large")
            await stop(program)
            assert len((await client.receive()).body) == 30_000_000

    with Program(lite, loop=loop, http=http).serving() as program:
        asyncio.run(main())
        fine(program)


@pytest.mark.parametrize("path", ["/socket", "/green-socket"])
def test_websockets_are_closed_with_1001(lite, loop, path, http):
    async def main() -> None:
        sockets = [await websocket_connect(url) for _ in range(5)]
        for each in sockets:
            assert await each.read_message() == "open"
        await stop(program)
        for each in sockets:
            assert await each.read_message() is None
            assert (each.close_code, each.close_reason) == (1001, "the server stops")
            each.close()

    with Program(lite, loop=loop, grace=30, http=http).serving() as program:
        url = f"ws://127.0.0.1:{program.port}{path}"
        begin = time.monotonic()
        asyncio.run(main())
        fine(program)
        assert time.monotonic() - begin < 15
    assert "cut off" not in program.log
    assert program.out.count("closed 1001\n") == 5


@pytest.mark.parametrize("path", ["/socket", "/green-socket"])
def test_a_websocket_that_does_not_answer_the_farewell_is_cut(lite, path):
    async def main() -> None:
        async with Client(program.port) as client:
            upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            client.send(path, [*upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])
            await client.read_until(b"open")
            await stop(program)
            assert await client.rest() == b"\x88\x12\x03\xe9the server stops"

    with Program(lite, grace=0.5).serving() as program:
        begin = time.monotonic()
        asyncio.run(main())
        fine(program)
        assert time.monotonic() - begin < 15
    assert "cut off after 0.5 s: 1 requests or connections" in program.log
    assert program.out.count("closed") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(lite, number):
    async def main() -> None:
        async with Client(program.port) as client:
            client.send("/wait?s=30")
            await begun(program, "/wait")
            await stop(program, number)
            program.send(number)
            assert program.wait(15) == -number

    with Program(lite).serving() as program:
        asyncio.run(main())
    assert "Traceback" not in program.log


@pytest.mark.filterwarnings("ignore:.*unclosed <socket")  # that Tornado could not bind
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_others_listen_on_is_refused_by_name(processes, shared):
    """Also one whose owner would share it: the connections would go to either."""
    with socket.socket() as taken:
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = f"cannot listen on 127.0.0.1 port {port}: Address already in use"
        with pytest.raises(OSError, match=said):
            serve(Application, port, "127.0.0.1", processes=processes, prepare=pytest.fail)


def test_an_application_that_cannot_be_made_ends_a_single_process(lite):
    with Program(lite, fault="crash") as program:
        assert program.wait() == 1
    assert "RuntimeError: this application cannot be made" in program.log
    assert "Listening" not in program.out


def test_serve_is_refused_where_it_cannot_work(run: Callable[..., Any]):
    async def main() -> None:
        with pytest.raises(RuntimeError, match="outside of any"):
            serve(Application, 0)

    run(main)
    with pytest.raises(ValueError, match="negative"):
        serve(Application, 0, processes=-1)


def test_an_error_in_prepare_is_raised_and_the_port_free(free_port: int):
    def prepare() -> None:
        raise LookupError("no tables")

    with pytest.raises(LookupError):
        serve(Application, free_port, "127.0.0.1", processes=2, prepare=prepare)
    wait_until(lambda: refused(free_port))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_garbage_collector_does_not_go_through_all_that_was_loaded(lite, processes):
    with Program(lite, processes=processes).serving() as program:
        found = json.loads(program.get("/frozen").body)
        assert found["frozen"] > 20_000
        assert found["young"] == 10_000
        program.send(signal.SIGTERM)
        fine(program)
        assert "the garbage collector is as it was" in program.out
