"""The bridge: green functions, what they see of their task, and how they wait."""

import asyncio
import contextvars
import functools
import gc
import sys
import threading
import time
import warnings

import pytest
from greenlet import getcurrent, greenlet

from greentor import NotGreen, await_, green, in_green, sleep, spawn, thread, waits
from greentor import bridge as bridge_module
from greentor.bridge import running

VAR = contextvars.ContextVar("VAR", default="unset")


async def settle(rounds=10):
    """Let every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def later(value=None):
    """Return a future that is done two iterations of the loop from now."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(loop.call_soon, future.set_result, value)
    return future


# --- what runs where --------------------------------------------------------------------------


def test_sync_and_async_functions_and_methods_run_in_a_greenlet(run):
    @green
    def function(a, *, b):
        assert in_green()
        return a, b, await_(later("waited"))

    @green
    async def coroutine(a, *, b):
        assert in_green()
        return a, b, await later("waited")

    class Service:
        @green
        def method(self, a):
            assert in_green()
            return self, a

        @classmethod
        @green
        async def on_class(cls, a):
            assert in_green()
            return cls, a

        @staticmethod
        @green
        def static(a):
            assert in_green()
            return a

    async def main():
        assert await function(1, b=2) == (1, 2, "waited")
        assert await coroutine(1, b=2) == (1, 2, "waited")
        service = Service()
        assert await service.method(3) == (service, 3)
        assert await service.on_class(4) == (Service, 4)
        assert await Service.static(5) == 5
        assert not in_green()

    run(main)


def test_keyword_arguments_are_the_functions_own(run):
    """The 2016 code took a keyword ``timeout`` for itself."""

    def function(**kwargs):
        return kwargs

    every = {name: name for name in ("fn", "timeout", "name", "self", "frame", "task", "args", "g")}

    async def main():
        assert await green(function)(**every) == every
        assert await spawn(function, **every) == every
        assert await green(lambda: thread(function, **every))() == every

    run(main)


