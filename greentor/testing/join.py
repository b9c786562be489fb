"""The joined test: requests work on the connections of the test, inside its transaction.

Django's TestCase, and pytest-django's ``db``, open a transaction on the thread's own, blocking connections
and roll it back at the end. While a test is *joined*, every scope that is opened (a request, a
``spawn``) finds those same wrappers instead of making its own. So a handler sees the uncommitted rows of its
test, the test sees the handler's, a handler's ``atomic`` is a savepoint, queries are counted and
``on_commit`` callbacks captured across both.

Invariants
- Only ``connections`` is shared. Every request has a scope of its own: no `greentor.local` is seen by
  the next one.
- One transaction at a time: while a request is parked inside ``atomic``, others wait at their next look-up
  of that connection, so that savepoints nest. What the holder itself began (helpers, ``spawn``) may go on
  inside it, and the holder then waits for that.
- Nobody waits for ever: after `TURN_TIMEOUT` seconds the waiter gets `JoinedConnectionBusy`.
- At the end no request of the test is alive: those that are left are stopped before the rollback.
- Other threads have no part in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any, NamedTuple

from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from greenlet import getcurrent

from greentor import bridge, waits
from greentor.bridge import running
from greentor.bridge.greens import frame_var
from greentor.scope import Scope
from greentor.testing import leaks

#: seconds that a request waits for the transaction of another one
TURN_TIMEOUT = 2.0

_PAUSE = 0.002

_active: Join | None = None


class JoinedConnectionBusy(RuntimeError):
    """A request of a joined test has waited too long for the transaction of another one."""


class JoinedScope(Scope):
    """A scope of a joined test: it knows which scope began it."""

    __slots__ = ("parent",)

    def __init__(self, name: str, parent: Scope | None) -> None:
        super().__init__(name)
        self.parent = parent

    def is_below(self, other: Scope) -> bool:
        """Tell whether ``other`` is this scope, or one that began it."""
        scope: Scope | None = self
        while scope is not None and scope is not other:
            scope = scope.parent if isinstance(scope, JoinedScope) else None
        return scope is other


class _Turn(NamedTuple):
    """Who uses a connection, and how many ``atomic`` blocks were open on it before."""

    scope: Scope
    depth: int


class _Wrappers(dict[str, Any]):
    """The thread's wrappers by alias; whoever looks one up waits for its turn."""

    def __init__(self, wrappers: dict[str, Any], take_turn: Callable[[Any], None]) -> None:
        super().__init__(wrappers)
        self._take_turn = take_turn

    def get(self, alias: str, default: Any = None) -> Any:
        wrapper = super().get(alias, default)
        if isinstance(wrapper, BaseDatabaseWrapper):
            self._take_turn(wrapper)
        return wrapper


