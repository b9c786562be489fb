"""The queue for the lock: first come, first served, and every turn taken or passed on.

Most of these tests switch polling off, so that a turn which is not passed on is never taken.
"""

import asyncio
import gc
import random
import sqlite3
import threading
from contextlib import closing, suppress
from contextvars import Context

import pytest
from django.conf import settings
from django.db import connections, transaction

import greentor
from greentor import green
from greentor.db.pools import current_pools
from greentor.db.sqlite3 import locks
from tests.sqlite.support import ALIAS, Ticker, atomic, counters, query
from tests.waiting import await_until


@pytest.fixture
def no_polling(monkeypatch):
    monkeypatch.setattr(locks, "SHORTEST", 60)
    monkeypatch.setattr(locks, "LONGEST", 60)


@pytest.fixture
def big(lite, no_polling):
    lite(timeout=10, pool={"pool_size": 60})


class Holder:
    """A greenlet in a transaction, until it is told to go on."""

    def __init__(self, name="holder"):
        self.name = name
        self.parked = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(green(self.hold)())

    async def hold(self):
        with atomic():
            counters().create(name=self.name)
            self.parked.set()
            await self.go.wait()

    async def __aenter__(self):
        await self.parked.wait()
        return self

    async def __aexit__(self, *exc_info):
        self.go.set()
        await asyncio.wait([self.task])


def queues():
    loop = asyncio.get_running_loop()
    return [queue for queue in locks._queues.values() if queue.loop is loop]


async def waiting(n):
    await await_until(lambda: sum(map(len, queues())) == n)


async def start_in_order(fn, names):
    """Start a task for each name, each when the one before it waits for the lock."""
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(green(fn)(name)))
        await waiting(len(tasks))
    return tasks


def names():
    return [row[0] for row in query("SELECT name FROM testapp_counter ORDER BY id")]


def write(name):
    with atomic():
        counters().create(name=name)
        greentor.sleep(0)


def write_alone(name):
    counters().create(name=name)


def write_deferred(name):
    """A transaction that wants the lock at its second statement only."""
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO testapp_counter (name, n) VALUES (%s, 0)", [name])
        cursor.execute("COMMIT")


def write_without_autocommit(name):
    transaction.set_autocommit(False, using=ALIAS)
    try:
        counters().create(name=name)
        transaction.commit(using=ALIAS)
    except BaseException:
        transaction.rollback(using=ALIAS)
        raise
    finally:
        transaction.set_autocommit(True, using=ALIAS)


WRITES = [write, write_alone, write_deferred, write_without_autocommit]


# --- order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITES)
def test_fifty_writers_are_served_in_the_order_in_which_they_came(run, big, write):
    wanted = [f"{n:02}" for n in range(50)]

    async def main():
        async with Holder() as holder:
            tasks = await start_in_order(write, wanted)
            holder.go.set()
            await asyncio.gather(*tasks)
        assert await green(names)() == ["holder", *wanted]
        assert sum(map(len, queues())) == 0

    run(main)


def test_a_newcomer_does_not_overtake_though_the_lock_is_free(run, big):
    """Who gives the lock back and asks again at once, as a loop does, is a newcomer."""

    @green
    def greedy(parked):
        for n in range(3):
            with atomic():
                counters().create(name=f"greedy {n}")
                parked.set()
                greentor.sleep(0.02)

    async def main():
        parked = asyncio.Event()
        task = asyncio.create_task(greedy(parked))
        await parked.wait()
        await asyncio.gather(green(write)("patient"), green(write_alone)("alone"), task)
        assert await green(names)() == ["greedy 0", "patient", "alone", "greedy 1", "greedy 2"]

    run(main)


def read_in_a_transaction():
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("BEGIN")
        [[count]] = cursor.execute("SELECT COUNT(*) FROM testapp_counter").fetchall()
        cursor.execute("COMMIT")
    return count


def test_readers_pass_a_queue_of_writers(run, big):
    async def main():
        async with Holder() as holder:
            tasks = await start_in_order(write, "abc")
            assert await green(counters().count)() == 0

            assert await green(read_in_a_transaction)() == 0
            assert sum(map(len, queues())) == 3
            holder.go.set()
            await asyncio.gather(*tasks)

    run(main)


def test_two_databases_do_not_wait_for_each_other(run, lite, no_polling, tmp_path):
    lite()

    async def main():
        async with Holder():
            settings.DATABASES[ALIAS]["NAME"] = str(tmp_path / "second.sqlite3")
            await green(query)("CREATE TABLE t (x)")
            settings.DATABASES[ALIAS]["NAME"] = str(tmp_path / "db.sqlite3")

    run(main)


