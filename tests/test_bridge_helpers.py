"""Helper greenlets: child tasks that inherited a scope share it, one at a time."""

import asyncio
import contextvars
import gc
import random
import sys
import threading

import pytest
from greenlet import getcurrent, greenlet

from greentor import NotGreen, ScopeClosed, await_, green, in_green, sleep, spawn, thread, timeout
from greentor.bridge import current_scope, run_in_scope, step_detached, take_turn, wait
from greentor.bridge.greens import frame_var

VAR = contextvars.ContextVar("VAR")

eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")


def eager_factory(loop, coroutine, **kwargs):
    """As ``asyncio.eager_task_factory``, whose 3.13.0 does not take what uvloop hands it."""
    return asyncio.Task(coroutine, loop=loop, **{**kwargs, "eager_start": True})


async def settle(rounds=10):
    """Let every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def never():
    return asyncio.get_running_loop().create_future()


def io():
    """Wait for the scope's own resource, as a query does."""
    future = never()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    wait(future)


class Turns:
    """Log who is at work, and fail if two are."""

    def __init__(self):
        self.log = []
        self.at_work = None

    def work(self, who, steps=3):
        assert in_green()
        assert self.at_work is None, f"{who} while {self.at_work} is at work"
        self.at_work = who
        for _ in range(steps):
            io()
            assert self.at_work == who
            sleep(0)
            assert self.at_work == who
        self.at_work = None
        self.log.append(who)
        return who


# --- whose turn it is -------------------------------------------------------------------------


def test_gathered_children_share_the_scope_and_take_turns_in_order(run):
    turns = Turns()

    async def child(number):
        scope = current_scope()  # inherited, outside any greenlet
        assert not in_green()
        await green(turns.work)(number)
        return scope

    @green
    async def owner():
        scopes = await asyncio.gather(*(child(number) for number in range(5)))
        assert set(scopes) == {current_scope()}
        assert turns.log == list(range(5))

    run(owner)


def test_a_child_task_sees_the_greenlet_as_its_own(run):
    async def child():
        me = asyncio.current_task()
        assert await green(asyncio.current_task)() is me

    @green
    async def owner():
        await asyncio.create_task(child())
        await asyncio.wait_for(child(), 5)
        await asyncio.shield(child())

    run(owner)


def test_no_helper_is_let_in_while_the_owner_waits_for_its_own_io(run):
    log = []

    @green
    async def owner():
        asked = asyncio.create_task(green(log.append)("helper"))
        gate = never()
        loop = asyncio.get_running_loop()
        for _ in range(5):
            loop.call_soon(loop.call_soon, gate.set_result, None)
            wait(gate)
            gate = never()
        log.append("owner")
        assert not asked.done()
        await asked
        assert log == ["owner", "helper"]

    run(owner)


def test_a_detached_step_keeps_the_turn_and_has_an_empty_context(run):
    """A connection is opened in one: its transport must not keep the context of the request."""
    log = []
    VAR.set("of the test")

    async def opening():
        assert VAR.get(None) is None
        assert current_scope() is getcurrent().frame.scope
        for _ in range(5):
            await asyncio.sleep(0)
        VAR.set("of the step")
        log.append("opened")

    @green
    async def owner():
        assert VAR.get() == "of the test"
        asked = asyncio.create_task(green(log.append)("helper"))
        step_detached(opening())
        assert log == ["opened"]
        assert VAR.get() == "of the test"
        await asked

    run(owner)


def test_the_owner_waits_for_the_helper_at_work_and_goes_before_those_queued(run):
    turns = Turns()

    @green
    async def owner():
        helpers = [asyncio.create_task(green(turns.work)(number)) for number in range(3)]
        await settle(2)
        assert turns.at_work == 0
        take_turn()
        assert turns.log == [0]
        assert turns.at_work is None
        turns.work("owner", steps=0)
        io()
        assert turns.log == [0, "owner"]
        await asyncio.gather(*helpers)
        assert turns.log == [0, "owner", 1, 2]

    run(owner)


