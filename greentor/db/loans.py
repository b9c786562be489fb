"""``leak_warning``: who has had a connection of a pool for too long, and where it was taken.

Invariants
- A loan costs the code and the position of a few frames, which are not kept themselves.
- One timer for each pool, and only while something is lent; it lives in an empty context.
- Nothing that a request could leave to the garbage collector is kept alive: a greenlet is referred to weakly.
- A loan is reported once.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import weakref
from contextvars import Context
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, TypeGuard

from greenlet import getcurrent

from greentor import stacks
from greentor.bridge import Green

if TYPE_CHECKING:
    from greentor.db.pools import DatabasePool

logger = logging.getLogger("greentor.db")

#: how often the pool is looked at while a loan becomes too long
LOOKS = 8

#: frames between `Loans.note` and whoever asked for a cursor; and how many are kept from there on
SKIPPED = 6
KEPT = 9

_getframe = sys._getframe


class Loans:
    """The loans of one pool, and the timer that looks at them."""

    def __init__(self, pool: DatabasePool, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._pool = pool
        self._loop = loop
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def note(self, connection: Any) -> None:
        """Note that ``connection`` is being borrowed, here and by this greenlet."""
        stack: list[Any] = []
        frame: FrameType | None
        try:
            frame = _getframe(SKIPPED)
        except ValueError:  # there are not so many
            frame = _getframe(1)
        more = KEPT
        while frame is not None and more:
            stack += (frame.f_code, frame.f_lasti)
            frame = frame.f_back
            more -= 1
        connection.taken = weakref.ref(getcurrent()), stack
        if self._timer is None:
            self._start()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        delay = self._seconds / LOOKS
        self._timer = self._loop.call_later(delay, self._look, context=Context())

    def _look(self) -> None:
        self._timer = None
        for connection in self._pool.lent_for(self._seconds):
            taken, connection.taken = connection.taken, None
            if taken is not None:
                self._report(connection, *taken)
        if self._pool.in_use:
            self._start()

    def _report(self, connection: Any, ref: weakref.ref[Any], stack: list[Any]) -> None:
        taker = ref()
        scope = connection.owner
        logger.warning(
            "the connection %r has been held for more than %g s by %s: end what holds it, give the "
            "connection back with close(), or hold it per transaction\n"
            "It was taken here (most recent call last):\n%sIts greenlet %s",
            self._pool.name,
            self._seconds,
            scope.name if scope is not None else "what has ended",
            "".join(_line(*at) for at in zip(stack[-2::-2], stack[::-2], strict=True)),
            _whereabouts(taker) if _is_in(taker, scope) else "has ended",
        )


def _is_in(g: Any, scope: Any) -> TypeGuard[Green]:
    """Tell whether a greenlet still runs in the scope that it was in; it may be in another by now."""
    return type(g) is Green and not g.ended and g.frame.scope is scope


def _whereabouts(g: Green) -> str:
    position = stacks.locate(g)
    lines = [_show(at.path, at.line, at.function, at.source) for at in position.stack]
    return f"waits for {position.waits_for} here:\n{''.join(lines)}"


def _line(code: CodeType, position: int) -> str:
    """Return where ``code`` stood, as a traceback shows it."""
    number = code.co_firstlineno
    for start, end, line in code.co_lines():
        if start <= position < end:
            number = line or number
            break
    source = linecache.getline(code.co_filename, number).strip()
    return _show(code.co_filename, number, code.co_name, source)


def _show(path: str, line: int, function: str, source: str) -> str:
    text = f'  File "{path}", line {line}, in {function}\n'
    return f"{text}    {source}\n" if source else text
