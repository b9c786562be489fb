"""What belongs to one greenlet is refused to every other, by name, before a byte is sent; and what is held
for too long is reported."""

import asyncio
import gc
import logging
import threading
import weakref

import pytest
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, Error, connection, connections, transaction
from greenlet import getcurrent
from pymysql import err

import greentor
from greentor import green
from greentor.bridge.kept import idle
from greentor.db.loans import LOOKS
from greentor.db.pools import close_pools, current_pools
from tests.noise import undisturbed
from tests.test_db_wrapper import statements
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


@pytest.fixture(autouse=True)
def options(monkeypatch):
    given = settings.DATABASES["default"]["OPTIONS"]

    def options(**of_pool):
        monkeypatch.setitem(given, "pool", {"pool_size": 2, "max_overflow": 0} | of_pool)

    options()
    return options


# --- whose it is ------------------------------------------------------------------------------


def iterate(kept):
    return next(kept["iterator"])


#: what can be done with what another greenlet owns
USES = {
    "wrapper: cursor": lambda kept: kept["wrapper"].cursor(),
    "wrapper: commit": lambda kept: kept["wrapper"].commit(),
    "wrapper: rollback": lambda kept: kept["wrapper"].rollback(),
    "wrapper: close": lambda kept: kept["wrapper"].close(),
    "wrapper: savepoint": lambda kept: (
        kept["wrapper"].savepoint_commit("s") or kept["wrapper"].cursor()
    ),
    "wrapper: autocommit": lambda kept: kept["wrapper"].set_autocommit(False),
    "cursor: execute": lambda kept: kept["cursor"].execute("SELECT 1"),
    "cursor: executemany": lambda kept: kept["cursor"].executemany("SELECT %s", [(1,)]),
    "cursor: callproc": lambda kept: kept["cursor"].callproc("p"),
    "cursor: fetchone": lambda kept: kept["cursor"].fetchone(),
    "cursor: fetchmany": lambda kept: kept["cursor"].fetchmany(2),
    "cursor: fetchall": lambda kept: kept["cursor"].fetchall(),
    "cursor: rows": lambda kept: list(kept["cursor"]),
    "cursor: nextset": lambda kept: kept["cursor"].nextset(),
    "debug cursor": lambda kept: kept["debug"].execute("SELECT 1"),
    "iterator": iterate,
    "raw: cursor": lambda kept: kept["raw"].cursor().execute("SELECT 1"),
    "raw: open cursor": lambda kept: kept["raw cursor"].execute("SELECT 1"),
    "raw: query": lambda kept: kept["raw"].query("SELECT 1"),
    "raw: commit": lambda kept: kept["raw"].commit(),
    "raw: rollback": lambda kept: kept["raw"].rollback(),
    "raw: ping": lambda kept: kept["raw"].ping(reconnect=False),
    "raw: select_db": lambda kept: kept["raw"].select_db("greentor"),
    "raw: begin": lambda kept: kept["raw"].begin(),
}


def take():
    """Return all that a greenlet may hand on by mistake."""
    wrapper = connections["default"]
    cursor = wrapper.cursor()
    cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
    wrapper.force_debug_cursor = True
    debug = wrapper.cursor()
    wrapper.force_debug_cursor = False
    iterator = Author.objects.order_by("pk").iterator(chunk_size=1)
    next(iterator)
    raw = wrapper.connection
    return {
        "wrapper": wrapper, "cursor": cursor, "debug": debug, "iterator": iterator, "raw": raw,
        "raw cursor": raw.cursor(),
    }  # fmt: skip


def refused(use, kept):
    try:
        use(kept)
    except (DatabaseError, err.Error, SynchronousOnlyOperation) as exc:
        return str(exc)
    return "it was let in"


@pytest.fixture
def authors(clean_tables):
    Author.objects.bulk_create([Author(name=str(n)) for n in range(5)])
    connections.close_all()


