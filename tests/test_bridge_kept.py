"""Greenlets that are kept for the next function: they carry nothing over, and end with their thread."""

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest
from greenlet import getcurrent

import greentor
from greentor.bridge import running
from greentor.bridge.kept import KEPT, idle
from greentor.glocal import local


class Thing:
    """Something to see the end of."""


@pytest.fixture(autouse=True)
def none_kept():
    idle.greens.clear()


def kept() -> int:
    return len(idle.greens)


async def collected(ref: weakref.ref) -> bool:
    await asyncio.sleep(0)
    gc.collect()
    return ref() is None


def test_next_function_runs_in_the_same_greenlet(run):
    async def main():
        first = await greentor.green(lambda: id(getcurrent()))()
        assert kept() == 1
        assert await greentor.green(lambda: id(getcurrent()))() == first
        assert kept() == 1

    run(main)


@pytest.mark.parametrize("kind", ["result", "argument", "local", "context", "frame"])
def test_kept_greenlet_refers_to_nothing_of_its_last_function(run, kind):
    space = local()
    variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")

    async def main():
        thing = Thing()
        ref = weakref.ref(thing)

        def function(*args):
            if kind == "local":
                space.thing = args[0]
            elif kind == "context":
                variable.set(args[0])
            elif kind == "frame":
                own = args[0]
                greentor.sleep(0)
                assert own is args[0]
            return args[0] if kind == "result" else None

        # in a task of its own, whose context ends with it
        task = asyncio.create_task(greentor.green(function)(thing))
        await task
        del task, thing
        assert kept() == 1
        assert await collected(ref)

    run(main)


def test_kept_greenlet_does_not_keep_its_loop_alive():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(greentor.green(lambda: greentor.sleep(0))())
    loop.close()
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert kept() == 1
    assert ref() is None


def test_locals_of_the_last_scope_are_not_seen(run):
    space = local()

    @greentor.green
    def first():
        space.x = 1

    @greentor.green
    def second():
        return getattr(space, "x", None)

    async def main():
        await first()
        assert await second() is None

    run(main)


def test_function_that_fails_takes_its_greenlet_with_it(run):
    @greentor.green
    def fail():
        raise KeyError("x")

    async def main():
        with pytest.raises(KeyError):
            await fail()
        assert kept() == 0

    run(main)


@pytest.mark.parametrize("when", ["parked", "ended"])
def test_cancelled_greenlet_is_not_kept_and_its_successor_is_not_cancelled(run, when):
    entered = []

    @greentor.green
    def wait():
        entered.append(getcurrent())
        if when == "parked":
            greentor.sleep(60)

    async def main():
        task = asyncio.create_task(wait())
        while not entered:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert kept() == (when == "ended")
        await greentor.green(lambda: greentor.sleep(0))()

    run(main)


def test_killing_a_greenlet_that_has_ended_does_not_strike_its_successor(run):
    @greentor.green
    def function():
        return getcurrent()

    async def main():
        g = await function()
        running.kill(g)

        @greentor.green
        def next_one():
            assert getcurrent() is g
            greentor.sleep(0)
            return "done"

        assert await next_one() == "done"

    run(main)


def test_no_more_are_kept_than_the_limit(run):
    async def main():
        await asyncio.gather(
            *(asyncio.create_task(greentor.green(greentor.sleep)(0.01)) for _ in range(KEPT + 100))
        )
        assert kept() == KEPT

    run(main)


def test_each_thread_keeps_its_own_and_ends_them():
    async def main():
        await greentor.green(lambda: greentor.sleep(0))()
        return [id(g) for g in idle.greens], [weakref.ref(g) for g in idle.greens]

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(asyncio.run(main()))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert [len(ids) for ids, _ in found] == [1] * 20
    assert kept() == 0
    assert not [ref for _, refs in found for ref in refs if ref() is not None]


PROGRAM = """
import asyncio, sys, threading
import greentor

async def main():
    await asyncio.gather(*(asyncio.create_task(greentor.green(greentor.sleep)(0.001)) for _ in range(50)))

asyncio.run(main())
threading.Thread(target=lambda: asyncio.run(main()), daemon=False).start()
"""


def test_interpreter_ends_in_silence():
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_child_of_a_fork_runs_on_with_them():
    async def main():
        return await greentor.green(lambda: 42)()

    asyncio.run(main())
    assert kept() == 1
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(asyncio.run(main()))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_exception_being_handled_is_not_the_next_ones(run):
    @greentor.green
    def first():
        try:
            raise KeyError("x")
        except KeyError:
            greentor.sleep(0)

    @greentor.green
    def second():
        return sys.exc_info()

    async def main():
        await first()
        assert await second() == (None, None, None)

    run(main)
