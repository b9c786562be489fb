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
        kept = await spawn(pool.acquire_kept, driver.open)
        assert counts(pool) == (1, 0, 1)
        pool.release(kept)
        assert await waiter == (kept, False)
        pool.release(connection)
        assert counts(pool) == (1, 0, 0)

    run(main)


@pytest.mark.parametrize("how", ["fails", "is cancelled", "is given up", "pool is closed"])
def test_a_kept_slot_that_comes_to_nothing_is_passed_on(
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
                await spawn(pool.acquire_kept, refuse)
        elif how == "is cancelled":
            opening = spawn(pool.acquire_kept, lambda: greentor.sleep(10))
            await settle()
            opening.cancel()
            await asyncio.wait([opening])
        elif how == "is given up":
            pool.free_kept()
        else:
            pool.close()
            with pytest.raises(PoolClosed):
                await waiter
            with pytest.raises(PoolClosed):
                await spawn(pool.acquire_kept, driver.open)
            assert counts(pool) == (0, 0, 0)
            return
        lent, _ = await asyncio.wait_for(waiter, 5)
        pool.release(lent)
        assert counts(pool) == (0, 1, 0)

    run(main)
