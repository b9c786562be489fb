"""SQLite in greenlets: how it is set up, and what transactions mean."""

import asyncio
import threading

import pytest
from django.db import connections, transaction

import greentor
from greentor import green
from greentor.db.pools import current_pools
from tests.sqlite.support import ALIAS, atomic, counters, query
from tests.waiting import await_until

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
