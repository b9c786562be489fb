"""uvloop: no greenlet is switched in a callback of the loop, to which libuv holds pointers on the C stack.

There a greenlet that closed a file, or removed a reader, made libuv follow such a pointer into another
stack: the process ended with a segmentation fault.
"""

import subprocess
import sys

import pytest

pytest.importorskip("uvloop")

PROGRAM = """
import asyncio, faulthandler, socket, sys
import uvloop
from greentor import bridge, spawn
from greentor.waiter import Waiter

faulthandler.enable()


async def main():
    loop = asyncio.get_running_loop()
    for depth in range(1, 80):
        sockets = [*socket.socketpair(), *socket.socketpair()]
        for each in sockets:
            each.setblocking(False)
        near, far, other, other_far = sockets
        waiter = Waiter(loop=loop)

        def remove(n):  # through C code, which takes C stack
            if n:
                max([n - 1], key=remove)
            else:
                loop.remove_reader(other)
            return 0

        def function():
            try:
                bridge.wait(waiter)
            finally:
                remove(depth)

        task = spawn(function)
        await asyncio.sleep(0)

        def resume():
            near.recv(1)
            if sys.argv[1] == "resumed":
                waiter.set_result(None)
            else:
                driver = task.get_coro()
                while getattr(driver, "cr_await", None) is not None:
                    driver = driver.cr_await
                driver.close()  # as the garbage collector would
                waiter.set_result(None)

        loop.add_reader(other, lambda: None)
        loop.add_reader(near, resume)
        far.send(b"x")  # both are reported by one epoll_wait
        other_far.send(b"x")
        await asyncio.wait([task], timeout=1)
        loop.remove_reader(near)
        for _ in range(3):
            await asyncio.sleep(0)
        for each in sockets:
            each.close()
    print("done", flush=True)


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("how", ["resumed", "collected"])
def test_greenlet_that_removes_a_reader_does_not_crash_the_loop(how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr[-2000:]
