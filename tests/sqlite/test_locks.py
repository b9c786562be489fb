"""SQLite in greenlets: nobody's write is lost, and nobody waits for a lock but who wants it."""

import asyncio
import gc
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from django.conf import settings
from django.db import OperationalError, connections, transaction
from django.db.models import F

import greentor
from greentor import green
from greentor.db.pools import current_pools
from tests.sqlite.support import ALIAS, Ticker, atomic, counters, query
from tests.testapp.models import Counter
from tests.waiting import await_until

REPO = Path(__file__).parents[2]

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
        assert ticker.longest < 2
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


def test_a_lock_that_is_never_released_is_an_error_after_the_timeout(run, locked):
    settings.DATABASES[ALIAS]["OPTIONS"]["timeout"] = 0.6

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
                with pytest.raises(OperationalError, match="locked") as caught:
                    await request()
            said = str(caught.value)
            assert said.startswith("database is locked: not free after 0.6 s, 0 others waiting;")
            assert "nobody, so another process or thread; " in said
            assert said.endswith("or raise OPTIONS['timeout']")
            assert 0.55 < time.monotonic() - started < 10
            assert ticker.longest < 0.5
        assert current_pools()[0].in_use == 0

    run(main)


def test_a_timeout_names_who_held_the_lock_and_how_many_waited(run, lite):
    lite(timeout=0.2)

    async def hold(done):
        with atomic():
            counters().create(name="x")
            await done.wait()

    async def main():
        done = asyncio.Event()
        holder = greentor.spawn(hold, done)
        await asyncio.sleep(0.02)
        waiters = [asyncio.create_task(green(counters().create)(name=str(n))) for n in range(3)]
        await asyncio.wait(waiters)
        done.set()
        await holder
        said = [str(waiter.exception()) for waiter in waiters]
        assert f"in a transaction here: {hold.__qualname__}; end transactions sooner" in said[0]
        assert sorted(text.split(",")[1] for text in said) == [
            f" {others} others waiting; in a transaction here: {hold.__qualname__}; end transactions"
            " sooner (wait for nobody in atomic)"
            for others in range(3)
        ]

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


# --- within a transaction ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DEFERRED", None])
def test_a_statement_within_a_transaction_is_not_tried_again(run, lite, mode):
    """The transaction that it read in is stale: BUSY_SNAPSHOT, which no waiting mends."""
    lite(timeout=30, transaction_mode=mode)

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
                with pytest.raises(OperationalError, match="locked") as caught, atomic():
                    counters().create(name="late")
                assert caught.value.__cause__.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"
                assert time.monotonic() - started < 10

        @green
        async def write():
            await read.wait()
            counters().create(name="early")
            stale.set()

        await asyncio.gather(upgrade(), write())
        assert await green(counters().count)() == 1

    run(main)


def test_who_has_read_in_its_transaction_does_not_wait_for_the_lock(run, locked):
    """When it is free, what was read is stale; SQLite itself does not wait there either."""
    settings.DATABASES[ALIAS]["OPTIONS"].update(timeout=30, transaction_mode="DEFERRED")

    @green
    def upgrade():
        started = time.monotonic()
        with pytest.raises(OperationalError, match="locked") as caught, atomic():
            counters().count()
            counters().create(name="x")
        assert caught.value.__cause__.sqlite_errorname == "SQLITE_BUSY"
        assert time.monotonic() - started < 10

    run(upgrade)


def test_a_transaction_that_has_only_begun_waits_at_its_first_statement(run, locked):
    """As SQLite itself does: nothing was read that could be stale."""
    settings.DATABASES[ALIAS]["OPTIONS"]["transaction_mode"] = "DEFERRED"

    @green
    def in_a_block():
        with atomic(), atomic():  # a savepoint reads nothing
            counters().create(name="in a block")
        return "in a block"

    @green
    def without_autocommit():
        transaction.set_autocommit(False, using=ALIAS)
        counters().create(name="without autocommit")
        transaction.commit(using=ALIAS)
        transaction.set_autocommit(True, using=ALIAS)

    async def main():
        tasks = [asyncio.create_task(request()) for request in (in_a_block, without_autocommit)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in tasks)
        locked.execute("COMMIT")
        await asyncio.gather(*tasks)
        assert await green(counters().count)() == 2

    run(main)


