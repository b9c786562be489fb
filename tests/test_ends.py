"""Every way in which a request can be ended from outside, at every place at which it can be parked.

After each: its connections are back, its transaction is rolled back on the server, no hook of its commit has
run, and Django's signals were sent once. What a request does to end itself is in `tests.test_web_ends`.
"""

import asyncio
import contextlib
import gc
import logging
import re
import threading
from functools import partial

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.core.signals import request_finished, request_started
from django.db import connection, transaction
from tornado import gen
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import stream_request_body

import greentor
from greentor import bridge
from greentor.db import pools
from greentor.db.pools import current_pools
from greentor.web import BaseRequestHandler, GreenWebSocketHandler, drain
from tests.test_web import Sync, serving
from tests.test_websocket import connect, read
from tests.testapp.models import Author
from tests.waiting import await_until, wait_until

pytestmark = pytest.mark.usefixtures("clean_tables")

TIMEOUT = 0.15


class State:
    """What the test and its handler tell each other."""

    def __init__(self):
        self.parked = False
        self.task = None
        self.committed = []
        self.signals = []
        self.thread = threading.Event()


state = State()


@pytest.fixture(autouse=True)
def _state():
    global state
    state = State()

    def started(sender, **kwargs):
        state.signals.append("started")

    def finished(sender, **kwargs):
        state.signals.append("finished")

    request_started.connect(started)
    request_finished.connect(finished)
    yield
    request_started.disconnect(started)
    request_finished.disconnect(finished)
    state.thread.set()


class lost:
    """A transaction that has written, and is left where the test ends it.

    No generator: one that is dropped would roll back wherever the garbage collector finds it.
    """

    def __enter__(self):
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        Author.objects.create(name="lost")
        transaction.on_commit(lambda: state.committed.append("lost"))
        state.task = bridge.current_green("the request").task
        state.parked = True

    def __exit__(self, *exc):
        return self.atomic.__exit__(*exc)


def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(30) /* parked here */")


# --- where it is parked -----------------------------------------------------------------------


class InQuery(BaseRequestHandler):
    def get(self):
        with lost():
            query()


class InSleep(BaseRequestHandler):
    def get(self):
        with lost():
            greentor.sleep(30)


class InAwait(BaseRequestHandler):
    async def get(self):
        with lost():
            await asyncio.sleep(30)


class InHelpers(BaseRequestHandler):
    async def get(self):
        with lost():
            await asyncio.gather(greentor.green(query)(), greentor.green(query)())


class InCoroutine(BaseRequestHandler):
    @gen.coroutine
    def get(self):
        yield gen.moment
        with lost():
            yield gen.sleep(30)


class InCoroutineQuery(BaseRequestHandler):
    @gen.coroutine
    def get(self):
        yield gen.moment
        with lost():
            query()
            yield gen.moment


class InAsyncGenerator(BaseRequestHandler):
    async def rows(self):
        with lost():
            yield 1
            await asyncio.sleep(30)
            yield 2

    async def get(self):
        async for _ in self.rows():
            pass


class BetweenRowsOfAsyncGenerator(InAsyncGenerator):
    async def get(self):
        async for _ in self.rows():
            await asyncio.sleep(30)


class InThread(BaseRequestHandler):
    def get(self):
        with lost():
            greentor.thread(state.thread.wait, 30)


class InInitialize(BaseRequestHandler):
    def initialize(self):
        with lost():
            greentor.sleep(30)

    def get(self):
        raise AssertionError("it was ended before")


class InPrepare(BaseRequestHandler):
    async def prepare(self):
        with lost():
            await Author.objects.acount()
            query()

    def get(self):
        raise AssertionError("it was ended before")


class InWriteError(BaseRequestHandler):
    def get(self):
        raise ZeroDivisionError

    def write_error(self, status_code, **kwargs):
        if not state.parked:
            with lost():
                query()
        self.finish("sorry")


class InStreaming(BaseRequestHandler):
    async def get(self):
        with lost():
            while True:
                self.write("x" * 1_000_000)
                await self.flush()


class Stubborn(BaseRequestHandler):
    """Catches what errors there are: a cancel is none."""

    def get(self):
        while True:
            with contextlib.suppress(Exception), lost():
                query()


