"""Greenlets that are closed, collected or killed: they end, never wait, and mislead nobody."""

import asyncio
import contextvars
import gc
import sys
import threading
import warnings

import pytest
from greenlet import GreenletExit, getcurrent

from greentor import await_, green, in_green, sleep, spawn, thread
from greentor.bridge import (
    check_alive,
    current_scope,
    is_dying,
    run_in_scope,
    step_detached,
    wait,
)
from greentor.waits import pause

pytestmark = pytest.mark.filterwarnings("error")


async def settle(rounds=10):
    """Let every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def never():
    return asyncio.get_running_loop().create_future()


def resource(log):
    """Add a resource to the running scope that logs how it is released."""
    scope = current_scope()
    scope.add_resource(object(), log.append)
    return scope


@pytest.fixture
def unraisable(monkeypatch):
    """Collect what would be printed as unraisable."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: seen.append(said.exc_value))
    return seen


async def start(function, *args, **kwargs):
    """Step a green coroutine up to its first park, in the running task; return it."""
    coroutine = green(function)(*args, **kwargs)
    # In a context of its own, or the tasks that this one starts would inherit its scope.
    future = contextvars.copy_context().run(coroutine.send, None)
    if future is not None:
        future._asyncio_future_blocking = False
    return coroutine


# --- GreenletExit is never a result -----------------------------------------------------------


def test_greenlet_exit_raised_in_a_green_function_is_a_cancel_not_a_result(run):
    def function():
        raise GreenletExit("a value")

    async def coroutine():
        await asyncio.sleep(0)
        raise GreenletExit

    async def main():
        for exiting in (function, coroutine):
            with pytest.raises(asyncio.CancelledError):
                await green(exiting)()
            task = spawn(exiting)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    run(main)


def test_greenlet_exit_that_comes_out_of_a_future_is_a_cancel_not_a_result(run):
    @green
    def function():
        future = never()
        asyncio.get_running_loop().call_soon(future.set_exception, GreenletExit())
        wait(future)

    async def main():
        results = []

        async def awaits():
            results.append(await function())

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(awaits())
        assert results == []

    run(main)


@pytest.mark.parametrize("way", ["wait", "await", "async"])
def test_a_killed_greenlet_may_not_wait_and_its_task_is_cancelled(run, way):
    """``greenlet.throw``, from outside: the task must not hang, nor get the future's result."""
    log, greens, futures = [], [], []

    def function():
        resource(log)
        greens.append(getcurrent())
        futures.append(never())
        try:
            return wait(futures[0]) if way == "wait" else await_(futures[0])
        finally:
            with pytest.raises(GreenletExit):
                sleep(0)
            log.append("ended")

    async def coroutine():
        resource(log)
        greens.append(getcurrent())
        futures.append(never())
        try:
            return await futures[0]
        finally:
            with pytest.raises(GreenletExit):
                sleep(0)
            log.append("ended")

    async def main():
        task = asyncio.create_task(green(coroutine if way == "async" else function)())
        await settle()
        assert greens[0].throw() is None
        assert greens[0].dead
        assert log == ["ended", True]
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    run(main)


def test_a_greenlet_killed_as_its_result_arrives_returns_nothing(run):
    greens, future = [], None

    def function():
        greens.append(getcurrent())
        wait(future)

    async def main():
        nonlocal future
        future = never()
        task = asyncio.create_task(green(function)())
        await settle()
        future.set_result("the database's answer")
        greens[0].throw()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


# --- closed -----------------------------------------------------------------------------------


def test_coroutine_closed_from_another_greenlet_answers_its_own_driver(run):
    """The closer goes on where it was; the dying greenlet's end is no answer to anybody's wait."""
    log = []

    def parked():
        try:
            wait(never())
        finally:
            log.append(("dying", is_dying()))

    @green
    def closer(coroutine):
        assert await_(asyncio.sleep(0, "mine")) == "mine"
        asyncio.get_running_loop().call_soon(log.append, "the loop has run")
        coroutine.close()
        log.append("closed")
        assert await_(asyncio.sleep(0, "mine")) == "mine"
        return "closer's result"

    async def main():
        coroutine = await start(parked)
        closing = asyncio.create_task(closer(coroutine))
        del coroutine
        other = asyncio.create_task(green(await_)(asyncio.sleep(0, "other")))
        assert await closing == "closer's result"
        assert await other == "other"
        assert log == [("dying", True), "closed", "the loop has run"]

    run(main)


