"""`Pool.write_off`: a connection that died while it was lent, whose slot does not wait for it."""

import asyncio
from typing import Any

import pytest

import greentor
from greentor.pool import PoolClosed
from tests.test_pool import Connection, FakeDriver, counts, make_pool, settle, spawn


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def test_its_slot_goes_to_the_next_in_the_queue_at_once(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = await spawn(pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        assert counts(pool) == (1, 0, 1)
        assert pool.write_off(connection)
        second, fresh = await waiter
        assert fresh
        assert second is not connection
        assert counts(pool) == (1, 0, 0)
        pool.release(connection)  # its borrower comes round
        assert connection in driver.closed
        assert counts(pool) == (1, 0, 0)
        pool.release(second)
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_written_off_twice_or_not_lent_it_counts_for_nothing(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 2)
        connection, _ = pool.acquire(driver.open)
        assert pool.write_off(connection)
        assert not pool.write_off(connection)
        assert not pool.write_off(Connection(99))
        assert counts(pool) == (0, 0, 0)
        pool.release(connection)
        with pytest.raises(ValueError, match="not on loan"):
            pool.release(connection)
        assert counts(pool) == (0, 0, 0)

    run(main)


def test_a_kept_slot_bounds_the_others_until_it_is_used(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = await spawn(pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        assert pool.write_off(connection, keep_slot=True)
        await settle()
        assert counts(pool) == (1, 0, 1)
        kept, fresh, took = await spawn(pool.acquire_kept, driver.open, 0.01)
        assert fresh
        assert took
        assert counts(pool) == (1, 0, 1)
        pool.release(kept)
        assert await waiter == (kept, False)
        pool.release(connection)
        assert counts(pool) == (1, 0, 0)

    run(main)


@pytest.mark.parametrize("how", ["fails", "is cancelled", "is given up", "pool is closed"])
def test_a_kept_slot_that_nothing_was_opened_on_is_kept_until_it_is_freed(
    run: Any, driver: FakeDriver, how: str
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = await spawn(pool.acquire, driver.open)
        pool.write_off(connection, keep_slot=True)
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        if how == "fails":

            def refuse() -> Connection:
                raise OSError("refused")

            with pytest.raises(OSError, match="refused"):
                await spawn(pool.acquire_kept, refuse, 0.01)
        elif how == "is cancelled":
            opening = spawn(pool.acquire_kept, lambda: greentor.sleep(10), 0.01)
            await settle()
            opening.cancel()
            await asyncio.wait([opening])
        elif how == "pool is closed":
            pool.close()
            with pytest.raises(PoolClosed):
                await waiter
            with pytest.raises(PoolClosed):
                await spawn(pool.acquire_kept, driver.open, 0.01)
            pool.free_kept()
            assert counts(pool) == (0, 0, 0)
            return
        assert counts(pool) == (1, 0, 1)
        pool.free_kept()
        lent, _ = await asyncio.wait_for(waiter, 5)
        pool.release(lent)
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_an_idle_connection_is_taken_before_one_is_opened_on_a_kept_slot(
    run: Any, driver: FakeDriver
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 2)
        connection, _ = pool.acquire(driver.open)
        other, _ = pool.acquire(driver.open)
        pool.release(other)
        pool.write_off(connection, keep_slot=True)
        assert pool.acquire_kept(driver.open, 10) == (other, False, False)
        assert counts(pool) == (2, 0, 0)
        pool.free_kept()
        pool.release(other)
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_a_connection_that_comes_back_soon_is_taken_before_those_who_wait(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2)
        connection, _ = await spawn(pool.acquire, driver.open)
        other, _ = await spawn(pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        pool.write_off(connection, keep_slot=True)
        kept = spawn(pool.acquire_kept, driver.open, 10)
        await settle()
        pool.release(other)
        assert await kept == (other, False, False)
        assert not waiter.done()
        pool.free_kept()
        third, fresh = await waiter
        assert fresh
        assert counts(pool) == (2, 0, 0)
        pool.release(other)
        pool.release(third)
        assert counts(pool) == (0, 2, 0)

    run(main)


def test_if_none_comes_back_in_time_one_is_opened_on_the_kept_slot_and_no_timeout_is_counted(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2)
        connection, _ = await spawn(pool.acquire, driver.open)
        other, _ = await spawn(pool.acquire, driver.open)
        pool.write_off(connection, keep_slot=True)
        kept, fresh, took = await spawn(pool.acquire_kept, driver.open, 0.01)
        assert fresh
        assert took
        assert counts(pool) == (2, 0, 0)
        assert pool.stats().timeouts == 0
        pool.release(kept)
        pool.release(other)
        pool.release(connection)
        assert counts(pool) == (0, 2, 0)

    run(main)
