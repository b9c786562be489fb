"""SQLite in greenlets: nobody's write is lost, and nobody waits for a lock but who wants it."""

import asyncio
import sqlite3
import threading
import time

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections, transaction
from django.db.models import F

import greentor
from greentor import green
from greentor.db.pools import current_pools
from tests.testapp.models import Counter
from tests.waiting import await_until

ALIAS = "lite"


@pytest.fixture
def lite(tmp_path, monkeypatch):
    """Return a function that makes the database: its name, and options of the ENGINE."""

    def make(name="db.sqlite3", **options):
        path = name if ":" in name else str(tmp_path / name)
        database = {"ENGINE": "greentor.db.sqlite3", "NAME": path, "OPTIONS": options}
        monkeypatch.setitem(settings.DATABASES, ALIAS, database)
        connections.configure_settings(settings.DATABASES)
        if name != ":memory:":
            with connections[ALIAS].schema_editor() as editor:
                editor.create_model(Counter)
            connections[ALIAS].close()
        return path

    yield make
    if hasattr(connections._connections, ALIAS):
        connection = connections[ALIAS].connection
        if connection is not None:
            connection.close()  # Django never closes one in memory
        del connections[ALIAS]


def query(sql, params=None):
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


def counters():
    return Counter.objects.using(ALIAS)


def atomic():
    return transaction.atomic(using=ALIAS)


class Ticker:
    """Notes the longest that the loop was held up."""

    async def __aenter__(self):
        self.longest = 0.0
        self.task = asyncio.create_task(self.tick())
        return self

    async def tick(self):
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.monotonic() - before)

    async def __aexit__(self, *exc_info):
        self.task.cancel()


# --- set-up -----------------------------------------------------------------------------------


def test_the_log_is_written_ahead_and_synced_normally_in_greenlets_and_out(run, lite):
    lite()

    def ask():
        return query("PRAGMA journal_mode") + query("PRAGMA synchronous")

    assert ask() == [("wal",), (1,)]
    assert run(green(ask)) == [("wal",), (1,)]


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        ({}, "BEGIN IMMEDIATE"),
        ({"transaction_mode": "EXCLUSIVE"}, "BEGIN EXCLUSIVE"),
        ({"transaction_mode": None}, "BEGIN"),
    ],
)
def test_transactions_begin_as_the_options_say_whoever_opened_the_connection(
    run, lite, options, begin
):
    lite(**options)
    began = []

    def observe(execute, sql, params, many, context):
        began.append(sql)
        return execute(sql, params, many, context)

    def request():
        with connections[ALIAS].execute_wrapper(observe), atomic():
            pass

    async def main():
        for new_wrapper in (False, False, True, True):
            if new_wrapper:
                current_pools()[0].wrappers.clear()
            await green(request)()

    run(main)
    request()
    assert set(began) == {begin}


def test_memory_is_refused_where_every_connection_would_have_its_own(run, lite):
    lite(":memory:")
    with pytest.raises(ImproperlyConfigured, match=r"'lite'.*':memory:'"):
        run(green(query), "SELECT 1")
    assert query("SELECT 1") == [(1,)]


def test_memory_with_a_shared_cache_is_one_database(run, tmp_path, lite):
    lite(f"file:{tmp_path.name}?mode=memory&cache=shared")
    last = connections[ALIAS].connection  # while it is open there is a database

    @green
    def write(n):
        with atomic():
            counters().create(name=str(n))
            greentor.sleep(0)

    async def main():
        await asyncio.gather(*(write(n) for n in range(5)))
        return await green(lambda: counters().count())()

    assert run(main) == 5
    last.close()


# --- locks ------------------------------------------------------------------------------------


def test_fifty_writers_at_once_lose_nothing_and_freeze_nobody(run, lite):
    """Each parks within its transaction, so that the others find the database locked."""
    lite(timeout=30, pool={"pool_size": 60})

    @green
    def write(n):
        for _ in range(2):
            with atomic():
                counter = counters().get(name="shared")
                greentor.sleep(0.002)
                counter.n += 1
                counter.save()
            counters().create(name=f"{n} {counters().filter(name__startswith=f'{n} ').count()}")

    async def main():
        await green(counters().create)(name="shared")
        async with Ticker() as ticker:
            await asyncio.gather(*(write(n) for n in range(50)))
        assert ticker.longest < 0.3
        shared = await green(lambda: counters().get(name="shared").n)()
        assert (shared, await green(counters().count)()) == (100, 101)
        [pool] = current_pools()
        assert (pool.in_use, pool.waiting) == (0, 0)

    run(main)