def test_take_turn_returns_at_once_elsewhere(run):
    async def main():
        take_turn()
        await green(take_turn)()

    run(main)
    take_turn()


def test_helpers_of_a_helper_take_turns_below_it(run):
    """Nested gathers cannot deadlock: a grandchild need not wait for its own parent's turn."""
    turns = Turns()

    @green
    async def nested(depth, name):
        if depth:
            await asyncio.gather(*(nested(depth - 1, f"{name}.{number}") for number in range(3)))
            await asyncio.create_task(nested(depth - 1, f"{name}.task"))
        turns.work(name, steps=1)

    async def main():
        await nested(3, "owner")
        assert len(turns.log) == 1 + 4 + 16 + 64
        assert turns.log[-1] == "owner"

    run(main)


def test_helper_in_a_task_group_whose_sibling_fails(run):
    log = []

    @green
    async def helper():
        try:
            log.append("in")
            wait(never())
        finally:
            io()
            log.append("out")

    async def failing():
        await settle(3)
        raise ValueError

    @green
    async def owner():
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(helper())
                group.create_task(helper())
                group.create_task(failing())
        await helper_after()
        assert log == ["in", "out", "after"]

    async def helper_after():
        await asyncio.create_task(green(log.append)("after"))

    run(owner)


# --- turns are not lost -----------------------------------------------------------------------


def test_a_helper_cancelled_while_it_queues(run):
    turns = Turns()

    @green
    async def owner():
        tasks = [asyncio.create_task(green(turns.work)(number)) for number in range(4)]
        await settle(2)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.wait(tasks)
        assert tasks[1].cancelled()
        assert turns.log == [0, 3]

    run(owner)


def test_a_helper_cancelled_in_the_iteration_of_the_hand_over(run):
    """The turn reached its future, but never the task."""
    log = []
    gate = victim = None

    def first():
        wait(gate)
        asyncio.get_running_loop().call_soon(victim.cancel)  # ahead of the victim's wake-up
        log.append("first")

    @green
    async def owner():
        nonlocal gate, victim
        gate = never()
        one = asyncio.create_task(green(first)())
        victim = asyncio.create_task(green(log.append)("victim"))
        three = asyncio.create_task(green(log.append)("third"))
        await settle(3)
        gate.set_result(None)
        await asyncio.wait([one, victim, three], timeout=5)
        assert victim.cancelled()
        assert log == ["first", "third"]
        take_turn()

    run(owner)


def test_a_green_function_awaited_by_no_task_takes_no_turn(run):
    log = []

    def callback():
        try:
            green(log.append)("never").send(None)
        except BaseException as exc:
            log.append(type(exc))

    @green
    async def owner():
        asyncio.get_running_loop().call_soon(callback)  # in this context, so on this scope
        await settle(2)
        assert log == [NotGreen]
        await asyncio.wait_for(asyncio.create_task(green(log.append)("helper")), 5)
        take_turn()
        assert log == [NotGreen, "helper"]

    run(owner)


def test_a_queued_helper_whose_coroutine_is_closed(run):
    log = []

    async def by_hand():
        """Step the coroutine as the task of an inherited scope, and close it while it queues."""
        coroutine = green(log.append)("closed")
        coroutine.send(None)._asyncio_future_blocking = False
        coroutine.close()

    @green
    async def owner():
        gate = never()
        first = asyncio.create_task(green(wait)(gate))
        await settle(2)
        await asyncio.create_task(by_hand())
        last = asyncio.create_task(green(log.append)("last"))
        await settle(2)
        gate.set_result(None)
        await asyncio.wait_for(asyncio.gather(first, last), 5)
        take_turn()
        assert log == ["last"]

    run(owner)


