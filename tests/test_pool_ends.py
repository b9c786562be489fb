"""`greentor.pool`: the queue when it is full, and what ends around those who stand in it."""

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import greentor
from greentor import bridge
from greentor.pool import Pool, PoolClosed, PoolFull, PoolTimeout
from greentor.web import STATUS
from tests.test_pool import Connection, FakeDriver, counts, make_pool, settle, spawn


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


async def borrow(pool: Pool[Any], driver: FakeDriver) -> Connection:
    connection: Connection = (await spawn(pool.acquire, driver.open))[0]
    return connection


# --- max_waiting ------------------------------------------------------------------------------


def test_beyond_max_waiting_one_is_refused_at_once_with_the_numbers(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, 1, max_waiting=2)
        held = [await borrow(pool, driver) for _ in range(2)]
        waiters = [spawn(pool.acquire, driver.open) for _ in range(2)]
        await settle()
        refused = spawn(pool.acquire, driver.open)
        await settle()
        assert refused.done(), "it waited"
        with pytest.raises(PoolFull) as info:
            await refused
        assert str(info.value) == (
            "refused at once by the pool 'test': max_waiting is 2 and 2 of 2 in use, 2 waiting; "
            "raise pool_size or max_overflow, or release connections sooner"
        )
        assert counts(pool) == (2, 0, 2)
        pool.release(held.pop())
        held.append((await waiters[0])[0])
        again = spawn(pool.acquire, driver.open)  # there is a place in the queue again
        await settle()
        assert counts(pool) == (2, 0, 2)
        for task in (waiters[1], again):
            pool.release(held.pop())
            held.append((await task)[0])
        assert pool.stats().refused == 1

    run(main)


def test_refused_it_is_a_503_as_one_that_waited_in_vain() -> None:
    assert issubclass(PoolFull, PoolTimeout)
    assert [STATUS[cls] for cls in PoolFull.__mro__ if cls in STATUS] == [503]