@pytest.mark.parametrize("user", ["greenlet", "coroutine", "thread"])
def test_what_belongs_to_a_greenlet_is_refused_to_all_others_by_name(run, mariadb, authors, user):
    async def main():
        handed = asyncio.get_running_loop().create_future()
        done = asyncio.Event()

        async def the_owner():
            Author.objects.count()
            transaction.atomic().__enter__()
            handed.set_result(take())
            await done.wait()
            assert Author.objects.count() == 5

        def the_thief(use, kept):
            return refused(use, kept)

        task = greentor.spawn(the_owner)
        kept = await handed
        since = statements(mariadb)
        messages = {}
        for name, use in USES.items():
            if user == "greenlet":
                messages[name] = await greentor.spawn(the_thief, use, kept)
            elif user == "thread":
                messages[name] = await asyncio.to_thread(refused, use, kept)
            else:
                messages[name] = refused(use, kept)
        assert since() == 0
        wanted = {"greenlet": "the_thief", "thread": "a thread", "coroutine": "a coroutine"}[user]
        django = ("async context", "outside any greenlet")
        for name, message in messages.items():
            if user == "coroutine" and any(text in message for text in django):
                continue
            assert "the_owner" in message, name
            assert wanted in message, name
        done.set()
        await task
        assert sum(pool.in_use for pool in current_pools()) == 0

    run(main)


@pytest.mark.parametrize("lent", [False, True], ids=["idle", "lent on"])
def test_what_is_kept_beyond_its_request_is_refused_even_if_its_connection_is_lent_on(
    run, mariadb, authors, lent
):
    """Somebody else may be in the middle of a transaction on it."""

    async def main():
        kept = await greentor.spawn(take_and_end)
        [pool] = current_pools()
        assert pool.idle == 1
        handed, done = asyncio.Event(), asyncio.Event()

        async def next_owner():
            with transaction.atomic():
                Author.objects.create(name="mine")
                assert connection.connection is kept["raw"]
                handed.set()
                await done.wait()

        def the_thief(use):
            return refused(use, kept)

        if lent:
            task = greentor.spawn(next_owner)
            await handed.wait()
        since = statements(mariadb)
        for name, use in USES.items():
            message = await greentor.spawn(the_thief, use)
            assert "the_thief" in message, name
            if lent and name.startswith(("raw", "wrapper")):
                assert "next_owner" in message, name
            elif name.startswith("raw"):
                assert "was given back" in message, name
            else:
                assert "take_and_end" in message, name
        assert since() == 0
        if lent:
            done.set()
            await task
            assert await green(Author.objects.filter(name="mine").count)() == 1

    def take_and_end():
        return take()

    run(main)


def test_a_helper_of_the_scope_may_use_what_is_its_own(run, authors):
    @green
    async def request():
        kept = take()

        @green
        def help():
            kept["cursor"].execute("SELECT 7")
            return kept["cursor"].fetchone(), next(kept["iterator"]).name

        return await asyncio.create_task(help())

    assert run(request) == ((7,), "1")


def test_sqlite_connections_are_refused_to_others_as_well(run, tmp_path, monkeypatch):
    database = {
        "ENGINE": "greentor.db.sqlite3",
        "NAME": str(tmp_path / "db"),
        "OPTIONS": {"pool": {"pool_size": 1}},
    }
    monkeypatch.setitem(settings.DATABASES, "lite", database)
    connections.configure_settings(settings.DATABASES)
    uses = [
        lambda raw, cursor: raw.execute("SELECT 1"),
        lambda raw, cursor: raw.cursor().execute("SELECT 1"),
        lambda raw, cursor: raw.commit(),
        lambda raw, cursor: raw.rollback(),
        lambda raw, cursor: cursor.execute("SELECT 1"),
        lambda raw, cursor: cursor.fetchone(),
    ]

    def the_owner():
        with connections["lite"].cursor() as cursor:
            cursor.execute("SELECT 1")
        return connections["lite"].connection, cursor

    def the_thief(use, raw, cursor):
        with pytest.raises((Error, err.Error, __import__("sqlite3").Error), match="the_thief"):
            use(raw, cursor)

    async def main():
        raw, cursor = await greentor.spawn(the_owner)
        for use in uses:
            await greentor.spawn(the_thief, use, raw, cursor)

    run(main)


