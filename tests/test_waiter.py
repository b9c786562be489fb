"""`greentor.waiter`: a task that is resumed in the callback that brings its bytes is none the wiser."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

import greentor
from greentor import bridge
from greentor.waiter import Waiter
from tests.mariadb import MariaDB

variable: ContextVar[str] = ContextVar("variable", default="unset")


def waiting(seen: list[Any]) -> tuple[Waiter, asyncio.Task[None]]:
    """Start a task whose greenlet waits on a `Waiter`; what it notes goes to ``seen``."""
    waiter = Waiter(loop=asyncio.get_running_loop())

    @greentor.green
    def wait() -> None:
        variable.set("task")
        future: Any = waiter
        try:
            bridge.wait(future)
            seen.append((variable.get(), asyncio.current_task()))
        except BaseException as exc:
            seen.append(exc)
            raise

    return waiter, asyncio.get_running_loop().create_task(wait())


def in_callbacks() -> bool:
    """Tell whether a greenlet may go on in a callback of the running loop."""
    return isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)


async def until_called(call: Callable[[], object]) -> None:
    """Wait until a callback of the loop has made a call, and no longer."""
    done = asyncio.Event()

    def callback() -> None:
        call()
        done.set()

    asyncio.get_running_loop().call_soon(callback)
    await done.wait()


def test_task_goes_on_in_the_callback_as_itself(run: Any) -> None:
    async def main() -> None:
        seen: list[Any] = []
        waiter, task = waiting(seen)
        await asyncio.sleep(0)

        def wake() -> None:
            assert asyncio.current_task() is None
            waiter.set_result(None)
            assert seen == ([("task", task)] if in_callbacks() else [])
            assert asyncio.current_task() is None
            assert variable.get() == "unset"

        await until_called(wake)
        await task
        assert seen == [("task", task)]

    run(main)


def test_task_is_not_stepped_within_another(run: Any) -> None:
    async def main() -> None:
        seen: list[Any] = []
        waiter, task = waiting(seen)
        await asyncio.sleep(0)
        waiter.set_result(None)
        assert not seen
        await task
        assert seen == [("task", task)]

    run(main)


def test_waiter_that_is_done_before_it_is_waited_for(run: Any) -> None:
    async def main() -> None:
        seen: list[Any] = []
        waiter, task = waiting(seen)
        waiter.set_result(None)
        await task
        assert seen == [("task", task)]

    run(main)


def test_cancel_reaches_who_waits_and_comes_before_what_is_late(run: Any) -> None:
    async def main() -> None:
        seen: list[Any] = []
        waiter, task = waiting(seen)
        await asyncio.sleep(0)
        task.cancel("enough")
        assert waiter.done()
        assert not seen
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(seen[0], asyncio.CancelledError)
        assert seen[0].args == ("enough",)

    run(main)


def test_cancel_after_the_bytes_hits_the_next_wait(run: Any) -> None:
    async def main() -> None:
        first = Waiter(loop=asyncio.get_running_loop())
        second = Waiter(loop=asyncio.get_running_loop())
        seen = []

        @greentor.green
        def wait() -> None:
            for each in (first, second):
                future: Any = each
                bridge.wait(future)
                seen.append(each)

        task = asyncio.get_running_loop().create_task(wait())
        await asyncio.sleep(0)

        def wake() -> None:
            first.set_result(None)
            assert seen == ([first] if in_callbacks() else [])
            task.cancel()

        await until_called(wake)
        with pytest.raises(asyncio.CancelledError):
            await task
        if in_callbacks():
            assert seen == [first]
            assert second.done()
        else:
            assert seen == []

    run(main)


def test_error_is_raised_where_it_is_waited_for(run: Any) -> None:
    async def main() -> None:
        seen: list[Any] = []
        waiter, task = waiting(seen)
        await asyncio.sleep(0)
        await until_called(lambda: waiter.set_exception(TimeoutError("late")))
        with pytest.raises(TimeoutError, match="late"):
            await task
        assert isinstance(seen[0], TimeoutError)

    run(main)


LEAVE = """
import asyncio, json, sys
import greentor
from greentor.drivers import pymysql as driver

params, error, loop = json.loads(sys.argv[1]), getattr(__builtins__, sys.argv[2]), sys.argv[3]

async def main():
    @greentor.green
    def leave():
        connection = driver.connect(**params)
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(0.01)")
            connection._force_close()
            raise error(3)

    task = asyncio.get_running_loop().create_task(leave())
    await asyncio.sleep(30)
    print("went on", task)

factory = __import__(loop).new_event_loop
try:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
except error as exc:
    print("left by", repr(exc))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
def test_exit_after_an_answer_ends_the_loop_and_not_only_the_connection(
    mariadb: MariaDB, loop: str, error: str, tls: bool
) -> None:
    # In a process of its own: after it CPython 3.11's parser counts its recursion wrongly once.
    pytest.importorskip(loop)
    params: dict[str, Any] = {**mariadb.params("greentor"), "ssl_disabled": not tls}
    if tls:
        params["ssl"] = {"ca": mariadb.ca, "check_hostname": False}
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, json.dumps(params), error, loop],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"left by {error}(3)\n", done.stderr
