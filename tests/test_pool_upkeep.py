"""`greentor.pool`: what happens to connections that nobody has asked for: ``min_size``, ``max_idle``, age."""

import asyncio
import gc
import time
import weakref
from contextvars import ContextVar
from typing import Any

import pytest

import greentor
from greentor.pool import Pool, PoolClosed, upkeep
from tests.noise import undisturbed
from tests.test_pool import Connection, FakeDriver, counts, make_pool, settle, spawn
from tests.waiting import await_until


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def timers(loop: asyncio.AbstractEventLoop, pool: Pool[Any]) -> int:
    """Count the timers of a pool: on asyncio those of its loop, else the one that it knows of."""
    if scheduled := getattr(loop, "_scheduled", None):
        return sum(not handle.cancelled() for handle in scheduled)
    handle = pool._idle_timer._handle
    return int(handle is not None and not handle.cancelled())


async def borrow(pool: Pool[Any], driver: FakeDriver, count: int) -> list[Connection]:
    return [(await spawn(pool.acquire, driver.open))[0] for _ in range(count)]


def give_back(pool: Pool[Any], held: list[Connection]) -> None:
    while held:
        pool.release(held.pop())


# --- warming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("min_size", [1, 8, 20])
def test_warming_opens_min_size_side_by_side_and_no_more(
    run: Any, driver: FakeDriver, min_size: int
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 20, 5, min_size=min_size)
        at_work = most = 0

        def open_() -> Connection:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            assert pool.in_use == at_work
            greentor.sleep(0)
            at_work -= 1
            return driver.open()

        assert await pool.warm(open_) == min_size
        assert counts(pool) == (0, min_size, 0)
        assert most == min(min_size, upkeep.WARM_AT_ONCE)
        assert await pool.warm(open_) == 0
        [connection] = await borrow(pool, driver, 1)
        assert connection.number < min_size, "opened anew"
        assert await pool.warm(open_) == 0  # what is lent counts
        pool.release(connection)

    run(main)


def test_warming_without_min_size_opens_nothing(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        assert await make_pool(driver).warm(driver.open) == 0
        assert not driver.opened

    run(main)


def test_warming_counts_against_the_bound(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2, min_size=2)
        gate = asyncio.Event()

        def slow_open() -> Connection:
            greentor.await_(gate.wait())
            return driver.open()

        warming = asyncio.create_task(pool.warm(slow_open))
        await settle()
        assert counts(pool) == (2, 0, 0)
        users = [spawn(pool.acquire, driver.open) for _ in range(3)]
        await settle()
        assert counts(pool) == (2, 0, 3), "opened beyond the bound"
        gate.set()
        assert await warming == 2
        first, second = await users[0], await users[1]
        assert not first[1]
        assert not second[1]  # what was opened ahead went to those who waited
        pool.release(first[0])
        assert await users[2] == (first[0], False)
        assert len(driver.opened) == 2

    run(main)


def test_warming_that_falls_short_raises_and_keeps_what_it_has(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 20, min_size=12)

        def open_() -> Connection:
            if len(driver.opened) == 3:
                raise OSError("server is down")
            return driver.open()

        with pytest.raises(OSError, match="server is down"):
            await pool.warm(open_)
        assert counts(pool) == (0, 3, 0)
        assert pool.stats().failed <= upkeep.WARM_AT_ONCE, "a server that is down is not hammered"
        assert await pool.warm(driver.open) == 9

    run(main)


def test_warming_that_gets_there_in_spite_of_an_error_says_nothing(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 4, min_size=4)
        tries: list[int] = []

        def open_() -> Connection:
            tries.append(1)
            greentor.sleep(0)
            if len(tries) == 2:
                driver.fail["open"] = OSError("once")
            try:
                return driver.open()
            finally:
                driver.fail.clear()

        await pool.warm(open_)
        assert counts(pool) == (0, 4, 0)

    run(main)


def test_pool_closed_while_it_is_warmed_keeps_nothing(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 20, min_size=12)
        gate = asyncio.Event()

        def slow_open() -> Connection:
            greentor.await_(gate.wait())
            return driver.open()

        warming = asyncio.create_task(pool.warm(slow_open))
        await settle()
        pool.close()
        gate.set()
        with pytest.raises(PoolClosed):
            await warming
        assert len(driver.opened) == upkeep.WARM_AT_ONCE
        assert driver.alive == 0
        assert counts(pool) == (0, 0, 0)
        with pytest.raises(PoolClosed):
            await pool.warm(driver.open)

    run(main)


@pytest.mark.parametrize("when", ["before it begins", "while it opens"])
def test_warming_that_is_cancelled_frees_its_slots(run: Any, driver: FakeDriver, when: str) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2, min_size=2)
        opening = 0

        def stall() -> Connection:
            nonlocal opening
            opening += 1
            greentor.sleep(1000)
            raise AssertionError

        warming = asyncio.create_task(pool.warm(stall))
        await asyncio.sleep(0)  # `warm` has begun, its greenlets have not
        if when == "while it opens":
            await settle()
        assert pool.in_use == opening == (2 if when == "while it opens" else 0)
        user = spawn(pool.acquire, driver.open)
        warming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await warming
        assert (await asyncio.wait_for(user, 5))[1]
        await await_until(lambda: counts(pool) == (1, 0, 0))

    run(main)


# --- max_idle ---------------------------------------------------------------------------------


