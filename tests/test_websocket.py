"""`GreenWebSocketHandler`: what works in a message, whose it is, and every way in which a socket can end."""

import asyncio
import gc
import logging
from contextvars import ContextVar
from typing import ClassVar

import pytest
from django.core.exceptions import PermissionDenied
from django.core.signals import request_finished, request_started
from django.db import connection, transaction
from tornado import gen
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

import greentor
from greentor import bridge
from greentor.db.pools import current_pools
from greentor.web import GreenWebSocketHandler, close_websockets, drain
from tests.test_web import server_id, serving
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


@pytest.fixture
def pool_of_one(monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5})


async def connect(served, path="/", headers=None, **kwargs):
    request = HTTPRequest(f"ws://127.0.0.1:{served.port}{path}", headers=headers)
    return await asyncio.wait_for(websocket_connect(request, **kwargs), 10)


async def read(socket):
    """Return the next message; None if the connection was closed."""
    message = await asyncio.wait_for(socket.read_message(), 10)
    if message is None:
        socket.close()  # or its client warns of it
    return message


async def ask(socket, message):
    await socket.write_message(message)
    return await read(socket)


async def close(*sockets):
    """Close the clients' sockets, and wait until the server has done so."""
    for socket in sockets:
        socket.close()
    for socket in sockets:
        while await read(socket) is not None:
            pass


def vanish(socket):
    """Close the client's connection without a word."""
    socket.protocol.stream.close()
    socket.close()


def in_use():
    return sum(pool.in_use for pool in current_pools())


def names():
    return sorted(Author.objects.values_list("name", flat=True))


# --- what works -------------------------------------------------------------------------------


class SyncCount(GreenWebSocketHandler):
    def open(self):
        self.write_message(f"opened {Author.objects.count()}")

    def on_message(self, message):
        Author.objects.create(name=message)
        self.write_message(f"{message} {Author.objects.count()}")


class AsyncCount(GreenWebSocketHandler):
    async def open(self):
        self.write_message(f"opened {await Author.objects.acount()}")

    async def on_message(self, message):
        await Author.objects.acreate(name=message)
        await asyncio.sleep(0)
        await self.write_message(f"{message} {Author.objects.count()}")


class CoroutineCount(GreenWebSocketHandler):
    @gen.coroutine
    def open(self):
        yield gen.moment
        self.write_message(f"opened {Author.objects.count()}")

    @gen.coroutine
    def on_message(self, message):
        yield gen.moment
        Author.objects.create(name=message)
        yield self.write_message(f"{message} {Author.objects.count()}")


class CompressedCount(SyncCount):
    def get_compression_options(self):
        return {}


@pytest.mark.parametrize(
    "handler", [SyncCount, AsyncCount, CoroutineCount, CompressedCount], ids=lambda h: h.__name__
)
def test_an_open_socket_holds_no_connection_between_its_messages(run, pool_of_one, handler):
    async def main():
        async with serving(handler) as served:
            options = {"compression_options": {}} if handler is CompressedCount else {}
            sockets = [await connect(served, **options) for _ in range(3)]
            for socket in sockets:
                assert await read(socket) == "opened 0"
            for number, socket in enumerate(sockets * 2, 1):
                assert await ask(socket, f"m{number}") == f"m{number} {number}"
            await await_until(lambda: in_use() == 0)
            assert [pool.idle for pool in current_pools()] == [1]
            await close(*sockets)

    run(main)


def test_each_method_has_a_scope_of_its_own_and_an_end_of_its_own(run):
    seen = []

    class Scopes(GreenWebSocketHandler):
        async def prepare(self):
            self.note("prepare")

        def open(self):
            self.note("open")

        def on_message(self, message):
            self.note("on_message")
            self.write_message("done")

        def on_ping(self, data):
            self.note("on_ping")

        def on_pong(self, data):
            self.note("on_pong")

        def on_close(self):
            self.note("on_close")

        def note(self, what):
            Author.objects.count()
            seen.append((what, bridge.current_scope().name, id(bridge.current_scope())))
            scopes.append(bridge.current_scope())  # alive, so that no id comes twice

    scopes = []

    async def main():
        seen.clear()
        async with serving(Scopes) as served:
            socket = await connect(served)
            for _ in range(2):
                await ask(socket, "x")
            socket.ping(b"x")
            socket.protocol._write_frame(True, 0xA, b"unasked")
            await close(socket)
            await await_until(lambda: len(seen) == 7)
        assert [what for what, _, _ in seen] == [
            *("prepare", "open", "on_message", "on_message", "on_ping", "on_pong", "on_close")
        ]
        assert seen[0][1] == "GET /"
        assert seen[1][1] == "/ open"
        assert len({scope for _, _, scope in seen}) == len(seen)
        assert all(scope.closed for scope in scopes)

    run(main)


