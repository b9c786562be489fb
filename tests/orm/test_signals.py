"""Signals and what watches queries: in the greenlet that sends, for its own request alone."""

import asyncio
from collections.abc import Callable
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import connection, reset_queries, transaction
from django.db.models import signals
from django.dispatch import Signal
from django.test import TransactionTestCase
from django.test.utils import CaptureQueriesContext
from greenlet import getcurrent

from greentor import green, spawn
from greentor.web import BaseRequestHandler
from tests.orm.support import parked, returned, server_id
from tests.test_web import serving
from tests.testapp.models import Author, Book, Shelf, Tag, Volume

pytestmark = pytest.mark.usefixtures("clean_tables", "pool_of_one")


@contextmanager
def connected(signal: Signal, receiver: Callable, **kwargs):
    signal.connect(receiver, weak=False, **kwargs)
    try:
        yield
    finally:
        signal.disconnect(receiver, sender=kwargs.get("sender"))


# --- model signals ----------------------------------------------------------------------------


def test_receivers_of_model_signals_query_in_the_greenlet_and_transaction_of_the_sender(run):
    seen = []

    def receiver(sender, instance, signal, **kwargs):
        seen.append((getcurrent(), server_id(), Author.objects.count()))

    names = ["pre_save", "post_save", "pre_delete", "post_delete"]

    @green
    def request():
        with transaction.atomic():
            Author.objects.create(name="there")
            for name in names:
                getattr(signals, name).connect(receiver, sender=Author)
            try:
                author = Author.objects.create(name="new")
                author.delete()
            finally:
                for name in names:
                    getattr(signals, name).disconnect(receiver, sender=Author)
            number = server_id()
            transaction.set_rollback(True)
        assert {g for g, _, _ in seen} == {getcurrent()}
        assert {n for _, n, _ in seen} == {number}
        return [count for _, _, count in seen]

    assert run(request) == [1, 2, 2, 1]


def test_m2m_changed_is_sent_for_each_change_with_queries_in_its_receivers(run):
    seen = []

    def receiver(sender, instance, action, pk_set, **kwargs):
        seen.append((action, instance.tags.count()))

    @green
    def request():
        volume = Volume.objects.create(title="v")
        tags = [Tag.objects.create(word=word) for word in "ab"]
        with connected(signals.m2m_changed, receiver, sender=Volume.tags.through), parked():
            volume.tags.add(*tags)
            volume.tags.remove(tags[0])
            volume.tags.clear()

    run(request)
    assert seen == [
        ("pre_add", 0),
        ("post_add", 2),
        ("pre_remove", 2),
        ("post_remove", 1),
        ("pre_clear", 1),
        ("post_clear", 0),
    ]


@pytest.mark.parametrize("how", ["add", "aadd"])
def test_async_receivers_of_m2m_changed_see_the_transaction(run, how):
    seen = []

    async def receiver(sender, instance, action, **kwargs):
        seen.append((action, await instance.tags.acount()))

    @green
    async def request():
        volume = await Volume.objects.acreate(title="v")
        tag = await Tag.objects.acreate(word="a")
        receiving = connected(signals.m2m_changed, receiver, sender=Volume.tags.through)
        with receiving, transaction.atomic():
            if how == "add":
                volume.tags.add(tag)
            else:
                await volume.tags.aadd(tag)
            transaction.set_rollback(True)
        return await volume.tags.acount()

    assert run(request) == 0
    assert seen == [("pre_add", 0), ("post_add", 1)]


def test_an_error_in_a_receiver_rolls_the_sender_back(run):
    def fail(**kwargs):
        Book.objects.create(name="of the receiver", author=kwargs["instance"])
        raise ZeroDivisionError

    @green
    def request():
        receiving = connected(signals.post_save, fail, sender=Author)
        with receiving, pytest.raises(ZeroDivisionError), transaction.atomic():
            Author.objects.create(name="lost")
        return Author.objects.count(), Book.objects.count()

    assert run(request) == (0, 0)


