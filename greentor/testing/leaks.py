"""What a test leaves behind: greenlets that are parked, scopes that are open, connections that are lent.

Invariants
- Greenlets are counted only while somebody watches: production pays one comparison for each.
- What is about to end is given time to: a judgement lets the loop run for a while first.
- A greenlet that is stopped ends as under a cancel, on its own loop. One whose loop is closed is killed:
  collected later, it would unwind in the middle of another test.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from weakref import WeakSet

from greentor import bridge
from greentor.bridge import running, waiting
from greentor.scope import Scope

#: seconds that a test's greenlets and connections have, after it, to come to their end
GRACE = 1.0

_END = 5.0  # for a task that was cancelled
_STEP = 0.005
_OURS = ("asyncio", "asgiref", "contextlib", "django", "greentor", "tornado")

_greens: WeakSet[bridge.Green] = WeakSet()
_scopes: WeakSet[Scope] = WeakSet()
_watchers = 0


def _add(green: bridge.Green) -> None:
    _greens.add(green)
    _scopes.add(green.frame.scope)


@contextmanager
def watching() -> Iterator[None]:
    """Keep note of the greenlets that are made in the block."""
    global _watchers
    _watchers += 1
    running.watch = _add
    try:
        yield
    finally:
        _watchers -= 1
        if not _watchers:
            running.watch = None


def alive() -> list[bridge.Green]:
    """Return the greenlets, made while somebody watched, that have not ended."""
    return [green for green in list(_greens) if not green.ended]


class Leaked(AssertionError):
    """A test has left a greenlet, a scope or a connection behind."""


@contextmanager
def assert_no_leaks() -> Iterator[None]:
    """Raise `Leaked`, naming what was left, unless all that the block began has ended.

    To be used outside of the event loop. What is about to end has `GRACE` seconds for it. Greenlets
    that are left are stopped, so that they do not meet the next test.
    """
    with stopping() as begun:
        scopes, lent = _open_scopes(), _lent()
        yield

        def busy() -> set[asyncio.AbstractEventLoop]:
            if not _describe(begun(), scopes, lent):
                return set()
            return {green.loop for green in begun()} | _loops_that_lend()

        _wait_for(busy)
        if _describe(begun(), scopes, lent):
            gc.collect()  # a coroutine that nobody awaits may be waiting for just this
        found = _describe(begun(), scopes, lent)
    if found:
        raise Leaked("the test has left behind:\n" + "\n".join(f"- {line}" for line in found))


@contextmanager
def stopping() -> Iterator[Callable[[], list[bridge.Green]]]:
    """Stop, at the end of the block, what it began and has not ended; yield what asks for that."""
    with watching():
        before = set(alive())

        def begun() -> list[bridge.Green]:
            return [green for green in alive() if green not in before]

        try:
            yield begun
        finally:
            stop(begun)


# --- what is there ----------------------------------------------------------------------------


def _describe(
    greens: list[bridge.Green], scopes_before: set[Scope], lent_before: dict[Any, int]
) -> list[str]:
    lines = []
    named = dict(lent_before)  # connections of a pool that have been accounted for
    for green in greens:
        scope = green.frame.scope
        lines.append(f"{_kind(green)} {scope.name!r}, parked in {parked_at(green)}")
        if green.frame.parent is not None:
            continue
        for alias, pool in _held(scope):
            lines.append(f"a connection of {alias!r}, held by {scope.name!r}")
            if pool is not None:
                named[pool] = named.get(pool, 0) + 1
    for scope in _open_scopes() - scopes_before - {green.frame.scope for green in alive()}:
        lines.append(f"the scope {scope.name!r}, which is open without a greenlet")
    for pool, count in _lent().items():
        if (rest := count - named.get(pool, 0)) > 0:
            lines.append(f"{rest} of the connections of {pool!r}")
    return lines


def _open_scopes() -> set[Scope]:
    return {scope for scope in list(_scopes) if not scope.closed}


def _kind(green: bridge.Green) -> str:
    if green.frame.parent is not None:
        return "a helper greenlet of"
    return "the spawned task" if green._task() in running.spawned else "the greenlet of"


def _held(scope: Scope) -> list[tuple[str, Any]]:
    """Return the alias and the pool of each connection that a scope has."""
    resources: list[Any] = list(scope._resources)
    return [
        (wrapper.alias, getattr(wrapper, "_pool", None))
        for wrapper in resources
        if getattr(wrapper, "connection", None) is not None
    ]


def _entries() -> list[Any]:
    """Return what `greentor.db.pools` knows of each loop; nothing if no engine was loaded."""
    module = sys.modules.get("greentor.db.pools")
    return list(module._loops.values()) if module is not None else []


def _lent() -> dict[Any, int]:
    return {pool: pool.in_use for entry in _entries() for pool in entry.pools if pool.in_use}


def parked_at(green: bridge.Green) -> str:
    """Name the line of the user's code at which a greenlet is parked."""
    found = "?"
    for frame in _frames(green):
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if found == "?" or module not in _OURS:
            found = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        if module not in _OURS:
            break
    return found


def _frames(green: bridge.Green) -> Iterator[FrameType]:
    """Yield the frames of a parked greenlet, the innermost first, those of its coroutines included."""
    frame = green.gr_frame
    while frame is not None:
        if frame.f_code is waiting.step.__code__:
            inner: list[FrameType] = []
            awaited = frame.f_locals.get("coroutine")
            while awaited is not None:
                kind = "cr" if hasattr(awaited, "cr_frame") else "gi"
                if (its_frame := getattr(awaited, f"{kind}_frame", None)) is not None:
                    inner.append(its_frame)
                awaited = getattr(awaited, "cr_await" if kind == "cr" else "gi_yieldfrom", None)
            yield from reversed(inner)
        yield frame
        frame = frame.f_back


# --- letting things end -----------------------------------------------------------------------


def _loops_that_lend() -> set[asyncio.AbstractEventLoop]:
    return {entry.loop for entry in _entries() if any(pool.in_use for pool in entry.pools)}


def can_run(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether the loop is at rest, and no other one runs in this thread."""
    return not loop.is_closed() and not loop.is_running() and asyncio._get_running_loop() is None


def _let_run(loops: Iterable[asyncio.AbstractEventLoop]) -> bool:
    """Let the loops run for a moment; return whether one could."""
    ran = False
    for loop in loops:
        if can_run(loop):
            loop.run_until_complete(asyncio.sleep(_STEP))
            ran = True
    return ran


def stop(begun: Callable[[], list[bridge.Green]]) -> None:
    """Cancel the tasks of greenlets and let them end; kill those that do not, or cannot.

    ``begun`` returns those that are left. A greenlet may begin another one at its end: to have the
    server end its query, for instance. That one has `GRACE` seconds.
    """
    greens = begun()
    for loop in {green.loop for green in greens}:
        if can_run(loop):
            tasks = {task for green in greens if green.loop is loop and (task := green._task())}
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=_END))
    del greens
    _wait_for(lambda: {green.loop for green in begun()})
    for green in begun():
        running.kill(green)


def _wait_for(busy: Callable[[], Iterable[asyncio.AbstractEventLoop]]) -> None:
    """Let the loops that are busy run until none is, at most for `GRACE` seconds."""
    deadline = time.monotonic() + GRACE
    while (loops := busy()) and time.monotonic() < deadline and _let_run(loops):
        pass


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Stop the greenlets of a loop that is about to be closed, and close its pools."""
    if can_run(loop):
        stop(lambda: [green for green in alive() if green.loop is loop])
        loop.run_until_complete(loop.shutdown_asyncgens())
