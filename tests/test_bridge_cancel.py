"""Cancelling tasks whose greenlets are parked, and `greentor.timeout`."""

import asyncio
import time

import pytest
from greenlet import getcurrent

from greentor import DeadlineExceeded, NotGreen, await_, green, sleep, spawn, timeout
from greentor.bridge import step_detached, wait
from greentor.waits import pause


async def settle(rounds=10):
    """Let every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def never():
    """Return a future that nobody completes."""
    return asyncio.get_running_loop().create_future()


def expire(deadline):
    """Let a `timeout` run out now, as its timer would."""
    deadline._handle.cancel()
    deadline._expire()


def cancelling():
    return asyncio.current_task().cancelling()


# --- cancelling -------------------------------------------------------------------------------


def test_cancel_raises_at_the_parked_call_and_finally_blocks_may_still_wait(run):
    log = []

    def park(way):
        try:
            way()
        except asyncio.CancelledError:
            log.append("raised at the call")
            raise
        finally:
            sleep(0)
            await_(asyncio.sleep(0))
            pause(0)
            log.append("waited")

    async def main():
        for way in (lambda: wait(never()), lambda: await_(never()), lambda: sleep(100)):
            task = asyncio.create_task(green(park)(way))
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
        assert log == ["raised at the call", "waited"] * 3

    run(main)


def test_a_second_cancel_interrupts_what_the_first_left_waiting(run):
    log = []

    @green
    async def function():
        try:
            await never()
        finally:
            log.append("first")
            try:
                wait(never())
            finally:
                log.append("second")
                await asyncio.sleep(0)
                log.append("waited")

    async def main():
        task = asyncio.create_task(function())
        for _ in range(2):
            await settle()
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["first", "second", "waited"]

    run(main)


def test_cancel_of_a_task_that_never_started_runs_nothing(run):
    ran = []

    async def main():
        for start in (
            lambda: asyncio.create_task(green(ran.append)(1)),
            lambda: spawn(ran.append, 1),
        ):
            task = start()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert ran == []

    run(main)


def test_a_cancel_in_the_iteration_of_the_result_loses_to_nothing(run):
    """The task is cancelled between its future's result and its own next step."""

    @green
    def function(future):
        try:
            return wait(future)
        except asyncio.CancelledError:
            assert future.result() == "result"
            raise

    async def main():
        future = never()
        task = asyncio.create_task(function(future))
        await settle()
        future.set_result("result")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_a_cancelled_future_is_not_a_cancelled_task(run):
    @green
    def function(future):
        with pytest.raises(asyncio.CancelledError):
            wait(future)
        with pytest.raises(asyncio.CancelledError):
            await_(future)
        assert cancelling() == 0
        sleep(0)
        return "went on"

    async def main():
        future = never()
        task = asyncio.create_task(function(future))
        await settle()
        future.cancel()
        assert await task == "went on"

    run(main)


def test_a_swallowed_cancel_is_counted_by_the_task(run):
    @green
    def function():
        with pytest.raises(asyncio.CancelledError):
            sleep(100)
        assert cancelling() == 1
        asyncio.current_task().uncancel()
        sleep(0)
        return "went on"

    async def main():
        task = asyncio.create_task(function())
        await settle()
        task.cancel()
        assert await task == "went on"

    run(main)


# --- timeout ----------------------------------------------------------------------------------


def test_timeout_raises_at_the_parked_call_and_can_be_caught_in_the_block(run):
    @green
    def function():
        for way in (lambda: wait(never()), lambda: sleep(100), lambda: pause(100)):
            with timeout(0.01):
                with pytest.raises(TimeoutError) as caught:
                    way()
                assert type(caught.value) is DeadlineExceeded
                assert "0.01 s" in str(caught.value)
                assert cancelling() == 0
                sleep(0)  # it strikes once: what cleans up may wait
            with pytest.raises(DeadlineExceeded), timeout(0.01):
                way()
            assert cancelling() == 0
        sleep(0)

    async def main():
        await green(function)()
        assert cancelling() == 0

    run(main)


def test_timeout_in_time_and_without_limit(run):
    @green
    def function():
        with timeout(100) as outer, timeout(None), timeout(100):
            sleep(0)
        assert outer._handle.cancelled()
        with pytest.raises(KeyError), timeout(100):
            raise KeyError
        assert getcurrent().timeouts == []
        with timeout(0):
            time.sleep(0.01)  # it never waited
        sleep(0)
        assert cancelling() == 0

    run(function)


def test_timeout_outside_a_greenlet_is_refused(run):
    async def main():
        with pytest.raises(NotGreen, match=r"timeout\(\)"), timeout(1):
            pass

    run(main)


def test_timeout_around_a_coroutine_cancels_it_and_raises_at_await(run):
    """The coroutine is cancelled as ``asyncio.timeout`` would: it need not know of ours."""
    seen = []

    async def coroutine():
        try:
            await asyncio.Event().wait()
        except BaseException as exc:
            seen.append(type(exc))
            await asyncio.sleep(0)
            raise

    @green
    def function():
        with timeout(0.01):
            with pytest.raises(DeadlineExceeded):
                await_(coroutine())
            assert cancelling() == 0
        with timeout(0.01), pytest.raises(DeadlineExceeded):
            step_detached(coroutine())
        assert cancelling() == 0

    run(function)
    assert seen == [asyncio.CancelledError] * 2