def test_a_helper_killed_while_it_has_the_turn(run):
    log = []

    @green
    async def owner():
        coroutine = None

        async def by_hand():
            nonlocal coroutine
            coroutine = green(wait)(never())
            coroutine.send(None)._asyncio_future_blocking = False

        await asyncio.create_task(by_hand())
        last = asyncio.create_task(green(log.append)("last"))
        await settle(3)
        assert log == []
        coroutine.close()
        await asyncio.wait_for(last, 5)
        assert log == ["last"]

    run(owner)


def test_a_helper_destroyed_in_another_thread_gives_the_turn_back_on_the_loop(run, monkeypatch):
    log = []

    @green
    async def owner():
        asyncio.get_running_loop().set_debug(True)  # refuses calls from other threads
        coroutine = None

        async def by_hand():
            nonlocal coroutine
            coroutine = green(wait)(never())
            coroutine.send(None)._asyncio_future_blocking = False

        await asyncio.create_task(by_hand())
        last = asyncio.create_task(green(log.append)("last"))
        await settle(3)
        errors = []

        def close():
            try:
                coroutine.close()
            except BaseException as exc:
                errors.append(exc)

        closer = threading.Thread(target=close)
        closer.start()
        closer.join(10)
        await asyncio.wait_for(last, 5)
        assert errors == []
        assert log == ["last"]

    run(owner)


def test_queued_helpers_destroyed_with_their_loop_make_no_noise(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: unraisable.append(said.exc_value))
    logged = []
    released = []

    @green
    async def owner():
        current_scope().add_resource("it", released.append)
        for _ in range(3):
            asyncio.create_task(green(forever)())  # noqa: RUF006
        while True:
            await asyncio.sleep(0)

    def forever():
        while True:
            sleep(0)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, said: logged.append(said["message"]))
    task = loop.create_task(owner())
    loop.run_until_complete(settle())
    loop.close()
    del task
    gc.collect()
    assert unraisable == []
    assert released == [True]
    assert set(logged) == {"Task was destroyed but it is pending!"}


@pytest.mark.parametrize("seed", range(20))
def test_turns_survive_random_cancels(run, seed):
    """Whatever is cancelled when: never two at work, and in the end everybody gets a turn."""
    rng = random.Random(seed)
    turns = Turns()

    def at_work(name):
        try:
            turns.work(name, rng.randrange(3))
        finally:
            if turns.at_work == name:
                turns.at_work = None
                if rng.random() < 0.5:
                    io()

    @green
    async def helper(name, depth):
        if depth and rng.random() < 0.5:
            await asyncio.gather(
                *(helper(f"{name}.{number}", depth - 1) for number in range(2)),
                return_exceptions=True,
            )
        at_work(name)

    @green
    async def owner():
        tasks = [asyncio.create_task(helper(str(number), 2)) for number in range(8)]
        while not all(task.done() for task in tasks):
            await settle(rng.randrange(4))
            if rng.random() < 0.3:
                rng.choice(tasks).cancel()
            if rng.random() < 0.3:
                take_turn()
                turns.work("owner", 0)
                io()
        await asyncio.wait_for(asyncio.create_task(green(turns.work)("last")), 5)
        assert turns.log[-1] == "last"

    run(owner)


# --- the end of the owner ---------------------------------------------------------------------


def test_the_owner_ends_after_the_helper_at_work_and_refuses_those_queued(run):
    turns = Turns()
    tasks = []

    def owner():
        current_scope().add_resource("it", lambda force: turns.log.append("released"))
        tasks.extend(asyncio.get_running_loop().create_task(green(turns.work)(n)) for n in range(3))
        sleep(0)
        sleep(0)
        assert turns.at_work == 0
        return "result"

    async def main():
        assert await run_in_scope("GET /books/", owner) == "result"
        assert turns.log == [0, "released"]
        await asyncio.wait(tasks)
        for task in tasks[1:]:
            with pytest.raises(ScopeClosed, match=r"GET /books/ has ended.*greentor\.spawn\(\)"):
                task.result()
        # and so is a task that asks for the first time
        with pytest.raises(ScopeClosed, match="GET /books/"):
            await contextless()

    async def contextless():
        assert frame_var.get() is None
        left = []

        async def leave():
            async def left_behind():
                await gate.wait()
                with pytest.raises(ScopeClosed, match="GET /books/"):
                    current_scope()
                await green(turns.work)("late")

            left.append(asyncio.create_task(left_behind()))

        gate = asyncio.Event()
        await run_in_scope("GET /books/", leave)
        gate.set()
        await left[0]

    run(main)


