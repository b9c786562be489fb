"""The pools of Django's databases: options, loops and their ends, a server that goes."""

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, connections, transaction

from greentor import green
from greentor.db import close_pools, pools
from greentor.db.mysql.base import check_options
from greentor.db.pools import current_pools, pool_options
from greentor.pool import PoolTimeout
from tests.testapp.models import Author
from tests.waiting import await_until

ROOT = Path(__file__).parent.parent


def the_pool(alias="default"):
    [pool] = [pool for pool in current_pools() if pool.name == alias]
    return pool


@green
def server_id():
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]


@green
def sleep_in_database(seconds):
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s), CONNECTION_ID()", [seconds])
        return cursor.fetchone()[1]


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pool": {"poolsize": 3}}, "poolsize"),
        ({"pool": {"pool_size": "3"}}, "pool_size"),
        ({"pool": {"pool_size": 0, "max_overflow": 0}}, "max_overflow"),
        ({"pool": {"pool_timeout": -1}}, "pool_timeout"),
        ({"pool": {"pool_size": True}}, "pool_size"),
        ({"pool": {"echo": 1}}, "echo"),
        ({"pool": 10}, "pool"),
        ({"pool": None}, "pool"),
        ({"pool_size": 10}, "pool_size"),
        ({"ssl_mode": "DISABLED"}, "ssl_mode"),
        ({"isolation_level": "read comitted"}, "read comitted"),
    ],
)
def test_a_wrong_option_is_refused_at_start_up_by_name(options, named):
    database = {**settings.DATABASES["default"], "OPTIONS": options}
    with pytest.raises(ImproperlyConfigured, match=named) as caught:
        check_options("default", database)
    assert "default" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": True},
        {"pool": False},
        {"pool": {"pool_size": 3, "max_overflow": 0, "pool_timeout": 0.5, "pool_recycle": -1}},
        {"isolation_level": "Repeatable Read", "pool": {"echo": True}},
        {"isolation_level": None},
        {"charset": "utf8mb4", "ssl_disabled": True, "init_command": "SET @a = 1"},
    ],
)
def test_a_right_option_is_taken(options):
    check_options("default", {**settings.DATABASES["default"], "OPTIONS": options})


def test_the_defaults_are_those_that_are_documented():
    options = pool_options("default", {"OPTIONS": {}})
    assert options is not None
    assert (options.pool_size, options.max_overflow, options.pool_timeout) == (10, 10, 30)
    assert (options.pool_recycle, options.echo) == (3600, False)


def test_start_up_looks_at_the_options_of_every_database():
    from greentor.checks import check_databases

    wrong = {"default": {"ENGINE": "greentor.db.mysql", "OPTIONS": {"pool": {"size": 1}}}}
    from django.test import override_settings

    with (
        pytest.warns(UserWarning, match="DATABASES"),
        override_settings(DATABASES=wrong),
        pytest.raises(ImproperlyConfigured, match="size"),
    ):
        check_databases()


# --- exhaustion -------------------------------------------------------------------------------


@pytest.fixture
def small_pool(django_db_tables, monkeypatch):
    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 2, "max_overflow": 1, "pool_timeout": 0.1})


def test_an_exhausted_pool_says_so_and_serves_again(run, small_pool):
    async def main():
        release = asyncio.get_running_loop().create_future()

        @green
        async def hold():
            Author.objects.count()
            await release

        holders = [asyncio.create_task(hold()) for _ in range(3)]
        await await_until(lambda: current_pools() and the_pool().in_use == 3)
        with pytest.raises(PoolTimeout, match=r"3 of 3 in use.*raise pool_size"):
            await server_id()
        release.set_result(None)
        await asyncio.gather(*holders)
        assert (the_pool().in_use, the_pool().idle) == (0, 2)  # the third was overflow
        await server_id()

    run(main)


def test_no_more_connections_are_opened_than_the_pool_may(run, mariadb, small_pool):
    async def main():
        numbers = await asyncio.gather(*(sleep_in_database(0.005) for _ in range(12)))
        assert len(set(numbers)) <= 3
        assert (the_pool().in_use, the_pool().idle) == (0, 2)

    run(main)


# --- databases and loops ----------------------------------------------------------------------


def test_a_renamed_database_has_a_pool_of_its_own(run, mariadb, django_db_tables, monkeypatch):
    """Django's test runner renames NAME in place."""

    @green
    def name():
        with connection.cursor() as cursor:
            cursor.execute("SELECT DATABASE()")
            return cursor.fetchone()[0]

    async def main():
        before = await name()
        monkeypatch.setitem(settings.DATABASES["default"], "NAME", "greentor_other")
        assert [before, await name()] == ["greentor", "greentor_other"]
        assert len(current_pools()) == 2

    run(main)


def test_each_loop_has_its_own_pool_and_leaves_nothing(run, mariadb, django_db_tables):
    connections.close_all()
    numbers = [run(server_id), run(server_id)]
    assert numbers[0] != numbers[1]
    assert pools._loops == {}
    asyncio.run(await_until(lambda: not mariadb.processlist()))


