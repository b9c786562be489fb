"""What sync code in a greenlet may wait for besides queries: time, threads, deadlines.

Invariants
- `sleep` and `thread` let the helpers of the scope run; `pause`, for the scope's own I/O, does not.
- A `timeout` takes back its own cancel and no other: if the task was cancelled as well, that wins.
- What `thread` runs has no part in the scope: its connections are the thread's, and end with it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from greentor.bridge import (
    DeadlineExceeded,
    await_,
    check_alive,
    current_green,
    detached_context,
    in_green,
    wait,
)

P = ParamSpec("P")
T = TypeVar("T")

#: called in the worker thread when a function that `thread` ran there has returned
thread_exit_hooks: list[Callable[[], None]] = []


def sleep(seconds: float) -> None:
    """Park the greenlet for ``seconds``; in a plain thread, sleep."""
    if not in_green() and asyncio._get_running_loop() is None:
        time.sleep(seconds)
    else:
        await_(asyncio.sleep(seconds))


def pause(seconds: float) -> None:
    """As `sleep`, keeping the scope's turn: between two tries of its own I/O."""
    loop = check_alive("pausing").loop
    future: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, _finish, future)
    try:
        wait(future)
    finally:
        timer.cancel()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Park the greenlet, run ``fn`` in a worker thread, and return its result.

    For what would block the loop: CPU work, files, clients of other services. Database connections
    that the thread opened are closed when ``fn`` returns. A cancel leaves the thread to its end. In a
    plain thread, call ``fn`` directly.
    """
    if not in_green() and asyncio._get_running_loop() is None:
        return fn(*args, **kwargs)
    loop = check_alive("thread()").loop
    context = detached_context()
    call = functools.partial(_in_thread, fn, *args, **kwargs)
    result: T = await_(loop.run_in_executor(None, context.run, call))
    return result


def _in_thread(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    try:
        return fn(*args, **kwargs)
    except StopIteration as exc:  # a future cannot take it, and would never be done
        raise RuntimeError("a function raised StopIteration in its thread") from exc
    finally:
        for hook in thread_exit_hooks:
            hook()


class timeout:
    """Limit what the ``with`` block may take: raise TimeoutError at the call parked in it.

    For sync code in a greenlet. Async code within is cancelled where it is parked, as by
    ``asyncio.timeout``, and the TimeoutError raised around it. It strikes once. ``seconds`` None
    means no limit. A connection that was waiting for an answer is discarded.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._handle: asyncio.TimerHandle | None = None
        self._expired = False

    def __enter__(self) -> timeout:
        self._green = g = current_green("timeout()")
        if self.seconds is not None:
            self._cancelling = g.task.cancelling()
            self._handle = g.loop.call_later(self.seconds, self._expire)
            g.timeouts.append(self)
        return self

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if self._handle is None:
            return
        self._handle.cancel()
        self._green.timeouts.remove(self)
        self.check(exc)
        if self._expired:
            self._green.task.uncancel()

    def _expire(self) -> None:
        self._expired = True
        self._green.task.cancel()

    def check(self, exc: BaseException | None) -> None:
        """Raise DeadlineExceeded instead of a cancel that is ours, and nobody else's as well."""
        task = self._green.task
        if (
            self._expired
            and isinstance(exc, asyncio.CancelledError)
            and task.cancelling() - 1 <= self._cancelling
        ):
            self._expired = False
            task.uncancel()
            raise DeadlineExceeded(f"timed out after {self.seconds} s") from exc