def test_spawn_from_a_task_that_was_left_behind_has_a_scope_of_its_own(run):
    async def left_behind():
        await settle()
        return await spawn(lambda: current_scope().closed)

    @green
    def owner():
        return [asyncio.get_running_loop().create_task(left_behind())]

    async def main():
        (task,) = await owner()
        assert await task is False

    run(main)


def test_helpers_of_a_helper_that_has_ended_move_to_the_nearest_open_frame(run):
    turns = Turns()
    left = []

    @green
    async def helper():
        left.extend(asyncio.create_task(green(turns.work)(number)) for number in range(3))
        await settle(2)
        assert turns.at_work == 0

    @green
    async def owner():
        await asyncio.create_task(helper())
        assert turns.log == [0]
        await asyncio.gather(*left)
        assert turns.log == [0, 1, 2]

    run(owner)


def test_an_owner_cancelled_while_it_waits_for_its_helper_closes_the_scope_to_all(run):
    """What the helper still at work starts below its own frame is refused, too."""
    gate = None
    helpers = []

    @green
    async def helper():
        await gate
        with pytest.raises(ScopeClosed):
            await asyncio.create_task(green(sleep)(0))
        with pytest.raises(ScopeClosed):
            current_scope().add_resource("late", print)
        return "ended"

    @green
    async def owner():
        helpers.append(asyncio.create_task(helper()))
        await settle(3)

    async def main():
        nonlocal gate
        gate = never()
        task = asyncio.create_task(owner())
        await settle(20)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set_result(None)
        assert await helpers[0] == "ended"

    run(main)


def test_a_timeout_gets_an_owner_out_of_a_wait_for_its_helper(run):
    gate = None

    @green
    async def owner():
        nonlocal gate
        gate = never()
        helper = asyncio.create_task(green(wait)(gate))
        await settle(3)
        with pytest.raises(TimeoutError), timeout(0.01):
            take_turn()
        gate.set_result("result")
        assert await helper == "result"
        take_turn()

    run(owner)


def test_an_owner_closed_with_a_helper_at_work_dies_at_once(run):
    log = []
    helpers = []
    gate = coroutine = None

    async def owner():
        current_scope().add_resource("it", log.append)
        helpers.append(asyncio.create_task(green(wait)(gate)))
        await never()

    async def by_hand():
        nonlocal coroutine
        coroutine = green(owner)()
        coroutine.send(None)._asyncio_future_blocking = False

    async def main():
        nonlocal gate
        gate = never()
        await asyncio.create_task(by_hand())
        await settle()
        coroutine.close()
        assert log == [True]
        gate.set_result("result")
        assert await helpers[0] == "result"

    run(main)


# --- current_scope ----------------------------------------------------------------------------


def test_current_scope_of_callers_of_every_kind(run):
    async def main():
        assert current_scope() is None
        task = asyncio.current_task()

        @green
        async def owner():
            scope = current_scope()
            assert scope.name.endswith("owner")
            assert await asyncio.create_task(inherits()) is scope
            assert await asyncio.to_thread(current_scope) is None
            assert await green(current_scope)() is scope
            assert asyncio.current_task() is task
            return scope

        async def inherits():
            return current_scope()

        scope = await owner()
        assert scope.closed
        assert current_scope() is None

    run(main)
    assert current_scope() is None