def test_two_loops_in_two_threads_share_nothing(mariadb, django_db_tables):
    barrier = threading.Barrier(2)
    answers = {}

    def serve(name):
        async def main():
            numbers = set()
            barrier.wait(10)
            for _ in range(50):
                numbers.update(await asyncio.gather(*(server_id() for _ in range(4))))
            barrier.wait(10)
            return numbers, the_pool().in_use

        answers[name] = asyncio.run(main())

    threads = [threading.Thread(target=serve, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(answers) == {"a", "b"}
    assert not answers["a"][0] & answers["b"][0]
    assert [answers[name][1] for name in "ab"] == [0, 0]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_the_pool_of_a_loop_that_was_just_closed_is_purged_with_its_connections(
    mariadb, django_db_tables
):
    """As pytest-tornado does: close, without `shutdown_asyncgens`."""
    connections.close_all()
    loop = asyncio.new_event_loop()
    number = loop.run_until_complete(server_id())
    loop.close()

    async def main():
        assert await server_id() != number
        await await_until(lambda: len(mariadb.processlist()) == 1)

    asyncio.run(main())
    assert pools._loops == {}
    gc.collect()  # asyncio warns of the transport that nobody closed in time


def test_close_pools_closes_the_idle_at_once_and_the_lent_when_they_come_back(
    run, mariadb, django_db_tables
):
    async def main():
        release = asyncio.get_running_loop().create_future()

        @green
        async def hold():
            with connection.cursor() as cursor:
                cursor.execute("SELECT CONNECTION_ID()")
                number = cursor.fetchone()[0]
                await release
                cursor.execute("SELECT CONNECTION_ID()")
                assert cursor.fetchone()[0] == number
            return number

        def open_now():
            return {row["ID"] for row in mariadb.processlist()}

        task = asyncio.create_task(hold())
        await await_until(lambda: current_pools() and the_pool().in_use == 1)
        await asyncio.gather(*(sleep_in_database(0.01) for _ in range(2)))
        old = the_pool()
        close_pools()
        await await_until(lambda: len(open_now()) == 1)
        release.set_result(None)
        number = await task
        await await_until(lambda: number not in open_now())
        assert (old.in_use, old.idle) == (0, 0)
        await server_id()
        new = the_pool()
        gc.collect()
        await asyncio.sleep(0)
        await server_id()
        assert the_pool() is new is not old

    connections.close_all()
    run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_asyncio_run_leaves_no_resource_warning(mariadb, django_db_tables, loop, tls):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    options = {"ssl_ca": mariadb.ca} if tls else {"ssl_disabled": True}
    program = f"""
        import asyncio, gc
        import django
        from django.conf import settings
        settings.configure(
            DATABASES={{"default": {{
                "ENGINE": "greentor.db.mysql", "HOST": {mariadb.host!r}, "PORT": {mariadb.port},
                "USER": {mariadb.user!r}, "PASSWORD": {mariadb.password!r}, "NAME": "greentor",
                "OPTIONS": {options!r},
            }}}},
            INSTALLED_APPS=["greentor"],
        )
        django.setup()
        from django.db import connection
        from greentor import green

        @green
        def ask():
            with connection.cursor() as cursor:
                cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
                return bool(cursor.fetchone()[1])

        async def main():
            return await asyncio.gather(*(ask() for _ in range(5)))

        for _ in range(2):
            if {loop!r} == "uvloop":
                import uvloop
                runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
            else:
                runner = asyncio.Runner()
            with runner:
                assert runner.run(main()) == [{tls}] * 5
            gc.collect()
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


# --- the server goes --------------------------------------------------------------------------


def test_a_server_restarted_between_requests_fails_those_in_flight_alone(
    run, mariadb, django_db_tables
):
    @green
    def in_transaction():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(30) /* in flight */")

    async def main():
        await asyncio.gather(*(sleep_in_database(0.01) for _ in range(4)))
        flying = [asyncio.create_task(sleep_in_database(30)), asyncio.create_task(in_transaction())]
        await await_until(
            lambda: sum("SLEEP" in (row["INFO"] or "") for row in mariadb.processlist()) == 2
        )
        await asyncio.get_running_loop().run_in_executor(None, mariadb.restart)
        outcomes = await asyncio.gather(*flying, return_exceptions=True)
        assert [isinstance(outcome, DatabaseError) for outcome in outcomes] == [True, True], (
            outcomes
        )
        await asyncio.gather(*(sleep_in_database(0.01) for _ in range(20)))
        assert the_pool().in_use == 0

    connections.close_all()
    run(main)


def test_connections_that_are_refused_free_their_slots(run, mariadb, django_db_tables, monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"], "PASSWORD", "wrong")

    async def main():
        outcomes = await asyncio.gather(*(server_id() for _ in range(30)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {
            connection.Database.OperationalError
        } or {getattr(outcome, "args", [None])[0] for outcome in outcomes} == {1045}
        assert [(pool.in_use, pool.idle) for pool in current_pools()] == [(0, 0)]

    run(main)
    gc.collect()
