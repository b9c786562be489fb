"""Async generators that are abandoned in a greenlet, by ``break`` or an exception, end in it.

asyncio closes such a generator in a task of its own, some time later. A transaction that the generator
had opened would stay open until then, take in what its caller goes on to write, and be refused its end
in that task. So in a greenlet it is closed on the spot, as Python closes a plain generator.

Invariants
- Closed on the spot is what the last reference was dropped to, in one of our greenlets that may wait.
  What the garbage collector finds may stand between two halves of a query: that stays asyncio's.
- The event loop's own hooks (PEP 525) are called in every other case.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any

from greentor import bridge

_collecting = False


class _Finalizer:
    """The hook that Python calls with an async generator whose last reference is gone."""

    def __init__(self, of_loop: Callable[[AsyncGenerator[Any, Any]], None]) -> None:
        self._of_loop = of_loop

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        if _collecting or not bridge.may_wait():
            self._of_loop(generator)
            return
        green = bridge.current_green("closing an async generator")
        try:
            bridge.await_(generator.aclose())
        except asyncio.CancelledError:
            # Python lets nothing out of a finalizer: have it raised at the next wait.
            green.task.uncancel()
            green.task.cancel()
        except Exception as exc:
            green.loop.call_exception_handler(
                {"message": f"closing {generator!r} failed", "exception": exc}
            )


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Put our hook before the running loop's, which sets its own each time it is started."""
    hooks = sys.get_asyncgen_hooks()
    if type(hooks.finalizer) is not _Finalizer and hooks.finalizer is not None:
        sys.set_asyncgen_hooks(hooks.firstiter, _Finalizer(hooks.finalizer))


def _note_collection(phase: str, info: dict[str, int]) -> None:
    global _collecting
    _collecting = phase == "start"


gc.callbacks.append(_note_collection)