def test_the_handshake_is_a_request_in_a_greenlet(run):
    events = []

    def started(sender, **kwargs):
        events.append(("started", sender))

    def finished(sender, **kwargs):
        events.append(("finished", sender))

    class Handshake(GreenWebSocketHandler):
        def initialize(self, **kwargs):
            self.count = Author.objects.count()

        def get_current_user(self):
            return Author.objects.filter(name=self.get_query_argument("user", "")).first()

        async def prepare(self):
            await asyncio.sleep(0)
            if self.current_user is None:
                raise PermissionDenied

        def check_origin(self, origin):
            return Author.objects.filter(name=origin).exists()

        def select_subprotocol(self, subprotocols):
            return subprotocols[Author.objects.count() - 1]

        async def open(self):
            events.append(("open", type(self)))
            await self.write_message(f"{self.current_user.name} {self.selected_subprotocol}")

    async def main():
        events.clear()
        await greentor.green(Author.objects.all().delete)()
        await greentor.green(Author.objects.create)(name="http://elsewhere")
        await greentor.green(Author.objects.create)(name="b")
        async with serving(Handshake) as served:
            with pytest.raises(HTTPClientError, match="403"):
                await connect(served)
            assert (await served.fetch("/?user=b")).code == 400  # no upgrade
            with pytest.raises(HTTPClientError, match="403"):
                await connect(served, "/?user=b", {"Origin": "http://evil"})
            assert [kind for kind, _ in events] == ["started", "finished"] * 3
            events.clear()
            socket = await connect(
                served, "/?user=b", {"Origin": "http://elsewhere"}, subprotocols=["one", "two"]
            )
            assert await read(socket) == "b two"
            await close(socket)
        assert events == [(kind, Handshake) for kind in ("started", "finished", "open")]

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        run(main)
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)


def test_context_variables_of_open_are_seen_by_messages_and_theirs_by_no_other(run):
    variable = ContextVar("variable", default="unset")

    class Contexts(GreenWebSocketHandler):
        def open(self):
            variable.set("open")

        def on_message(self, message):
            self.write_message(variable.get())
            variable.set(message)

    async def main():
        async with serving(Contexts) as served:
            socket = await connect(served)
            assert [await ask(socket, "a"), await ask(socket, "b")] == ["open", "open"]
            await close(socket)
            assert variable.get() == "unset"

    run(main)


