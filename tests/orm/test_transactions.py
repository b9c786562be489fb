"""Transactions in greenlets: blocks, savepoints and hooks, around awaits and across helper tasks."""

import asyncio
import logging

import pytest
from asgiref.sync import sync_to_async
from django.db import (
    Error,
    IntegrityError,
    connection,
    connections,
    transaction,
)
from django.db.transaction import TransactionManagementError

import greentor
from greentor import green, spawn
from greentor.web import BaseRequestHandler
from tests.orm.support import executing, kill, parked, server_id, the_pool
from tests.test_web import serving
from tests.testapp.models import Author, Tag

#: renamed in Django 6.1
savepoint = getattr(transaction, "savepoint_create", transaction.savepoint)

pytestmark = pytest.mark.usefixtures("clean_tables", "pool_of_one")


def add(name):
    return Author.objects.create(name=name)


def names(using="default"):
    return sorted(Author.objects.using(using).values_list("name", flat=True))


# --- blocks -----------------------------------------------------------------------------------


def test_savepoints_roll_back_what_is_theirs_at_every_depth(run):
    @green
    def request():
        with transaction.atomic():
            add("outer")
            for name in ("kept", "lost", "kept too"):
                try:
                    with transaction.atomic():
                        add(name)
                        with transaction.atomic():
                            add(f"{name}, deeper")
                        if name == "lost":
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    assert "lost, deeper" not in names()
        return names()

    assert run(request) == ["kept", "kept too", "kept too, deeper", "kept, deeper", "outer"]


def test_savepoints_by_hand(run):
    @green
    def request():
        with transaction.atomic():
            with parked(1):
                sid = savepoint()
            add("lost")
            with parked(1):
                transaction.savepoint_rollback(sid)
            sid = savepoint()
            add("kept")
            transaction.savepoint_commit(sid)
            transaction.clean_savepoints()
        return names()

    assert run(request) == ["kept"]


def test_without_a_savepoint_an_error_inside_dooms_the_block_outside(run):
    @green
    def request():
        Tag.objects.create(word="one")
        with pytest.raises(TransactionManagementError), transaction.atomic():
            with pytest.raises(IntegrityError), transaction.atomic(savepoint=False):
                Tag.objects.create(word="one")
            assert transaction.get_rollback()
            Tag.objects.create(word="two")
        return Tag.objects.count()

    assert run(request) == 1


def test_set_rollback_forgives_an_error_that_was_seen_to(run):
    @green
    def request():
        with transaction.atomic():
            sid = savepoint()
            with pytest.raises(ZeroDivisionError), transaction.atomic(savepoint=False):
                add("lost")
                raise ZeroDivisionError
            transaction.set_rollback(False)
            transaction.savepoint_rollback(sid)
            add("kept")
        return names()

    assert run(request) == ["kept"]


def test_atomic_as_a_decorator_of_sync_functions(run):
    @transaction.atomic
    def work(fail):
        assert connection.in_atomic_block
        add("work")
        if fail:
            raise ZeroDivisionError

    @transaction.atomic(durable=True)
    def durable():
        work(fail=False)

    async def main():
        with pytest.raises(ZeroDivisionError):
            await green(work)(fail=True)
        assert await green(names)() == []
        await green(durable)()
        assert await green(names)() == ["work"]
        with pytest.raises(RuntimeError, match="durable"):
            await green(transaction.atomic(durable))()

    run(main)


def test_atomic_as_a_decorator_of_an_async_function_covers_nothing_as_in_django(run):
    """The block has ended before the coroutine is awaited: write ``with`` inside."""

    @transaction.atomic
    async def work():
        assert not connection.in_atomic_block
        await Author.objects.acreate(name="committed")
        raise ZeroDivisionError

    async def main():
        with pytest.raises(ZeroDivisionError):
            await green(work)()
        assert await green(names)() == ["committed"]

    run(main)


def test_autocommit_switched_off_is_a_transaction_until_commit(run):
    @green
    def request():
        transaction.set_autocommit(False)
        add("lost")
        transaction.rollback()
        add("kept")
        transaction.commit()
        transaction.set_autocommit(True)
        return names()

    assert run(request) == ["kept"]


# --- around awaits ----------------------------------------------------------------------------


def test_a_block_around_awaits_is_of_its_own_request_alone(run, pool_options):
    """While one is parked within its block, those of others commit and roll back."""
    pool_options(pool_size=6, max_overflow=0)

    class Block(BaseRequestHandler):
        async def get(self):
            n = int(self.get_argument("n"))
            try:
                with transaction.atomic():
                    add(f"outer {n}")
                    await asyncio.sleep(0)
                    assert names() == [f"outer {n}"]
                    await barrier.wait()
                    with transaction.atomic():
                        await Author.objects.acreate(name=f"inner {n}")
                        await asyncio.sleep(0)
                    if n % 2:
                        raise ZeroDivisionError
                    await barrier_of_even.wait()
            except ZeroDivisionError:
                pass
            assert not connection.in_atomic_block

    async def main():
        nonlocal barrier, barrier_of_even
        barrier, barrier_of_even = asyncio.Barrier(6), asyncio.Barrier(3)
        async with serving(Block) as served:
            await asyncio.gather(*(served.get(f"/?n={n}") for n in range(6)))
        expected = [f"{part} {n}" for part in ("inner", "outer") for n in (0, 2, 4)]
        assert await green(names)() == expected

    barrier = barrier_of_even = None
    run(main)