def test_timeout_around_a_task_group_leaves_no_child_running(run):
    ended = []

    async def child():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def family():
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(child())

    @green
    def function():
        with pytest.raises(DeadlineExceeded), timeout(0.01):
            await_(family())
        assert ended == [True, True]
        assert cancelling() == 0

    run(function)


def test_timeout_in_an_async_function_is_raised_by_the_block(run):
    @green
    async def function():
        with pytest.raises(DeadlineExceeded), timeout(0.01):
            await asyncio.Event().wait()
        assert cancelling() == 0
        with timeout(0.01), pytest.raises(DeadlineExceeded):
            sleep(100)  # a sync call in the async function
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded), timeout(0.01):
            async with asyncio.timeout(100):
                await asyncio.Event().wait()
        with pytest.raises(DeadlineExceeded), timeout(0.01):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())
        assert cancelling() == 0

    run(function)


def test_the_inner_of_two_timeouts_leaves_the_outer_in_force(run):
    @green
    def function():
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"), timeout(0.05):
            with pytest.raises(DeadlineExceeded, match=r"0\.01 s"), timeout(0.01):
                sleep(100)
            sleep(100)
        assert cancelling() == 0

    run(function)


def test_the_outer_of_two_timeouts_passes_through_the_inner(run):
    @green
    def function():
        with pytest.raises(DeadlineExceeded, match=r"0\.01 s"), timeout(0.01), timeout(100):
            sleep(100)
        assert cancelling() == 0

    run(function)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("way", [sleep, pause])
def test_two_timeouts_that_run_out_together_end_the_outer_block(run, order, way):
    """Whoever catches the inner one must not go on in the outer block without a limit."""
    deadlines = []

    @green
    def function():
        with pytest.raises(DeadlineExceeded, match="1000 s"), timeout(1000) as outer:
            try:
                with timeout(100) as inner:
                    deadlines[:] = outer, inner
                    way(10_000)
            except TimeoutError:
                pass
            way(10_000)
        assert cancelling() == 0
        sleep(0)

    async def main():
        task = asyncio.create_task(function())
        await settle()
        for number in order:
            expire(deadlines[number])
        await asyncio.wait_for(task, 5)

    run(main)


@pytest.mark.parametrize("first", ["timeout", "cancel"])
@pytest.mark.parametrize("way", ["wait", "await"])
def test_a_genuine_cancel_wins_over_a_timeout_of_the_same_iteration(run, first, way):
    deadlines = []

    @green
    def function():
        with timeout(1000) as deadline:
            deadlines.append(deadline)
            wait(never()) if way == "wait" else await_(never())

    async def main():
        task = asyncio.create_task(function())
        await settle()
        if first == "cancel":
            task.cancel()
        expire(deadlines[0])
        if first == "timeout":
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert task.cancelling() == 1

    run(main)


@pytest.mark.parametrize("inner", ["ours", "asyncio's"])
def test_our_timeout_and_asyncios_run_out_together(run, inner):
    """The outer one is raised, by its own block, and the count is back to zero."""
    deadlines = []

    @green
    async def ours_within():
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(1000) as theirs:
                with timeout(1000) as ours:
                    deadlines[:] = ours, theirs
                    sleep(10_000)
        assert type(caught.value) is TimeoutError
        assert cancelling() == 0
        await asyncio.sleep(0)

    @green
    async def theirs_within():
        with pytest.raises(DeadlineExceeded), timeout(1000) as ours:
            async with asyncio.timeout(1000) as theirs:
                deadlines[:] = ours, theirs
                await asyncio.sleep(10_000)
        assert cancelling() == 0
        await asyncio.sleep(0)

    async def main():
        task = asyncio.create_task((ours_within if inner == "ours" else theirs_within)())
        await settle()
        ours, theirs = deadlines
        expire(ours)
        theirs._on_timeout()
        await asyncio.wait_for(task, 5)

    run(main)


def test_timeout_in_the_iteration_of_the_result(run):
    """As with ``asyncio.timeout``: the deadline wins, and the future keeps its result."""
    deadlines = []
    future = None

    @green
    def function():
        with timeout(1000) as deadline:
            deadlines.append(deadline)
            with pytest.raises(DeadlineExceeded):
                wait(future)
            assert future.result() == "result"
        assert cancelling() == 0

    async def main():
        nonlocal future
        future = never()
        task = asyncio.create_task(function())
        await settle()
        future.set_result("result")
        expire(deadlines[0])
        await task

    run(main)


def test_a_child_that_swallows_the_cancel_of_a_timeout(run):
    """It is awaited until it has ended, and no cancel is left over for what follows."""

    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "swallowed"

    @green
    def function():
        with timeout(0.01):
            assert await_(asyncio.create_task(stubborn())) == "swallowed"
        assert cancelling() == 0
        sleep(0)
        with timeout(0.01):
            assert await_(stubborn()) == "swallowed"
        assert cancelling() == 0
        sleep(0)

    run(function)


def test_a_timeout_that_was_left_strikes_nobody(run):
    @green
    def function():
        try:
            with timeout(0.01):
                raise KeyError
        except KeyError:
            sleep(0.03)

    run(function)


def test_a_cancel_swallowed_long_ago_does_not_disable_timeouts(run):
    @green
    def function():
        with pytest.raises(asyncio.CancelledError):
            sleep(100)
        with pytest.raises(DeadlineExceeded), timeout(0.01):
            sleep(100)
        assert cancelling() == 1
        return "went on"

    async def main():
        task = asyncio.create_task(function())
        await settle()
        task.cancel()
        assert await task == "went on"

    run(main)
