"""``hold``: when a scope gives its connections back, and what keeps them."""

import asyncio
import contextlib
import gc

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.test.utils import CaptureQueriesContext

import greentor
from greentor import green
from greentor.db.mysql.base import check_options
from greentor.db.pools import current_pools
from greentor.pool import PoolTimeout
from greentor.web import BaseRequestHandler
from tests.test_web import server_id, serving
from tests.testapp.models import Author
from tests.waiting import await_until, wait_until

pytestmark = pytest.mark.usefixtures("clean_tables")


@pytest.fixture
def pool(monkeypatch):
    """Return `pool(**options)`, which changes those of the default database's pool."""
    options = settings.DATABASES["default"]["OPTIONS"]

    def pool(**changes):
        monkeypatch.setitem(options, "pool", options["pool"] | changes)

    return pool


def in_use():
    return sum(pool.in_use for pool in current_pools())


def lent_while_waiting():
    """Return how many connections are lent while the greenlet waits for something else."""
    lent = []

    async def look():
        await asyncio.sleep(0)
        lent.append(in_use())

    greentor.await_(look())
    return lent[0]


# --- as many requests as one likes ------------------------------------------------------------


class AsksTwice(BaseRequestHandler):
    """Queries, waits until all the others do, too, and queries again."""

    async def get(self):
        state = self.application.state
        before = Author.objects.count()
        state.waiting += 1
        if state.waiting == state.all:
            state.arrived.set()
        await state.arrived.wait()
        self.write(str(before + Author.objects.count()))


class AsksTwicePerTransaction(AsksTwice):
    hold = "transaction"


class State:
    def __init__(self, number):
        self.all, self.waiting, self.arrived = number, 0, asyncio.Event()


@pytest.mark.parametrize("said", ["by the handler", "by the database"])
def test_a_hundred_waiting_requests_need_eight_connections(run, mariadb, pool, said):
    pool(pool_size=8, max_overflow=0, pool_timeout=5)
    handler = AsksTwicePerTransaction
    if said == "by the database":
        pool(hold="transaction")
        handler = AsksTwice
    mariadb.execute("FLUSH STATUS")

    async def main():
        async with serving(handler) as served:
            served.server.request_callback.state = State(100)
            answers = await asyncio.gather(*(served.get() for _ in range(100)))
            assert answers == ["0"] * 100

    run(main)
    [row] = mariadb.execute("SHOW STATUS LIKE 'Max_used_connections'")
    assert int(row["Value"]) <= 8 + 2  # with those that ask and empty the tables


def test_held_per_request_as_many_connections_as_requests_are_needed(run, pool):
    pool(pool_size=2, max_overflow=0, pool_timeout=0.2)

    async def main():
        async with serving(AsksTwice) as served:
            state = served.server.request_callback.state = State(3)
            waiting = [asyncio.ensure_future(served.get()) for _ in range(2)]
            await await_until(lambda: state.waiting == 2)
            assert (await served.fetch()).code == 503
            state.arrived.set()
            await asyncio.gather(*waiting)

    run(main)


def test_a_handler_may_hold_per_request_on_a_database_held_per_transaction(run, pool):
    pool(hold="transaction")

    class Keeps(BaseRequestHandler):
        hold = "request"

        def get(self):
            Author.objects.count()
            self.write(str(lent_while_waiting()))

    class Lends(BaseRequestHandler):
        def get(self):
            Author.objects.count()
            self.write(str(lent_while_waiting()))

    async def main():
        async with serving(Keeps, Lends) as served:
            assert await served.get("/Keeps") == "1"
            assert await served.get("/Lends") == "0"

    run(main)


def test_spawned_work_and_blocks_say_it_for_themselves(run):
    def asks():
        Author.objects.count()
        return lent_while_waiting()

    async def asks_async():
        await Author.objects.acount()
        return lent_while_waiting()

    def asks_in_a_block():
        with greentor.hold("transaction"):
            found = [asks()]
            with greentor.hold("request"):
                found.append(asks())
            return [*found, asks()]

    async def main():
        assert await greentor.spawn(asks) == 1
        assert await greentor.spawn(greentor.hold("transaction")(asks)) == 0
        assert await greentor.spawn(greentor.hold("transaction")(asks_async)) == 0
        # what was borrowed to be kept is kept: nobody has watched its session
        assert await greentor.spawn(asks_in_a_block) == [0, 1, 1]

    run(main)


