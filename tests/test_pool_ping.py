"""``pool_pre_ping``: an idle connection is asked for a sign of life before it is lent."""

import asyncio
from typing import Any

import pytest

import greentor
from greentor import bridge
from tests.test_pool import FakeDriver, counts, make_pool, settle, spawn
from tests.test_pool_upkeep import borrow, give_back


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def test_without_pre_ping_nothing_is_pinged(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        give_back(pool, await borrow(pool, driver, 1))
        give_back(pool, await borrow(pool, driver, 1))
        assert not driver.pinged

    run(main)


def test_an_idle_connection_is_pinged_before_it_is_lent_and_no_other(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, pool_pre_ping=True)
        [connection] = await borrow(pool, driver, 1)
        assert not driver.pinged  # it was opened just now
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        pool.release(connection)
        assert await waiter == (connection, False)
        assert not driver.pinged  # it was in use just now
        pool.release(connection)
        assert await borrow(pool, driver, 1) == [connection]
        assert driver.pinged == [connection]
        assert pool.stats().pings == 1

    run(main)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a while"])
def test_a_failed_ping_opens_another_in_the_same_slot(
    run: Any, driver: FakeDriver, waits: bool, caplog: Any
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2, pool_pre_ping=True)
        held = await borrow(pool, driver, 2)
        pool.release(held[0])
        driver.fail["ping"] = OSError("gone")
        if waits:
            del driver.fail["ping"]

            def on_ping() -> None:
                assert counts(pool) == (2, 0, 0), "its slot is taken meanwhile"
                greentor.sleep(0.01)
                raise OSError("gone")

            driver.on_ping = on_ping
        connection, fresh = await spawn(pool.acquire, driver.open)
        assert fresh
        assert driver.closed == [held[0]]
        assert counts(pool) == (2, 0, 0)
        assert pool.stats().closed["ping"] == 1
        give_back(pool, [held[1], connection])

    run(main)
    assert not caplog.records, "silently"


@pytest.mark.parametrize("how", ["cancel", "deadline", "collected"])
def test_a_ping_that_is_interrupted_closes_its_connection_and_passes_the_slot_on(
    run: Any, driver: FakeDriver, how: str
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, pool_pre_ping=True)
        [connection] = await borrow(pool, driver, 1)
        pool.release(connection)
        driver.on_ping = lambda: greentor.sleep(1000)

        def acquire() -> Any:
            with greentor.timeout(0.01 if how == "deadline" else None):
                return pool.acquire(driver.open)

        if how == "collected":
            coroutine = bridge.run_in_scope("pinging", acquire)
            coroutine.send(None)
        else:
            pinging = spawn(acquire)
        await settle()
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        assert counts(pool) == (1, 0, 1)
        if how == "collected":
            coroutine.close()
        elif how == "cancel":
            pinging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pinging
        else:
            with pytest.raises(bridge.DeadlineExceeded):
                await pinging
        assert driver.closed == [connection]
        lent, fresh = await asyncio.wait_for(waiter, 5)
        assert fresh
        assert pool.stats().closed["interrupted"] == 1
        pool.release(lent)
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_pool_closed_during_a_ping(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, pool_pre_ping=True)
        give_back(pool, await borrow(pool, driver, 1))
        driver.on_ping = pool.close
        [connection] = await borrow(pool, driver, 1)  # it is lent, as one being opened would be
        pool.release(connection)
        assert driver.alive == 0
        assert counts(pool) == (0, 0, 0)

    run(main)
