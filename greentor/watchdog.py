"""The watchdog: names the code that holds the event loop for too long.

A thread asks the loop for a sign of life; when none comes within the limit, it logs the stack of the
loop's thread, once for each time that it is held. It costs one callback in each `INTERVAL`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import linecache
import logging
import re
import tempfile
import threading
import weakref
from collections.abc import Callable

logger = logging.getLogger("greentor.watchdog")

#: seconds between two questions to an idle loop
INTERVAL = 0.1


class Watchdog(threading.Thread):
    """Watch one event loop from its own thread until the loop is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        super().__init__(name="greentor-watchdog", daemon=True)
        self._loop = weakref.ref(loop)
        self._limit = limit
        self._watched = threading.get_ident()
        self._alive = threading.Event()

    def run(self) -> None:
        while self._ask():
            if not self._alive.wait(self._limit):
                self._report()
                while not self._alive.wait(INTERVAL):
                    if self._is_over():
                        return
            threading.Event().wait(INTERVAL)

    def _is_over(self) -> bool:
        loop = self._loop()
        return loop is None or loop.is_closed()

    def _ask(self) -> bool:
        loop = self._loop()
        if loop is None or loop.is_closed():
            return False
        self._alive.clear()
        try:
            loop.call_soon_threadsafe(self._alive.set)
        except RuntimeError:
            return False
        return True

    def _report(self) -> None:
        loop = self._loop()
        if loop is None or not loop.is_running():
            return  # the loop is not held up, it is not running
        logger.warning(
            "the event loop has been held for more than %.0f ms by\n%s",
            self._limit * 1000,
            _stack_of(self._watched),
        )


def _stack_of(thread: int) -> str:
    """Return the stack of another thread, the outermost call first.

    Taken in one call into C: from Python, the other thread could run on meanwhile, and a greenlet
    switch there would pull the frames away (CPython #113037).
    """
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        dump = file.read().decode(errors="replace")
    lines = []
    for section in re.split(r"^(?=Thread |Current thread )", dump, flags=re.MULTILINE):
        head, _, calls = section.partition("\n")
        if f"{thread:x} " not in head:
            continue
        for call in reversed(calls.splitlines()):
            lines.append(call)
            if match := re.match(r'\s*File "(.+)", line (\d+) in ', call):
                lines.append(f"    {linecache.getline(match[1], int(match[2])).strip()}")
    return "\n".join(lines)


def scope_hook(milliseconds: float) -> Callable[[asyncio.AbstractEventLoop], None]:
    """Return a hook for `greentor.bridge.running.scope_hooks` that watches each loop from its first scope."""
    watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def watch(loop: asyncio.AbstractEventLoop) -> None:
        if loop not in watched:
            watched.add(loop)
            Watchdog(loop, milliseconds / 1000).start()

    return watch
