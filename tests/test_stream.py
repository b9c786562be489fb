"""`greentor.stream` against a peer that the test plays itself: waiting, back-pressure, ends."""

import asyncio
import gc
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import greentor
from greentor import bridge
from greentor.connecting import open_stream
from greentor.stream import READ_LIMIT, ConcurrentUseError, Stream
from tests.certificates import create_certificates
from tests.proxy import sockets
from tests.waiting import await_until, until, wait_until


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's context."""
    ca, cert, key = create_certificates(tmp_path_factory.mktemp("tls"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return ssl.create_default_context(cafile=str(ca)), server


def open_pair(listener: socket.socket, **kwargs: Any) -> tuple[Stream, socket.socket]:
    """In a greenlet: a stream, and the blocking socket at its other end."""
    stream = open_stream(*listener.getsockname(), **kwargs)
    peer, _ = listener.accept()
    peer.settimeout(10)
    return stream, peer


def open_tls_pair(
    listener: socket.socket, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[Stream, ssl.SSLSocket]:
    stream, peer = open_pair(listener)
    with in_thread(lambda: contexts[1].wrap_socket(peer, server_side=True)) as result:
        stream.settimeout(10)
        stream.start_tls(contexts[0], "localhost")
        stream.settimeout(None)
    return stream, result()


class in_thread:
    """Run a function beside the event loop, for the length of a ``with`` block."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        def call() -> None:
            try:
                self._result = fn()
            except BaseException as exc:
                self._error = exc

        self._error: BaseException | None = None
        self._thread = threading.Thread(target=call, daemon=True)
        self._thread.start()

    def __enter__(self) -> Callable[[], Any]:
        return self.result

    def result(self) -> Any:
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._result

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is None:
            greentor.thread(self.result)


def read_all(peer: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = peer.recv(min(1 << 20, count - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data)


async def parked(stream: Stream) -> None:
    await await_until(lambda: stream._user is not None)


# --- reading ----------------------------------------------------------------------------------


def test_read_waits_for_every_byte_when_they_come_one_by_one(run: Any, listener: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        data = os.urandom(64)

        async def send() -> None:
            for index in range(len(data)):
                await parked(stream)
                peer.send(data[index : index + 1])
                await asyncio.sleep(0)

        task = asyncio.get_running_loop().create_task(send())
        assert stream.read(3) + stream.read(60) + stream.read(0) + stream.read(1) == data
        greentor.await_(task)
        stream.close()
        peer.close()

    run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.timeout(20)
def test_read_of_more_than_the_limit_goes_on_after_a_pause(
    run: Any, listener: Any, contexts: Any, tls: bool
) -> None:
    # The buffer is full and reading is paused; the next packet is larger than what lies there.
    size = READ_LIMIT * 8

    @greentor.green
    def main() -> None:
        stream, peer = open_tls_pair(listener, contexts) if tls else open_pair(listener)
        data = os.urandom(size)
        with in_thread(lambda: peer.sendall(b"head" + data)):
            until(lambda: not stream._reading)
            assert stream.read(4) == b"head"
            stream.settimeout(5)
            assert stream.read(size) == data
        stream.close()
        peer.close()

    run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_peer_is_held_back_when_nobody_reads(
    run: Any, listener: Any, contexts: Any, tls: bool
) -> None:
    size = 48 << 20

    @greentor.green
    def main() -> None:
        stream, peer = open_tls_pair(listener, contexts) if tls else open_pair(listener)
        sent = 0

        def send() -> None:
            nonlocal sent
            block = bytes(1 << 16)
            while sent < size:
                peer.sendall(block)
                sent += len(block)

        with in_thread(send):
            until(lambda: not stream._reading)
            assert stream.unread < 3 * READ_LIMIT
            assert sent < size
            total = largest = 0
            while total < size:
                total += len(stream.read(10_000 if size - total > 10_000 else size - total))
                largest = max(largest, stream.unread)
            assert largest < 3 * READ_LIMIT
        assert total == size
        stream.close()
        peer.close()

    run(main)


def test_end_of_stream_is_a_short_read_and_seen_while_idle(run: Any, listener: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        assert stream.alive
        peer.send(b"abc")
        peer.close()
        until(lambda: not stream.alive)
        assert stream.read(5) == b"abc"
        assert stream.read(5) == b""
        with pytest.raises(ConnectionError):
            stream.sendall(b"x")

    run(main)


def test_reset_by_the_peer_wakes_the_reader(run: Any, listener: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)

        async def reset() -> None:
            await parked(stream)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()

        task = asyncio.get_running_loop().create_task(reset())
        with pytest.raises(ConnectionResetError):
            stream.read(1)
        greentor.await_(task)
        assert not stream.alive

    run(main)


def test_peer_that_hangs_up_at_once_is_an_end_not_an_internal_error(
    run: Any, listener: Any
) -> None:
    def hang_up() -> None:
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()

    @greentor.green
    def main() -> None:
        for _ in range(50):
            with in_thread(hang_up):
                try:
                    stream = open_stream(*listener.getsockname())
                    assert stream.read(1) == b""
                except OSError:
                    pass

    run(main)


def test_connection_that_ends_before_the_greenlet_goes_on(run: Any, listener: Any) -> None:
    # connection_lost() may come between the connect and the greenlet that waits for it.
    @greentor.green
    def main() -> None:
        loop = asyncio.get_running_loop()
        made = Stream.connection_made

        def make_and_lose(self: Stream, transport: Any) -> None:
            made(self, transport)
            self.eof_received()
            self.connection_lost(None)
            loop.call_soon(transport.abort)

        Stream.connection_made = make_and_lose  # type: ignore[method-assign]
        try:
            stream = open_stream(*listener.getsockname())
        finally:
            Stream.connection_made = made  # type: ignore[method-assign]
        assert stream.read(1) == b""

    run(main)


def test_keepalive_and_nodelay_are_on(run: Any, listener: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        assert stream._transport is not None
        sock = stream._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        stream.close()
        peer.close()

    run(main)


# --- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_sendall_returns_when_the_kernel_has_taken_all(
    run: Any, listener: Any, contexts: Any, tls: bool
) -> None:
    size = 32 << 20

    @greentor.green
    def main() -> None:
        stream, peer = open_tls_pair(listener, contexts) if tls else open_pair(listener)
        assert stream._transport is not None
        raw = stream._transport.get_extra_info("socket")
        data = os.urandom(1 << 20) * (size >> 20)
        writer = asyncio.get_running_loop().create_task(
            bridge.run_in_scope("w", stream.sendall, data)
        )
        until(lambda: stream._user is not None)
        for _ in range(20):  # it stays parked as long as nobody reads
            greentor.sleep(0)
            assert not writer.done()
        with in_thread(lambda: read_all(peer, size)) as result:
            greentor.await_(writer)
            # What is left is in the kernel, or (TLS) is less than a chunk.
            assert stream._transport.get_write_buffer_size() == 0
            assert raw.fileno() >= 0
        assert result() == data
        stream.close()
        peer.close()

    run(main)


def test_tls_sendall_bounds_what_is_encrypted_ahead(run: Any, listener: Any, contexts: Any) -> None:
    size = 32 << 20

    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        raw = stream._transport
        assert raw is not None
        with in_thread(lambda: contexts[1].wrap_socket(peer, server_side=True)) as result:
            stream.start_tls(contexts[0], "localhost")
        peer = result()
        data = bytes(size)
        writer = asyncio.get_running_loop().create_task(
            bridge.run_in_scope("w", stream.sendall, data)
        )
        until(lambda: stream._user is not None)
        assert raw.get_write_buffer_size() < 1 << 20
        with in_thread(lambda: read_all(peer, size)):
            while not writer.done():
                assert raw.get_write_buffer_size() < 1 << 20
                greentor.sleep(0)
            greentor.await_(writer)
        stream.close()
        peer.close()

    run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.timeout(20)
def test_many_writes_in_a_row_need_no_answer(
    run: Any, listener: Any, contexts: Any, tls: bool
) -> None:
    # As LOAD DATA LOCAL does. A write that waits for the next answer would wait for ever.
    @greentor.green
    def main() -> None:
        stream, peer = open_tls_pair(listener, contexts) if tls else open_pair(listener)
        stream.settimeout(10)
        with in_thread(lambda: read_all(peer, 50 * 16384)) as result:
            for index in range(50):
                stream.sendall(bytes([index]) * 16384)
        assert result() == b"".join(bytes([index]) * 16384 for index in range(50))
        stream.close()
        peer.close()

    run(main)


@pytest.mark.parametrize("doing", ["reading", "writing"])
def test_timeout_closes_the_stream(run: Any, listener: Any, doing: str) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        stream.settimeout(0.05)
        with pytest.raises(TimeoutError, match="timed out"):
            stream.read(1) if doing == "reading" else stream.sendall(bytes(64 << 20))
        assert not stream.alive
        with pytest.raises(ConnectionError):
            stream.sendall(b"x")
        peer.close()

    run(main)


@pytest.mark.parametrize("doing", ["reading", "writing"])
def test_cancel_closes_the_stream_without_sending_half_a_packet_on(
    run: Any, listener: Any, doing: str
) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        size = 32 << 20

        def use() -> None:
            stream.read(1) if doing == "reading" else stream.sendall(bytes(size))

        task = asyncio.get_running_loop().create_task(bridge.run_in_scope("user", use))
        until(lambda: stream._user is not None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            greentor.await_(task)
        stream.close()
        with in_thread(lambda: read_all(peer, size)) as result:
            pass
        assert len(result()) < size
        peer.close()

    run(main)


# --- whose stream it is -----------------------------------------------------------------------


@pytest.mark.parametrize("first", ["read", "sendall"])
@pytest.mark.parametrize("second", ["read", "sendall"])
def test_second_greenlet_is_refused_by_name(
    run: Any, listener: Any, first: str, second: str
) -> None:
    size = 32 << 20

    def use(stream: Stream, how: str) -> Any:
        return stream.read(4) if how == "read" else stream.sendall(bytes(size))

    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        loop = asyncio.get_running_loop()
        one = loop.create_task(
            bridge.run_in_scope("scope one", use, stream, first), name="task-one"
        )
        until(lambda: stream._user is not None)
        two = loop.create_task(
            bridge.run_in_scope("scope two", use, stream, second), name="task-two"
        )
        with pytest.raises(ConcurrentUseError) as info:
            greentor.await_(two)
        for name in ("scope one", "task-one", "scope two", "task-two"):
            assert name in str(info.value)
        if first == "read":
            peer.send(b"rows")
            assert greentor.await_(one) == b"rows"
            peer.settimeout(0)
            with pytest.raises(BlockingIOError):
                peer.recv(1)
        else:
            with in_thread(lambda: read_all(peer, size + 1)) as result:
                greentor.await_(one)
                stream.close()
            assert len(result()) == size
        stream.close()
        peer.close()

    run(main)


def test_second_greenlet_is_refused_during_the_tls_handshake(
    run: Any, listener: Any, contexts: Any
) -> None:
    # A query sent now would go out in plain text, in the midst of the handshake.
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        loop = asyncio.get_running_loop()
        one = loop.create_task(
            bridge.run_in_scope("one", stream.start_tls, contexts[0], "localhost"), name="task-one"
        )
        with in_thread(lambda: peer.recv(65536)) as hello:
            pass
        assert hello()
        with pytest.raises(ConcurrentUseError, match="task-one"):
            stream.sendall(b"SELECT 'secret'")
        with pytest.raises(ConcurrentUseError, match="task-one"):
            stream.read(1)
        peer.settimeout(0)
        with pytest.raises(BlockingIOError):
            peer.recv(65536)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            greentor.await_(one)
        assert not stream.alive
        peer.close()

    run(main)


def test_outside_a_greenlet_nothing_is_written(run: Any, listener: Any) -> None:
    async def main() -> None:
        stream, peer = await bridge.run_in_scope("open", open_pair, listener)
        with pytest.raises(bridge.NotGreen, match="greentor.green"):
            stream.sendall(b"x")
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        assert stream.alive
        await bridge.run_in_scope("use", stream.sendall, b"fine")
        peer.settimeout(5)
        assert peer.recv(4) == b"fine"
        stream.close()
        peer.close()

    run(main)


def test_another_loop_is_refused_while_the_first_one_runs_in_a_thread(listener: Any) -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]
    thread = threading.Thread(target=loops[0].run_forever)
    thread.start()
    try:
        stream, peer = asyncio.run_coroutine_threadsafe(
            bridge.run_in_scope("a", open_pair, listener), loops[0]
        ).result(10)
        with pytest.raises(ConcurrentUseError, match="event loop"):
            loops[1].run_until_complete(bridge.run_in_scope("b", stream.sendall, b"x"))
        asyncio.run_coroutine_threadsafe(
            bridge.run_in_scope("a", stream.sendall, b"y"), loops[0]
        ).result(10)
        assert peer.recv(2) == b"y"
        stream.close()  # from this thread: the loop is told
        assert peer.recv(1) == b""
        wait_until(lambda: stream._transport is None)
        peer.close()
    finally:
        loops[0].call_soon_threadsafe(loops[0].stop)
        thread.join(10)
        for loop in loops:
            loop.close()


def test_forked_child_writes_nothing_and_closes_its_copy_only(run: Any, listener: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        assert stream._transport is not None
        fd = stream._transport.get_extra_info("socket").fileno()
        name = os.readlink(f"/proc/self/fd/{fd}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 3.12: fork() in a process with threads
            pid = os.fork()
        if not pid:  # pragma: no cover
            failed = 1
            try:
                try:
                    stream.sendall(b"child")
                except ConcurrentUseError:
                    stream.close()
                    failed = 2 if name in sockets() else 0
            finally:
                os._exit(failed)
        assert os.waitpid(pid, 0)[1] == 0
        stream.sendall(b"parent")
        assert peer.recv(100) == b"parent"
        peer.send(b"answer")
        assert stream.read(6) == b"answer"
        stream.close()
        peer.close()

    run(main)


# --- deadlines and cancels while connecting ---------------------------------------------------


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that answers to no connect: its queue is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
            fillers.append(filler)
        yield server.getsockname()
        for filler in fillers:
            filler.close()


def test_connect_timeout(run: Any, black_hole: Any) -> None:
    @greentor.green
    def main() -> None:
        with pytest.raises(TimeoutError, match="timed out") as info:
            open_stream(*black_hole, timeout=0.05)
        assert not isinstance(info.value, bridge.DeadlineExceeded)

    run(main)


def test_deadline_while_connecting(run: Any, black_hole: Any) -> None:
    @greentor.green
    def main() -> None:
        with pytest.raises(bridge.DeadlineExceeded), greentor.timeout(0.05):
            open_stream(*black_hole, timeout=30)

    run(main)


def test_deadline_is_not_taken_for_the_failure_of_one_of_several_addresses(
    black_hole: Any, listener: Any, monkeypatch: Any
) -> None:
    # asyncio tries the next address after any OSError, and TimeoutError is one.
    addresses = [black_hole, listener.getsockname()]
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *args, **kwargs: [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
            for address in addresses
        ],
    )

    @greentor.green
    def main() -> None:
        with pytest.raises(bridge.DeadlineExceeded), greentor.timeout(0.05):
            open_stream("two.addresses", 1, timeout=30)

    asyncio.run(main())


def test_cancel_while_connecting_leaves_nothing(run: Any, black_hole: Any) -> None:
    async def main() -> None:
        before = len(sockets())
        for _ in range(5):
            task = asyncio.create_task(bridge.run_in_scope("c", open_stream, *black_hole))
            await await_until(lambda: len(sockets()) > before)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await await_until(lambda: len(sockets()) == before)

    run(main)


def test_greenlet_collected_while_connecting_leaves_nothing(run: Any, black_hole: Any) -> None:
    async def main() -> None:
        before = len(sockets())
        coroutine = bridge.run_in_scope("c", open_stream, *black_hole)
        coroutine.send(None)
        await await_until(lambda: len(sockets()) > before)
        coroutine.close()
        del coroutine
        gc.collect()
        await await_until(lambda: len(sockets()) == before)

    run(main)


def test_handshake_that_stalls_is_bounded(run: Any, listener: Any, contexts: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        stream.settimeout(0.05)
        with pytest.raises(TimeoutError, match="timed out"):
            stream.start_tls(contexts[0], "localhost")
        assert not stream.alive
        stream, peer2 = open_pair(listener)
        with pytest.raises(bridge.DeadlineExceeded), greentor.timeout(0.05):
            stream.start_tls(contexts[0], "localhost")
        assert not stream.alive
        peer.close()
        peer2.close()

    run(main)


def test_plain_text_before_the_handshake_is_refused(run: Any, listener: Any, contexts: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        peer.send(b"injected")
        until(lambda: stream.unread)
        with pytest.raises(ConnectionAbortedError, match="before the TLS handshake"):
            stream.start_tls(contexts[0], "localhost")
        assert not stream.alive
        peer.close()

    run(main)


# --- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_close_ends_at_once_though_the_peer_keeps_sending(
    run: Any, listener: Any, contexts: Any, tls: bool
) -> None:
    # A graceful TLS close would read on to the peer's own farewell, for up to 30 s.
    @greentor.green
    def main() -> None:
        before = len(sockets())
        stream, peer = open_tls_pair(listener, contexts) if tls else open_pair(listener)
        stopped = threading.Event()

        def flood() -> None:
            try:
                while not stopped.is_set():
                    peer.sendall(bytes(65536))
            except OSError:
                pass

        with in_thread(flood):
            until(lambda: not stream._reading)
            stream.close()
            try:
                until(lambda: len(sockets()) == before + 1)  # the peer's own
            finally:
                stopped.set()
                peer.close()

    run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_farewell_arrives_though_the_next_call_is_close(
    run: Any, listener: Any, contexts: Any, tls: bool
) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_tls_pair(listener, contexts) if tls else open_pair(listener)
        peer.sendall(b"x")
        assert stream.read(1) == b"x"  # and all that a TLS server says at first
        stream.send_last(b"bye")
        stream.close()
        stream.close()
        with in_thread(lambda: read_all(peer, 10)) as result:
            pass
        assert result() == b"bye"
        peer.close()
        until(lambda: stream._transport is None)

    run(main)


def test_close_wakes_a_parked_reader_in_another_greenlet(run: Any, listener: Any) -> None:
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        task = asyncio.get_running_loop().create_task(bridge.run_in_scope("r", stream.read, 1))
        until(lambda: stream._user is not None)
        stream.close()
        assert greentor.await_(asyncio.wait_for(task, 5)) == b""
        peer.close()

    run(main)


def test_paused_stream_is_closed_and_read_on(run: Any, listener: Any) -> None:
    # uvloop refuses to resume a closing transport.
    @greentor.green
    def main() -> None:
        stream, peer = open_pair(listener)
        with in_thread(lambda: peer.sendall(bytes(READ_LIMIT * 4))) as result:
            until(lambda: not stream._reading)
            stream.close()
            while stream.read(65536):
                pass
            try:
                greentor.thread(result)
            except OSError:
                pass
            peer.close()

    try:
        run(main)
    except ConnectionError:
        pass
