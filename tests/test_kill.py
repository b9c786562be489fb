"""``kill_on_cancel``: the server stops what nobody waits for, and nothing else."""

import asyncio
import contextlib
import logging

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, transaction

import greentor
from greentor import green
from greentor.db import pools
from greentor.db.mysql.base import check_options
from greentor.db.mysql.kill import QueryKiller, is_ours
from greentor.db.pools import current_pools
from tests.proxy import Proxy
from tests.testapp.models import Author
from tests.waiting import await_until, wait_until

pytestmark = pytest.mark.usefixtures("clean_tables", "small_pool")

#: marks our queries in the process list; far longer than any of these tests
LONG = "SELECT SLEEP(60) /* of a test of kill_on_cancel */"


@pytest.fixture
def small_pool(monkeypatch):
    options = {"pool_size": 4, "max_overflow": 0, "pool_timeout": 10}
    monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"], "pool", options)


@pytest.fixture
def running(mariadb):
    """Return `running()`, the number of our long queries that the server works on."""

    def running():
        return sum(row["Info"] == LONG for row in mariadb.execute("SHOW FULL PROCESSLIST"))

    yield running
    for row in mariadb.execute("SHOW FULL PROCESSLIST"):
        if row["Info"] == LONG:
            with contextlib.suppress(Exception):
                mariadb.execute(f"KILL {row['Id']}")
    wait_until(lambda: not running())


@green
def sleep():
    with connection.cursor() as cursor:
        cursor.execute(LONG)


async def start(running, number=1):
    before = running()
    tasks = [asyncio.create_task(sleep()) for _ in range(number)]
    await await_until(lambda: running() == before + number)
    return tasks


async def cancel(tasks):
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * len(tasks)


def state():
    return [(pool.in_use, pool.waiting) for pool in current_pools()]


def test_a_cancelled_query_is_ended_in_the_server(run, running):
    async def main():
        await cancel(await start(running))
        await await_until(lambda: not running())
        await await_until(lambda: state() == [(0, 0)])
        [pool] = current_pools()
        assert pool.idle == 1  # the side connection stays
        assert await green(Author.objects.count)() == 0

    run(main)


@pytest.mark.parametrize("how", ["timeout", "read_timeout", "asyncio.timeout"])
def test_a_query_that_timed_out_is_ended_in_the_server(run, running, monkeypatch, how):
    if how == "read_timeout":
        monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"], "read_timeout", 0.2)

    @green
    async def request():
        if how == "timeout":
            with pytest.raises(TimeoutError), greentor.timeout(0.2):
                await sleep()
        elif how == "asyncio.timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await sleep()
        else:
            with pytest.raises(OperationalError, match="2013"):
                await sleep()
        await await_until(lambda: not running())
        return Author.objects.count()

    async def main():
        assert await request() == 0
        await await_until(lambda: state() == [(0, 0)])

    run(main)


def test_many_cancelled_at_once_are_ended_by_one_side_connection(run, mariadb, running):
    async def main():
        await green(Author.objects.count)()
        for _ in range(5):
            tasks = await start(running, 4)
            opened = mariadb.status("Connections")
            await cancel(tasks)
            await await_until(lambda: not running())
            await await_until(lambda: state() == [(0, 0)])
            assert mariadb.status("Connections") - opened == 1

    run(main)


def test_those_who_wait_for_a_connection_get_the_places_of_the_cancelled(run, running):
    async def main():
        tasks = await start(running, 4)
        waiting = [asyncio.create_task(green(Author.objects.count)()) for _ in range(8)]
        await await_until(lambda: state() == [(4, 8)])
        await cancel(tasks)
        assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [0] * 8
        await await_until(lambda: not running() and state() == [(0, 0)])
        [pool] = current_pools()
        assert pool.idle <= 4

    run(main)


def test_while_queries_are_ended_the_server_has_no_more_connections_than_the_pool_may(
    run, mariadb, running
):
    @green
    def short():
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(0.01)")

    async def main():
        over = asyncio.Event()

        async def work():
            while not over.is_set():
                await short()

        await await_until(lambda: not mariadb.processlist())  # of the test before
        mariadb.execute("FLUSH STATUS")
        others = [asyncio.create_task(work()) for _ in range(8)]
        for _ in range(10):
            await cancel(await start(running, 3))
            await await_until(lambda: not running())
        over.set()
        await asyncio.gather(*others)
        await await_until(lambda: state() == [(0, 0)])
        assert mariadb.status("Max_used_connections") <= 4 + 1  # and root's, which asks

    run(main)


def test_the_place_is_free_before_the_scope_ends(run, running, monkeypatch):
    """Whoever goes on after a timeout, without the database, does not keep its place."""
    pool = settings.DATABASES["default"]["OPTIONS"]["pool"]
    monkeypatch.setitem(pool, "pool_size", 1)

    @green
    async def request(timed_out, go_on):
        with pytest.raises(TimeoutError), greentor.timeout(0.1):
            await sleep()
        timed_out.set()
        await go_on.wait()

    async def main():
        timed_out, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(request(timed_out, go_on))
        await timed_out.wait()
        assert await asyncio.wait_for(green(Author.objects.count)(), 5) == 0
        go_on.set()
        await task
        assert state() == [(0, 0)]

    run(main)