@pytest.mark.parametrize("how", ["send", "throw"])
def test_coroutine_driven_from_another_greenlet_answers_its_own_driver(run, how):
    log = []

    def parked(future):
        try:
            wait(future)
        except KeyError:
            log.append("caught")
        wait(never())

    @green
    def driver(coroutine, future):
        asyncio.get_running_loop().call_soon(log.append, "the loop has run")
        if how == "send":
            future.set_result(None)
            waits_for = coroutine.send(None)
        else:
            waits_for = coroutine.throw(KeyError())
        waits_for._asyncio_future_blocking = False
        assert asyncio.isfuture(waits_for)
        assert waits_for is not future
        assert "the loop has run" not in log
        coroutine.close()
        assert "the loop has run" not in log

    async def main():
        future = never()
        await driver(await start(parked, future), future)
        assert ("caught" in log) is (how == "throw")

    run(main)


@pytest.mark.parametrize("sync", [True, False])
def test_a_dying_greenlet_is_refused_every_wait_and_really_dies(run, sync, unraisable):
    log, greens, started = [], [], []

    def clean_up():
        for attempt in (
            lambda: sleep(0),
            lambda: pause(0),
            lambda: wait(never()),
            lambda: await_(never()),
            lambda: await_(asyncio.sleep(0)),
            lambda: await_(asyncio.gather(asyncio.sleep(0))),
            lambda: step_detached(asyncio.sleep(0)),
            lambda: thread(started.append, 1),
            lambda: check_alive("this"),
        ):
            with pytest.raises(GreenletExit):
                attempt()
        assert in_green()
        assert is_dying()
        log.append("cleaned up")

    def function():
        resource(log)
        greens.append(getcurrent())
        try:
            wait(never())
        finally:
            clean_up()

    async def coroutine():
        resource(log)
        greens.append(getcurrent())
        try:
            await never()
        finally:
            clean_up()

    async def main():
        closing = await start(function if sync else coroutine)
        (g,) = greens
        closing.close()
        assert g.dead
        assert log == ["cleaned up", True]
        await settle()
        assert started == []

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main)
    assert unraisable == []


def test_async_code_that_awaits_in_finally_while_dying_is_told_so(run):
    log = []

    async def coroutine():
        scope = resource(log)
        try:
            await never()
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                log.append(scope.closed)

    async def main():
        coroutine_ = await start(coroutine)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            coroutine_.close()
        assert log == [False, True] or log == [True]

    run(main)


def test_a_coroutine_that_ignores_being_closed_does_not_keep_the_greenlet(run):
    log, greens = [], []

    async def stubborn():
        try:
            await asyncio.sleep(0)
        except GeneratorExit:
            log.append("ignored")
            await asyncio.sleep(0)

    def function():
        resource(log)
        greens.append(getcurrent())
        await_(stubborn())

    async def main():
        coroutine = await start(function)
        (g,) = greens
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            coroutine.close()
        assert g.dead
        assert log == ["ignored", True]

    run(main)


def test_a_dying_function_that_swallows_greenlet_exit_ends_at_its_next_wait(run):
    log = []

    def function():
        resource(log)
        for _ in range(3):
            try:
                sleep(0)
            except GreenletExit:
                log.append("swallowed")
        log.append("ended")

    async def coroutine():
        resource(log)
        try:
            await asyncio.sleep(0)
        except GeneratorExit:
            log.append("swallowed")
        log.append("ended")

    async def main():
        (await start(function)).close()
        assert log == ["swallowed"] * 3 + ["ended", True]
        log.clear()
        (await start(coroutine)).close()
        assert log == ["swallowed", "ended", True]

    run(main)


def test_a_task_destroyed_with_the_loop_force_closes(run, unraisable, caplog):
    """Parked in ``sleep(0)`` when the loop closes: only the loop's queue held the task."""
    log = []

    def function():
        resource(log)
        try:
            while True:
                sleep(0)
        finally:
            log.append("finally")
            sleep(0)

    loop = asyncio.new_event_loop()
    task = loop.create_task(green(function)())
    loop.run_until_complete(settle())
    loop.close()
    del task
    gc.collect()
    assert log == ["finally", True]
    assert unraisable == []
    assert "Task was destroyed but it is pending" in caplog.text