def test_outside_a_scope_it_does_nothing(run):
    @greentor.hold("transaction")
    def number():
        return 1

    async def main():
        with greentor.hold("transaction"):
            return number()

    assert number() == 1
    assert run(main) == 1


@pytest.mark.parametrize("wrong", ["session", True, None])
def test_a_wrong_value_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=r"hold\(\) must be 'request' or 'transaction'"):
        greentor.hold(wrong)
    with pytest.raises(ImproperlyConfigured, match=r"\['pool'\]\['hold'\] must be"):
        check_options("default", {"OPTIONS": {"pool": {"hold": wrong}}})
    if wrong is not None:
        with pytest.raises(ValueError, match=r"Wrong\.hold must be"):
            type("Wrong", (BaseRequestHandler,), {"hold": wrong})


# --- what keeps a connection ------------------------------------------------------------------


@pytest.fixture
def per_transaction(pool):
    pool(pool_size=1, max_overflow=0, pool_timeout=2, hold="transaction")


@pytest.mark.usefixtures("per_transaction")
class TestHolds:
    def test_a_transaction(self, run):
        @green
        def request():
            with transaction.atomic():
                Author.objects.create(name="uncommitted")
                inside = lent_while_waiting()
                number = server_id()
                with transaction.atomic():
                    pass
                assert lent_while_waiting() == 1
                assert server_id() == number
            return inside, lent_while_waiting()

        assert run(request) == (1, 0)

    def test_autocommit_switched_off(self, run):
        @green
        def request():
            transaction.set_autocommit(False)
            Author.objects.create(name="uncommitted")
            held = lent_while_waiting()
            transaction.commit()
            transaction.set_autocommit(True)
            return held, lent_while_waiting(), Author.objects.count()

        assert run(request) == (1, 0, 1)

    def test_a_transaction_that_was_begun_by_hand(self, run):
        @green
        def request():
            with connection.cursor() as cursor:
                cursor.execute("START TRANSACTION")
                cursor.execute("INSERT INTO testapp_author (name) VALUES ('a')")
            held = lent_while_waiting()
            with connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
            return held, lent_while_waiting(), Author.objects.count()

        assert run(request) == (1, 0, 0)

    def test_an_open_cursor(self, run):
        @green
        def request():
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO testapp_author (name) VALUES ('a')")
                held = lent_while_waiting()
                cursor.execute("SELECT LAST_INSERT_ID()")
                [number] = cursor.fetchone()
            assert number == Author.objects.get().pk
            return held, lent_while_waiting()

        assert run(request) == (1, 0)

    def test_a_cursor_that_was_dropped_does_not(self, run):
        @green
        def request():
            connection.cursor().execute("SELECT 1")
            gc.collect()
            return lent_while_waiting()

        assert run(request) == 0

    def test_rows_of_an_iterator_that_are_not_read_yet(self, run):
        @green
        def request():
            Author.objects.bulk_create(Author(name=str(n)) for n in range(30))
            rows = Author.objects.iterator(chunk_size=10)
            next(rows)
            held = lent_while_waiting()
            assert len(list(rows)) == 29
            return held, lent_while_waiting()

        assert run(request) == (1, 0)

    def test_a_helper_in_the_middle_of_its_query(self, run):
        """Its owner comes by twice while the query is under way."""

        @green
        async def request():
            Author.objects.count()

            @green
            def slow():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT SLEEP(0.1), CONNECTION_ID()")
                    return cursor.fetchone()[1]

            task = asyncio.create_task(slow())
            lent = []
            while not task.done():
                await asyncio.sleep(0.01)
                lent.append(in_use())
            assert set(lent[1:-1]) == {1}
            return await task == server_id()

        assert run(request)

    def test_helpers_give_it_back_when_they_are_done(self, run):
        @green
        async def request():
            counts = await asyncio.gather(*(Author.objects.acount() for _ in range(5)))
            async with asyncio.TaskGroup() as group:
                done = asyncio.Event()

                async def queries():
                    await Author.objects.acount()
                    done.set()

                async def waits():
                    await done.wait()
                    await asyncio.sleep(0)
                    return in_use()

                group.create_task(queries())
                waiting = group.create_task(waits())
            return counts, waiting.result()

        assert run(request) == ([0] * 5, 0)

    def test_every_kind_of_waiting_gives_it_back(self, run):
        lent = []

        @green
        async def request():
            Author.objects.count()
            # The thread may have started before the greenlet is parked.
            greentor.thread(lambda: lent.append(wait_until(lambda: not in_use_of(pools))))
            Author.objects.count()
            await greentor.spawn(lambda: lent.append(in_use()))
            Author.objects.count()
            loop.call_later(0.001, lambda: lent.append(in_use_of(pools)))
            greentor.sleep(0.01)

        def in_use_of(pools):
            return sum(pool.in_use for pool in pools)

        async def main():
            nonlocal pools, loop
            lent.clear()
            await green(Author.objects.count)()
            pools, loop = current_pools(), asyncio.get_running_loop()
            await request()
            return lent

        pools = loop = None
        assert run(main) == [True, 0, 0]

    def test_a_cancel_while_it_is_lent_to_somebody_else_harms_neither(self, run):
        @green
        async def first(waiting):
            Author.objects.count()
            waiting.set()
            await asyncio.sleep(10)

        @green
        def second(waiting):
            waiting.set()
            with connection.cursor() as cursor:
                cursor.execute("SELECT SLEEP(0.1), 'answer'")
                return cursor.fetchone()[1]

        async def main():
            one, two = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(first(one))
            await one.wait()
            other = asyncio.create_task(second(two))
            await two.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await other == "answer"
            assert in_use() == 0

        run(main)

    def test_nobody_who_queries_without_end_is_passed_over(self, run):
        """Somebody else's connection comes back at the next wait, and the queue is served."""

        @green
        def queries(number):
            for _ in range(number):
                Author.objects.count()
                greentor.sleep(0)

        async def main():
            await asyncio.wait_for(asyncio.gather(*(queries(20) for _ in range(20))), 10)

        run(main)

    def test_an_empty_pool_is_a_timeout_at_the_second_query(self, run, pool):
        pool(pool_timeout=0.1)

        @green
        def holds(waiting, go_on):
            with transaction.atomic():
                waiting.set()
                greentor.await_(go_on.wait())

        @green
        async def request(waiting, go_on):
            Author.objects.count()
            await waiting.wait()
            with pytest.raises(PoolTimeout, match="1 of 1 in use"):
                Author.objects.count()
            go_on.set()
            await await_until(lambda: not in_use())
            return Author.objects.count()

        async def main():
            waiting, go_on = asyncio.Event(), asyncio.Event()
            first = asyncio.create_task(request(waiting, go_on))
            await asyncio.sleep(0)
            second = asyncio.create_task(holds(waiting, go_on))
            assert await first == 0
            await second

        run(main)


@pytest.mark.usefixtures("per_transaction")
def test_what_django_keeps_on_the_wrapper_survives_the_waiting(run):
    created, wrapped = [], []

    def receiver(connection, **kwargs):
        created.append(connection.alias)

    def wrapper(execute, sql, params, many, context):
        wrapped.append(sql)
        return execute(sql, params, many, context)

    @green
    def request():
        with CaptureQueriesContext(connection) as queries, connection.execute_wrapper(wrapper):
            Author.objects.count()
            assert lent_while_waiting() == 0
            Author.objects.count()
            assert lent_while_waiting() == 0
        return len(queries), len(wrapped), len(created)

    async def main():
        created.clear()
        wrapped.clear()
        return await request()

    connection_created.connect(receiver)
    try:
        assert run(main) == (2, 2, 2)
    finally:
        connection_created.disconnect(receiver)