@stream_request_body
class InUpload(BaseRequestHandler):
    def data_received(self, chunk):
        query()

    def prepare(self):
        lost().__enter__()

    def get(self):
        raise AssertionError("the body never came")


@stream_request_body
class BeforeUpload(BaseRequestHandler):
    def prepare(self):
        lost().__enter__()

    def data_received(self, chunk):
        Author.objects.count()

    def on_connection_close(self):
        pass  # no super(), by which Tornado gives up waiting for the body

    def get(self):
        raise AssertionError("the body never came")


PLACES = [
    *(InQuery, InSleep, InAwait, InHelpers, InCoroutine, InCoroutineQuery),
    *(InAsyncGenerator, BetweenRowsOfAsyncGenerator, InThread, InInitialize, InPrepare),
    *(InWriteError, InStreaming, Stubborn, InUpload, BeforeUpload),
]

QUERYING = (InQuery, InHelpers, InCoroutineQuery, InPrepare, InWriteError, Stubborn, InUpload)

UPLOAD = "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun"


# --- what ends it -----------------------------------------------------------------------------


def sleeping(mariadb):
    return [row for row in mariadb.processlist() if "parked here" in (row["INFO"] or "")]


def transactions(mariadb):
    return mariadb.execute("SELECT trx_id FROM information_schema.innodb_trx")


