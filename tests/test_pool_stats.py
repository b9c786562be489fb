"""`Pool.stats`: what is counted, how long things took, and what counting costs."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import greentor
from greentor.pool import Pool, PoolFull, PoolTimeout
from greentor.pool.stats import CLOSE_REASONS, WINDOW, Counters, Durations, Timing
from tests.test_pool import Connection, FakeDriver, make_pool, settle, spawn


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def closed(pool: Pool[Any]) -> dict[str, int]:
    return {reason: count for reason, count in pool.stats().closed.items() if count}


# --- durations --------------------------------------------------------------------------------


def test_percentiles_are_exact() -> None:
    durations = Durations()
    for number in range(1, 1001):
        durations.add(number / 1000)
    timing = durations.snapshot()
    assert timing.count == 1000
    assert timing.total == pytest.approx(500.5)
    assert (timing.p50, timing.p90, timing.p99, timing.max) == (0.5, 0.9, 0.99, 1.0)


@pytest.mark.parametrize(
    ("values", "timing"),
    [
        ([], Timing(0, 0.0, 0.0, 0.0, 0.0, 0.0)),
        ([3.0], Timing(1, 3.0, 3.0, 3.0, 3.0, 3.0)),
        ([2.0, 1.0], Timing(2, 3.0, 1.0, 2.0, 2.0, 2.0)),
    ],
    ids=str,
)
def test_few_values_are_not_a_special_case(values: list[float], timing: Timing) -> None:
    durations = Durations()
    for value in values:
        durations.add(value)
    assert durations.snapshot() == timing


def test_window_forgets_and_the_sum_does_not() -> None:
    durations = Durations()
    durations.add(100.0)
    for _ in range(WINDOW):
        durations.add(1.0)
    timing = durations.snapshot()
    assert (timing.count, timing.total, timing.max) == (WINDOW + 1, WINDOW + 100.0, 1.0)
    assert len(durations.recent) == WINDOW


# --- a pool -----------------------------------------------------------------------------------


def test_a_new_pool_has_every_counter_at_nought(driver: FakeDriver) -> None:
    stats = make_pool(driver).stats()
    assert (stats.name, stats.options.limit, stats.open) == ("test", 2, 0)
    assert stats.closed == dict.fromkeys(CLOSE_REASONS, 0)
    assert stats.wait == stats.hold == Durations().snapshot()
    assert (stats.longest_wait, stats.longest_hold) == (0.0, 0.0)


def test_a_snapshot_does_not_change(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver)
        before = pool.stats()
        pool.release(pool.acquire(driver.open)[0], force=True)
        assert before == make_pool(driver).stats()
        assert pool.stats().opened == 1

    run(main)


def test_waiting_and_holding_are_timed(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        start = time.monotonic()
        connection, _ = await spawn(pool.acquire, driver.open)
        opened = time.monotonic() - start
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        await asyncio.sleep(0.05)
        stats = pool.stats()
        took = time.monotonic() - start
        assert (stats.in_use, stats.waiting, stats.open) == (1, 1, 1)
        assert 0.049 <= stats.longest_wait <= stats.longest_hold <= took
        pool.release(connection)
        await waiter
        pool.release(connection)
        stats = pool.stats()
        assert (stats.wait.count, stats.hold.count) == (2, 2)
        assert stats.wait.p50 <= opened
        assert min(stats.wait.max, stats.hold.max) >= 0.049
        assert (stats.longest_wait, stats.longest_hold) == (0.0, 0.0)

    run(main)


def test_opening_counts_as_waiting(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver)

        def slow_open() -> Connection:
            greentor.sleep(0.02)
            return driver.open()

        start = time.monotonic()
        pool.release(pool.acquire(slow_open)[0])
        took = time.monotonic() - start
        stats = pool.stats()
        assert stats.wait.max >= 0.019
        assert stats.wait.max + stats.hold.max <= took

    run(main)


def test_reset_does_not_count_as_holding(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver)
        resets = []

        def slow_reset() -> None:
            resets.append(time.monotonic())
            greentor.sleep(0.02)

        start = time.monotonic()
        connection, _ = pool.acquire(driver.open)
        connection.clean = False
        driver.on_reset = slow_reset
        pool.release(connection)
        stats = pool.stats()
        assert (stats.resets, stats.hold.count) == (1, 1)
        assert stats.hold.max <= resets[0] - start

    run(main)


def test_each_end_of_a_connection_is_counted_by_its_reason(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, 1, pool_pre_ping=True)

        async def lend() -> Connection:
            connection: Connection = (await spawn(pool.acquire, driver.open))[0]
            return connection

        connection = await lend()
        connection.open = False
        pool.release(connection)
        assert closed(pool) == {"lost": 1}

        pool.release(await lend(), force=True)
        assert closed(pool) == {"lost": 1, "discarded": 1}

        connection = await lend()
        connection.clean = False
        driver.fail["reset"] = OSError("broken")
        await spawn(pool.release, connection)
        assert closed(pool) == {"lost": 1, "discarded": 1, "dirty": 1}
        driver.fail.clear()

        connection = await lend()
        connection.clean = False
        driver.on_reset = lambda: greentor.sleep(1000)
        task = spawn(pool.release, connection)
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert closed(pool).pop("interrupted") == 1

        connection = await lend()
        pool._state.entries[id(connection)].expires = 0.0
        pool.release(connection)
        assert closed(pool).pop("recycled") == 1

        connection = await lend()
        pool.write_off(connection)
        assert "killed" not in closed(pool)  # it is with its borrower still
        pool.release(connection)
        assert closed(pool).pop("killed") == 1

        held = [await lend(), await lend()]
        for connection in held:
            pool.release(connection)
        assert closed(pool).pop("overflow") == 1

        driver.fail["ping"] = OSError("no answer")
        pool.release(await lend())
        assert closed(pool).pop("ping") == 1

        pool.close()
        assert closed(pool) == {reason: 1 for reason in CLOSE_REASONS if reason != "idle"}
        stats = pool.stats()
        assert stats.opened == sum(stats.closed.values()) == len(driver.opened) == 9
        assert (stats.kills, stats.resets, stats.pings) == (1, 2, 1)

    run(main)


def test_idle_connections_that_were_lost_are_not_shown_as_idle(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 3)
        held = [(await spawn(pool.acquire, driver.open))[0] for _ in range(3)]
        for connection in held:
            pool.release(connection)
        held[0].open = held[1].open = False
        stats = pool.stats()
        assert (stats.idle, stats.closed["lost"], pool.idle) == (1, 2, 1)
        assert await spawn(pool.acquire, driver.open) == (held[2], False)

    run(main)


def test_failures_to_get_one_are_counted(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, max_waiting=1, pool_timeout=0.01)
        driver.fail["open"] = OSError("refused")
        with pytest.raises(OSError, match="refused"):
            await spawn(pool.acquire, driver.open)
        driver.fail.clear()
        connection, _ = await spawn(pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        with pytest.raises(PoolFull):
            await spawn(pool.acquire, driver.open)
        with pytest.raises(PoolTimeout):
            await waiter
        stats = pool.stats()
        assert (stats.failed, stats.timeouts, stats.refused) == (1, 1, 1)
        assert (stats.opened, stats.wait.count) == (1, 1)
        pool.release(connection)

    run(main)


# --- the cost ---------------------------------------------------------------------------------


def test_what_is_counted_in_each_loan_costs_less_than_half_a_microsecond() -> None:
    def cost(wait: Callable[[float], Any], hold: Callable[[float], Any]) -> float:
        best = float("inf")
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(1000):
                now = time.monotonic()
                wait(now - now)
                hold(time.monotonic() - now)
            best = min(best, (time.perf_counter() - start) / 1000)
        return best

    counters = Counters()
    # On a slow machine, what the least costs that may be done there says what half a microsecond is.
    least = cost(abs, abs)
    assert cost(counters.wait.add, counters.hold.add) < max(0.5e-6, 4 * least)
