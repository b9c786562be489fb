"""Where greenlets stand: what they wait for, on which line, with which query."""

import asyncio
import threading

import pytest
from django.db import connection, transaction

import greentor
from greentor import stacks
from greentor.db.session import SessionState
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


async def locate(task, waits_for, sql=""):
    """Return where the greenlet of ``task`` stands, once it waits for this, for such a query."""
    loop = asyncio.get_running_loop()

    def found():
        for its, g in stacks.greenlets(loop):
            position = stacks.locate(g)
            if its is task and position.waits_for == waits_for and sql in (position.sql or ""):
                return position
        return None

    position = await await_until(found)
    return position


async def end(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def my_query(seconds):
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s), 'hunter2'", [seconds])  # here


def test_a_query_is_named_without_its_parameters(run):
    def outer():
        my_query(7.25)

    async def main():
        task = greentor.spawn(outer)
        position = await locate(task, "the database", "SLEEP")
        await end(task)
        return position

    position = run(main)
    assert position.sql == "SELECT SLEEP(%s), '…'"
    outermost, innermost = position.stack
    assert outermost.function.endswith("outer")
    assert innermost.function == "my_query"
    assert innermost.source.endswith("# here")
    assert innermost.path.endswith("tests/test_stacks.py")


def test_a_statement_that_its_session_looks_at_is_not_shown_in_the_wrong_dialect(run):
    # Of a session it is not known how strings are written; its cursor, further up, has it masked.
    def outer():
        SessionState().execute(None, 'SELECT "hunter2"', None, lambda: greentor.sleep(60))

    async def main():
        task = greentor.spawn(outer)
        position = await locate(task, "a sleep")
        await end(task)
        return position

    assert run(main).sql is None


def test_a_query_in_async_code_is_found(run):
    async def inner():
        return await Author.objects.filter(name="hunter2").afirst()

    async def outer():
        async with asyncio.timeout(60):
            with transaction.atomic():
                Author.objects.create(name="hunter2")
                await greentor.spawn(my_query, 0)
                return await inner()

    async def main():
        with_lock = greentor.spawn(hold_lock)
        await locate(with_lock, "a sleep")
        task = greentor.spawn(outer)
        position = await locate(task, "the database", "INSERT")
        await end(task, with_lock)
        return position

    def hold_lock():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLES testapp_author WRITE")
            greentor.sleep(60)

    position = run(main)
    assert position.sql.startswith("INSERT INTO `testapp_author`")
    assert "hunter2" not in str(position.sql)
    assert [line.function.rpartition(".")[2] for line in position.stack] == ["outer"]


def test_a_sleep_deep_in_coroutines_is_found(run):
    async def inner():
        await asyncio.sleep(60)  # here

    async def outer():
        await inner()

    async def main():
        task = greentor.spawn(outer)
        position = await locate(task, "a sleep")
        await end(task)
        return position

    position = run(main)
    assert position.sql is None
    assert [line.function.rpartition(".")[2] for line in position.stack] == ["outer", "inner"]
    assert position.stack[-1].source.endswith("# here")


def test_a_worker_thread_and_a_future_are_told(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def on_future():
            await future

        over = threading.Event()

        def in_thread():
            greentor.thread(lambda: asyncio.run(asyncio.to_thread(over.wait, 30)))

        first, second = greentor.spawn(in_thread), greentor.spawn(on_future)
        await locate(first, "a worker thread")
        position = await locate(second, "a future")
        over.set()
        future.set_result(None)
        await asyncio.gather(first, second)
        return position

    assert run(main).stack[-1].source == "await future"


def test_a_queue_for_the_pool_is_told(run, monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 9})

    async def main():
        first = greentor.spawn(my_query, 9)
        await locate(first, "the database")
        second = greentor.spawn(my_query, 9)
        position = await locate(second, "a connection from the pool 'default'")
        await end(second, first)
        return position

    position = run(main)
    assert position.sql is None
    assert position.stack[-1].function == "my_query"


def test_a_greenlet_that_runs_waits_for_nothing(run):
    @greentor.green
    def look():
        loop = asyncio.get_running_loop()
        [(_, g)] = stacks.greenlets(loop)
        return stacks.locate(g)

    position = run(look)
    assert position.waits_for == "nothing: it runs"


def test_looking_keeps_nothing_alive_and_disturbs_nobody(run):
    async def main():
        loop = asyncio.get_running_loop()
        tasks = [greentor.spawn(my_query, 0.05) for _ in range(8)]
        looked, g = 0, None
        while not all(task.done() for task in tasks):
            for _, g in stacks.greenlets(loop):
                stacks.locate(g)
                looked += 1
            g = None
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert not list(stacks.greenlets(loop))
        return looked

    assert run(main) > 8


class Endless:
    """An awaitable that has every attribute, and an end to none."""

    def __getattr__(self, name):
        return Endless()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return None


def test_an_awaitable_of_somebody_else_is_not_asked(run):
    async def main():
        async def waits():
            await Endless()

        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        assert not list(stacks.greenlets(asyncio.get_running_loop()))
        await end(task)

    run(main)
