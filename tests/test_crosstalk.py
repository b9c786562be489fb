"""Many requests at once: each has its own answer, none holds up the loop, no thread is made."""

import asyncio
import importlib.util
import random
import statistics
import threading
import time

import pytest
from django.conf import settings
from django.db import connection, connections, transaction
from django.db.models import F

from bench.client import hammer
from greentor import green
from greentor.db.pools import current_pools
from greentor.web import BaseRequestHandler
from tests.test_web import serving
from tests.testapp.models import Author, Counter
from tests.waiting import GATE

pytestmark = pytest.mark.usefixtures("clean_tables")

IN_FLIGHT = 200


class Echo(BaseRequestHandler):
    """Answer with the token, after a way through the database."""

    def get(self, token):
        seconds = float(self.get_argument("s"))
        if int(token) % 2:
            self.write(f"{self.echo(seconds, token)}\n")
            return
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET @token = %s", [token])
            echoed = self.echo(seconds, token)
            cursor.execute("SELECT @token")
            self.write(f"{echoed if (echoed,) == cursor.fetchone() else 'another connection'}\n")

    def echo(self, seconds, token):
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(%s), %s", [seconds, token])
            return cursor.fetchone()[1]


def route(served):
    served.server.request_callback.add_handlers(r".*", [(r"/echo/(\d+)", Echo)])


@pytest.mark.parametrize(
    ("loop", "count"),
    [
        ("asyncio", 20_000),
        pytest.param(
            "uvloop",
            4_000,
            marks=pytest.mark.skipif(
                importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
            ),
        ),
    ],
)
def test_every_request_has_its_own_token_back(loop, count, monkeypatch):
    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 24, "max_overflow": 8, "pool_timeout": 30})
    wrong = []

    async def ask(client, token):
        seconds = random.choice((0, 0, 0.001, 0.005))
        status, body = await client.get(f"/echo/{token}?s={seconds}")
        if status != 200 or body != f"{token}\n".encode():
            wrong.append((token, status, body))

    async def main():
        threads = threading.active_count()
        async with serving(Echo) as served:
            route(served)
            await hammer(served.port, count, IN_FLIGHT, ask)
            [pool] = current_pools()
            assert pool.idle == 24
        assert threading.active_count() <= threads + 1  # of uvloop's or asyncio's resolver

    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert wrong == []


@pytest.fixture
def fifty_connections(mariadb, monkeypatch):
    connections.close_all()
    mariadb.execute("SET GLOBAL max_connections = 70")
    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 50, "max_overflow": 0})
    yield
    mariadb.execute(f"SET GLOBAL max_connections = {mariadb.max_connections}")


def test_a_ticker_keeps_ticking_while_fifty_greenlets_wait_for_the_database(
    run, fifty_connections, mariadb
):
    """They wait until it has ticked so often, so a query that blocked the loop would do so for 30 s."""
    passed = []

    @green
    def wait(times):
        for _ in range(times):
            with connection.cursor() as cursor:
                cursor.execute(GATE)
                passed.append(cursor.fetchone())
            if passed[-1] != (1, 1):
                return

    async def tick():
        intervals = []
        for _ in range(25):
            before = time.monotonic()
            await asyncio.sleep(0.02)
            intervals.append(time.monotonic() - before)
        return intervals

    async def main():
        passed.clear()
        await asyncio.gather(*(wait(1) for _ in range(50)))  # opens the connections
        threads = threading.active_count()
        for number in (1, 50):  # one alone, lest it takes fifty times as long to fail
            mariadb.execute("DO GET_LOCK('gate', 0)")
            passed.clear()
            waiting = [asyncio.create_task(wait(3)) for _ in range(number)]
            try:
                while not passed and sum(r["INFO"] == GATE for r in mariadb.processlist()) < number:
                    await asyncio.sleep(0.005)
                intervals = await tick()
                assert passed == []
            finally:
                mariadb.execute("DO RELEASE_LOCK('gate')")
            await asyncio.gather(*waiting)
            assert passed == [(1, 1)] * 3 * number
            assert statistics.median(intervals) < 0.1
        assert threading.active_count() <= threads
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 50)

    run(main)


def test_counting_under_contention_loses_nothing(run):
    """Row locks, savepoints and rollbacks of fifty requests over twelve connections."""

    @green
    async def add(n):
        with transaction.atomic():
            counter = await Counter.objects.select_for_update().aget(name="shared")
            counter.n += 1
            await asyncio.sleep(0)
            counter.save()
            try:
                with transaction.atomic():
                    Counter.objects.update(n=F("n") + 1000)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            if n % 5 == 0:
                transaction.set_rollback(True)

    async def main():
        await green(Counter.objects.create)(name="shared")
        await asyncio.gather(*(add(n) for n in range(50)))
        assert (await green(Counter.objects.get)(name="shared")).n == 40
        assert await green(Author.objects.count)() == 0
        [pool] = current_pools()
        assert pool.in_use == 0

    run(main)