@pytest.mark.parametrize("how", ["send", "send_robust", "asend", "asend_robust"])
def test_sync_and_async_receivers_of_one_signal_all_run_on_one_connection(run, how):
    signal = Signal()

    def sync(**kwargs):
        return Author.objects.count()

    async def first(**kwargs):
        await asyncio.sleep(0)
        return await Author.objects.acount()

    async def second(**kwargs):
        return [author.name async for author in Author.objects.all()]

    async def failing(**kwargs):
        await Author.objects.aget(name="nobody")

    for receiver in (sync, first, second) + ((failing,) if "robust" in how else ()):
        signal.connect(receiver)

    @green
    async def request():
        with transaction.atomic():
            Author.objects.create(name="uncommitted")
            with parked():
                answers = getattr(signal, how)(sender=None)
                if how.startswith("a"):
                    answers = await answers
            transaction.set_rollback(True)
        return dict(answers)

    answers = run(request)
    assert isinstance(answers.pop(failing, Author.DoesNotExist()), Author.DoesNotExist)
    assert answers == {sync: 1, first: 1, second: ["uncommitted"]}


def test_a_receiver_that_is_cancelled_with_its_request_leaves_nothing(run):
    async def main():
        inside = asyncio.Event()

        async def receiver(**kwargs):
            await Author.objects.acount()
            inside.set()
            await asyncio.sleep(3600)

        async def request():
            with transaction.atomic():
                await Author.objects.acreate(name="lost")

        with connected(signals.post_save, receiver, sender=Author):
            task = spawn(request)
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await returned()
        assert await green(Author.objects.count)() == 0

    run(main)


# --- what watches queries ---------------------------------------------------------------------


def test_queries_are_counted_for_the_greenlet_that_counts_alone(run, pool_options):
    pool_options(pool_size=2, max_overflow=0, pool_timeout=2)

    async def main():
        both = asyncio.Barrier(2)

        async def request(number):
            server_id()
            await both.wait()
            with CaptureQueriesContext(connection) as captured:
                for _ in range(number):
                    await Author.objects.acount()
                await both.wait()
            assert len(captured) == number
            assert all("testapp_author" in query["sql"] for query in captured)

        await asyncio.gather(spawn(request, 3), spawn(request, 5))

    run(main)


def test_assert_num_queries_counts_those_of_helper_tasks(run):
    class Case(TransactionTestCase):
        databases = "__all__"

    case = Case()

    @green
    async def request():
        with case.assertNumQueries(3):
            Author.objects.count()
            await asyncio.gather(Author.objects.acount(), Shelf.objects.acount())
        wrong = pytest.raises(AssertionError, match="2 queries executed, 1 expected")
        with wrong, case.assertNumQueries(1):
            Author.objects.count()
            await Author.objects.acount()

    run(request)


def test_an_execute_wrapper_may_query_itself_and_refuse(run):
    @green
    async def request():
        seen = []

        def wrapper(execute, sql, params, many, context):
            if sql.startswith("DELETE"):
                raise PermissionError
            if not seen:
                seen.append(sql)
                seen.append(Author.objects.count())  # a statement before the statement
            return execute(sql, params, many, context)

        with connection.execute_wrapper(wrapper):
            await Author.objects.acreate(name="a")
            with pytest.raises(PermissionError):
                Author.objects.all().delete()
        Author.objects.all().delete()
        return seen[1]

    assert run(request) == 0


def test_under_debug_each_request_logs_its_own_queries(run, pool_options, monkeypatch):
    monkeypatch.setattr(settings, "DEBUG", True)
    pool_options(pool_size=4, max_overflow=0, pool_timeout=2)

    class Logged(BaseRequestHandler):
        async def get(self):
            n = int(self.get_argument("n"))
            for _ in range(n):
                await Author.objects.filter(name=f"of {n}").aexists()
                await asyncio.sleep(0)
            logged = [query["sql"] for query in connection.queries]
            mine = [sql for sql in logged if f"of {n}" in sql]
            others = [sql for sql in logged if "of " in sql and sql not in mine]
            assert (len(mine), others) == (n, [])
            reset_queries()
            assert connection.queries == []

    async def main():
        async with serving(Logged) as served:
            for _ in range(3):
                await asyncio.gather(*(served.get(f"/?n={n}") for n in range(1, 5)))

    run(main)