def test_a_transaction_of_another_alias_is_another(run):
    @green
    async def request():
        with transaction.atomic(), transaction.atomic(using="other"):
            add("default")
            await Author.objects.using("other").acreate(name="other")
            transaction.set_rollback(True, using="other")
            assert (the_pool().in_use, the_pool("other").in_use) == (1, 1)
        return names(), names("other")

    assert run(request) == (["default"], [])


def test_an_error_in_a_nested_block_of_a_helper_leaves_the_block_of_its_owner_whole(run):
    def helper():
        with transaction.atomic():
            Tag.objects.create(word="one")
            Tag.objects.create(word="one")

    @green
    async def request():
        with transaction.atomic():
            add("owner")
            task = asyncio.create_task(sync_to_async(helper)())
            with pytest.raises(IntegrityError):
                await task
            assert connection.savepoint_ids == []
            add("after")
        return names(), Tag.objects.count()

    assert run(request) == (["after", "owner"], 0)


def test_cancelled_in_a_savepoint_the_whole_is_rolled_back(run, mariadb):
    @green
    def request():
        with transaction.atomic():
            transaction.on_commit(lambda: add("by a hook"))
            add("outer")
            with transaction.atomic(), connection.cursor() as cursor:
                add("inner")
                cursor.execute("SELECT SLEEP(30) /* in a savepoint */")

    async def main():
        task = asyncio.create_task(request())
        await executing(mariadb, "in a savepoint")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kill(mariadb, "in a savepoint")
        assert await green(names)() == []

    run(main)


def test_a_timeout_within_a_savepoint_is_an_error_that_ends_the_transaction(run, mariadb):
    """Its connection is gone: what follows in the block may not run on another one."""

    @green
    def request():
        with pytest.raises(Error), transaction.atomic():
            add("outer")
            cursor = connection.cursor()
            with pytest.raises(TimeoutError), transaction.atomic(), greentor.timeout(0.05):
                cursor.execute("SELECT SLEEP(30) /* too long */")
            add("after")
        return names()

    try:
        assert run(request) == []
    finally:
        kill(mariadb, "too long")


# --- on_commit --------------------------------------------------------------------------------


def test_on_commit_hooks_run_in_order_after_the_commit_and_not_after_a_rollback(run):
    seen = []

    def hook(name):
        transaction.on_commit(lambda: seen.append((name, connection.in_atomic_block, names())))

    @green
    def request():
        with transaction.atomic():
            hook("first")
            add("a")
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                hook("of a savepoint rolled back")
                raise ZeroDivisionError
            with transaction.atomic():
                hook("second")
            hook("third")
            assert seen == []
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            hook("of a transaction rolled back")
            raise ZeroDivisionError
        hook("at once")

    run(request)
    assert seen == [(name, False, ["a"]) for name in ("first", "second", "third", "at once")]


def test_a_robust_hook_that_fails_is_logged_and_the_next_one_runs(run, caplog):
    seen = []

    def fail():
        add("of the hook")  # its own transaction by now
        raise ZeroDivisionError

    @green
    def request(robust):
        with transaction.atomic():
            transaction.on_commit(fail, robust=robust)
            transaction.on_commit(lambda: seen.append(robust))
            add("kept")

    async def main():
        with caplog.at_level(logging.ERROR, "django.db"):
            await request(True)
        assert seen == [True]
        assert "Error calling" in caplog.text
        with pytest.raises(ZeroDivisionError):
            await request(False)
        assert seen == [True]
        assert await green(names)() == ["kept", "kept", "of the hook", "of the hook"]

    run(main)


def test_a_hook_registered_by_a_helper_task_runs_with_the_commit_of_its_owner(run):
    seen = []

    async def child(name):
        await Author.objects.acreate(name=name)
        await sync_to_async(transaction.on_commit)(lambda: seen.append((name, server_id())))

    @green
    async def request():
        with transaction.atomic():
            await asyncio.gather(child("a"), child("b"))
            assert seen == []
            number = server_id()
        return number

    number = run(request)
    assert sorted(seen) == [("a", number), ("b", number)]


def test_a_hook_may_start_work_that_sees_what_was_committed(run, pool_options):
    pool_options(pool_size=2, max_overflow=0, pool_timeout=2)
    tasks = []

    @green
    def request():
        with transaction.atomic():
            add("a")
            transaction.on_commit(lambda: tasks.append(spawn(names)))

    async def main():
        await request()
        assert await tasks[0] == ["a"]

    run(main)


def test_a_hook_that_queries_while_cancelled_after_the_commit_leaves_the_commit(run, mariadb):
    def slow():
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT SLEEP(30) /* hook */")

    @green
    def request():
        with transaction.atomic():
            add("committed")
            transaction.on_commit(slow)

    async def main():
        task = asyncio.create_task(request())
        await executing(mariadb, "/* hook */")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kill(mariadb, "/* hook */")
        assert await green(names)() == ["committed"]

    run(main)