def test_readers_do_not_wait_for_a_writer(run, lite):
    lite()

    async def main():
        writing = asyncio.Event()
        read = asyncio.Event()

        @green
        async def write():
            with atomic():
                counters().create(name="x")
                writing.set()
                await read.wait()

        @green
        async def reader():
            await writing.wait()
            assert counters().count() == 0
            read.set()

        await asyncio.gather(write(), reader())
        assert await green(counters().count)() == 1

    run(main)


@pytest.fixture
def locked(lite):
    """Return a database with a lock of another process's, as a connection to release it on."""
    lite(timeout=5)
    other = sqlite3.connect(settings.DATABASES[ALIAS]["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def test_a_lock_that_is_never_released_is_an_error_after_the_timeout(run, locked):
    settings.DATABASES[ALIAS]["OPTIONS"]["timeout"] = 0.3

    @green
    def begin():
        with atomic():
            raise AssertionError("the database is locked")

    @green
    def statement():
        counters().create(name="x")

    async def main():
        for request in (begin, statement):
            started = time.monotonic()
            async with Ticker() as ticker:
                with pytest.raises(OperationalError, match="locked"):
                    await request()
            assert 0.25 < time.monotonic() - started < 1.5
            assert ticker.longest < 0.2
        assert current_pools()[0].in_use == 0

    run(main)


@pytest.mark.parametrize("many", [False, True], ids=["execute", "executemany"])
def test_a_statement_of_its_own_waits_for_the_lock(run, locked, many):
    @green
    def request():
        with connections[ALIAS].cursor() as cursor:
            if many:
                rows = [("a",), ("b",)]
                cursor.executemany("INSERT INTO testapp_counter (name, n) VALUES (%s, 1)", rows)
            else:
                cursor.execute("INSERT INTO testapp_counter (name, n) VALUES ('a', 2)")

    async def main():
        task = asyncio.create_task(request())
        await asyncio.sleep(0.02)
        assert not task.done()
        locked.execute("COMMIT")
        await task
        return await green(query)("SELECT SUM(n) FROM testapp_counter")

    assert run(main) == [(2,)]


def test_executemany_goes_on_where_the_lock_stopped_it(run, lite):
    """Outside a transaction each row is its own: those that are written are not written again."""
    path = lite(timeout=5)
    other = sqlite3.connect(path, isolation_level=None)
    other_locks = []

    class Row:
        """A parameter that has somebody else lock the database when it is bound."""

        def __conform__(self, protocol):
            if not other_locks:
                other_locks.append(other.execute("BEGIN IMMEDIATE"))
                asyncio.get_running_loop().call_later(0.03, other.execute, "COMMIT")
            return "third"

    @green
    def request():
        query("CREATE TABLE plain (name TEXT)")
        with connections[ALIAS].cursor() as cursor:
            rows = iter([("first",), ("second",), (Row(),), ("fourth",)])
            cursor.executemany("INSERT INTO plain VALUES (%s)", rows)
        return query("SELECT name FROM plain ORDER BY rowid")

    assert run(request) == [("first",), ("second",), ("third",), ("fourth",)]
    assert other_locks
    other.close()


def test_a_statement_within_a_transaction_is_not_tried_again(run, lite):
    """The transaction that it read in is stale: BUSY_SNAPSHOT, which no waiting mends."""
    lite(timeout=30, transaction_mode="DEFERRED")

    async def main():
        stale = asyncio.Event()
        read = asyncio.Event()

        @green
        async def upgrade():
            with atomic():
                counters().count()
                read.set()
                await stale.wait()
                started = time.monotonic()
                with pytest.raises(OperationalError, match="locked"), atomic():
                    counters().create(name="late")
                assert time.monotonic() - started < 1

        @green
        async def write():
            await read.wait()
            counters().create(name="early")
            stale.set()

        await asyncio.gather(upgrade(), write())
        assert await green(counters().count)() == 1

    run(main)


def test_a_connection_that_is_opened_under_a_lock_waits_without_holding_the_loop(
    run, tmp_path, lite
):
    """A database that is not in WAL mode yet: changing that takes a lock."""
    path = lite()
    other = sqlite3.connect(path, isolation_level=None)
    assert other.execute("PRAGMA journal_mode = DELETE").fetchall() == [("delete",)]
    other.execute("BEGIN EXCLUSIVE")

    async def main():
        async with Ticker() as ticker:
            task = asyncio.create_task(green(query)("PRAGMA journal_mode"))
            await asyncio.sleep(0.2)
            assert not task.done()
            other.execute("COMMIT")
            assert await task == [("wal",)]
        assert ticker.longest < 0.15

    run(main)
    other.close()


def test_a_thread_that_writes_does_not_freeze_the_greenlets(run, lite):
    lite(timeout=10)

    def in_thread():
        for _ in range(10):
            with atomic():
                counters().filter(name="shared").update(n=F("n") + 1)
                time.sleep(0.005)

    @green
    def in_greenlet():
        for _ in range(10):
            with atomic():
                counters().filter(name="shared").update(n=F("n") + 1)
                greentor.sleep(0.005)

    async def main():
        await green(counters().create)(name="shared")
        async with Ticker() as ticker:
            await asyncio.gather(*(in_greenlet() for _ in range(3)), threaded(), threaded())
        assert ticker.longest < 0.2
        assert await green(lambda: counters().get(name="shared").n)() == 50

    @green
    def threaded():
        greentor.thread(in_thread)

    run(main)


# --- transactions and ends --------------------------------------------------------------------


def test_cancelled_within_a_transaction_the_lock_is_free_again(run, lite):
    lite(timeout=5)

    @green
    async def hold(parked):
        with atomic():
            counters().create(name="lost")
            parked.set()
            await asyncio.get_running_loop().create_future()

    async def main():
        parked = asyncio.Event()
        task = asyncio.create_task(hold(parked))
        await parked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await green(counters().create)(name="kept")
        assert await green(counters().count)() == 1
        assert [(pool.in_use, pool.idle) for pool in current_pools()] == [(0, 1)]

    run(main)


def test_cancelled_while_it_waits_for_the_lock_it_stops_waiting(run, locked):
    @green
    def begin():
        with atomic():
            raise AssertionError("the database is locked")

    async def main():
        task = asyncio.create_task(begin())
        await await_until(lambda: current_pools() and current_pools()[0].in_use)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        locked.execute("COMMIT")
        await green(counters().create)(name="kept")
        assert current_pools()[0].in_use == 0

    run(main)


def test_a_scope_that_ends_within_atomic_is_rolled_back(run, lite):
    lite()

    @green
    def request():
        atomic().__enter__()
        counters().create(name="lost")

    async def main():
        await request()
        assert await green(counters().count)() == 0
        assert [(pool.in_use, pool.idle) for pool in current_pools()] == [(0, 1)]

    run(main)


def test_savepoints_and_hooks_mean_what_they_mean(run, lite):
    lite()

    @green
    def request():
        ran = []
        with atomic():
            counters().create(name="kept")
            transaction.on_commit(lambda: ran.append("committed"), using=ALIAS)
            with pytest.raises(ZeroDivisionError), atomic():
                counters().create(name="lost")
                raise ZeroDivisionError
        return ran, [counter.name for counter in counters()]

    assert run(request) == (["committed"], ["kept"])


def test_gather_within_atomic_sees_the_row_of_the_transaction(run, lite):
    lite(pool={"pool_size": 1, "max_overflow": 0, "pool_timeout": 2})

    @green
    async def request():
        with atomic():
            await counters().acreate(name="uncommitted")
            counts = await asyncio.gather(counters().acount(), counters().acount())
            transaction.set_rollback(True, using=ALIAS)
        return counts, await counters().acount(), threading.active_count()

    before = threading.active_count()
    counts, after, threads = run(request)
    assert (counts, after) == ([1, 1], 0)
    assert threads <= before