def test_a_conflict_of_a_connection_with_itself_is_an_error_at_once(run, lite):
    """SQLITE_LOCKED: nobody else is in the way, so nobody else can get out of it."""
    lite(timeout=30)

    @green
    def request():
        counters().create(name="a")
        counters().create(name="b")
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SELECT * FROM testapp_counter")
            cursor.fetchone()
            started = time.monotonic()
            with pytest.raises(OperationalError, match="table is locked"):
                query("DROP TABLE testapp_counter")
            assert time.monotonic() - started < 10

    run(request)


# --- others -----------------------------------------------------------------------------------


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
            await asyncio.sleep(0.5)
            assert not task.done()
            other.execute("COMMIT")
            assert await task == [("wal",)]
        assert ticker.longest < 0.4

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
        assert ticker.longest < 2
        assert await green(lambda: counters().get(name="shared").n)() == 50

    @green
    def threaded():
        greentor.thread(in_thread)

    run(main)


def test_manage_py_writes_at_the_same_time(run, lite):
    """Another process, in blocking mode: neither loses a write, and the loop goes on."""
    command = [sys.executable, "-c", COMMAND.format(path=lite(timeout=30))]

    @green
    def count_up():
        for _ in range(30):
            with atomic():
                counter = counters().get(name="shared")
                greentor.sleep(0.002)
                counter.n += 1
                counter.save()

    async def main():
        await green(counters().create)(name="shared")
        async with Ticker() as ticker:
            process = await asyncio.create_subprocess_exec(*command, cwd=REPO)
            await asyncio.gather(*(count_up() for _ in range(3)))
            assert await process.wait() == 0
        assert ticker.longest < 2
        assert await green(lambda: counters().get(name="shared").n)() == 120

    run(main)


COMMAND = """
import time

import django
from django.conf import settings

DATABASE = {{"ENGINE": "greentor.db.sqlite3", "NAME": {path!r}, "OPTIONS": {{"timeout": 30}}}}
APPS = ["django.contrib.contenttypes", "greentor", "tests.testapp"]
settings.configure(DATABASES={{"default": DATABASE}}, INSTALLED_APPS=APPS)
django.setup()
from django.db import transaction
from tests.testapp.models import Counter

for _ in range(30):
    with transaction.atomic():
        counter = Counter.objects.get(name="shared")
        time.sleep(0.002)
        counter.n += 1
        counter.save()
"""


def test_a_checkpoint_that_waits_for_a_reader_freezes_nobody(run, lite):
    """It has the write lock while it waits, in another thread; and the reader is a parked greenlet."""
    path = lite(timeout=30)
    other = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)

    async def main():
        await green(counters().create)(name="a")
        reading, read = asyncio.Event(), asyncio.Event()

        @green
        async def reader():
            query("BEGIN DEFERRED")
            count = counters().count()
            reading.set()
            await read.wait()
            assert counters().count() == count
            query("COMMIT")

        async with Ticker() as ticker:
            task = asyncio.create_task(reader())
            await reading.wait()
            await green(counters().create)(name="b")
            checkpoint = asyncio.create_task(
                asyncio.to_thread(other.execute, "PRAGMA wal_checkpoint(TRUNCATE)")
            )
            await await_until(lambda: is_locked(path))
            writer = asyncio.create_task(green(counters().create)(name="c"))
            await asyncio.sleep(0.05)
            assert [each.done() for each in (writer, checkpoint, task)] == [False] * 3
            read.set()
            await asyncio.gather(task, checkpoint, writer)
        assert ticker.longest < 2
        assert (await checkpoint).fetchone()[0] == 0
        assert await green(counters().count)() == 3

    run(main)
    other.close()


def is_locked(path):
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def close(pools):
    for pool in pools:
        pool.close()
    connections[ALIAS].connection.close()


def give_back(pools):
    connections[ALIAS].close()


def collect(pools):
    connections[ALIAS].connection = None
    gc.collect()


@pytest.mark.parametrize("end", [close, give_back, collect])
def test_a_fork_within_a_transaction_leaves_it_alone(run, lite, end):
    """SQLite forbids a child to close what it inherited: it would undo the parent's transaction."""
    lite(timeout=5, init_command="PRAGMA cache_size = 2")  # so that pages are written before COMMIT

    @green
    def request():
        counters().create(name="a transaction before it")
        with atomic():
            counters().bulk_create(Counter(name=f"{n} {'x' * 80}") for n in range(500))
            pools = current_pools()
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    end(pools)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            assert counters().count() == 501
        assert query("PRAGMA integrity_check") == [("ok",)]

    run(request)
    assert counters().count() == 501