def test_a_foreign_greenlet_has_no_scope_even_in_our_context(run):
    """As SQLAlchemy's, which share the context of their task."""

    def look():
        foreign = greenlet(current_scope)
        foreign.gr_context = getcurrent().gr_context
        return foreign.switch()

    async def child():
        assert current_scope() is not None
        assert look() is None

    @green
    async def owner():
        assert look() is None
        await asyncio.create_task(child())

    run(owner)


def test_what_a_thread_sends_back_to_the_loop_has_a_scope_of_its_own(run):
    async def sent_back():
        assert current_scope() is None
        return await green(current_scope)()

    def work(loop):
        return asyncio.run_coroutine_threadsafe(sent_back(), loop).result(5)

    @green
    def owner():
        scope = thread(work, asyncio.get_running_loop())
        assert scope is not current_scope()
        assert scope.closed

    run(owner)


def test_an_inherited_scope_means_nothing_on_another_loop(run):
    """A thread of the task's context that runs a loop of its own, as ``async_to_sync`` does."""

    async def elsewhere():
        assert current_scope() is None
        return await green(lambda: current_scope().name)()

    @green
    async def owner():
        assert "lambda" in await asyncio.to_thread(asyncio.run, elsewhere())

    run(owner)


# --- eager tasks ------------------------------------------------------------------------------


@eager
@pytest.mark.parametrize("how", ["factory", "task"])
def test_the_first_step_of_an_eager_task_is_not_in_the_greenlet_of_its_creator(run, how):
    log = []

    def start(coroutine):
        loop = asyncio.get_running_loop()
        if how == "task":
            return asyncio.Task(coroutine, loop=loop, eager_start=True)
        return loop.create_task(coroutine)

    async def child():
        assert not in_green()
        with pytest.raises(NotGreen):
            await_(asyncio.sleep(0))
        with pytest.raises(NotGreen):
            wait(never())
        take_turn()
        log.append("first step")
        await asyncio.sleep(0)
        assert not in_green()
        return current_scope()

    def works():
        log.append("helper begins")
        io()
        sleep(0)
        log.append("helper ends")
        return current_scope()

    @green
    async def owner():
        if how == "factory":
            asyncio.get_running_loop().set_task_factory(eager_factory)
        assert in_green()
        first = start(child())
        assert log == ["first step"]
        assert in_green()
        helper = start(green(works)())
        assert log == ["first step", "helper begins"]
        second = start(green(works)())  # finds the turn taken
        third = start(child())
        take_turn()
        assert log == ["first step", "helper begins", "first step", "helper ends"]
        io()
        scopes = await asyncio.gather(first, helper, second, third)
        assert set(scopes) == {current_scope()}
        return "ended"

    async def main():
        assert await owner() == "ended"
        await asyncio.sleep(0)

    run(main)


@eager
def test_an_eager_task_that_runs_to_its_end_in_its_first_step(run):
    @green
    async def owner():
        asyncio.get_running_loop().set_task_factory(eager_factory)
        scope = current_scope()
        assert await asyncio.gather(*(green(current_scope)() for _ in range(3))) == [scope] * 3
        task = spawn(current_scope)
        assert task.done()
        assert task.result().closed
        assert not scope.closed
        task = spawn(sleep, 0)
        assert not task.done()
        await task
        sleep(0)
        return in_green()

    async def main():
        assert await owner()

    run(main)


@eager
def test_turns_under_an_eager_task_factory(run):
    turns = Turns()

    @green
    async def nested(depth, name):
        if depth:
            await asyncio.gather(*(nested(depth - 1, f"{name}.{number}") for number in range(3)))
        turns.work(name, steps=1)

    async def main():
        asyncio.get_running_loop().set_task_factory(eager_factory)
        await asyncio.gather(*(nested(2, str(number)) for number in range(1)))
        assert len(turns.log) == 13

    run(main)