def test_a_task_destroyed_in_another_thread_dies_on_its_own_loop(run, unraisable):
    log = []

    def function():
        resource(log)
        try:
            wait(never())
        finally:
            log.append(threading.get_ident())
            with pytest.raises(GreenletExit):
                sleep(0)

    async def main():
        coroutine = await start(function)
        closer = threading.Thread(target=coroutine.close)
        closer.start()
        closer.join(10)
        await settle()
        assert log == [threading.get_ident(), True]

    run(main)
    assert unraisable == []


def test_a_task_destroyed_in_another_thread_after_its_loop_closed(unraisable):
    """Nobody can switch to it any more: what it holds is closed at once, in that thread."""
    log = []

    def function():
        resource(log)
        wait(never())

    async def main():
        return await start(function)

    loop = asyncio.new_event_loop()
    coroutine = loop.run_until_complete(main())
    loop.close()
    closer = threading.Thread(target=coroutine.close)
    closer.start()
    closer.join(10)
    assert log == [True]
    del coroutine, closer
    gc.collect()
    assert log == [True]
    assert unraisable == []


def test_a_thread_that_ends_with_parked_greenlets(unraisable):
    log = []
    kept = []

    def function():
        resource(log)
        wait(never())

    async def main():
        kept.append(await start(function))

    def in_thread():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()

    other = threading.Thread(target=in_thread)
    other.start()
    other.join(10)
    kept.clear()
    gc.collect()
    assert log == [True]
    assert unraisable == []


def test_dying_is_seen_through_a_task_factory(run):
    """The killer's task is current then, and not the greenlet's."""
    log = []

    def function():
        resource(log)
        try:
            wait(never())
        finally:
            log.append(in_green())
            with pytest.raises(GreenletExit):
                sleep(0)

    async def main():
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs)
        )
        coroutine = asyncio.create_task(green(function)()).get_coro()
        await settle()
        asyncio.current_task()
        closed = await asyncio.create_task(close(coroutine))
        assert closed
        assert log == [True, True]

    async def close(coroutine):
        coroutine.close()
        return True

    run(cancel_left_over(main))


def cancel_left_over(main):
    """Return ``main`` followed by a cancel of the tasks whose coroutine it has closed."""

    async def wrapped():
        before = asyncio.all_tasks()
        await main()
        for task in asyncio.all_tasks() - before:
            task.cancel()
            with pytest.raises((RuntimeError, asyncio.CancelledError)):
                await task

    return wrapped


# --- the end of the scope ---------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["result", "exception", "cancel", "close"])
def test_resources_are_released_however_the_function_ends(run, ending):
    log = []

    def function():
        resource(log)
        resource(log)
        if ending == "exception":
            raise KeyError
        if ending != "result":
            wait(never())

    async def main():
        if ending == "close":
            (await start(function)).close()
        else:
            task = asyncio.create_task(green(function)())
            await settle()
            task.cancel()
            await asyncio.wait([task])
        assert log == [ending == "close"] * 2

    run(main)


def test_a_release_may_wait_and_a_cancel_goes_on_with_the_rest(run):
    log = []

    def release(force):
        log.append(("first", force))
        if not force:
            sleep(0)
            log.append("waited")

    def stuck(force):
        log.append(("stuck", force))
        wait(never())

    def function():
        scope = current_scope()
        scope.add_resource("first", release)
        scope.add_resource("stuck", stuck)
        return scope

    async def main():
        task = asyncio.create_task(run_in_scope("it", function))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log[:2] == [("stuck", False), ("first", True)]

    run(main)


def test_a_greenlet_closed_while_it_releases_force_closes_the_rest(run):
    log = []

    def stuck(force):
        log.append(("stuck", force))
        wait(never())

    def function():
        scope = current_scope()
        scope.add_resource("other", lambda force: log.append(("other", force)))
        scope.add_resource("stuck", stuck)

    async def main():
        (await start(function)).close()
        assert log == [("stuck", False), ("other", True)]

    run(main)


def test_an_exception_of_a_release_is_logged_and_hides_nothing(run, caplog):
    def broken(force):
        raise ValueError("cannot release")

    log = []

    def function():
        scope = current_scope()
        scope.add_resource("other", log.append)
        scope.add_resource("broken", broken)
        return "result"

    async def main():
        assert await run_in_scope("GET /it", function) == "result"
        assert log == [False]

    run(main)
    assert "releasing a resource of GET /it failed" in caplog.text
    assert "cannot release" in caplog.text
