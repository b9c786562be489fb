"""One connection for a request, its helpers and its child tasks; others for who is not of it."""

import asyncio
import sys
import threading
from contextvars import ContextVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import aauthenticate, alogin, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import SynchronousOnlyOperation
from django.db import IntegrityError, connection, connections, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.http import HttpRequest

import greentor
from greentor import ScopeClosed, green
from greentor.db.pools import current_pools
from tests.testapp.models import Author, Book, Counter
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


def server_id():
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]


def the_pool():
    [pool] = current_pools()
    return pool


@pytest.fixture
def pool_of_one(monkeypatch):
    """With one connection in all, whoever opens a second waits for it in vain."""
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 2})


# --- child tasks ------------------------------------------------------------------------------


def test_gather_within_atomic_sees_the_row_of_the_transaction(run, pool_of_one):
    threads = set()

    @green
    async def request():
        def count():
            threads.add(threading.get_ident())
            return Author.objects.count()

        with transaction.atomic():
            await Author.objects.acreate(name="uncommitted")
            counts = await asyncio.gather(
                Author.objects.acount(), Author.objects.acount(), sync_to_async(count)()
            )
            transaction.set_rollback(True)
        return counts, await Author.objects.acount()

    assert run(request) == ([1, 1, 1], 0)
    assert threads == {threading.get_ident()}


def test_a_task_group_within_atomic_works_on_its_connection(run, pool_of_one):
    @green
    async def request():
        numbers = []

        async def work(n):
            await Author.objects.acreate(name=str(n))
            numbers.append(await sync_to_async(server_id)())
            async for author in Author.objects.filter(name=str(n)):
                author.name += "!"
                await author.asave()

        with transaction.atomic():
            async with asyncio.TaskGroup() as group:
                for n in range(5):
                    group.create_task(work(n))
            assert set(numbers) == {server_id()}
            names = sorted(author.name for author in Author.objects.all())
            transaction.set_rollback(True)
        return names, Author.objects.count()

    assert run(request) == (["0!", "1!", "2!", "3!", "4!"], 0)


def test_the_row_of_a_child_task_rolls_back_with_the_transaction(run, pool_of_one):
    @green
    async def request():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            task = asyncio.create_task(Author.objects.acreate(name="child"))
            await task
            assert Author.objects.count() == 1
            raise ZeroDivisionError
        return Author.objects.count()

    assert run(request) == 0


def test_a_child_task_that_was_not_awaited_works_between_the_statements_of_its_owner(run):
    """The owner's statements wait while the child's runs; nobody's is lost."""

    @green
    async def request():
        with transaction.atomic():
            task = asyncio.create_task(Author.objects.acreate(name="child"))
            for n in range(20):
                Author.objects.create(name=f"owner {n}")
                await asyncio.sleep(0)
            await task
        return Author.objects.count()

    assert run(request) == 21


def test_a_task_that_outlives_its_request_is_refused_by_name(run):
    async def main():
        ended = asyncio.Event()

        async def leftover():
            await ended.wait()
            await Author.objects.acreate(name="too late")

        @green
        async def my_request():
            with transaction.atomic():
                Author.objects.create(name="in time")
                return asyncio.create_task(leftover())

        task = await my_request()
        ended.set()
        with pytest.raises(ScopeClosed, match=r"my_request.* has ended.*greentor\.spawn"):
            await task
        assert await green(Author.objects.count)() == 1
        assert the_pool().in_use == 0

    run(main)


def test_spawn_within_atomic_has_a_connection_of_its_own(run):
    @green
    async def request():
        with transaction.atomic():
            Author.objects.create(name="rolled back")
            numbers = {server_id(), await greentor.spawn(server_id)}
            await greentor.spawn(Author.objects.create, name="kept")
            transaction.set_rollback(True)
        return len(numbers), [author.name for author in Author.objects.all()]

    assert run(request) == (2, ["kept"])


