"""What happens to connections that nobody has asked for: opened early, and closed when idle for too long.

Invariants
- A pool has one timer at most, for the connection that has been idle longest. It is set while more than
  ``min_size`` connections are open and one of them is idle; it finds nothing to do at most once.
- The timer keeps neither the pool nor its loop alive, nor the context of whoever gave something back.
- `open_ahead` opens no connection whose slot it has not claimed, and claims a slot only to open one at once.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Generic, TypeVar

from greentor import bridge, process
from greentor.pool.options import PoolOptions
from greentor.pool.state import Entry, PoolState

C = TypeVar("C")

#: how many connections are opened side by side
WARM_AT_ONCE = 8
#: seconds by which a loop may call earlier than it was asked to: uvloop's clock has milliseconds
_TICK = 0.001


class IdleTimer(Generic[C]):
    """Closes what nobody has used for ``max_idle`` seconds."""

    def __init__(
        self, state: PoolState[C], options: PoolOptions, close: Callable[[Entry[C], str], None]
    ) -> None:
        self._state = state
        self._max_idle = options.max_idle
        self._min_size = options.min_size
        self._close = close
        self._handle: asyncio.TimerHandle | None = None
        self._pid = process.pid

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the connection that has been idle longest closed in time, if there is one to spare."""
        state = self._state
        if self._handle is None and state.idle and state.size > self._min_size:
            if loop.is_closed():
                return
            delay = max(0.0, state.idle[0].since + self._max_idle - monotonic())
            self._handle = loop.call_later(
                delay, _close_idle, weakref.ref(self), loop, context=Context()
            )

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = None
        state = self._state
        if self._pid != process.pid:
            return
        before = monotonic() - self._max_idle + _TICK
        while state.idle and state.size > self._min_size and state.idle[0].since <= before:
            self._close(state.pop_coldest(), "idle")
        self.watch(loop)


def _close_idle(ref: weakref.ref[IdleTimer[C]], loop: asyncio.AbstractEventLoop) -> None:
    if (timer := ref()) is not None:
        timer.close_idle(loop)


async def open_ahead(
    state: PoolState[C], size: int, add: Callable[[], None]
) -> list[BaseException]:
    """Call ``add`` for one claimed slot after the other until ``size`` are taken; return what it raised.

    Each of the greenlets that do so ends with the first error, so that a server that is down is asked
    a few times and no more.
    """

    def work() -> None:
        while state.claim_below(size):
            add()

    workers = (
        bridge.run_in_scope(f"warming {state!r}", work)
        for _ in range(min(WARM_AT_ONCE, size - state.size))
    )
    results = await asyncio.gather(*workers, return_exceptions=True)
    return [result for result in results if result is not None]