def test_decorated_functions_keep_their_name_and_are_coroutine_functions():
    @green
    def documented():
        """Say something."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "Say something."
    assert asyncio.iscoroutinefunction(documented) if sys.version_info < (3, 14) else True


def test_nested_green_stays_in_the_same_greenlet(run):
    @green
    async def inner():
        await asyncio.sleep(0)
        return getcurrent()

    @green
    def sync_inner():
        return getcurrent()

    @green
    async def outer():
        here = getcurrent()
        assert await inner() is here
        assert await sync_inner() is here
        assert await_(inner()) is here
        return here

    async def main():
        assert type(await outer()) is bridge_module.Green

    run(main)


def test_an_async_function_and_all_that_it_awaits_see_one_greenlet(run):
    seen = []

    class Manager:
        async def __aenter__(self):
            await asyncio.sleep(0)
            seen.append(getcurrent())

        async def __aexit__(self, *exc_info):
            await asyncio.sleep(0)
            seen.append(getcurrent())

    async def numbers():
        for number in range(3):
            await asyncio.sleep(0)
            seen.append(getcurrent())
            yield number

    @green
    async def function():
        async with Manager():
            assert [number async for number in numbers()] == [0, 1, 2]
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
            seen.append(getcurrent())
        return getcurrent()

    async def main():
        assert {*seen, await function()} == set(seen)
        assert len(set(seen)) == 1

    run(main)


def test_current_task_is_the_awaiting_task(run):
    @green
    def sync():
        before = asyncio.current_task()
        await_(later())
        assert asyncio.current_task() is before
        return before

    @green
    async def function():
        before = asyncio.current_task()
        await later()
        assert asyncio.current_task() is before
        return before

    async def main():
        me = asyncio.current_task()
        assert await sync() is me
        assert await function() is me
        task = asyncio.create_task(function())
        assert await task is task

    run(main)


def test_task_group_in_a_green_function(run):
    @green
    async def function():
        async with asyncio.TaskGroup() as group:
            first = group.create_task(asyncio.sleep(0, "first"))
            second = group.create_task(asyncio.sleep(0, "second"))
        assert (first.result(), second.result()) == ("first", "second")
        with pytest.raises(ExceptionGroup) as failed:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        assert failed.group_contains(ValueError)
        return True

    async def fail():
        raise ValueError

    run(function)


def test_asyncio_timeout_in_a_green_function(run):
    @green
    async def function():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    run(function)


def test_asyncio_timeout_around_a_call_parked_in_sync_code(run):
    @green
    async def function():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await_(asyncio.get_running_loop().create_future())
        assert asyncio.current_task().cancelling() == 0

    run(function)


def test_a_thousand_nested_greens(run):
    """None of the layers takes a greenlet of its own, and RecursionError is an ordinary one."""

    @green
    async def down(levels):
        if levels:
            return await down(levels - 1)
        await later()
        return getcurrent()

    @green
    def sync_down(levels):
        return await_(sync_down(levels - 1)) if levels else (await_(later()), getcurrent())[1]

    async def main():
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)
        try:
            assert type(await down(1000)) is bridge_module.Green
            assert type(await sync_down(1000)) is bridge_module.Green
        finally:
            sys.setrecursionlimit(limit)
        with pytest.raises(RecursionError):
            await down(10_000)
        assert type(await down(10)) is bridge_module.Green

    run(main)


def test_ten_thousand_parked_greenlets(run):
    @green
    def function(number):
        await_(gate.wait())
        return number

    async def main():
        global gate
        gate = asyncio.Event()
        tasks = [asyncio.create_task(function(number)) for number in range(10_000)]
        await settle()
        gate.set()
        assert await asyncio.gather(*tasks) == list(range(10_000))

    run(main)


def test_two_loops_in_two_threads_at_once(run):
    barrier = threading.Barrier(2, timeout=20)

    @green
    def function(number):
        assert asyncio.current_task() is getcurrent().task
        await_(later())
        barrier.wait() if number == 50 else None
        await_(later())
        return number, threading.get_ident()

    async def main():
        tasks = [asyncio.create_task(function(number)) for number in range(100)]
        here = threading.get_ident()
        assert await asyncio.gather(*tasks) == [(number, here) for number in range(100)]
        return True

    results = []
    other = threading.Thread(target=lambda: results.append(asyncio.run(main())))
    other.start()
    assert run(main)
    other.join(20)
    assert results == [True]


def test_a_loop_in_debug_mode(run, caplog):
    @green
    async def function():
        await_(asyncio.sleep(0))
        assert await asyncio.gather(green(thread)(len, "four"), asyncio.sleep(0)) == [4, None]
        return await spawn(sleep, 0)

    async def main():
        asyncio.get_running_loop().set_debug(True)
        await function()

    run(main)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_runner_runs_one_green_function_after_another():
    @green
    def function():
        VAR.set("from the last run")
        await_(later())
        return asyncio.get_running_loop()

    with asyncio.Runner() as runner:
        assert runner.run(function()) is runner.run(function()) is runner.get_loop()


# --- results and exceptions -------------------------------------------------------------------


def test_exceptions_arrive_where_they_are_awaited(run):
    @green
    def function():
        with pytest.raises(ValueError, match="of the future"):
            await_(failed())
        with pytest.raises(ValueError, match="of the coroutine"):
            await_(fail())
        raise KeyError("of the function")

    def failed():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, ValueError("of the future"))
        return future

    async def fail():
        await asyncio.sleep(0)
        raise ValueError("of the coroutine")

    async def main():
        with pytest.raises(KeyError, match="of the function") as caught:
            await function()
        assert caught.traceback[-1].name == "function"

    run(main)


def test_stop_iteration_is_an_error_not_a_result(run):
    @green
    def function():
        next(iter(()))

    @green
    async def outer():
        await function()

    @green
    def from_thread():
        return thread(next, iter(()))

    async def main():
        for stopping in (function, outer, from_thread):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await asyncio.wait_for(stopping(), 5)

    run(main)


def test_a_future_that_is_returned_is_a_result_and_a_coroutine_is_awaited(run):
    """As in any async function; a coroutine because the function may be a sync wrapper of one."""

    async def main():
        future = later("waited")
        assert await green(lambda: future)() is future
        assert await green(lambda: asyncio.sleep(0, "slept"))() == "slept"
        assert await green(functools.partial(asyncio.sleep, 0, "slept"))() == "slept"

    run(main)


def test_keyboard_interrupt_leaves_the_loop_by_way_of_the_task(run):
    ended = []

    @green
    def function():
        try:
            await_(later())
            raise KeyboardInterrupt
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        run(function)
    assert ended == [True]


def test_await_takes_any_awaitable(run):
    class Custom:
        def __await__(self):
            yield from later()
            return "custom"

    @green
    def function():
        assert await_(later("future")) == "future"
        assert await_(asyncio.create_task(asyncio.sleep(0, "task"))) == "task"
        assert await_(asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))) == [1, 2]
        assert await_(Custom()) == "custom"
        done = later()
        await_(done)
        assert await_(done) is None
        with pytest.raises(TypeError):
            await_(5)
        return True

    async def main():
        assert await function()

    run(main)


def test_a_coroutine_is_stepped_in_the_greenlet_that_awaits_it(run):
    async def coroutine():
        assert in_green()
        await asyncio.sleep(0)
        return getcurrent(), asyncio.current_task()

    @green
    def function():
        assert await_(coroutine()) == (getcurrent(), asyncio.current_task())

    run(function)


# --- outside greenlets ------------------------------------------------------------------------


def test_await_outside_a_greenlet_closes_the_coroutine_and_says_what_to_do(run):
    started = []

    async def coroutine():
        started.append(True)

    async def main():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(NotGreen, match=r"await_\(\) .*greentor\.green.*greentor\.spawn"):
                await_(coroutine())
            gc.collect()

    run(main)
    with pytest.raises(NotGreen):
        await_(coroutine())
    assert started == []


def test_a_foreign_greenlet_inside_ours_may_not_wait(run):
    @green
    def function():
        def foreign():
            assert not in_green()
            with pytest.raises(NotGreen):
                await_(asyncio.sleep(0))
            with pytest.raises(NotGreen):
                sleep(0)
            with pytest.raises(NotGreen):
                bridge_module.wait(asyncio.get_running_loop().create_future())
            assert bridge_module.current_scope() is None
            assert getcurrent().parent.switch("switched") == "back"
            return "ended"

        other = greenlet(foreign)
        assert other.switch() == "switched"
        await_(later())  # ours may, while the other one is suspended
        assert other.switch("back") == "ended"
        return True

    async def main():
        assert await function()

    run(main)


def test_green_functions_need_a_task():
    coroutine = green(lambda: None)()
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)
    with pytest.raises(RuntimeError, match="no running event loop"):
        spawn(lambda: None)


def test_a_future_of_another_loop_is_refused_at_the_parked_call(run):
    other = asyncio.new_event_loop()
    try:

        @green
        def function():
            with pytest.raises(RuntimeError, match="different loop"):
                await_(other.create_future())
            with pytest.raises(RuntimeError, match="different loop"):
                bridge_module.wait(other.create_future())
            await_(later())

        run(function)
    finally:
        other.close()


# --- context variables ------------------------------------------------------------------------


def test_contextvar_reset_works_in_a_green_function(run):
    @green
    def function():
        token = VAR.set("set in the greenlet")
        await_(later())
        assert VAR.get() == "set in the greenlet"
        VAR.reset(token)
        assert VAR.get() == "set in the task"
        VAR.reset(outer)

    async def main():
        nonlocal outer
        outer = VAR.set("set in the task")
        await function()
        assert VAR.get() == "unset"

    outer = None
    run(main)


def test_the_greenlet_shares_its_tasks_context_and_copies_nothing(run):
    @green
    async def function():
        assert VAR.get() == "before"
        VAR.set("by async code")
        await green(VAR.set)("by nested code")
        await later()

    async def main():
        VAR.set("before")
        await function()
        assert VAR.get() == "by nested code"

    run(main)


def test_context_does_not_leak_between_tasks(run):
    @green
    def function(number):
        assert VAR.get() == "of main"
        VAR.set(number)
        for _ in range(5):
            await_(later())
            assert VAR.get() == number
        return await_(child())

    @green
    async def child():
        before = VAR.get()
        await asyncio.gather(green(VAR.set)("by a helper"))
        assert VAR.get() == before
        return before

    async def main():
        VAR.set("of main")
        tasks = [asyncio.create_task(function(number)) for number in range(20)]
        assert await asyncio.gather(*tasks) == list(range(20))
        assert VAR.get() == "of main"

    run(main)


def test_parking_in_a_private_context(run):
    @green
    def function():
        private = contextvars.copy_context()

        def inside():
            VAR.set("private")
            await_(later())
            assert VAR.get() == "private"

        private.run(inside)
        assert VAR.get() == "unset"

    async def main():
        await asyncio.gather(function(), function())

    run(main)


# --- sleep and thread -------------------------------------------------------------------------


def test_sleep_parks_in_a_greenlet_sleeps_in_a_thread_and_is_refused_in_a_coroutine(run):
    order = []

    @green
    def function():
        sleep(0.02)
        order.append("slept")

    async def main():
        sleeping = asyncio.create_task(function())
        await settle()
        order.append("meanwhile")
        await sleeping
        with pytest.raises(NotGreen):
            sleep(0)
        await asyncio.to_thread(sleep, 0.01)

    run(main)
    assert order == ["meanwhile", "slept"]
    start = time.monotonic()
    sleep(0.02)
    assert time.monotonic() - start >= 0.02


def test_thread_runs_in_a_thread_with_a_copy_of_the_context(run):
    def work(a, *, b):
        assert not in_green()
        assert bridge_module.current_scope() is None
        assert VAR.get() == "of the task"
        VAR.set("of the thread")
        assert sleep(0) is None
        return a, b, threading.get_ident(), thread(threading.get_ident)

    @green
    def function():
        VAR.set("of the task")
        a, b, ident, nested = thread(work, 1, b=2)
        assert (a, b) == (1, 2)
        assert ident == nested != threading.get_ident()
        assert VAR.get() == "of the task"
        with pytest.raises(ZeroDivisionError):
            thread(lambda: 1 / 0)

    run(function)
    assert thread(threading.get_ident) == threading.get_ident()


def test_thread_is_refused_in_a_plain_coroutine(run):
    async def main():
        with pytest.raises(NotGreen, match=r"thread\(\)"):
            thread(print)

    run(main)


def test_thread_calls_its_exit_hooks_in_the_worker_however_the_function_ends(run, monkeypatch):
    seen = []
    monkeypatch.setattr(waits, "thread_exit_hooks", [lambda: seen.append(threading.get_ident())])

    @green
    def function():
        idents = [thread(threading.get_ident)]
        with pytest.raises(ValueError, match="invalid literal"):
            thread(int, "x")
        return idents

    async def main():
        idents = await function()
        assert seen[0] == idents[0] != threading.get_ident()
        assert len(seen) == 2

    run(main)


def test_a_cancel_leaves_the_thread_to_its_end(run):
    go_on, ended, started = threading.Event(), threading.Event(), threading.Event()

    def work():
        started.set()
        assert go_on.wait(10)
        ended.set()

    async def main():
        task = asyncio.create_task(green(thread)(work))
        while not started.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not ended.is_set()
        go_on.set()
        while not ended.is_set():
            await asyncio.sleep(0)

    run(main)


# --- spawn ------------------------------------------------------------------------------------


def test_spawn_has_a_scope_and_a_name_of_its_own(run):
    def function():
        return bridge_module.current_scope(), asyncio.current_task()

    async def main():
        @green
        def parent():
            scope, task = await_(spawned := spawn(function))
            assert task is spawned
            assert scope is not bridge_module.current_scope()
            return scope, task.get_name()

        scope, name = await parent()
        assert scope.closed
        assert scope.name == function.__qualname__
        assert name == f"greentor.spawn {function.__qualname__}"

    run(main)


def test_spawn_outlives_the_green_function_that_started_it(run):
    async def main():
        gate = asyncio.Event()

        @green
        def parent():
            return [spawn(child)]

        async def child():
            await gate.wait()
            return bridge_module.current_scope().closed

        (task,) = await parent()
        gate.set()
        assert await task is False

    run(main)


def test_spawn_holds_its_task_until_it_is_done(run):
    """The loop holds tasks weakly."""

    async def main():
        future = asyncio.get_running_loop().create_future()
        task = spawn(await_, future)
        await settle()
        assert task in running.spawned
        future.set_result("result")
        assert await task == "result"
        await settle()
        assert task not in running.spawned

    run(main)


def test_spawn_names_a_function_without_calling_its_repr(run):
    """The repr of a partial over a QuerySet would run the query."""

    class QuerySet:
        def __repr__(self):
            raise AssertionError("evaluated")

    class Job:
        def __call__(self):
            return bridge_module.current_scope().name

        __repr__ = QuerySet.__repr__

    def function(_):
        return bridge_module.current_scope().name

    async def main():
        partial = functools.partial(functools.partial(function), QuerySet())
        assert "function" in await spawn(partial)
        assert "Job" in await spawn(Job())
        assert "function" in await green(function)(None)

    run(main)


def test_an_exception_that_nobody_retrieves_is_logged_at_once(run):
    """Not at the next full collection, as a cycle of task, traceback and greenlet would be."""

    def fail():
        raise ValueError("nobody looks")

    async def fail_later():
        await asyncio.sleep(0)
        raise ValueError("nobody looks")

    def fail_parked():
        await_(asyncio.sleep(0))
        raise ValueError("nobody looks")

    async def main():
        logged = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: logged.append(said))
        gc.collect()
        gc.disable()
        try:
            for count, function in enumerate((fail, fail_later, fail_parked), 1):
                spawn(function)
                await settle()
                assert [str(said["exception"]) for said in logged] == ["nobody looks"] * count
                assert "never retrieved" in logged[-1]["message"]
        finally:
            gc.enable()

    run(main)


# --- leaks ------------------------------------------------------------------------------------


def count_greens():
    return sum(type(thing) is bridge_module.Green and not thing.ended for thing in gc.get_objects())


@pytest.mark.parametrize("ending", ["result", "exception", "cancel"])
def test_no_greenlet_outlives_its_task(run, ending):
    async def child():
        await asyncio.sleep(0)

    @green
    async def function():
        await_(later())
        await asyncio.gather(child(), green(child)())
        if ending == "exception":
            raise ValueError
        if ending == "cancel":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    async def main():
        gc.collect()
        before = count_greens()
        gc.disable()
        try:
            for _ in range(50):
                await asyncio.gather(
                    *(asyncio.create_task(function()) for _ in range(4)), return_exceptions=True
                )
            await settle()
            alive = count_greens() - before
        finally:
            gc.enable()
        gc.collect()
        assert count_greens() == before
        return alive

    alive = run(main)
    if ending != "cancel":  # asyncio's own cancelled tasks are cycles
        assert alive <= 4


def test_an_abandoned_async_generator_is_closed_in_its_greenlet(run):
    ended = []

    async def numbers():
        try:
            for number in range(10):
                await asyncio.sleep(0)
                yield number
        finally:
            await asyncio.sleep(0)
            ended.append(in_green())

    @green
    async def function():
        async for number in numbers():
            if number == 2:
                break
        assert ended == [True]

    @green
    async def leaves_it():
        agen = numbers()
        return await anext(agen)

    async def main():
        ended.clear()
        await function()
        await leaves_it()
        assert ended == [True, True]

    run(main)