def test_max_waiting_of_nought_lends_what_is_free_and_queues_nobody(
    run: Any, driver: FakeDriver
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(driver, 1, max_waiting=0)
        connection, _ = pool.acquire(driver.open)
        with pytest.raises(PoolFull):
            pool.acquire(driver.open)
        pool.release(connection)
        assert pool.acquire(driver.open) == (connection, False)

    run(main)


@pytest.mark.parametrize("how", ["timed out", "cancelled"])
def test_who_has_given_up_takes_no_place_in_the_queue(
    run: Any, driver: FakeDriver, how: str
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, max_waiting=1, pool_timeout=0.01 if how == "timed out" else 30)
        held = await borrow(pool, driver)
        first = spawn(pool.acquire, driver.open)
        await settle()
        if how == "cancelled":
            first.cancel()
        await asyncio.wait([first])
        second = spawn(pool.acquire, driver.open)
        await settle()
        assert counts(pool) == (1, 0, 1)
        pool.release(held)
        assert await second == (held, False)
        pool.release(held)

    run(main)


# --- pool_timeout -----------------------------------------------------------------------------


def test_pool_timeout_of_nought_is_served_by_a_release_that_comes_before_the_loop_looks(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1, pool_timeout=0)
        held = await borrow(pool, driver)
        waiter = spawn(pool.acquire, driver.open)
        asyncio.get_running_loop().call_soon(pool.release, held)
        results = await asyncio.gather(waiter, return_exceptions=True)
        # Served or timed out, but never both, nor neither.
        if isinstance(results[0], PoolTimeout):
            assert counts(pool) == (0, 1, 0)
        else:
            assert results == [(held, False)]
            assert counts(pool) == (1, 0, 0)

    run(main)


def test_release_in_the_iteration_of_the_timeout_is_not_lost(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        held = await borrow(pool, driver)
        waiter = spawn(pool.acquire, driver.open)
        other = spawn(pool.acquire, driver.open)
        await settle()
        pool._expire(next(iter(pool._state.waiters)))  # type: ignore[arg-type]
        pool.release(held)
        with pytest.raises(PoolTimeout):
            await waiter
        assert await other == (held, False)
        pool.release(held)
        assert counts(pool) == (0, 1, 0)

    run(main)


def test_idle_connection_that_was_lost_is_replaced_in_its_own_slot_and_nobody_waits(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 2)
        held = [await borrow(pool, driver) for _ in range(2)]
        pool.release(held[1])
        held[1].open = False
        lent, fresh = await asyncio.wait_for(spawn(pool.acquire, driver.open), 5)
        assert fresh
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        assert counts(pool) == (2, 0, 1)
        assert driver.alive == 2
        pool.release(held[0])
        assert await waiter == (held[0], False)
        pool.release(held[0])
        pool.release(lent)

    run(main)


# --- another loop, another thread -------------------------------------------------------------


def test_another_loop_is_refused_and_changes_nothing(driver: FakeDriver) -> None:
    pool = make_pool(driver, 2)

    async def main() -> None:
        connection = await borrow(pool, driver)
        pool.release(connection)

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="'test' serves another event loop"):
        asyncio.run(main())
    with pytest.raises(RuntimeError, match="'test' serves another event loop"):
        asyncio.run(pool.warm(driver.open))
    assert counts(pool) == (0, 1, 0)


def in_thread(fn: Callable[[], Any]) -> Any:
    """Run ``fn`` in a thread while this one blocks; return its result or its exception."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(fn())
        except BaseException as exc:
            found.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    return found[0]


def test_another_thread_can_neither_borrow_nor_give_back(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        connection = await borrow(pool, driver)
        waiter = spawn(pool.acquire, driver.open)
        await settle()

        async def borrow_there() -> None:
            await borrow(pool, driver)

        assert isinstance(in_thread(lambda: pool.acquire(driver.open)), bridge.NotGreen)
        error = in_thread(lambda: asyncio.run(borrow_there()))
        assert "serves another event loop" in str(error)
        error = in_thread(lambda: pool.release(connection))
        assert isinstance(error, RuntimeError)
        assert "came back to <Pool 'test': 1 of 1 in use" in str(error)
        assert counts(pool) == (1, 0, 1)
        pool.release(connection)
        assert await waiter == (connection, False)
        pool.release(connection)

    run(main)


def test_what_another_thread_gives_back_by_force_serves_those_who_wait(
    run: Any, driver: FakeDriver
) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)
        connection = await borrow(pool, driver)
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        assert in_thread(lambda: pool.release(connection, force=True)) is None
        lent, fresh = await asyncio.wait_for(waiter, 5)
        assert fresh
        assert driver.closed == [connection]
        pool.release(lent)
        assert counts(pool) == (0, 1, 0)

    run(main)


# --- the loop ends ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("then", ["the pool is closed", "what was lent comes back"])
def test_loop_that_is_closed_under_those_who_wait(
    driver: FakeDriver, then: str, recwarn: Any, caplog: Any
) -> None:
    """As some test runners do: close, without cancelling what runs."""
    loop = asyncio.new_event_loop()
    pool = make_pool(driver, 1)
    held = loop.run_until_complete(borrow(pool, driver))
    waiters = [
        bridge.run_in_scope("waiter", pool.acquire, driver.open),
        bridge.run_in_scope("waiter", pool.acquire, driver.open),
    ]
    tasks = [loop.create_task(waiter) for waiter in waiters]
    loop.run_until_complete(settle())
    assert counts(pool) == (1, 0, 2)
    loop.close()
    if then == "the pool is closed":
        pool.close()
        pool.release(held, force=True)
    else:
        pool.release(held, force=True)
        assert pool.in_use == 0, "its slot went to one who will never run"
        pool.close()
    for task, waiter in zip(tasks, waiters, strict=True):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        waiter.close()
    assert counts(pool) == (0, 0, 0)
    assert driver.closed == [held]
    assert len(driver.opened) == 1


def test_loop_that_is_run_down_in_good_order_leaves_nobody(driver: FakeDriver) -> None:
    pool = make_pool(driver, 1)

    async def main() -> None:
        await borrow(pool, driver)
        for _ in range(3):
            greentor.spawn(pool.acquire, driver.open)
        await settle()
        assert counts(pool) == (1, 0, 3)

    asyncio.run(main())  # cancels what still runs
    assert counts(pool) == (1, 0, 0)


# --- garbage ----------------------------------------------------------------------------------


def test_borrower_that_is_collected_gives_back_by_force(run: Any, driver: FakeDriver) -> None:
    async def main() -> None:
        pool = make_pool(driver, 1)

        def use() -> None:
            connection, _ = pool.acquire(driver.open)
            try:
                greentor.await_(asyncio.get_running_loop().create_future())
            finally:
                pool.release(connection, force=bridge.is_dying())

        coroutine = bridge.run_in_scope("abandoned", use)
        coroutine.send(None)
        waiter = spawn(pool.acquire, driver.open)
        await settle()
        assert counts(pool) == (1, 0, 1)
        del coroutine
        gc.collect()
        lent, fresh = await asyncio.wait_for(waiter, 5)
        assert fresh
        assert len(driver.closed) == 1
        pool.release(lent)
        assert counts(pool) == (0, 1, 0)

    run(main)


# --- processes --------------------------------------------------------------------------------


def in_child(fn: Callable[[], bool]) -> int:
    """Fork, call ``fn`` in the child, and return 0 if it returned True there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3.12: fork() in a process with threads
        pid = os.fork()
    if not pid:  # pragma: no cover
        code = 1
        try:
            code = 0 if fn() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("handed_over", [False, True], ids=["waiting", "handed over"])
def test_fork_while_somebody_waits_leaves_everything_to_the_parent(
    run: Any, driver: FakeDriver, handed_over: bool
) -> None:
    # asyncio lets a child go no further on the loop of its parent; what waits there is collected.
    async def main() -> None:
        pool = make_pool(driver, 0, 1)  # what would be idle is closed
        held = await borrow(pool, driver)
        waiter = bridge.run_in_scope("waiter", pool.acquire, driver.open)
        task = asyncio.create_task(waiter)
        await settle()
        if handed_over:
            pool.release(held)  # the waiter has it, and has not run yet
        assert counts(pool) == (1, 0, 0 if handed_over else 1)

        def child() -> bool:
            waiter.close()
            pool.stats()
            untouched = not driver.closed
            if not handed_over:
                pool.release(held)
                untouched = driver.closed == [held]
            with pytest.raises(PoolClosed, match="another process"):
                asyncio.new_event_loop().run_until_complete(
                    bridge.run_in_scope("child", pool.acquire, driver.open)
                )
            return untouched and len(driver.opened) == 1

        asyncio.events._set_running_loop(None)
        try:
            assert in_child(child) == 0
        finally:
            asyncio.events._set_running_loop(task.get_loop())
        if not handed_over:
            pool.release(held)
        assert await task == (held, False)
        pool.release(held)
        assert counts(pool) == (0, 0, 0)

    run(main)