def test_spawned_work_releases_its_connection_however_it_ends(run):
    async def main():
        async def hang():
            Author.objects.count()
            await asyncio.get_running_loop().create_future()

        def fail():
            Author.objects.count()
            raise ZeroDivisionError

        def time_out():
            with greentor.timeout(0.01), connection.cursor() as cursor:
                cursor.execute("SELECT SLEEP(0.1)")

        for _ in range(10):
            tasks = [greentor.spawn(fn) for fn in (hang, fail, time_out, server_id)]
            done, pending = await asyncio.wait(tasks[1:])
            assert not pending
            assert sum(task.exception() is not None for task in done) == 2
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
        pool = the_pool()
        await await_until(lambda: (pool.in_use, pool.waiting) == (0, 0))  # with what kills queries

    run(main)


# --- signals, login ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["save", "asave", "send", "asend"])
def test_async_receivers_run_on_the_connection_of_the_sender(run, pool_of_one, how):
    seen = []

    async def receiver(sender, instance, **kwargs):
        seen.append(await Author.objects.filter(pk=instance.pk).acount())
        seen.append(await sync_to_async(server_id)())

    signal = post_save if "save" in how else Signal()

    @green
    async def request():
        signal.connect(receiver)
        try:
            with transaction.atomic():
                author = Author(name="x")
                if how == "asave":
                    await author.asave()
                else:
                    author.save()
                if how == "send":
                    signal.send(sender=Author, instance=author)
                elif how == "asend":
                    await signal.asend(sender=Author, instance=author)
                number = server_id()
                transaction.set_rollback(True)
        finally:
            signal.disconnect(receiver)
        assert seen == [1, number]
        return Author.objects.count()

    assert run(request) == 0


def test_alogin_under_select_for_update_does_not_wait_for_itself(run, pool_of_one):
    """`Signal.asend` gathers: `update_last_login` saved the locked row on a second connection."""
    User = get_user_model()

    @green
    async def request():
        await User.objects.acreate_user("ann", password="secret")
        http = HttpRequest()
        http.session = SessionStore()
        with transaction.atomic():
            await User.objects.select_for_update().aget(username="ann")
            user = await aauthenticate(http, username="ann", password="secret")
            assert await aauthenticate(http, username="ann", password="wrong") is None
            await alogin(http, user)
            await http.session.asave()
            number = server_id()
        user = await User.objects.aget(username="ann")
        assert user.last_login is not None
        assert await SessionStore(http.session.session_key).aget("_auth_user_id") == str(user.pk)
        assert server_id() == number

    run(request)


# --- nesting ----------------------------------------------------------------------------------


def test_nested_green_is_on_the_connection_of_its_caller(run, pool_of_one):
    @green
    def inner():
        return server_id(), Author.objects.count()

    @green
    async def request():
        with transaction.atomic():
            Author.objects.create(name="uncommitted")
            assert await inner() == (server_id(), 1)
            assert await asyncio.create_task(inner()) == (server_id(), 1)
            assert greentor.await_(inner()) == (server_id(), 1)
            assert async_to_sync(inner)() == (server_id(), 1)

    run(request)


def test_as_many_requests_as_connections_with_nested_green_do_not_deadlock(run, monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 8, "max_overflow": 0, "pool_timeout": 5})

    @green
    async def inner(n):
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(0.01), %s", [n])
            return cursor.fetchone()[1]

    async def main():
        gate = asyncio.Barrier(8)

        @green
        async def request(n):
            with transaction.atomic():
                Counter.objects.filter(name=str(n)).exists()  # has its connection now
                await gate.wait()
                assert await inner(n) == n
                assert await asyncio.gather(inner(n), inner(-n)) == [n, -n]

        await asyncio.gather(*(request(n) for n in range(8)))
        assert (the_pool().in_use, the_pool().idle) == (0, 8)

    run(main)