class Join:
    """A joined test, from `enter` to `leave`."""

    def __init__(self) -> None:
        self._thread = get_ident()
        self._root: Scope | None = None
        self._turns: dict[str, list[_Turn]] = defaultdict(list)
        self._undo = ExitStack()

    def enter(self) -> None:
        """Make every scope of this thread that is opened from now on a part of the test."""
        for alias in connections:
            connections[alias]  # one that the test has not used yet is the test's all the same
        state = object.__getattribute__(connections._connections, "_local__state")  # type: ignore
        spaces: dict[int, Any] = state.thread.__dict__
        self._key = state.key
        self._wrappers = spaces[self._key] = _Wrappers(spaces[self._key], self._take_turn)
        self._undo.callback(lambda: spaces.update({self._key: dict(self._wrappers)}))
        for wrapper in list(self._wrappers.values()):
            wrapper.inc_thread_sharing()
            self._undo.callback(wrapper.dec_thread_sharing)
        # As Django's test client does it: they would clear the queries of the test, or wait for a turn.
        for signal, receiver in (
            (request_started, reset_queries),
            (request_started, close_old_connections),
            (request_finished, close_old_connections),
        ):
            if signal.disconnect(receiver):
                self._undo.callback(signal.connect, receiver)
        self._undo.callback(setattr, running, "open_scope", Scope)
        running.open_scope = self._open_scope
        self._undo.enter_context(leaks.stopping())

    def leave(self) -> None:
        """Stop the requests that are left and give the connections back to the test alone."""
        self._undo.close()

    async def run_body(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the test's function in a greenlet; requests may work inside its ``atomic`` blocks."""

        def call() -> Any:
            self._root = bridge.current_scope()
            return fn(*args, **kwargs)

        return await bridge.run_in_scope(name, call)

    def _open_scope(self, name: str) -> Scope:
        if get_ident() != self._thread:
            return Scope(name)
        frame = frame_var.get()
        scope = JoinedScope(name, frame.scope if frame is not None else self._root)
        scope.locals[self._key] = self._wrappers
        return scope

    # --- turns --------------------------------------------------------------------------------

    def _take_turn(self, wrapper: BaseDatabaseWrapper) -> None:
        """Wait until nobody else is inside ``atomic`` on this connection."""
        g = getcurrent()
        scope = g.frame.scope if type(g) is bridge.Green else None
        deadline = time.monotonic() + TURN_TIMEOUT
        while (holder := self._holder(wrapper)) is not None:
            if isinstance(scope, JoinedScope) and scope.is_below(holder):
                break
            if not bridge.in_green():
                if asyncio._get_running_loop() is not None:
                    return  # a coroutine, which Django refuses
                raise self._busy("the test found", wrapper, holder)
            if bridge.is_dying():
                return
            if time.monotonic() > deadline:
                name = scope.name if scope is not None else "?"
                raise self._busy(f"{name} waited {TURN_TIMEOUT:g} s for", wrapper, holder)
            waits.pause(_PAUSE)
        if scope is not None and scope is not holder:
            self._turns[wrapper.alias].append(_Turn(scope, _depth(wrapper)))

    def _holder(self, wrapper: BaseDatabaseWrapper) -> Scope | None:
        """Return the scope that is inside ``atomic``, of several the innermost."""
        turns = self._turns[wrapper.alias]
        while turns and _depth(wrapper) <= turns[-1].depth:
            turns.pop()
        return turns[-1].scope if turns else None

    def _busy(self, who: str, wrapper: BaseDatabaseWrapper, holder: Scope) -> JoinedConnectionBusy:
        where = [leaks.parked_at(g) for g in leaks.alive() if g.frame.scope is holder]
        return JoinedConnectionBusy(
            f"{who} the connection {wrapper.alias!r}, on which {holder.name} is inside "
            f"transaction.atomic(), parked in {', '.join(where) or '?'}. In a joined test all requests "
            "share the transaction of the test, and only one at a time can be inside atomic(). If "
            "they wait for each other, write a transactional test, with real commits: "
            "@pytest.mark.django_db(transaction=True) or greentor.testing.TransactionTestCase"
        )


def _depth(wrapper: BaseDatabaseWrapper) -> int:
    return len(wrapper.atomic_blocks)


@contextmanager
def joined() -> Iterator[Join]:
    """Have requests, and all that runs in greenlets, join the transaction of the running test.

    For tests that open a transaction in another way than by `greentor.testing.TestCase` or
    pytest-django's ``db``, which do this by themselves. To be entered outside greenlets, in the thread
    that runs the event loop, and left before the rollback.
    """
    global _active
    if _active is not None:
        yield _active
        return
    if bridge.current_scope() is not None:
        raise RuntimeError("joined() must be entered outside greenlets")
    _active = join = Join()
    try:
        join.enter()
        yield join
    finally:
        _active = None
        join.leave()


async def run_body(name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run the function of a test, sync or async, in a greenlet; if the test is joined, as its root."""
    if _active is not None:
        return await _active.run_body(name, fn, *args, **kwargs)
    return await bridge.run_in_scope(name, fn, *args, **kwargs)