def test_two_names_of_one_database_share_its_queue(run, lite, no_polling, tmp_path):
    path = lite(timeout=10)

    async def main():
        async with Holder() as holder:
            settings.DATABASES[ALIAS]["NAME"] = f"file:{path}?mode=rw"
            connections.configure_settings(settings.DATABASES)
            [task] = await start_in_order(write, ["other name"])
            holder.go.set()
            await task
        assert await green(names)() == ["holder", "other name"]

    run(main)


# --- turns are taken or passed on -------------------------------------------------------------


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("how", ["cancel", "close", "both"])
def test_a_waiter_that_ends_in_the_moment_of_its_turn_passes_it_on(run, big, how):
    @green
    def hold(parked, waiters):
        with atomic():
            parked.set()
            while len(waiters) < 2:
                greentor.sleep(0.001)
        first = waiters[0]  # has its turn, and has not run yet
        if how != "close":
            first.cancel()
        if how != "cancel":
            first.get_coro().close()

    async def main():
        parked = asyncio.Event()
        waiters = []
        holder = asyncio.create_task(hold(parked, waiters))
        await parked.wait()
        waiters += await start_in_order(write, ["first", "second"])
        await asyncio.wait([holder, *waiters])
        assert holder.exception() is None
        assert waiters[1].exception() is None
        assert await green(names)() == ["second"]

    run(main)


def test_a_waiter_that_is_cancelled_in_the_middle_of_the_queue_leaves_it(run, big):
    async def main():
        async with Holder() as holder:
            tasks = await start_in_order(write, "abcd")
            tasks[1].cancel()
            await waiting(3)
            tasks[0].cancel()
            await waiting(2)
            holder.go.set()
            await asyncio.gather(*tasks[2:])
        assert await green(names)() == ["holder", "c", "d"]

    run(main)


def end_by_exception():
    with suppress(Interrupted), atomic():
        counters().create(name="lost")
        yield
        raise Interrupted


def end_by_close():
    atomic().__enter__()
    counters().create(name="lost")
    yield
    connections[ALIAS].close()


def end_of_scope():
    atomic().__enter__()
    counters().create(name="lost")
    yield


def end_by_sql():
    query("BEGIN IMMEDIATE")
    query("INSERT INTO testapp_counter (name, n) VALUES ('lost', 0)")
    yield
    query("ROLLBACK")


def end_by_sqlite():
    """A statement may end the transaction that it failed in."""
    query("BEGIN IMMEDIATE")
    query("INSERT INTO testapp_counter (id, name, n) VALUES (1, 'lost', 0)")
    yield
    with suppress(Exception):
        query("INSERT OR ROLLBACK INTO testapp_counter (id, name, n) VALUES (1, 'again', 0)")


def end_of_savepoint():
    query("SAVEPOINT outermost")
    query("INSERT INTO testapp_counter (name, n) VALUES ('lost', 0)")
    yield
    query("ROLLBACK TO outermost")
    query("RELEASE outermost")


def end_by_driver():
    atomic().__enter__()
    counters().create(name="lost")
    yield
    connections[ALIAS].connection.rollback()


ENDS = [
    end_by_exception,
    end_by_close,
    end_of_scope,
    end_by_sql,
    end_by_sqlite,
    end_of_savepoint,
    end_by_driver,
]


@pytest.mark.parametrize("end", ENDS)
def test_however_a_transaction_ends_the_first_in_the_queue_is_told(run, big, end):
    @green
    def hold(parked, go):
        for _ in end():
            parked.set()
            greentor.await_(go.wait())

    async def main():
        parked, go = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(hold(parked, go))
        await parked.wait()
        waiters = await start_in_order(write, "ab")
        go.set()
        await asyncio.gather(*waiters, task)
        assert await green(names)() == ["a", "b"]
        assert sum(pool.in_use for pool in current_pools()) == 0

    run(main)


@pytest.mark.parametrize("how", ["cancel", "close", "collect"])
def test_a_holder_that_dies_in_its_transaction_gives_the_lock_back(run, big, how):
    async def hold(parked):
        with atomic():
            counters().create(name="lost")
            parked.set()
            while True:
                await Parked()

    async def main():
        parked = asyncio.Event()
        if how == "cancel":
            holder = asyncio.create_task(green(hold)(parked))
            await parked.wait()
        else:
            holder = green(hold)(parked)
            Context().run(holder.send, None)
        waiters = await start_in_order(write, "ab")
        if how == "cancel":
            holder.cancel()
        elif how == "close":
            holder.close()
        else:
            del holder
            gc.collect()
        await asyncio.gather(*waiters)
        assert await green(names)() == ["a", "b"]

    run(main)


class Parked:
    """Yield to whoever drives the coroutine."""

    def __await__(self):
        yield


