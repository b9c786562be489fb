"""The order in which asyncio's loop hears of what is ready: answers of the database first, then some others.

A loop that hears of everything at once reads sixty requests, and has sixty of them at work when it looks at
the first answer, which came long ago: each of them is out of the processor's caches by then. Here what is
begun goes on before more is begun, so that few requests are at work, and those are fresh.

Invariants
- Whatever is ready is told of in the end, however much else there is: answers alone at most `ROUNDS` times in
  a row, then others again, those first that became ready first.
- What is told of is registered at that moment, as it was when it became ready; what was changed meanwhile is
  looked at anew, and has lost its place.
- Others are told of as often as answers, in the long run. Tornado reads a request that is there when it has
  answered the one before, without being told of it: who asks that fast would leave nothing to anybody else.
- Nothing is kept from a loop that has nothing else to do: it waits for both.

It is for loops that `new_event_loop` has made, on systems with epoll. Others, uvloop among them, hear of
everything in their own order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

Ready = tuple[selectors.SelectorKey, int]

#: how many of the others are told of at once, at least: between them answers are looked for
BATCH = 16
#: how many times in a row answers may be told of alone
ROUNDS = 4


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of asyncio that hears of the database's answers first.

    Where there is no epoll, as on macOS, and where an event loop policy makes another kind of loop, it is the
    one that ``asyncio.new_event_loop`` returns.
    """
    usual = asyncio.new_event_loop()
    if type(usual) is not asyncio.SelectorEventLoop or not hasattr(selectors, "EpollSelector"):
        return usual
    usual.close()
    return asyncio.SelectorEventLoop(AnswersFirst())


def prefer(loop: asyncio.AbstractEventLoop, fd: int, of: object) -> None:
    """Have ``loop`` hear of ``fd``, which is ``of`` somebody and not registered yet, before others."""
    selector = getattr(loop, "_selector", None)
    if type(selector) is AnswersFirst:
        selector.preferred[fd] = of


def forget(loop: asyncio.AbstractEventLoop, fd: int, of: object) -> None:
    """Prefer ``fd`` no more, unless it is somebody else's by now."""
    selector = getattr(loop, "_selector", None)
    if type(selector) is AnswersFirst and selector.preferred.get(fd) is of:
        del selector.preferred[fd]


class _Both(Mapping[Any, selectors.SelectorKey]):
    """The keys of two selectors, by file object or file descriptor."""

    def __init__(self, *maps: Mapping[Any, selectors.SelectorKey]) -> None:
        self._maps = maps

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        for keys in self._maps:
            try:
                return keys[fileobj]
            except (KeyError, ValueError):  # a file that is closed, and known to the other
                pass
        raise KeyError(fileobj)

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._maps)

    def __len__(self) -> int:
        return sum(map(len, self._maps))


class AnswersFirst(selectors.BaseSelector):
    """Two selectors, one of which is registered with the other."""

    def __init__(self) -> None:
        #: the file descriptors that are told of before others, and whose they are
        self.preferred: dict[int, object] = {}
        self._answers = selectors.EpollSelector()
        self._others = selectors.EpollSelector()
        self._map: Mapping[Any, selectors.SelectorKey] = _Both(
            self._answers.get_map(), self._others.get_map()
        )
        self._keys: dict[int, selectors.SelectorKey] = {}  # of the others, as they are now
        self._later: deque[Ready] = deque()  # others that are ready, and have not been told of
        self._awaited = 0  # how many are registered with the answers
        self._owed = 0  # answers that were told of since others were
        self._rounds = 0  # in a row in which answers were told of alone

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd not in self.preferred:
            key = self._keys[fd] = self._others.register(fileobj, events, data)
            return key
        key = self._answers.register(fileobj, events, data)
        if not self._awaited:
            self._others.register(self._answers, selectors.EVENT_READ)
        self._awaited += 1
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        if self._is_other(fileobj):
            key = self._others.unregister(fileobj)
            del self._keys[key.fd]
            return key
        key = self._answers.unregister(fileobj)
        self._awaited -= 1
        if not self._awaited:
            self._others.unregister(self._answers)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if not self._is_other(fileobj):
            return self._answers.modify(fileobj, events, data)
        key = self._others.modify(fileobj, events, data)
        self._keys[key.fd] = key
        return key

    def _is_other(self, fileobj: Any) -> bool:
        return self.get_key(fileobj).fd in self._keys

    def select(self, timeout: float | None = None) -> list[Ready]:
        """Return what is ready; wait for it at most ``timeout`` seconds, None for ever."""
        later = self._later
        if not self._awaited and not later:
            return self._others.select(timeout)
        answers: list[Ready] = []
        if later or (timeout is not None and timeout <= 0):  # there is something else to do
            answers = self._answers.select(0)
            self._owed += len(answers)
            if answers and self._rounds < ROUNDS:
                self._rounds += 1
                return answers
        self._rounds = 0
        if not later:
            inner = self._answers
            for ready in self._others.select(0 if answers else timeout):
                if ready[0].fileobj is not inner:
                    later.append(ready)
                elif not answers:
                    answers = self._answers.select(0)
        return answers + self._batch()

    def _batch(self) -> list[Ready]:
        """Take the next of the others that are ready, and still registered as they were then."""
        batch: list[Ready] = []
        later, keys = self._later, self._keys
        most, self._owed = max(BATCH, self._owed), 0
        while later and len(batch) < most:
            ready = later.popleft()
            if keys.get(ready[0].fd) is ready[0]:
                batch.append(ready)
        return batch

    def close(self) -> None:
        self._answers.close()
        self._others.close()
        # What has not been unregistered by then refers to the loop.
        self._later.clear()
        self._keys.clear()
        self.preferred.clear()
        self._map = _Both()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map
