"""Greenlets that want the same row: one waits parked, each error reaches the right one."""

import asyncio

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import F

from greentor import green, spawn
from tests.orm.support import Turns, executing, kill, returned, server_id, the_pool
from tests.testapp.models import Author, Counter

pytestmark = pytest.mark.usefixtures("clean_tables")

LOCKED = "FOR UPDATE"


@pytest.fixture(autouse=True)
def _rows(clean_tables):
    Counter.objects.bulk_create(Counter(name=name) for name in "abc")
    connection.close()


class Holder:
    """Another request, which holds the lock on some rows until it is told to end."""

    def __init__(self, *names):
        self.names = names
        self.has = asyncio.Event()
        self.end = asyncio.Event()

    async def __aenter__(self):
        self.task = spawn(self.work)
        await self.has.wait()
        return self

    async def __aexit__(self, *exc_info):
        self.end.set()
        await self.task

    async def work(self):
        with transaction.atomic():
            list(Counter.objects.select_for_update().filter(name__in=self.names))
            self.has.set()
            await self.end.wait()


async def at_once(fn, times):
    """Run `fn(number)` in so many requests that begin together, each on its own connection."""
    barrier = asyncio.Barrier(times)

    async def request(number):
        server_id()
        await barrier.wait()
        return fn(number)

    return await asyncio.gather(*(spawn(request, n) for n in range(times)), return_exceptions=True)


# --- racing for a unique key ------------------------------------------------------------------


def test_get_or_create_of_racing_greenlets_creates_one(run):
    def work(number):
        return Counter.objects.get_or_create(name="new", defaults={"n": number})

    async def main():
        results = await at_once(work, 8)
        assert [created for _, created in results].count(True) == 1
        assert len({counter.pk for counter, _ in results}) == 1

    run(main)


def test_update_or_create_of_racing_greenlets_creates_one_and_updates_it_each_time(run):
    def work(number):
        return Counter.objects.update_or_create(
            name="new", defaults={"n": F("n") + 1}, create_defaults={"n": 1}
        )[1]

    async def main():
        results = await at_once(work, 6)
        # InnoDB may find two of them waiting for each other's gap: 1213 is then what Django says, too.
        lost = [r for r in results if isinstance(r, OperationalError)]
        assert all(error.args[0] == 1213 for error in lost)
        assert results.count(True) == 1
        counter = await green(Counter.objects.get)(name="new")
        assert counter.n == 6 - len(lost)

    run(main)


def test_f_expressions_of_many_greenlets_lose_no_increment(run):
    def work(number):
        for _ in range(10):
            Counter.objects.filter(name="a").update(n=F("n") + 1)

    async def main():
        assert await at_once(work, 8) == [None] * 8
        assert (await green(Counter.objects.get)(name="a")).n == 80

    run(main)


# --- select_for_update ------------------------------------------------------------------------


def test_the_wait_for_a_row_lock_parks_and_others_go_on(run, mariadb):
    async def main():
        order = []

        def wait():
            with transaction.atomic():
                Counter.objects.select_for_update().get(name="a")
                order.append("locked")

        async with Holder("a") as holder:
            waiting = spawn(wait)
            await executing(mariadb, LOCKED)
            with Turns() as turns:
                for _ in range(20):
                    assert await spawn(Counter.objects.count) == 3
            assert turns.count > 20
            assert not waiting.done()
            order.append("released")
            holder.end.set()
            await waiting
        assert order == ["released", "locked"]

    run(main)


def test_nowait_and_skip_locked_do_not_wait(run):
    async def main():
        @green
        def request():
            with transaction.atomic():
                # The error of a single statement does not end the server's transaction.
                with pytest.raises(OperationalError) as caught, transaction.atomic():
                    Counter.objects.select_for_update(nowait=True).get(name="a")
                assert caught.value.args[0] in (1205, 3572)
                free = Counter.objects.select_for_update(skip_locked=True).order_by("name")
                assert [counter.name for counter in free] == ["b", "c"]
                Counter.objects.filter(pk__in=[counter.pk for counter in free]).update(n=5)
            return Counter.objects.filter(n=5).count()

        async with Holder("a"):
            assert await request() == 2

    run(main)