def test_an_error_in_a_child_task_breaks_the_transaction_it_ran_in(run):
    @green
    async def request():
        author = await Author.objects.acreate(name="x")
        await Book.objects.acreate(name="one", author=author)
        with pytest.raises(IntegrityError), transaction.atomic():
            await Book.objects.acreate(name="two", author=author)
            await asyncio.create_task(Book.objects.acreate(name="one", author=author))
        return [book.name async for book in Book.objects.all()]

    assert run(request) == ["one"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
def test_eager_tasks_of_a_request_are_on_its_connection(run, pool_of_one):
    async def main():
        # Not `asyncio.eager_task_factory`, which uvloop 0.23 on 3.13.0 calls wrongly.
        def factory(loop, coro, *, name=None, context=None, **kwargs):
            return asyncio.Task(coro, loop=loop, name=name, context=context, eager_start=True)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)

        @green
        async def request():
            with transaction.atomic():
                Author.objects.create(name="uncommitted")
                tasks = [asyncio.create_task(Author.objects.acount()) for _ in range(3)]
                tasks.append(asyncio.create_task(green(Author.objects.count)()))
                tasks.append(asyncio.create_task(sync_to_async(server_id)()))
                *counts, number = await asyncio.gather(*tasks)
                assert (counts, number) == ([1, 1, 1, 1], server_id())
                transaction.set_rollback(True)

            async def plain():
                return Author.objects.count()

            with pytest.raises(SynchronousOnlyOperation):
                await asyncio.create_task(plain())
            return Author.objects.count()

        try:
            return await request()
        finally:
            loop.set_task_factory(None)

    assert run(main) == 0


# --- context and locals -----------------------------------------------------------------------


def test_context_variables_of_the_task_are_those_of_its_queries(run):
    variable = ContextVar("variable", default=None)
    seen = []

    def observe(execute, sql, params, many, context):
        seen.append(variable.get())
        return execute(sql, params, many, context)

    @green
    async def request(value):
        token = variable.set(value)
        with connection.execute_wrapper(observe):
            Author.objects.count()
            await asyncio.sleep(0)
            Author.objects.count()
            await Author.objects.acount()
        variable.reset(token)
        return variable.get()

    async def main():
        await green(server_id)()  # opening a connection sends statements, too
        for value in range(3):
            assert await asyncio.create_task(request(value)) is None
        assert variable.get() is None

    run(main)
    assert seen == [n for n in range(3) for _ in range(3)]


def test_execute_wrappers_hold_for_their_own_request_alone(run):
    async def main():
        installed = asyncio.Event()
        done = asyncio.Event()
        seen = []

        def observe(execute, sql, params, many, context):
            seen.append(sql)
            return execute(sql, params, many, context)

        @green
        async def observed():
            with connection.execute_wrapper(observe):
                installed.set()
                await done.wait()

        @green
        async def other():
            await installed.wait()
            Author.objects.count()
            done.set()

        await asyncio.gather(observed(), other())
        assert seen == []

    run(main)


def test_the_connections_of_the_thread_are_not_those_of_its_greenlets(run, mariadb):
    before = connections["default"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        number = cursor.fetchone()[0]

    @green
    def request():
        assert connections["default"] is not before
        assert server_id() != number

    run(request)
    assert connections["default"] is before
    assert server_id() == number
    connections.close_all()


def test_the_thread_count_is_constant_and_the_connections_bounded(run, mariadb):
    @green
    async def request():
        with transaction.atomic():
            await asyncio.gather(*(Author.objects.acount() for _ in range(3)))
            await Author.objects.acreate(name="x")
        async for _ in Author.objects.all()[:2]:
            pass

    async def main():
        await request()
        before = threading.active_count()
        await asyncio.gather(*(request() for _ in range(100)))
        assert threading.active_count() <= before
        await await_until(lambda: len(mariadb.processlist()) == the_pool().idle <= 8)

    connections.close_all()
    run(main)
