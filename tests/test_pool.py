"""`greentor.pool` with a driver of the test's own: bounds, order, hand-offs, accounting."""

import asyncio
import logging
import os
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import greentor
from greentor import bridge
from greentor.pool import Pool, PoolClosed, PoolOptions, PoolTimeout


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number
        self.open = True
        self.clean = True

    def __repr__(self) -> str:
        return f"<connection {self.number}>"


class FakeDriver:
    """Connections that are nothing but flags; `fail` names the methods that raise, and what."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.closed: list[Connection] = []
        self.fail: dict[str, BaseException] = {}
        self.pinged: list[Connection] = []
        self.on_reset: Callable[[], None] = lambda: None
        self.on_ping: Callable[[], None] = lambda: None

    def open(self) -> Connection:
        self._maybe_fail("open")
        connection = Connection(len(self.opened))
        self.opened.append(connection)
        return connection

    def is_open(self, connection: Connection) -> bool:
        self._maybe_fail("is_open")
        return connection.open

    def is_clean(self, connection: Connection) -> bool:
        self._maybe_fail("is_clean")
        return connection.clean

    def reset(self, connection: Connection) -> None:
        self._maybe_fail("reset")
        self.on_reset()
        connection.clean = True

    def ping(self, connection: Connection, timeout: float) -> None:
        self.pinged.append(connection)
        self._maybe_fail("ping")
        self.on_ping()

    def close(self, connection: Connection) -> None:
        connection.open = False
        self.closed.append(connection)
        self._maybe_fail("close")

    def _maybe_fail(self, method: str) -> None:
        if method in self.fail:
            raise self.fail[method]

    @property
    def alive(self) -> int:
        return len(self.opened) - len(self.closed)


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def make_pool(driver: FakeDriver, size: int = 2, overflow: int = 0, **options: Any) -> Pool[Any]:
    return Pool("test", driver, PoolOptions(size, overflow, **options))


def spawn(fn: Callable[..., Any], *args: Any, name: str = "user") -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(bridge.run_in_scope(name, fn, *args))


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


def counts(pool: Pool[Any]) -> tuple[int, int, int]:
    return pool.in_use, pool.idle, pool.waiting


# --- bound and order --------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", [0, 3])
def test_slot_is_reserved_before_an_open_that_waits(
    run: Any, driver: FakeDriver, overflow: int
) -> None:
    limit = 5 + overflow
    most = 0

    async def main() -> None:
        nonlocal most
        pool = make_pool(driver, 5, overflow)
        gate = asyncio.Event()
        opening = 0

        def slow_open() -> Connection:
            nonlocal opening
            opening += 1
            greentor.await_(gate.wait())
            return driver.open()

        def use() -> None:
            nonlocal most
            connection, _ = pool.acquire(slow_open)
            most = max(most, pool.in_use + pool.idle, driver.alive)
            greentor.sleep(0)
            pool.release(connection)

        tasks = [spawn(use) for _ in range(100)]
        await settle()
        assert opening == limit
        assert counts(pool) == (limit, 0, 100 - limit)
        gate.set()
        await asyncio.gather(*tasks)
        assert opening == len(driver.opened) == limit
        assert counts(pool) == (0, 5, 0)
        assert driver.alive == 5

    run(main)
    assert most <= limit


def test_waiters_are_served_in_the_order_in_which_they_came(run: Any, driver: FakeDriver) -> None:
    served = []

    async def main() -> None:
        pool = make_pool(driver, 3)

        def use(number: int) -> None:
            connection, _ = pool.acquire(driver.open)
            served.append(number)
            greentor.sleep(0)
            pool.release(connection)

        await asyncio.gather(*(spawn(use, number) for number in range(200)))

    run(main)
    assert served == list(range(200))
    assert len(driver.opened) == 3


def test_nobody_barges_between_a_release_and_the_waiter_it_serves(
    run: Any, driver: FakeDriver
) -> None:
    served = []

    async def main() -> None:
        pool = make_pool(driver, 1)
        first, _ = await bridge.run_in_scope("first", pool.acquire, driver.open)

        def use(name: str) -> None:
            connection, _ = pool.acquire(driver.open)
            served.append(name)
            pool.release(connection)

        waiter = spawn(use, "waiter")
        await settle()

        def release_and_take_again() -> None:
            pool.release(first)
            use("newcomer")

        await bridge.run_in_scope("greedy", release_and_take_again)
        await waiter

    run(main)
    assert served == ["waiter", "newcomer"]


def test_newcomer_queues_though_a_connection_is_idle_for_a_moment(
    run: Any, driver: FakeDriver
) -> None:
    # With somebody in the queue nothing is ever idle: what is given back goes to the queue.
    async def main() -> None:
        pool = make_pool(driver, 2)
        held = [(await bridge.run_in_scope("h", pool.acquire, driver.open))[0] for _ in range(2)]
        tasks = [spawn(pool.acquire, driver.open) for _ in range(2)]
        await settle()
        for connection in held:
            await bridge.run_in_scope("h", pool.release, connection)
            assert pool.idle == 0
        assert {(await task)[0] for task in tasks} == set(held)

    run(main)


def test_idle_connections_are_lent_last_in_first_out(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 3)
        a, b, c = (pool.acquire(driver.open)[0] for _ in range(3))
        for connection in (b, a, c):
            pool.release(connection)
        assert [pool.acquire(driver.open) for _ in range(3)] == [(c, False), (a, False), (b, False)]

    run(main)


def test_overflow_connections_are_closed_when_they_would_be_idle(
    run: Any, driver: FakeDriver
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 2, 3)
        held = [pool.acquire(driver.open)[0] for _ in range(5)]
        assert counts(pool) == (5, 0, 0)
        for connection in held:
            pool.release(connection)
        assert counts(pool) == (0, 2, 0)
        assert driver.alive == 2

    run(main)


def test_steady_load_between_size_and_limit_opens_nothing_anew(
    run: Any, driver: FakeDriver
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 2, 3)
        held = deque(pool.acquire(driver.open)[0] for _ in range(4))
        for _ in range(100):
            pool.release(held.popleft())
            held.append(pool.acquire(driver.open)[0])
        assert len(driver.opened) == 4

    run(main)


def test_pool_of_size_nought_keeps_nothing_but_hands_on(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 0, 1)

        def use() -> bool:
            connection, fresh = pool.acquire(driver.open)
            greentor.sleep(0)
            pool.release(connection)
            return fresh

        assert await asyncio.gather(spawn(use), spawn(use)) == [True, False]
        assert counts(pool) == (0, 0, 0)
        assert driver.alive == 0
        assert await spawn(use)

    run(main)


# --- waiting in vain --------------------------------------------------------------------------


def test_pool_timeout_comes_in_time_says_the_numbers_and_loses_no_release(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, 1, pool_timeout=0.4)
        held = [(await bridge.run_in_scope("h", pool.acquire, driver.open))[0] for _ in range(2)]
        start = time.monotonic()
        tasks = [spawn(pool.acquire, driver.open) for _ in range(3)]
        await settle()
        # Each has its timer by now. The order of timers is that of their times, even on a loop that is
        # late for all of them; and one after the other, the three would need until 1.2 s.
        reference = asyncio.create_task(asyncio.sleep(0.7))
        first, _ = await asyncio.wait([tasks[0], reference], return_when=asyncio.FIRST_COMPLETED)
        assert reference not in first or tasks[0] in first
        assert time.monotonic() - start >= 0.399
        await reference
        await settle()
        assert all(task.done() for task in tasks)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result, waiting in zip(results, (3, 2, 1), strict=True):
            assert isinstance(result, PoolTimeout)
            assert isinstance(result, TimeoutError)
            text = str(result)
            assert text.startswith(
                f"no connection after 0.4 s from the pool 'test': 2 of 2 in use, {waiting} waiting;"
            )
            assert "pool_size" in text
        assert counts(pool) == (2, 0, 0)
        for connection in held:
            await bridge.run_in_scope("h", pool.release, connection)
        assert counts(pool) == (0, 1, 0)
        connection, fresh = await bridge.run_in_scope("h", pool.acquire, driver.open)
        assert not fresh
        assert connection in held

    run(main)


def test_pool_timeout_of_nought_still_takes_what_is_free(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1, pool_timeout=0)
        connection, _ = pool.acquire(driver.open)
        with pytest.raises(PoolTimeout):
            pool.acquire(driver.open)
        pool.release(connection)
        assert pool.acquire(driver.open) == (connection, False)

    run(main)


def test_deadline_of_the_caller_ends_the_wait(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = pool.acquire(driver.open)
        with pytest.raises(bridge.DeadlineExceeded), greentor.timeout(0.01):
            pool.acquire(driver.open)
        assert counts(pool) == (1, 0, 0)
        pool.release(connection)
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_outside_a_greenlet_it_is_refused(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver)
        with pytest.raises(bridge.NotGreen, match="connection from the pool 'test'"):
            pool.acquire(driver.open)
        assert counts(pool) == (0, 0, 0)

    run(main)


# --- hand-offs that are not accepted ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["connection", "slot"])
@pytest.mark.parametrize("another", [False, True], ids=["alone", "another waits"])
def test_waiter_cancelled_in_the_iteration_of_the_hand_off_gives_it_back(
    run: Any, driver: FakeDriver, kind: str, another: bool
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        held, _ = await bridge.run_in_scope("h", pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        other = spawn(pool.acquire, driver.open) if another else None
        await settle()

        def release_and_cancel() -> None:
            pool.release(held, force=kind == "slot")
            waiter.cancel()

        await bridge.run_in_scope("h", release_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiter
        if other is not None:
            connection, fresh = await asyncio.wait_for(other, 5)
            assert fresh == (kind == "slot")
            await bridge.run_in_scope("h", pool.release, connection)
        assert counts(pool) == (0, 1 if kind == "connection" or another else 0, 0)
        assert driver.alive == pool.idle

    run(main)


@pytest.mark.parametrize("kind", ["connection", "slot"])
def test_waiter_cancelled_just_before_the_hand_off_is_passed_over(
    run: Any, driver: FakeDriver, kind: str
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        held, _ = await bridge.run_in_scope("h", pool.acquire, driver.open)
        waiter, other = spawn(pool.acquire, driver.open), spawn(pool.acquire, driver.open)
        await settle()

        def cancel_and_release() -> None:
            waiter.cancel()
            pool.release(held, force=kind == "slot")

        await bridge.run_in_scope("h", cancel_and_release)
        with pytest.raises(asyncio.CancelledError):
            await waiter
        _connection, fresh = await asyncio.wait_for(other, 5)
        assert fresh == (kind == "slot")
        assert counts(pool) == (1, 0, 0)

    run(main)


def test_waiter_collected_after_the_hand_off_gives_it_back(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        held, _ = await bridge.run_in_scope("h", pool.acquire, driver.open)
        coroutine = bridge.run_in_scope("w", pool.acquire, driver.open)
        coroutine.send(None)
        assert pool.waiting == 1
        await bridge.run_in_scope("h", pool.release, held)
        assert counts(pool) == (1, 0, 0)
        coroutine.close()
        assert counts(pool) == (0, 1, 0)
        coroutine = bridge.run_in_scope("w", pool.acquire, driver.open)
        with pytest.raises(StopIteration):
            coroutine.send(None)
        coroutine = bridge.run_in_scope("w", pool.acquire, driver.open)
        coroutine.send(None)
        assert pool.waiting == 1
        coroutine.close()
        assert counts(pool) == (1, 0, 0)

    run(main)


def test_connection_that_dies_between_hand_off_and_waiter_is_replaced(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        held, _ = await bridge.run_in_scope("h", pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        await settle()

        def release_and_die() -> None:
            pool.release(held)
            held.open = False

        await bridge.run_in_scope("h", release_and_die)
        connection, fresh = await waiter
        assert fresh
        assert connection is not held
        assert driver.closed == [held]
        assert counts(pool) == (1, 0, 0)

    run(main)


# --- opening that fails -----------------------------------------------------------------------


class Odd(BaseException):
    """What is not an Exception."""


@pytest.mark.parametrize("error", [OSError("refused"), Odd()], ids=repr)
def test_open_that_fails_passes_the_slot_on(run: Any, driver: FakeDriver, error: Any) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        gate = asyncio.Event()

        def fail() -> Connection:
            greentor.await_(gate.wait())
            raise error

        first, second = spawn(pool.acquire, fail), spawn(pool.acquire, fail)
        third = spawn(pool.acquire, driver.open)
        await settle()
        assert counts(pool) == (1, 0, 2)
        gate.set()
        for task in (first, second):  # the second one is a waiter whose own open fails
            with pytest.raises(type(error)):
                await task
        connection, fresh = await asyncio.wait_for(third, 5)
        assert fresh
        assert counts(pool) == (1, 0, 0)
        await bridge.run_in_scope("h", pool.release, connection)
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_open_that_is_cancelled_passes_the_slot_on(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)

        def stall() -> Connection:
            greentor.sleep(1000)
            raise AssertionError

        first, second = spawn(pool.acquire, stall), spawn(pool.acquire, driver.open)
        await settle()
        first.cancel()
        assert (await asyncio.wait_for(second, 5))[1]
        assert first.cancelled()
        assert counts(pool) == (1, 0, 0)

    run(main)


# --- what comes back --------------------------------------------------------------------------


def test_connection_in_a_transaction_is_reset_and_lent_on(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = pool.acquire(driver.open)
        connection.clean = False
        pool.release(connection)
        assert connection.clean
        assert pool.acquire(driver.open) == (connection, False)

    run(main)


@pytest.mark.parametrize(
    "what",
    ["closed", "force", "reset fails", "reset in vain", "is_open fails", "is_clean fails", "old"],
)
@pytest.mark.parametrize("close_fails", [False, True], ids=["", "close fails"])
@pytest.mark.parametrize("another", [False, True], ids=["alone", "another waits"])
def test_connection_that_cannot_be_lent_on_is_discarded_and_its_slot_passed_on(
    run: Any, driver: FakeDriver, what: str, close_fails: bool, another: bool, caplog: Any
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, pool_recycle=0 if what == "old" else -1)
        connection, _ = await bridge.run_in_scope("h", pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open) if another else None
        await settle()
        if what == "closed":
            connection.open = False
        elif what.startswith("reset"):
            connection.clean = False
            if what == "reset fails":
                driver.fail["reset"] = OSError("lost")
            else:
                driver.on_reset = lambda: setattr(driver, "is_clean", lambda connection: False)
        elif what.endswith("fails"):
            driver.fail[what.split()[0]] = OSError("broken")
        if close_fails:
            driver.fail["close"] = OSError("cannot close")
        await bridge.run_in_scope("h", pool.release, connection, what == "force")
        assert driver.closed == [connection]
        if waiter is not None:
            assert (await asyncio.wait_for(waiter, 5))[1]
        assert counts(pool) == (1 if another else 0, 0, 0)

    with caplog.at_level(logging.CRITICAL if what != "reset fails" else logging.WARNING):
        run(main)
    if what == "reset fails":
        assert "lost" in caplog.text
        assert "failed its reset" in caplog.text


@pytest.mark.parametrize("how", ["cancel", "deadline", "odd"])
@pytest.mark.parametrize("close_fails", [False, True], ids=["", "close fails"])
def test_reset_that_is_interrupted_discards_and_raises(
    run: Any, driver: FakeDriver, how: str, close_fails: bool
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = await bridge.run_in_scope("h", pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        connection.clean = False
        if close_fails:
            driver.fail["close"] = OSError("cannot close")
        if how == "odd":
            driver.fail["reset"] = Odd()
        else:
            driver.on_reset = lambda: greentor.sleep(1000)

        def release() -> None:
            with greentor.timeout(0.01 if how == "deadline" else None):
                pool.release(connection)

        task = spawn(release)
        await settle()
        if how == "cancel":
            task.cancel()
        errors: Any = {
            "cancel": asyncio.CancelledError,
            "deadline": bridge.DeadlineExceeded,
            "odd": Odd,
        }
        with pytest.raises(errors[how]):
            await task
        assert driver.closed == [connection]
        assert (await asyncio.wait_for(waiter, 5))[1]
        assert counts(pool) == (1, 0, 0)

    run(main)


def test_pool_closed_during_a_reset(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = pool.acquire(driver.open)
        connection.clean = False
        driver.on_reset = pool.close
        pool.release(connection)
        assert driver.closed == [connection]
        assert counts(pool) == (0, 0, 0)

    run(main)


@pytest.mark.parametrize("when", ["idle", "lent to another", "during the reset"])
def test_connection_given_back_twice_is_refused_and_nobody_shares_it(
    run: Any, driver: FakeDriver, when: str
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 3)
        connection, _ = pool.acquire(driver.open)
        if when == "during the reset":
            connection.clean = False

            def again() -> None:
                with pytest.raises(ValueError, match="not on loan"):
                    pool.release(connection)

            driver.on_reset = again
        pool.release(connection)
        if when == "lent to another":
            task = spawn(pool.acquire, driver.open)
            assert greentor.await_(task) == (connection, False)
            pool.release(connection)
        with pytest.raises(ValueError, match="not on loan"):
            pool.release(connection)
        assert connection.open
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_connection_of_another_pool_is_refused(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool, other = make_pool(driver), make_pool(driver)
        connection, _ = other.acquire(driver.open)
        for stranger in (connection, Connection(99)):
            with pytest.raises(ValueError, match="not on loan"):
                pool.release(stranger)
        assert counts(pool) == (0, 0, 0)
        assert counts(other) == (1, 0, 0)

    run(main)


def test_idle_connections_that_died_or_are_old_are_replaced(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 3)
        held = [pool.acquire(driver.open)[0] for _ in range(3)]
        for connection in held:
            pool.release(connection)
        held[2].open = held[1].open = False
        assert pool.acquire(driver.open) == (held[0], False)
        assert counts(pool) == (1, 0, 0)
        pool.release(held[0])
        pool._state.entries[id(held[0])].expires -= 3601
        connection, fresh = pool.acquire(driver.open)
        assert fresh
        assert connection not in held
        assert counts(pool) == (1, 0, 0)
        assert driver.alive == 1
        assert len(pool._state.entries) == 1

    run(main)


@pytest.mark.parametrize("method", ["is_open", "close"])
@pytest.mark.parametrize("error", [OSError("broken"), Odd()], ids=repr)
def test_idle_connection_whose_driver_fails_costs_no_slot(
    run: Any, driver: FakeDriver, method: str, error: Any
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1)
        connection, _ = pool.acquire(driver.open)
        pool.release(connection)
        connection.open = False
        driver.fail[method] = error
        try:
            connection, fresh = pool.acquire(driver.open)
        except Odd:
            assert isinstance(error, Odd)
        else:
            assert fresh
            driver.fail.clear()
            pool.release(connection)
        driver.fail.clear()
        assert pool.in_use == 0
        connection, _ = pool.acquire(driver.open)
        assert counts(pool) == (1, 0, 0)

    run(main)


def test_recycle_of_minus_one_is_never(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1, pool_recycle=-1)
        connection, _ = pool.acquire(driver.open)
        pool._state.entries[id(connection)].expires -= 1e9
        pool.release(connection)
        assert pool.acquire(driver.open) == (connection, False)

    run(main)


# --- closing, processes -----------------------------------------------------------------------


@pytest.mark.parametrize("close_fails", [False, True], ids=["", "close fails"])
def test_close_ends_idle_wakes_waiters_and_closes_the_lent_on_their_return(
    run: Any, driver: FakeDriver, close_fails: bool
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 3)
        a, b, c = [(await bridge.run_in_scope("h", pool.acquire, driver.open))[0] for _ in range(3)]
        waiters = [spawn(pool.acquire, driver.open) for _ in range(3)]
        await settle()
        assert counts(pool) == (3, 0, 3)
        if close_fails:
            driver.fail["close"] = OSError("cannot close")
        waiters[1].cancel()
        pool.close()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(result) for result in results] == [
            PoolClosed,
            asyncio.CancelledError,
            PoolClosed,
        ]
        assert counts(pool) == (3, 0, 0)
        for connection in (a, b, c):
            await bridge.run_in_scope("h", pool.release, connection)
        assert driver.closed == [a, b, c]
        assert counts(pool) == (0, 0, 0)
        with pytest.raises(PoolClosed, match="'test' is closed"):
            await bridge.run_in_scope("h", pool.acquire, driver.open)
        pool.close()

    run(main)


@pytest.mark.parametrize("close_fails", [False, True], ids=["", "close fails"])
def test_close_ends_every_idle_connection(run: Any, driver: FakeDriver, close_fails: bool) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 3)
        held = [pool.acquire(driver.open)[0] for _ in range(3)]
        for connection in held:
            pool.release(connection)
        if close_fails:
            driver.fail["close"] = OSError("cannot close")
        pool.close()
        assert counts(pool) == (0, 0, 0)
        assert set(driver.closed) == set(held)

    run(main)


def test_waiter_handed_a_connection_as_the_pool_closes(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        held, _ = await bridge.run_in_scope("h", pool.acquire, driver.open)
        waiter = spawn(pool.acquire, driver.open)
        await settle()

        def release_close_cancel() -> None:
            pool.release(held)
            pool.close()
            waiter.cancel()

        await bridge.run_in_scope("h", release_close_cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert driver.closed == [held]
        assert counts(pool) == (0, 0, 0)

    run(main)


def test_forked_child_lends_nothing_and_only_closes(run: Any, driver: FakeDriver) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 2)
        idle, _ = pool.acquire(driver.open)
        lent, _ = pool.acquire(driver.open)
        pool.release(idle)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 3.12: fork() in a process with threads
            pid = os.fork()
        if not pid:  # pragma: no cover
            code = 1
            try:
                try:
                    pool.acquire(driver.open)
                except PoolClosed:
                    pool.release(lent)
                    code = 0 if driver.closed == [lent] and len(driver.opened) == 2 else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert counts(pool) == (1, 1, 0)

    run(main)


# --- what is told ----------------------------------------------------------------------------


def test_echo_tells_every_step(run: Any, driver: FakeDriver, caplog: Any) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1, echo=True)
        connection, _ = pool.acquire(driver.open)
        pool.release(connection)
        pool.close()

    with caplog.at_level(logging.INFO, "greentor.pool"):
        run(main)
    assert [record.message for record in caplog.records if record.name == "greentor.pool"] == [
        "<Pool 'test': 1 of 1 in use, 0 idle, 0 waiting>: lent <connection 0>",
        "<Pool 'test': 0 of 1 in use, 1 idle, 0 waiting>: took back <connection 0>",
        "<Pool 'test': 0 of 1 in use, 0 idle, 0 waiting>: closed <connection 0> (shutdown)",
    ]


def test_without_echo_nothing_is_logged(run: Any, driver: FakeDriver, caplog: Any) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1)
        pool.release(pool.acquire(driver.open)[0])
        pool.close()

    with caplog.at_level(logging.DEBUG, "greentor"):
        run(main)
    assert not [record for record in caplog.records if record.name.startswith("greentor")]
