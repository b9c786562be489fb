"""`Waiter`: what a greenlet waits on for bytes; on asyncio it is resumed in the callback that brings them.

A future would have the loop go round once more before the task runs: another ``epoll_wait`` for each query,
and a handle. asyncio's tasks take any object with these methods for a future.

Invariants
- Where the loop is not written in Python its callbacks switch no greenlets: see `greentor.bridge`.
- The task is stepped from a callback of the loop only, never from within another task: there, and when it is
  cancelled, it is resumed by the loop as any other.
- What its step raises (SystemExit, KeyboardInterrupt) is raised to the loop, not to the transport that
  brought the bytes: uvloop takes anything there for a failure of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

Callback = Callable[[Any], object]


class Waiter:
    """A future without a result, for the one task that waits for it."""

    __slots__ = ("_asyncio_future_blocking", "_callbacks", "_done", "_error", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._callbacks: list[tuple[Callback, Context]] = []
        self._error: BaseException | None = None
        self._done = False

    def set_result(self, result: None) -> None:
        """Resume who waits; nobody has to."""
        loop = self._loop
        if (
            len(self._callbacks) != 1
            or asyncio.current_task(loop) is not None
            or not isinstance(loop, asyncio.BaseEventLoop)
        ):
            self._schedule()
            return
        self._done = True
        [(callback, context)] = self._callbacks
        try:
            context.run(callback, self)
        except BaseException as exc:
            self._loop.call_soon(_raise, exc, context=Context())

    def set_exception(self, error: BaseException) -> None:
        """Resume who waits, with an error."""
        self._error = error
        self.set_result(None)

    # --- what a task asks ---------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def done(self) -> bool:
        return self._done

    def result(self) -> None:
        if self._error is not None:
            raise self._error

    def cancel(self, msg: Any = None) -> bool:
        if self._done:
            return False
        self._error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._schedule()
        return True

    def add_done_callback(self, callback: Callback, *, context: Context | None = None) -> None:
        self._callbacks.append((callback, context or copy_context()))
        if self._done:
            self._schedule()

    def _schedule(self) -> None:
        self._done = True
        while self._callbacks:
            callback, context = self._callbacks.pop(0)
            self._loop.call_soon(callback, self, context=context)


def _raise(error: BaseException) -> None:
    raise error