# --- order and back-pressure ------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [False, True], ids=["plain", "cancel_on_disconnect"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_messages_are_worked_on_one_at_a_time_and_in_order(run, kind, ahead):
    log = []

    class Sync(GreenWebSocketHandler):
        cancel_on_disconnect = ahead

        def on_message(self, message):
            log.append(message)
            server_id()
            greentor.sleep(0.001 * (10 - int(message)))  # the later, the faster
            log.append(message)
            if message == "9":
                self.write_message("done")

    class Async(Sync):
        async def on_message(self, message):
            log.append(message)
            await asyncio.sleep(0.001 * (10 - int(message)))
            await Author.objects.acount()
            log.append(message)
            if message == "9":
                await self.write_message("done")

    async def main():
        log.clear()
        async with serving(Sync if kind == "sync" else Async) as served:
            socket = await connect(served)
            for number in range(10):
                socket.write_message(str(number))
            assert await read(socket) == "done"
            assert log == [str(number // 2) for number in range(20)]
            await close(socket)

    run(main)


@pytest.mark.parametrize("ahead", [False, True], ids=["plain", "cancel_on_disconnect"])
def test_who_sends_faster_than_a_message_is_worked_on_is_slowed_down(run, ahead):
    handlers = []
    big = "x" * 2_000_000

    class Slow(GreenWebSocketHandler):
        cancel_on_disconnect = ahead

        def on_message(self, message):
            if not handlers:
                handlers.append(self)
                greentor.await_(release.wait())

    class Echo(GreenWebSocketHandler):
        def on_message(self, message):
            self.write_message(message)

    async def main():
        nonlocal release
        release = asyncio.Event()
        handlers.clear()
        async with serving(Slow, Echo) as served:
            slow, other = await connect(served, "/Slow"), await connect(served, "/Echo")
            last = [slow.write_message(big) for _ in range(20)][-1]
            await await_until(lambda: handlers)
            for _ in range(50):  # the loop runs, and serves others
                assert await ask(other, "x") == "x"
            received = handlers[0].ws_connection._message_bytes_in
            assert received == len(big) * (2 if ahead else 1)
            assert not last.done()
            release.set()
            await asyncio.wait_for(last, 10)
            await close(slow, other)

    release = None
    run(main)


def test_pings_in_greenlets_are_one_at_a_time_too(run):
    at_once = 0
    count = 0

    class Pinged(GreenWebSocketHandler):
        async def on_ping(self, data):
            nonlocal at_once, count
            at_once += 1
            assert at_once == 1
            await Author.objects.acount()
            await asyncio.sleep(0)
            assert len(self._socket._calls) == 1  # none has been read that would wait
            at_once -= 1
            count += 1

        def on_message(self, message):
            self.write_message(f"{count}")

    async def main():
        nonlocal at_once, count
        at_once = count = 0
        async with serving(Pinged) as served:
            socket = await connect(served)
            for _ in range(20):
                socket.ping(b"x")
            assert await ask(socket, "count") == "20"
            await close(socket)

    run(main)


@pytest.mark.parametrize("ahead", [False, True], ids=["plain", "cancel_on_disconnect"])
def test_pongs_wait_behind_a_message_unless_frames_are_read_ahead(run, ahead):
    class Slow(GreenWebSocketHandler):
        cancel_on_disconnect = ahead
        ping_interval = 0.1
        ping_timeout = 0.1

        def on_message(self, message):
            greentor.sleep(0.5)
            if not self.ws_connection.is_closing():
                self.write_message("done")

    async def main():
        async with serving(Slow) as served:
            socket = await connect(served)
            answer = await ask(socket, "x")
            if ahead:
                assert answer == "done"
                await close(socket)
            else:
                assert (answer, socket.close_reason) == (None, "ping timed out")

    run(main)


def test_write_message_can_be_waited_for_in_sync_code(run):
    """It is Tornado's own: it waits for nobody, so that a slow client does not hold up a broadcast."""

    class Chatty(GreenWebSocketHandler):
        def on_message(self, message):
            sent = self.write_message("x" * 20_000_000)
            assert not sent.done()
            greentor.await_(sent)
            self.write_message("sent")

    async def main():
        async with serving(Chatty) as served:
            socket = await connect(served, max_message_size=30_000_000)
            assert len(await ask(socket, "x")) == 20_000_000
            assert await read(socket) == "sent"
            await close(socket)

    run(main)


def test_two_hundred_sockets_with_interleaved_messages_get_their_own_answers(run, monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 3, "max_overflow": 0})
    clients, messages = 200, 3

    class Tokens(GreenWebSocketHandler):
        def open(self, token):
            self.token = token

        async def on_message(self, message):
            with transaction.atomic():
                author = Author.objects.create(name=f"{self.token} {message}")
                await asyncio.sleep(0)
                found = await Author.objects.aget(pk=author.pk)
                assert (await Author.objects.acount()) >= 1
                transaction.set_rollback(True)
            await self.write_message(found.name)

    async def talk(served, token):
        socket = await connect(served, f"/tokens/{token}")
        for number in range(messages):
            socket.write_message(str(number))
        answers = [await read(socket) for _ in range(messages)]
        await close(socket)
        return answers

    async def main():
        async with serving(SyncCount) as served:
            served.server.request_callback.add_handlers(".*", [(r"/tokens/(\d+)", Tokens)])
            talks = [talk(served, token) for token in range(clients)]
            for token, answers in enumerate(await asyncio.gather(*talks)):
                assert answers == [f"{token} {number}" for number in range(messages)]
            [pool] = current_pools()
            assert (pool.in_use, pool.idle) == (0, 3)

    run(main)


# --- ends -------------------------------------------------------------------------------------


class Noted(GreenWebSocketHandler):
    """Notes what becomes of it."""

    log: ClassVar[list[str]]

    def open(self):
        self.log.append("open")

    def on_close(self):
        self.log.append(f"close {Author.objects.count()}")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_message_that_fails_is_rolled_back_logged_in_its_greenlet_and_closes(run, kind):
    class Failing(Noted):
        log: ClassVar = []

        def on_message(self, message):
            with transaction.atomic():
                Author.objects.create(name="lost")
                raise ZeroDivisionError

        def log_exception(self, kind, error, traceback):
            self.log.append(f"{kind.__name__} {Author.objects.count()}")

    class AsyncFailing(Failing):
        async def on_message(self, message):
            await asyncio.sleep(0)
            super().on_message(message)

    async def main():
        Failing.log.clear()
        async with serving(Failing if kind == "sync" else AsyncFailing) as served:
            socket = await connect(served)
            socket.write_message("x")
            socket.write_message("never seen")
            assert await read(socket) is None
            await await_until(lambda: len(Failing.log) == 3)
            assert Failing.log == ["open", "ZeroDivisionError 0", "close 0"]
            assert socket.close_code is None  # the connection is closed, as by Tornado

    run(main)


@pytest.mark.parametrize("kind", ["cancelled", "killed", "exhausted"])
def test_a_message_that_ends_otherwise_closes_its_socket_only(run, kind, caplog, monkeypatch):
    from django.conf import settings
    from greenlet import GreenletExit

    if kind == "exhausted":
        options = settings.DATABASES["default"]["OPTIONS"]
        pool = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
        monkeypatch.setitem(options, "pool", pool)

    class Ends(Noted):
        log: ClassVar = []

        def on_message(self, message):
            if message == "fine":
                self.write_message(message)
            elif kind == "cancelled":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                greentor.await_(future)
            elif kind == "killed":
                raise GreenletExit
            else:
                Author.objects.count()

    async def hold():
        async def inside():
            server_id()
            await release.wait()

        return await greentor.green(inside)()

    async def main():
        nonlocal release
        release = asyncio.Event()
        Ends.log.clear()
        async with serving(Ends) as served:
            socket, other = await connect(served), await connect(served)
            await await_until(lambda: Ends.log == ["open"] * 2)
            holder = asyncio.create_task(hold()) if kind == "exhausted" else None
            if holder:
                await await_until(lambda: in_use() == 1)
            socket.write_message("x")
            assert await read(socket) is None
            release.set()
            if holder:
                await holder
            assert await ask(other, "fine") == "fine"
            await close(other)

    release = None
    run(main)
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(errors)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_open_that_fails_closes_and_reads_no_message(run, kind):
    class Failing(Noted):
        log: ClassVar = []

        def open(self):
            with transaction.atomic():
                Author.objects.create(name="lost")
                raise ZeroDivisionError

        def on_message(self, message):
            self.log.append(message)

    class AsyncFailing(Failing):
        async def open(self):
            await asyncio.sleep(0)
            super().open()

    async def main():
        async with serving(Failing if kind == "sync" else AsyncFailing) as served:
            socket = await connect(served)
            socket.write_message("x")
            assert await read(socket) is None
            assert await drain(5) == 0
            assert Failing.log == []  # nor on_close, which has nothing to undo
            assert await greentor.green(names)() == []

    run(main)


@pytest.mark.parametrize("how", ["vanishes", "closes"])
def test_a_client_that_leaves_in_mid_message_cancels_nothing(run, how):
    class Slow(Noted):
        log: ClassVar = []

        def on_message(self, message):
            with transaction.atomic():
                Author.objects.create(name=message)
                parked.set()
                greentor.await_(release.wait())
            self.log.append("committed")

    async def main():
        nonlocal parked, release
        parked, release = asyncio.Event(), asyncio.Event()
        Slow.log.clear()
        await greentor.green(Author.objects.all().delete)()
        async with serving(Slow) as served:
            socket = await connect(served)
            socket.write_message("kept")
            await parked.wait()
            vanish(socket) if how == "vanishes" else socket.close()
            assert Slow.log == ["open"]
            release.set()
            await await_until(lambda: len(Slow.log) == 3)
            assert Slow.log == ["open", "committed", "close 1"]

    parked = release = None
    run(main)


@pytest.mark.parametrize("how", ["vanishes", "closes", "vanishes behind another message"])
def test_with_cancel_on_disconnect_the_message_is_cancelled_in_the_server_too(run, how, mariadb):
    class Cancelled(Noted):
        log: ClassVar = []
        cancel_on_disconnect = True

        def on_message(self, message):
            self.log.append(message)
            with transaction.atomic(), connection.cursor() as cursor:
                Author.objects.create(name="lost")
                cursor.execute("SELECT SLEEP(30) /* of a socket */")

    def at_work():
        return [row for row in mariadb.processlist() if "of a socket" in (row["INFO"] or "")]

    async def main():
        Cancelled.log.clear()
        async with serving(Cancelled) as served:
            socket = await connect(served)
            socket.write_message("first")
            await await_until(at_work)
            if "behind" in how:
                await socket.write_message("second")
                [handler] = {h for h in bridge_handlers() if isinstance(h, Cancelled)}
                await await_until(lambda: handler.ws_connection._message_bytes_in == 11)
            vanish(socket) if "vanishes" in how else socket.close()
            await await_until(lambda: len(Cancelled.log) == 3)
            assert Cancelled.log == ["open", "first", "close 0"]
            await await_until(lambda: not at_work())

    def bridge_handlers():
        from greentor.web import websocket

        return websocket._open

    run(main)


def test_the_setting_of_the_application_is_taken_and_a_handler_may_differ(run):
    class Differs(Noted):
        log: ClassVar = []
        cancel_on_disconnect = False

        def on_message(self, message):
            parked.set()
            greentor.await_(release.wait())
            self.log.append("end")

    class Cancelled(Differs):
        log: ClassVar = []
        cancel_on_disconnect = None

    async def main():
        nonlocal parked, release
        async with serving(Differs, Cancelled) as served:
            served.server.request_callback.settings["cancel_on_disconnect"] = True
            for handler in (Differs, Cancelled):
                handler.log.clear()
                parked, release = asyncio.Event(), asyncio.Event()
                socket = await connect(served, f"/{handler.__name__}")
                socket.write_message("x")
                await parked.wait()
                vanish(socket)
                if handler is Differs:
                    release.set()
                await await_until(lambda: "close 0" in handler.log)  # noqa: B023
            assert Differs.log == ["open", "end", "close 0"]
            assert Cancelled.log == ["open", "close 0"]

    parked = release = None
    run(main)


@pytest.mark.parametrize("cancel", [False, True])
def test_a_client_that_leaves_in_the_handshake_gets_open_and_then_on_close_or_neither(run, cancel):
    class Slow(Noted):
        log: ClassVar = []
        cancel_on_disconnect = cancel

        def prepare(self):
            Author.objects.count()
            parked.set()
            greentor.await_(release.wait())

    async def main():
        nonlocal parked, release
        parked, release = asyncio.Event(), asyncio.Event()
        Slow.log.clear()
        async with serving(Slow) as served:
            _, writer = await served.connect(
                "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await parked.wait()
            writer.transport.abort()
            if cancel:
                assert await drain(5) == 0
            release.set()
            if not cancel:
                await await_until(lambda: len(Slow.log) == 2)
            assert Slow.log == ([] if cancel else ["open", "close 0"])

    parked = release = None
    run(main)


def test_a_handshake_that_is_cancelled_after_its_answer_closes_the_socket(run):
    class Opened(Noted):
        log: ClassVar = []

    def cancel(sender, **kwargs):
        asyncio.current_task().cancel()
        greentor.sleep(10)

    async def main():
        async with serving(Opened) as served:
            socket = await connect(served)
            assert await read(socket) is None
            assert Opened.log == []

    request_finished.connect(cancel)
    try:
        run(main)
    finally:
        request_finished.disconnect(cancel)


# --- transactions -----------------------------------------------------------------------------


@pytest.fixture
def atomic_requests(monkeypatch):
    from django.conf import settings

    monkeypatch.setitem(settings.DATABASES["default"], "ATOMIC_REQUESTS", True)


@pytest.mark.usefixtures("atomic_requests")
def test_with_atomic_requests_each_message_is_a_transaction_and_nothing_else_is(run):
    class Atomic(GreenWebSocketHandler):
        def prepare(self):
            assert not connection.in_atomic_block

        def open(self):
            assert not connection.in_atomic_block
            Author.objects.create(name="open")

        async def on_message(self, message):
            assert connection.in_atomic_block
            await Author.objects.acreate(name=message)
            transaction.on_commit(lambda: self.write_message(f"committed {message}"))
            if message == "fails":
                raise ZeroDivisionError

        def on_close(self):
            assert not connection.in_atomic_block
            Author.objects.create(name="close")

    async def main():
        await greentor.green(Author.objects.all().delete)()
        async with serving(Atomic) as served:
            socket = await connect(served)
            assert await ask(socket, "kept") == "committed kept"
            assert await ask(socket, "fails") is None
            await await_names(["close", "kept", "open"])

    run(main)


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("how", ["attribute", "decorator", "class"])
def test_a_handler_may_do_without_the_transaction(run, how):
    class Plain(GreenWebSocketHandler):
        atomic_requests = how != "attribute"

        def on_message(self, message):
            self.write_message(str(connection.in_atomic_block))

        if how == "decorator":
            on_message = transaction.non_atomic_requests(on_message)

    if how == "class":
        Plain = transaction.non_atomic_requests(Plain)

    async def main():
        async with serving(Plain) as served:
            socket = await connect(served)
            assert await ask(socket, "x") == "False"
            await close(socket)

    run(main)


async def await_names(expected):
    async def found():
        return await greentor.green(names)()

    for _ in range(500):
        if await found() == expected:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(await found())


# --- the end of the server --------------------------------------------------------------------


def test_drain_counts_messages_at_work_and_no_open_socket(run):
    class Slow(GreenWebSocketHandler):
        def on_message(self, message):
            parked.set()
            greentor.await_(release.wait())
            self.write_message("done")

    async def main():
        nonlocal parked, release
        parked, release = asyncio.Event(), asyncio.Event()
        async with serving(Slow) as served:
            sockets = [await connect(served) for _ in range(3)]
            assert await drain(5) == 0
            sockets[0].write_message("x")
            await parked.wait()
            assert await drain(0.01) == 1
            release.set()
            assert await drain(5) == 0
            assert await read(sockets[0]) == "done"
            await close(*sockets)

    parked = release = None
    run(main)


def test_close_websockets_tells_every_client_that_the_server_goes(run):
    class Noting(Noted):
        log: ClassVar = []

    async def main():
        Noting.log.clear()
        async with serving(Noting) as served:
            sockets = [await connect(served) for _ in range(3)]
            await await_until(lambda: len(Noting.log) == 3)
            assert close_websockets(reason="restart") == 3
            for socket in sockets:
                assert await read(socket) is None
                assert (socket.close_code, socket.close_reason) == (1001, "restart")
            await await_until(lambda: Noting.log == ["open"] * 3 + ["close 0"] * 3)
            assert close_websockets() == 0

    run(main)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "in a message"])
def test_the_end_of_the_loop_rolls_back_and_runs_on_close(at_work, mariadb):
    class Ends(Noted):
        log: ClassVar = []

        def on_message(self, message):
            with transaction.atomic():
                Author.objects.create(name="lost")
                parked.set()
                greentor.await_(asyncio.Event().wait())

    async def main():
        nonlocal parked
        parked = asyncio.Event()
        manager = serving(Ends)
        served = await manager.__aenter__()
        socket = await connect(served)
        await await_until(lambda: Ends.log == ["open"])
        if at_work:
            socket.write_message("x")
            await parked.wait()
        return manager, socket  # as a program that ends without closing anything

    parked = None
    _, socket = kept = asyncio.run(main())
    socket.protocol = None  # or it warns of being unclosed
    del socket
    assert Ends.log == ["open", "close 0"]
    assert mariadb.execute("SELECT trx_id FROM information_schema.innodb_trx") == []
    del kept
    IOLoop(make_current=False).close()  # Tornado keeps a closed loop until it meets another
    gc.collect()