def test_whoever_waits_through_an_error_of_its_own_statement_passes_its_turn_on(run, big):
    async def main():
        async with Holder(name="taken") as holder:
            tasks = await start_in_order(write_alone, ["taken", "free"])
            holder.go.set()
            await asyncio.wait(tasks)
        assert tasks[0].exception() is not None
        assert await green(names)() == ["taken", "free"]

    run(main)


@pytest.mark.parametrize("seed", range(5))
def test_no_turn_is_lost_whatever_happens(run, big, seed):
    """Writers of all kinds, cancelled or failing at any moment, with polling switched off."""
    draw = random.Random(seed)

    def fail(name):
        with atomic():
            counters().create(name=f"lost {name}")
            greentor.sleep(0)
            raise Interrupted

    async def main():
        async def one(name):
            await asyncio.sleep(draw.random() * 0.05)
            task = asyncio.create_task(green(draw.choice([*WRITES, fail]))(name))
            if draw.random() < 0.3:
                await asyncio.sleep(draw.random() * 0.02)
                task.cancel()
            await asyncio.wait([task])
            if task.cancelled() or isinstance(task.exception(), Interrupted):
                return None
            await task
            return name

        done = await asyncio.gather(*(one(str(n)) for n in range(60)))
        written = await green(names)()
        assert {name for name in done if name} <= set(written)
        assert not [name for name in written if name.startswith("lost")]
        assert sum(map(len, queues())) == 0
        [pool] = current_pools()
        assert (pool.in_use, pool.waiting) == (0, 0)

    run(main)


# --- who does not tell ------------------------------------------------------------------------


def test_another_process_and_the_queue_share_the_lock(run, lite):
    """It does not tell when it is done; the first in the queue asks, and the others wait for it."""
    path = lite(timeout=20)
    other = sqlite3.connect(path, isolation_level=None, timeout=20, check_same_thread=False)

    def elsewhere():
        for n in range(10):
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO testapp_counter (name, n) VALUES (?, 0)", [f"other {n}"])
            done.wait(0.01)
            other.execute("COMMIT")
            done.wait(0.001)

    done = threading.Event()

    async def main():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        try:
            async with Ticker() as ticker:
                await asyncio.gather(*(green(write)(str(n)) for n in range(20)))
        finally:
            await await_until(lambda: not thread.is_alive(), timeout=30)
        assert ticker.longest < 2
        assert len(await green(names)()) == 30
        assert sum(map(len, queues())) == 0

    run(main)
    other.close()


def test_a_transaction_that_ends_unseen_is_found_out(run, lite):
    """``executescript`` is not looked at; here it is used by one who has waited in the queue."""
    lite(timeout=10)

    @green
    def unseen(parked, done):
        query("BEGIN IMMEDIATE")
        greentor.sleep(0)
        connections[ALIAS].connection.executescript("")  # commits first
        parked.set()
        greentor.await_(done.wait())

    async def main():
        parked, done = asyncio.Event(), asyncio.Event()
        async with Holder() as holder:
            first = asyncio.create_task(unseen(parked, done))
            await waiting(1)
            second = asyncio.create_task(green(write)("second"))
            await waiting(2)
            holder.go.set()
            await parked.wait()
            await second
            done.set()
            await first

    run(main)


def test_two_loops_in_two_threads_share_a_database(lite):
    lite(timeout=30, pool={"pool_size": 20})
    failed = []

    def thread(prefix):
        async def main():
            async with Ticker() as ticker:
                await asyncio.gather(*(green(write)(f"{prefix}{n}") for n in range(20)))
            assert ticker.longest < 2

        try:
            asyncio.run(main())
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=thread, args=[prefix]) for prefix in "ab"]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert failed == []
    assert len(names()) == 40


@pytest.mark.parametrize("how", ["run", "close"])
def test_a_loop_that_ends_with_a_queue_leaves_no_lock(lite, no_polling, how):
    """``asyncio.run`` cancels what is left; a loop that is just closed leaves it to be collected."""
    path = lite(timeout=30)

    def hold():
        with atomic():
            counters().create(name="lost")
            while True:
                greentor.sleep(0)

    async def leave():
        holder = asyncio.create_task(green(hold)())
        await await_until(queues)
        await start_in_order(write, "abc")
        assert not holder.done()

    if how == "run":
        asyncio.run(leave())
    else:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *args: None)  # tasks are destroyed while pending
        loop.run_until_complete(leave())
        loop.close()
        del loop
        gc.collect()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT COUNT(*) FROM testapp_counter").fetchall() == [(0,)]
        other.execute("ROLLBACK")
    asyncio.run(green(write)("next"))
    assert names() == ["next"]
