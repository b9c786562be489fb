"""`assert_no_leaks`: what it names, what it gives time to, and what is left after it."""

import asyncio

import pytest
from django.db import connections

import greentor
from greentor import bridge
from greentor.bridge import running
from greentor.db.pools import current_pools
from greentor.testing import Leaked, assert_no_leaks, leaks
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("django_db_tables")


@pytest.fixture
def loop():
    """A loop that is at rest when the judgement is made."""
    loop = asyncio.new_event_loop()
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


arrived = []


def park(seconds=100.0):
    arrived.append(True)
    greentor.sleep(seconds)


def queries_and_parks(seconds=100.0):
    Author.objects.count()
    park(seconds)


async def begin(fn, *args):
    arrived.clear()
    task = greentor.spawn(fn, *args)
    await await_until(lambda: arrived or task.done())
    return task


def message(loop, fn, *args):
    """Return what is said of a function that is begun and left."""
    with pytest.raises(Leaked) as raised, assert_no_leaks():
        loop.run_until_complete(begin(fn, *args))
    return str(raised.value)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(leaks, "GRACE", 0.02)


def test_spawned_task_and_its_connection_are_named(short, loop):
    found = message(loop, queries_and_parks)
    assert f"the spawned task 'queries_and_parks', parked in park ({__file__}:" in found
    assert "a connection of 'default', held by 'queries_and_parks'" in found
    assert found.count("\n") == 2


def test_line_of_a_coroutine_is_named(short, loop):
    async def inner():
        arrived.append(True)
        await asyncio.sleep(100)

    async def outer():
        await inner()

    line = inner.__code__.co_firstlineno + 2
    assert f"<locals>.inner ({__file__}:{line})" in message(loop, outer)


def test_helper_greenlet_is_named(short, loop):
    async def gathers():
        await asyncio.gather(greentor.green(queries_and_parks)())

    found = message(loop, gathers)
    assert "a helper greenlet of" in found
    assert found.count("a connection of 'default'") == 1


def test_connection_that_nobody_holds_is_named(short, loop):
    taken = []

    def takes():
        Author.objects.count()
        taken.append(wrapper := connections["default"])
        wrapper._scope.remove_resource(wrapper)

    assert "- 1 of the connections of <Pool 'default': 1 of " in message(loop, takes)
    (pool,) = current_pools(loop)
    loop.run_until_complete(greentor.green(pool.release)(taken[0].connection, True))


def test_open_scope_is_named(short, loop, monkeypatch):
    monkeypatch.setattr(running, "_end", lambda g: None)

    def forgotten():
        pass

    scopes = []

    async def main():
        await bridge.run_green(lambda: scopes.append(bridge.current_scope()))

    with pytest.raises(Leaked, match="the scope .*, which is open without"), assert_no_leaks():
        loop.run_until_complete(main())
    scopes[0].close(True)


def test_what_is_about_to_end_is_waited_for(loop):
    with assert_no_leaks():
        loop.run_until_complete(begin(queries_and_parks, 0.1))


def test_what_is_left_is_stopped(short, loop):
    ended = []

    def parks():
        try:
            park()
        finally:
            ended.append(Author.objects.count())  # it is cancelled, and may still wait

    message(loop, parks)
    assert len(ended) == 1
    assert [pool.in_use for pool in current_pools(loop)] == [0]


def test_query_that_is_cancelled_at_the_end_is_no_longer_lent(loop):
    def sleeps():
        with connections["default"].cursor() as cursor:
            arrived.append(True)
            cursor.execute("SELECT SLEEP(100)")

    with leaks.stopping():
        loop.run_until_complete(begin(sleeps))
    assert [pool.in_use for pool in current_pools(loop)] == [0]


def test_greenlet_of_a_closed_loop_is_named_and_killed(short, loop):
    ended = []

    def parks():
        try:
            park()
        except BaseException as exc:
            ended.append(type(exc).__name__)
            raise

    with pytest.raises(Leaked, match="the spawned task '.*parks', parked in"), assert_no_leaks():
        task = loop.run_until_complete(begin(parks))
        loop.close()
    assert ended == ["GreenletExit"]
    task._log_destroy_pending = False


def test_earlier_ones_are_not_blamed_on_the_block(short, loop):
    with leaks.stopping():
        loop.run_until_complete(begin(queries_and_parks))
        with assert_no_leaks():
            loop.run_until_complete(greentor.green(Author.objects.count)())


def test_nothing_is_watched_when_nobody_asks():
    with assert_no_leaks():
        assert running.watch is not None
    if not leaks._watchers:
        assert running.watch is None


def test_error_of_the_block_goes_before_its_leaks(short, loop):
    with pytest.raises(ZeroDivisionError), assert_no_leaks():
        loop.run_until_complete(begin(queries_and_parks))
        raise ZeroDivisionError
    assert [pool.in_use for pool in current_pools(loop)] == [0]