def test_a_lock_wait_timeout_is_an_error_of_its_own_greenlet_alone(run):
    async def main():
        @green
        def request():
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
            number = server_id()
            try:
                with pytest.raises(OperationalError, match="1205"), transaction.atomic():
                    Author.objects.create(name="rolled back")
                    Counter.objects.filter(name="a").update(n=1)
                assert (server_id(), Author.objects.count()) == (number, 0)
            finally:
                with connection.cursor() as cursor:
                    cursor.execute("SET SESSION innodb_lock_wait_timeout = DEFAULT")

        async with Holder("a"):
            await request()

    run(main)


def test_cancelled_in_a_lock_wait_it_is_gone_and_the_holder_is_not_disturbed(run, mariadb):
    async def main():
        def wait():
            with transaction.atomic():
                Author.objects.create(name="rolled back")
                Counter.objects.select_for_update().get(name="a")

        async with Holder("a"):
            task = spawn(wait)
            await executing(mariadb, LOCKED)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            kill(mariadb, LOCKED)
            await returned(1)  # all but the holder's
            assert await green(Author.objects.count)() == 0

    run(main)


# --- deadlock ---------------------------------------------------------------------------------


def test_a_deadlock_is_the_error_of_exactly_one_whose_connection_stays_usable(run):
    async def main():
        both = asyncio.Barrier(2)
        server_ids = []
        errors = []

        async def work(first, second):
            number = server_id()
            server_ids.append(number)
            try:
                with transaction.atomic():
                    Counter.objects.filter(name=first).update(n=F("n") + 1)
                    await both.wait()
                    Counter.objects.filter(name=second).update(n=F("n") + 1)
            except OperationalError as exc:
                errors.append(exc.args[0])
                # The same connection, outside a transaction, in order.
                assert (server_id(), connection.in_atomic_block) == (number, False)
                with transaction.atomic():
                    Counter.objects.filter(name="c").update(n=F("n") + 1)
                return "victim"
            return "survivor"

        with Turns() as turns:
            results = await asyncio.gather(spawn(work, "a", "b"), spawn(work, "b", "a"))
        assert sorted(results) == ["survivor", "victim"]
        assert errors == [1213]
        assert turns.count > 2
        counters = await green(lambda: dict(Counter.objects.values_list("name", "n")))()
        assert counters == {"a": 1, "b": 1, "c": 1}
        assert (the_pool().in_use, the_pool().idle) == (0, 2)
        assert {await spawn(server_id), await spawn(server_id)} <= set(server_ids)

    run(main)


def test_a_deadlock_within_a_savepoint_breaks_the_transaction_not_the_savepoint(run):
    """The server has rolled back all of it: going on after the savepoint must not commit a half."""

    async def main():
        both = asyncio.Barrier(2)

        async def work(first, second):
            with transaction.atomic():
                Author.objects.create(name=f"of {first}")
                Counter.objects.filter(name=first).update(n=F("n") + 1)
                await both.wait()
                try:
                    with transaction.atomic():
                        Counter.objects.filter(name=second).update(n=F("n") + 1)
                except DatabaseError:
                    Author.objects.create(name="after the deadlock")

        results = await asyncio.gather(
            spawn(work, "a", "b"), spawn(work, "b", "a"), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) != ["NoneType", "NoneType"]
        names = await green(lambda: [author.name for author in Author.objects.all()])()
        assert len(names) == 1
        assert names[0] in ("of a", "of b")

    run(main)


def test_a_helper_that_waits_for_the_lock_of_its_own_request_has_it_already(run, pool_of_one):
    @green
    async def request():
        with transaction.atomic():
            counter = await Counter.objects.select_for_update().aget(name="a")
            counters = await asyncio.gather(
                *(Counter.objects.select_for_update(nowait=True).aget(name="a") for _ in range(3))
            )
            assert {other.pk for other in counters} == {counter.pk}

    run(request)
