"""`Green`, our greenlet, and what code can learn of the one that it runs in.

Invariants
- The greenlet shares the context of its task; nothing is copied, so ``ContextVar.reset`` works.
- A *dying* greenlet (collected, closed or killed) may not wait any more: each attempt raises
  GreenletExit, and what it holds is force-closed.
- One whose function has returned is *ended*, not dead: it may be kept, and run another one.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from threading import get_ident
from typing import Any, Protocol, cast

from greenlet import GreenletExit, getcurrent, greenlet

from greentor.scope import Frame, Scope

#: whether tasks may start eagerly, on the greenlet of their creator (Python 3.12)
EAGER = hasattr(asyncio, "eager_task_factory")

#: the place in a scope that a task has, or has inherited
frame_var: ContextVar[Frame | None] = ContextVar("greentor_frame", default=None)


class NotGreen(RuntimeError):
    """Something that has to wait was called outside a greenlet of ours."""


class DeadlineExceeded(TimeoutError):
    """The `greentor.timeout` around a parked call has run out."""


class Deadline(Protocol):
    """What a greenlet keeps of a `greentor.timeout` that it is in."""

    def check(self, exc: BaseException | None) -> None:
        """Raise DeadlineExceeded instead of a cancel that is the deadline's own, and nobody else's."""


class Green(greenlet):
    """A greenlet that runs a green function for an asyncio task, and then perhaps another for another."""

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__(run)
        self.thread_id = get_ident()
        self.dying = False
        self.ended = True  # no function runs in it
        #: what it is to run, and what came of it; as arguments of a switch they would stay on its stack
        self.work: tuple[Callable[..., Any], Any, Any] | None = None
        self.result: Any = None

    def begin(self, task: asyncio.Task[Any], frame: Frame) -> None:
        """Belong to ``task``, and to the place in a scope that it has."""
        # Weak: the garbage collector does not see into a suspended greenlet.
        self._task = weakref.ref(task)
        self.loop = frame.loop
        self.frame = frame
        self.ended = False
        self.timeouts: list[Deadline] = []

    @property
    def task(self) -> asyncio.Task[Any]:
        return cast(asyncio.Task[Any], self._task())


def in_green() -> bool:
    """Tell whether the caller runs in one of our greenlets, and so may wait.

    A task that starts eagerly (Python 3.12) runs its first step on the greenlet of its creator
    without being that greenlet's task: it is not in the greenlet.
    """
    g = getcurrent()
    return type(g) is Green and (not EAGER or asyncio.current_task(g.loop) is g._task() or g.dying)


def current_scope() -> Scope | None:
    """Return the scope of the running greenlet, or the one that the running task inherited.

    None in plain threads, in greenlets that are not ours, and in tasks that have none. Raise
    `ScopeClosed` if the inherited scope has ended.
    """
    g = getcurrent()
    if type(g) is Green:
        return g.frame.scope
    frame = frame_var.get()
    if frame is None or g.parent is not None or asyncio._get_running_loop() is not frame.loop:
        return None
    frame.scope.check_open()
    return frame.scope


def detached_context() -> Context:
    """Return a copy of the context that has no part in the scope: for what runs elsewhere."""
    context = copy_context()
    context.run(frame_var.set, None)
    return context


def current_green(what: str) -> Green:
    """Return the running greenlet; raise `NotGreen` naming ``what`` if it is none of ours."""
    g = getcurrent()
    if not in_green():
        raise NotGreen(
            f"{what} has to wait, and would block the event loop here: call it in a greenlet "
            "(in a BaseRequestHandler, in a function decorated with greentor.green, or through "
            "greentor.spawn)"
        )
    return cast(Green, g)


def is_dying() -> bool:
    """Tell whether the running greenlet is being closed, and so may not wait."""
    g = getcurrent()
    return type(g) is Green and g.dying


def may_wait() -> bool:
    """Tell whether the running greenlet may wait for anything, its scope's own resources included."""
    g = getcurrent()
    return in_green() and type(g) is Green and not (g.dying or g.frame.busy or g.frame.child)


def check_alive(what: str) -> Green:
    """As `current_green`, but also refuse a dying greenlet, before anything is done."""
    g = getcurrent()
    if type(g) is Green and not g.dying and (not EAGER or in_green()):  # each query comes by here
        return g
    g = current_green(what)
    if g.dying:
        raise GreenletExit(f"{what} refused: the greenlet is being closed")
    return g