def test_what_nobody_uses_is_closed_after_max_idle_but_never_below_min_size(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = make_pool(driver, 5, max_idle=0.1, min_size=2)
        held = await borrow(pool, driver, 5)
        assert timers(loop, pool) == 0, "a timer though nothing is idle"
        start = time.monotonic()
        give_back(pool, held)
        assert timers(loop, pool) == 1
        await await_until(lambda: pool.idle == 2)
        assert time.monotonic() - start >= 0.099
        assert timers(loop, pool) == 0, "a timer though nothing is to be closed"
        assert pool.stats().closed["idle"] == 3
        # Those that were given back last are the ones that stay.
        assert driver.closed == [driver.opened[number] for number in (4, 3, 2)]

    run(main)


def test_what_is_used_again_in_time_stays(run: Any) -> None:
    async def main() -> None:
        driver = FakeDriver()
        pool = make_pool(driver, 3, max_idle=0.15)
        give_back(pool, await borrow(pool, driver, 3))
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            give_back(pool, await borrow(pool, driver, 1))
            await asyncio.sleep(0.01)
        # One is enough for the load: the one used last is lent again, and the others grow cold.
        assert counts(pool) == (0, 1, 0)
        assert len(driver.opened) == 3

    undisturbed(lambda: run(main), 0.05)  # which is not in time


def test_timer_closes_none_too_early_and_is_set_for_the_next(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 3, max_idle=0.2)
        released, idle = [], []
        close = driver.close

        def timed_close(connection: Connection) -> None:
            idle.append(time.monotonic() - released[len(idle)])
            close(connection)

        driver.close = timed_close
        first, second = await borrow(pool, driver, 2)
        for connection in (first, second):
            released.append(time.monotonic())
            pool.release(connection)
            await asyncio.sleep(0.1)
        await await_until(lambda: pool.idle == 0)
        assert driver.closed == [first, second]
        assert min(idle) >= 0.199

    run(main)


@pytest.mark.parametrize("max_idle", [-1, float("inf"), 600])
def test_a_pool_that_is_dropped_is_not_kept_alive_by_its_timer(
    run: Any, driver: FakeDriver, max_idle: float
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2, max_idle=max_idle)
        give_back(pool, await borrow(pool, driver, 2))
        refs = [weakref.ref(pool), weakref.ref(pool._state)]
        del pool
        gc.collect()
        assert [ref() for ref in refs] == [None, None]

    run(main)


def test_no_timer_keeps_what_a_request_had_in_its_context(run: Any, driver: FakeDriver) -> None:
    variable: ContextVar[object] = ContextVar("variable")

    class Precious:
        pass

    async def main() -> None:
        pool = make_pool(driver, 1, max_idle=600, pool_timeout=600)

        def use() -> weakref.ref[Precious]:
            precious = Precious()
            variable.set(precious)
            connection, _ = pool.acquire(driver.open)
            greentor.sleep(0)
            pool.release(connection)
            return weakref.ref(precious)

        refs = await asyncio.gather(spawn(use), spawn(use))  # the second one has to wait
        await settle()
        gc.collect()
        assert timers(asyncio.get_running_loop(), pool) == 1
        assert [ref() for ref in refs] == [None, None]

    run(main)


def test_closing_ends_the_timer(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2, max_idle=600)
        give_back(pool, await borrow(pool, driver, 2))
        pool.close()
        assert timers(asyncio.get_running_loop(), pool) == 0

    run(main)


def test_loop_that_is_closed_is_not_asked_for_a_timer(driver: FakeDriver) -> None:
    loop = asyncio.new_event_loop()
    pool = make_pool(driver, 2, max_idle=600)
    held = loop.run_until_complete(borrow(pool, driver, 2))
    pool.release(held.pop())
    loop.close()
    pool._idle_timer.cancel()
    pool.release(held.pop())
    assert counts(pool) == (0, 2, 0)
    assert pool._idle_timer._handle is None
    pool.close()


# --- age --------------------------------------------------------------------------------------


def test_connections_opened_together_do_not_expire_together(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 200, pool_recycle=1000)
        start = time.monotonic()
        held = await borrow(pool, driver, 200)
        ages = sorted(entry.expires - start for entry in pool._state.entries.values())
        assert 900 <= ages[0] <= ages[-1] <= 1000 + (time.monotonic() - start)
        assert ages[-1] - ages[0] > 50  # of 100: less has a chance of 1 in 10**50
        assert len(set(ages)) == 200
        give_back(pool, held)

    run(main)


def test_what_grows_old_while_it_is_lent_is_closed_on_its_return_and_its_slot_goes_on(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, pool_recycle=0.05)
        [old] = await borrow(pool, driver, 1)
        waiter = spawn(pool.acquire, driver.open)
        await asyncio.sleep(0.06)
        assert old.open, "closed under its user"
        pool.release(old)
        connection, fresh = await waiter
        assert (connection is old, fresh) == (False, True)
        assert driver.closed == [old]
        assert pool.stats().closed["recycled"] == 1
        assert counts(pool) == (1, 0, 0)
        pool.release(connection)

    run(main)


def test_a_full_pool_of_what_was_lost_keeps_what_comes_back_instead(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2, 2)
        held = await borrow(pool, driver, 4)
        for connection in held[:2]:
            pool.release(connection)
            connection.open = False
        for connection in held[2:]:
            pool.release(connection)
        assert driver.closed == held[:2]
        assert counts(pool) == (0, 2, 0)
        closed = pool.stats().closed
        assert (closed["lost"], closed["overflow"]) == (2, 0)

    run(main)
