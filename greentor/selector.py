"""The order in which asyncio's loop hears of what is ready: answers of the database first, then some others.

A loop that hears of everything at once reads sixty requests, and has sixty of them at work when it looks at
the first answer, which came long ago: each of them is out of the processor's caches by then. Here what is
begun goes on before more is begun, so that few requests are at work, and those are fresh.

Invariants
- Whatever is ready is told of in the end, in the order in which it became so, however much else there is:
  answers alone at most `ROUNDS` times in a row, then others again.
- What is told of is registered at that moment, as it was when it became ready.
- Nothing is kept from a loop that has nothing else to do: it waits for both.

It is for loops that `new_event_loop` has made, on systems with epoll. Others, uvloop among them, hear of
everything in their own order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import ChainMap, deque
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

Ready = tuple[selectors.SelectorKey, int]

#: how many of the others are told of at once: between them answers are looked for
BATCH = 16
#: how many times in a row answers may be told of alone
ROUNDS = 4

_selectors: WeakKeyDictionary[asyncio.AbstractEventLoop, AnswersFirst] = WeakKeyDictionary()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of asyncio that hears of the database's answers first.

    Where there is no epoll, as on macOS, it is an ordinary one.
    """
    if not hasattr(selectors, "EpollSelector"):
        return asyncio.new_event_loop()
    selector = AnswersFirst()
    loop = asyncio.SelectorEventLoop(selector)
    _selectors[loop] = selector
    return loop


def prefer(loop: asyncio.AbstractEventLoop, fd: int, of: object) -> None:
    """Have ``loop`` hear of ``fd``, which is ``of`` somebody and not registered yet, before others."""
    selector = _selectors.get(loop)
    if selector is not None:
        selector.preferred[fd] = of


def forget(loop: asyncio.AbstractEventLoop, fd: int, of: object) -> None:
    """Prefer ``fd`` no more, unless it is somebody else's by now."""
    selector = _selectors.get(loop)
    if selector is not None and selector.preferred.get(fd) is of:
        del selector.preferred[fd]


class AnswersFirst(selectors.BaseSelector):
    """Two selectors, one of which is registered with the other."""

    def __init__(self) -> None:
        #: the file descriptors that are told of before others, and whose they are
        self.preferred: dict[int, object] = {}
        self._answers = selectors.EpollSelector()
        self._others = selectors.EpollSelector()
        self._inner = self._others.register(self._answers.fileno(), selectors.EVENT_READ)
        self._map: Mapping[Any, selectors.SelectorKey] = ChainMap(
            self._answers.get_map(),  # type: ignore[arg-type]
            self._others.get_map(),  # type: ignore[arg-type]
        )
        self._keys: dict[int, selectors.SelectorKey] = {}  # of the others, as they are now
        self._later: deque[Ready] = deque()  # others that are ready, and have not been told of
        self._awaited = 0  # how many are registered for their answers
        self._rounds = 0  # in a row in which answers were told of alone

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self.preferred:
            key = self._answers.register(fileobj, events, data)
            self._awaited += 1
        else:
            key = self._keys[fd] = self._others.register(fileobj, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        if fileobj in self._answers.get_map():
            self._awaited -= 1
            return self._answers.unregister(fileobj)
        key = self._others.unregister(fileobj)
        del self._keys[key.fd]
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if fileobj in self._answers.get_map():
            return self._answers.modify(fileobj, events, data)
        key = self._others.modify(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def select(self, timeout: float | None = None) -> list[Ready]:
        """Return what is ready; wait for it at most ``timeout`` seconds, None for ever."""
        later = self._later
        if not self._awaited and not later:
            return self._others.select(timeout)
        answers: list[Ready] = []
        if later or (timeout is not None and timeout <= 0):  # there is something else to do
            answers = self._answers.select(0)
            if answers and self._rounds < ROUNDS:
                self._rounds += 1
                return answers
        self._rounds = 0
        if not later:
            inner = self._inner
            for ready in self._others.select(0 if answers else timeout):
                if ready[0] is not inner:
                    later.append(ready)
                elif not answers:
                    answers = self._answers.select(0)
        return answers + self._batch()

    def _batch(self) -> list[Ready]:
        """Take the next of the others that are ready, and still registered as they were then."""
        batch: list[Ready] = []
        later, keys = self._later, self._keys
        while later and len(batch) < BATCH:
            ready = later.popleft()
            if keys.get(ready[0].fd) is ready[0]:
                batch.append(ready)
        return batch

    def close(self) -> None:
        self._answers.close()
        self._others.close()
        self._later.clear()
        self._map = ChainMap()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map
