"""`Waiter`: what a greenlet waits on for bytes; on asyncio it is resumed in the callback that brings them.

Of a plain future the task would be resumed when the loop goes round once more: another ``epoll_wait`` for
each query, and a handle.

Invariants
- Where the loop is not written in Python its callbacks switch no greenlets: see `greentor.bridge`.
- The task is stepped from a callback of the loop only, never from within another task: there, and when it is
  cancelled, it is resumed by the loop as any other.
- What its step raises (SystemExit, KeyboardInterrupt) is raised to the loop, not to the transport that
  brought the bytes: uvloop takes anything there for a failure of the connection.
"""

from __future__ import annotations

import asyncio
from contextvars import Context


class Waiter(asyncio.Future[None]):
    """A future without a result, for the one task that waits for it."""

    __slots__ = ()

    def set_result(self, result: None) -> None:
        """Resume who waits; nobody has to."""
        loop = self.get_loop()
        callbacks = self._callbacks
        if (
            not callbacks
            or len(callbacks) != 1
            or asyncio.current_task(loop) is not None
            or not isinstance(loop, asyncio.BaseEventLoop)
        ):
            super().set_result(None)
            return
        [(callback, context)] = callbacks
        self.remove_done_callback(callback)
        super().set_result(None)
        try:
            context.run(callback, self)
        except BaseException as exc:
            loop.call_soon(_raise, exc, context=Context())


def _raise(error: BaseException) -> None:
    raise error