# --- how long it is held ----------------------------------------------------------------------


async def the_handler(done):
    take_it()
    await done.wait()


def take_it():
    return Author.objects.count()


def reports(caplog):
    return [r.getMessage() for r in caplog.records if "has been held" in r.getMessage()]


def test_a_connection_that_is_held_for_too_long_is_reported_once_with_where_it_was_taken(
    run, options, caplog
):
    options(leak_warning=0.08)

    async def main():
        done = asyncio.Event()
        task = greentor.spawn(the_handler, done)
        await await_until(lambda: reports(caplog))
        looks = current_pools()[0].loans
        for _ in range(3 * LOOKS):
            await asyncio.sleep(0.01)
        [message] = reports(caplog)
        assert looks._timer is not None  # it looks on, and says nothing more
        done.set()
        await task
        return message

    with caplog.at_level(logging.WARNING, "greentor.db"):
        message = run(main)
    taken, _, parked = message.partition("Its greenlet waits for")
    assert "'default'" in message
    assert "0.08 s" in message
    assert "by the_handler" in message
    assert "in take_it" in taken
    assert "return Author.objects.count()" in taken
    assert taken.index("in the_handler") < taken.index("in take_it")
    assert "await done.wait()" in parked
    assert "in take_it" not in parked


@pytest.mark.parametrize("leak_warning", [None, 30])
def test_a_connection_that_is_not_held_for_too_long_is_not_reported(
    run, options, caplog, leak_warning
):
    options(leak_warning=leak_warning)

    async def main():
        done = asyncio.Event()
        task = greentor.spawn(the_handler, done)
        await asyncio.sleep(0.15)
        [pool] = current_pools()
        assert (pool.loans is None) is (leak_warning is None)
        done.set()
        await task

    run(main)
    assert reports(caplog) == []


def test_many_short_loans_are_not_taken_for_a_long_one(run, options, caplog):
    options(leak_warning=0.08, pool_size=1)

    async def main():
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.3
        while loop.time() < end:
            await green(take_it)()

    def silent():
        caplog.clear()
        run(main)
        assert reports(caplog) == []

    undisturbed(silent, 0.03)


def test_the_timer_stops_when_nothing_is_lent_and_with_the_pool(run, options):
    options(leak_warning=0.08)

    async def main():
        await green(take_it)()
        [pool] = current_pools()
        assert pool.loans._timer is not None
        await await_until(lambda: pool.loans._timer is None)
        await green(take_it)()
        assert pool.loans._timer is not None
        close_pools()
        assert pool.loans._timer is None

    run(main)


def test_a_loan_keeps_nothing_of_its_request_alive(run, options):
    options(leak_warning=30)

    class Kept:
        pass

    def request():
        local = Kept()
        refs.append(weakref.ref(local))
        refs.append(weakref.ref(getcurrent()))
        take_it()

    refs = []

    async def main():
        await greentor.spawn(request)
        [pool] = current_pools()
        assert pool.idle == 1
        idle.greens.clear()
        gc.collect()
        await await_until(lambda: [ref() for ref in refs] == [None, None])

    run(main)


def test_a_report_names_the_scope_in_a_thread_of_its_own_loop_too(run, options, caplog):
    """Pools, and so the timers that look at them, are of one loop each."""
    options(leak_warning=0.05)
    failures = []

    def other():
        async def main():
            done = asyncio.Event()
            task = greentor.spawn(the_handler, done)
            await await_until(lambda: reports(caplog))
            done.set()
            await task

        try:
            asyncio.run(main())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(10)
    assert not failures
    assert len(reports(caplog)) == 1