@pytest.mark.parametrize("cause", ["client gone", "cancelled", "timed out"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_what_is_ended_from_outside_leaves_nothing(run, mariadb, caplog, place, cause):
    class Ended(place):
        cancel_on_disconnect = cause == "client gone"
        request_timeout = TIMEOUT if cause == "timed out" else None

    async def main():
        async with serving(Ended) as served:
            args = [UPLOAD] if place in (InUpload, BeforeUpload) else []
            reader, writer = await served.connect(*args)
            await await_until(lambda: state.parked)
            if cause != "timed out" and place in QUERYING:
                await await_until(lambda: sleeping(mariadb))
            if cause == "client gone":
                writer.transport.abort()
            elif cause == "cancelled":
                state.task.cancel()
            if cause != "client gone":
                answer = await asyncio.wait_for(reader.read(), 10) if place is InStreaming else b""
                if place is InStreaming:
                    assert b" 200 " in answer[:20]
                    assert not answer.endswith(b"0\r\n\r\n")
                else:
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
                    assert head.split()[1] == (b"504" if cause == "timed out" else b"500")
                writer.close()
            assert await drain(10) == 0
            await await_until(lambda: not any(pool.in_use for pool in current_pools()))
            await await_until(lambda: not sleeping(mariadb) and not transactions(mariadb))
            assert state.committed == []
            assert state.signals == ["started", "finished"]
            assert await greentor.green(Author.objects.count)() == 0
            state.thread.set()

    with caplog.at_level(logging.INFO, logger="tornado.access"):
        run(main)
    statuses = [r.getMessage()[:3] for r in caplog.records if r.name == "tornado.access"]
    if cause == "client gone":
        assert statuses == ["499"]
    elif place is not InStreaming:
        assert statuses == ["504" if cause == "timed out" else "500"]


class Answered(BaseRequestHandler):
    """Finishes early, and goes on."""

    cancel_on_disconnect = True
    request_timeout = 0.05

    def get(self):
        self.finish("answer")
        with transaction.atomic():
            Author.objects.create(name="kept")
            transaction.on_commit(lambda: state.committed.append("kept"))
            state.parked = True
            greentor.sleep(0.1)  # longer than the request's time


def test_work_after_the_answer_goes_on_whatever_becomes_of_the_client_and_the_clock(run):
    async def main():
        async with serving(Answered) as served:
            _, writer = await served.connect()
            await await_until(lambda: state.parked)
            assert [pool.in_use for pool in current_pools()] == [1]
            writer.transport.abort()
            assert await drain(5) == 0
            assert state.committed == ["kept"]
            assert state.signals == ["started", "finished"]
            assert [pool.in_use for pool in current_pools()] == [0]

    run(main)


@pytest.mark.parametrize(
    ("attribute", "setting", "cancels"),
    [(None, None, False), (None, True, True), (False, True, False), (True, False, True)],
)
def test_cancel_on_disconnect_is_an_attribute_before_it_is_a_setting(
    run, attribute, setting, cancels
):
    class Slow(BaseRequestHandler):
        cancel_on_disconnect = attribute

        async def get(self):
            self.request.connection.context  # noqa: B018  (a connection there is)
            state.parked = True
            try:
                await gone.wait()
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                state.committed.append("cancelled")
                raise
            state.committed.append("ran")

        def on_connection_close(self):
            asyncio.get_running_loop().call_soon(gone.set)

    async def main():
        nonlocal gone
        gone = asyncio.Event()
        async with serving(Slow) as served:
            if setting is not None:
                served.server.request_callback.settings["cancel_on_disconnect"] = setting
            _, writer = await served.connect()
            await await_until(lambda: state.parked)
            writer.transport.abort()
            assert await drain(5) == 0
            assert state.committed == ["cancelled" if cancels else "ran"]

    gone = None
    run(main)


@pytest.mark.parametrize(("attribute", "setting"), [(None, 0.05), (0.05, None), (0.05, 30)])
def test_request_timeout_is_an_attribute_before_it_is_a_setting(run, attribute, setting):
    class Slow(BaseRequestHandler):
        request_timeout = attribute

        def get(self):
            greentor.sleep(20)

    class Unlimited(BaseRequestHandler):
        request_timeout = 0

        def get(self):
            greentor.sleep(0.1)

    async def main():
        async with serving(Slow, Unlimited) as served:
            served.server.request_callback.settings["request_timeout"] = setting
            assert (await served.fetch()).code == 504
            assert (await served.fetch("/Unlimited")).code == 200

    run(main)


def test_an_error_page_of_a_timeout_is_written_in_the_greenlet(run):
    class Page(BaseRequestHandler):
        request_timeout = 0.05

        async def get(self):
            await asyncio.sleep(20)

        def write_error(self, status_code, **kwargs):
            self.finish(f"{status_code} {Author.objects.count()}")

    async def main():
        async with serving(Page) as served:
            response = await served.fetch()
            assert (response.code, response.body) == (504, b"504 0")

    run(main)


def test_a_body_that_never_comes_is_not_waited_for_though_an_override_forgets_super(run):
    async def main():
        async with serving(BeforeUpload) as served:
            _, writer = await served.connect(UPLOAD)
            await await_until(lambda: state.parked)
            writer.transport.abort()
            assert await drain(5) == 0
            assert state.signals == ["started", "finished"]
            assert [pool.in_use for pool in current_pools()] == [0]

    run(main)


# --- data_received: whose is inherited, whose is called --------------------------------------


class ChunksMixin:
    def data_received(self, chunk):
        self.count = Author.objects.count()


@stream_request_body
class OfMixin(ChunksMixin, BaseRequestHandler):
    def put(self):
        self.write(str(self.count))


class Overridden(OfMixin):
    def data_received(self, chunk):
        Author.objects.count()
        super().data_received(chunk)


class OverriddenAsync(OfMixin):
    async def data_received(self, chunk):
        await Author.objects.acount()
        super().data_received(chunk)


@pytest.mark.parametrize("handler", [OfMixin, Overridden, OverriddenAsync])
def test_data_received_may_be_a_mixins_and_may_call_super(run, handler):
    async def main():
        async with serving(handler) as served:
            response = await served.fetch(method="PUT", body=b"x")
            assert (response.code, response.body) == (200, b"0")

    run(main)


# --- the end of the program -------------------------------------------------------------------


def collect():
    """Have what was left unclosed warn here, and not in the middle of another test."""
    IOLoop(make_current=False).close()  # Tornado keeps a closed loop until it meets another
    state.task = None
    if (error := getattr(state, "error", None)) is not None:
        error.__traceback__ = error.__context__ = None  # whose frames refer to it all
    gc.collect()
    gc.collect()  # and what finalizers have let go of


class ExitsInVerb(BaseRequestHandler):
    def get(self):
        with lost():
            raise state.error


class ExitsInHelper(BaseRequestHandler):
    async def get(self):
        with lost():
            await asyncio.gather(greentor.green(self.fail)())

    def fail(self):
        Author.objects.count()
        raise state.error


class ExitsInSpawned(BaseRequestHandler):
    async def get(self):
        with lost():
            greentor.spawn(self.fail)
            await asyncio.sleep(30)

    def fail(self):
        Author.objects.count()
        raise state.error


class ExitsInMessage(GreenWebSocketHandler):
    def open(self):
        with lost():
            raise state.error


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize(
    "handler",
    [ExitsInVerb, ExitsInHelper, ExitsInSpawned, ExitsInMessage],
    ids=lambda h: h.__name__,
)
def test_what_ends_the_program_rolls_back_and_leaves_nothing(mariadb, handler, error):
    async def main():
        state.error = error(3)
        async with serving(handler) as served:
            if handler is ExitsInMessage:
                await read(await connect(served))
            else:
                await served.fetch()

    before = {row["ID"] for row in mariadb.processlist()}
    with pytest.raises(error):
        asyncio.run(main())
    assert asyncio.run(greentor.green(Author.objects.count)()) == 0
    assert pools._loops == {}
    assert state.committed == []
    assert state.signals == ["started", "finished"]
    collect()
    wait_until(lambda: {row["ID"] for row in mariadb.processlist()} <= before, timeout=10)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "place",
    [InQuery, InAwait, InHelpers, InCoroutine, InAsyncGenerator, InStreaming, InUpload],
    ids=lambda place: place.__name__,
)
def test_a_loop_that_ends_in_mid_request_leaves_nothing_on_the_server(mariadb, place):
    """As `asyncio.run` ends one, with its tasks cancelled."""

    async def begin():
        manager = serving(place)
        served = await manager.__aenter__()
        connection = await served.connect(*([UPLOAD] if "Upload" in place.__name__ else []))
        await await_until(lambda: state.parked)
        if place in QUERYING:
            await await_until(lambda: sleeping(mariadb))
        return manager, connection  # kept alive, and left as they are

    before = {row["ID"] for row in mariadb.processlist()}
    kept = asyncio.run(begin())
    wait_until(lambda: not transactions(mariadb))
    wait_until(lambda: {row["ID"] for row in mariadb.processlist()} <= before)
    assert state.committed == []
    assert state.signals == ["started", "finished"]
    assert asyncio.run(greentor.green(Author.objects.count)()) == 0
    del kept
    collect()


# --- what is no request -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["returns", "raises", "is cancelled"])
def test_spawned_work_outlives_its_request_and_drain_waits_for_it_on_request(run, mariadb, how):
    def work():
        with contextlib.nullcontext() if how == "returns" else lost():
            if how == "returns":
                Author.objects.create(name="kept")
            greentor.await_(release.wait())
            if how == "raises":
                raise ZeroDivisionError

    class Spawns(BaseRequestHandler):
        def get(self):
            state.task = greentor.spawn(work)
            self.write("answer")

    async def main():
        nonlocal release
        release = asyncio.Event()
        await greentor.green(Author.objects.all().delete)()
        async with serving(Spawns) as served:
            assert await served.get() == "answer"
            assert await drain(5) == 0
            task = state.task
            await await_until(lambda: [pool.in_use for pool in current_pools()] == [1])
            assert await drain(0.01, spawned=True) == 1
            if how == "is cancelled":
                task.cancel()
            release.set()
            assert await drain(5, spawned=True) == 0
            if how == "raises":
                assert isinstance(task.exception(), ZeroDivisionError)
            assert [pool.in_use for pool in current_pools()] == [0]
            await await_until(lambda: not transactions(mariadb))
            assert state.committed == []
            kept = 1 if how == "returns" else 0
            assert await greentor.green(Author.objects.count)() == kept
        state.task = None

    release = None
    run(main)


def test_drain_does_not_wait_for_the_spawned_task_that_calls_it(run):
    async def main():
        async def stop():
            return await drain(5, spawned=True)

        assert await greentor.spawn(stop) == 0

    run(main)


def refused(message):
    return re.search(r"would query the database from .*, outside any greenlet", message)


@pytest.mark.parametrize(
    "kind", ["PeriodicCallback", "call_later", "task", "async PeriodicCallback"]
)
def test_a_callback_that_uses_the_orm_as_it_stands_is_refused_with_the_remedy(run, caplog, kind):
    errors = []

    def callback():
        try:
            Author.objects.count()
        except SynchronousOnlyOperation as exc:
            errors.append(str(exc))

    async def coroutine():
        callback()

    async def main():
        errors.clear()
        loop = asyncio.get_running_loop()
        if kind == "call_later":
            loop.call_later(0, callback)
        elif kind == "task":
            await asyncio.create_task(coroutine())
        else:
            periodic = PeriodicCallback(callback if kind == "PeriodicCallback" else coroutine, 1)
            periodic.start()
            await await_until(lambda: errors)
            periodic.stop()
        await await_until(lambda: errors)
        assert refused(errors[0])
        assert "Author.objects.count()" in errors[0]
        assert "greentor.green" in errors[0]
        assert "greentor.spawn()" in errors[0]

    run(main)


@pytest.mark.parametrize("how", ["green", "spawn"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_periodic_callback_in_greenlets_runs_one_at_a_time_and_gives_back(run, caplog, how, kind):
    counts = []
    at_work = 0

    def work():
        nonlocal at_work
        at_work += 1
        assert at_work == 1
        with transaction.atomic():
            Author.objects.create(name="tick")
            greentor.sleep(0.005)
        at_work -= 1
        counts.append(Author.objects.count())
        if len(counts) == 2:
            raise ZeroDivisionError

    async def async_work():
        await asyncio.sleep(0)
        work()

    fn = work if kind == "sync" else async_work
    callback = greentor.green(fn) if how == "green" else partial(greentor.spawn, fn)

    async def main():
        nonlocal at_work
        at_work = 0
        counts.clear()
        await greentor.green(Author.objects.all().delete)()
        periodic = PeriodicCallback(callback, 1)
        periodic.start()
        await await_until(lambda: len(counts) >= 4)  # an exception does not end it
        periodic.stop()
        await await_until(lambda: [pool.in_use for pool in current_pools()] == [0])
        assert counts == list(range(1, len(counts) + 1))

    run(main)
    assert "Exception in callback" in caplog.text


def test_a_periodic_callback_that_a_request_has_started_spawns_and_outlives_it(run):
    """The timer inherits the scope of the request, which has ended: `green` would be refused."""
    counts = []
    refusals = []

    class Starts(BaseRequestHandler):
        def get(self):
            self.application.timers = [
                PeriodicCallback(partial(greentor.spawn, count), 1),
                PeriodicCallback(try_green, 1),
            ]
            for timer in self.application.timers:
                timer.start()

    def count():
        counts.append(Author.objects.count())

    async def try_green():
        try:
            await greentor.green(count)()
        except greentor.ScopeClosed as exc:
            refusals.append(str(exc))

    async def main():
        counts.clear()
        refusals.clear()
        async with serving(Starts) as served:
            await served.get()
            assert await drain(5) == 0
            await await_until(lambda: counts and refusals)
            for timer in served.server.request_callback.timers:
                timer.stop()
            assert await drain(5, spawned=True) == 0
            assert "greentor.spawn()" in refusals[-1]

    run(main)


def test_a_plain_task_of_green_functions_opens_a_scope_for_each(run, mariadb):
    scopes = []

    def work():
        scopes.append(bridge.current_scope())
        Author.objects.count()

    async def loop_forever():
        while True:
            await greentor.green(work)()
            await asyncio.sleep(0)

    async def main():
        scopes.clear()
        task = asyncio.create_task(loop_forever())
        await await_until(lambda: len(scopes) > 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(set(scopes)) == len(scopes)
        assert all(scope.closed for scope in scopes)
        await await_until(lambda: [pool.in_use for pool in current_pools()] == [0])

    run(main)


def test_the_server_of_these_tests_still_answers(run):
    async def main():
        async with serving(Sync) as served:
            assert await served.get() == '{"count": 0}'

    run(main)