def test_the_locks_of_a_cancelled_transaction_are_free_at_once(run, mariadb, running):
    @green
    async def holds(author):
        with transaction.atomic():
            Author.objects.filter(pk=author.pk).update(name="held")
            await sleep()

    async def main():
        author = await green(Author.objects.create)(name="a")
        task = asyncio.create_task(holds(author))
        await await_until(running)
        await cancel([task])
        updated = green(Author.objects.filter(pk=author.pk).update)(name="b")
        assert await asyncio.wait_for(updated, 5) == 1

    run(main)


def test_behind_a_proxy_nothing_is_killed_and_it_is_said_once(
    run, mariadb, running, monkeypatch, caplog
):
    """The server shows the proxy's port: the id might be that of a connection to another node."""

    async def main():
        for _ in range(2):
            await cancel(await start(running))
            await await_until(lambda: state() == [(0, 0)])
        assert running() == 2

    with Proxy(mariadb.host, mariadb.port) as proxy, caplog.at_level(logging.WARNING):
        monkeypatch.setitem(settings.DATABASES["default"], "PORT", proxy.port)
        run(main)
    [record] = [record for record in caplog.records if record.name == "greentor.db"]
    assert "there is a proxy in between" in record.message


def test_by_a_unix_socket_it_is_ended_too(run, mariadb, running, monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"], "HOST", mariadb.unix_socket)

    async def main():
        await cancel(await start(running))
        await await_until(lambda: not running())

    run(main)


def test_switched_off_it_runs_on(run, running, monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"], "kill_on_cancel", False)

    async def main():
        await cancel(await start(running))
        await await_until(lambda: state() == [(0, 0)])
        assert await green(Author.objects.count)() == 0
        assert running() == 1

    run(main)


def test_a_side_connection_that_cannot_be_opened_costs_no_place(run, running, monkeypatch, caplog):
    async def main():
        tasks = await start(running)
        [pool] = current_pools()
        settings.DATABASES["default"]["PORT"] = 1
        await cancel(tasks)
        await await_until(lambda: pool.in_use == 0)
        await await_until(lambda: caplog.records)

    port = settings.DATABASES["default"]["PORT"]
    with caplog.at_level(logging.WARNING, "greentor.db"):
        try:
            run(main)
        finally:
            settings.DATABASES["default"]["PORT"] = port
    assert "could not end abandoned queries" in caplog.text


def test_the_end_of_the_loop_right_after_the_cancel_leaves_nothing(mariadb, running):
    async def main():
        [task] = await start(running)
        pools.extend(current_pools())
        task.cancel()
        await asyncio.wait([task])

    pools = []
    asyncio.run(main())
    [pool] = pools
    assert (pool.in_use, pool.waiting) == (0, 0)


def test_a_query_that_ended_by_itself_meanwhile_is_no_error(run, mariadb, running, caplog):
    async def main():
        tasks = await start(running)
        for row in mariadb.execute("SHOW FULL PROCESSLIST"):
            if row["Info"] == LONG:
                mariadb.execute(f"KILL QUERY {row['Id']}")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await await_until(lambda: state() == [(0, 0)])

    with caplog.at_level(logging.WARNING, "greentor.db"):
        run(main)
    assert not caplog.records


@pytest.mark.parametrize(
    ("shown", "address", "own", "expected"),
    [
        ("127.0.0.1:4711", ("127.0.0.1", 4711), "127.0.0.1:1", True),
        ("localhost:4711", ("127.0.0.1", 4711), "localhost:1", True),  # a server that resolves
        ("::1:4711", ("::1", 4711, 0, 0), "::1:1", True),
        ("127.0.0.1:4712", ("127.0.0.1", 4711), "127.0.0.1:1", False),
        ("10.0.0.9:4711", ("10.0.0.1", 4711), "10.0.0.1:1", False),  # somebody else's host
        ("localhost", ("127.0.0.1", 4711), "127.0.0.1:1", False),
        ("", ("127.0.0.1", 4711), "", False),
        ("localhost", "", "localhost", True),
        ("10.0.0.1:4711", "", "10.0.0.1:1", False),  # a unix socket, of a proxy
        ("localhost", None, "10.0.0.1:1", False),
    ],
)
def test_only_our_own_address_and_port_are_ours(shown, address, own, expected):
    assert is_ours(shown, address, own) is expected


def test_a_wrong_value_is_refused_at_start_up():
    with pytest.raises(ImproperlyConfigured, match=r"\['kill_on_cancel'\] must be True or False"):
        check_options("default", {"OPTIONS": {"kill_on_cancel": "yes"}})


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_query_that_the_end_of_the_loop_cancels_is_ended_and_nothing_is_left(
    loop, mariadb, running
):
    before = {row["ID"] for row in mariadb.processlist()}
    with asyncio.Runner(loop_factory=pytest.importorskip(loop).new_event_loop) as runner:
        runner.run(start(running, 2))
        # and the loop ends: that cancels them, and their killing begins after it
    wait_until(lambda: not running(), 5)
    wait_until(lambda: {row["ID"] for row in mariadb.processlist()} <= before, 5)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_killing_that_does_not_end_is_given_up_at_the_end_of_the_loop(loop, running, monkeypatch):
    monkeypatch.setattr(pools, "AT_END", 0.2)
    monkeypatch.setattr(QueryKiller, "_run", lambda self: greentor.sleep(60))
    with asyncio.Runner(loop_factory=pytest.importorskip(loop).new_event_loop) as runner:
        runner.run(start(running))
