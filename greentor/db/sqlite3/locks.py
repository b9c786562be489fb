"""The queue for the lock of one SQLite database, among the greenlets of one event loop.

SQLite knows no queue: whoever asks at the right moment has the lock, and that is mostly who has just given
it back. Here those who wait are served in the order in which they came.

Invariants
- The first in the queue tries again when a connection of this loop has ended its transaction, and on a
  timer: other processes, threads and loops give a lock back without a word.
- While somebody waits, the first is about to try, or the timer runs.
- Whoever leaves the first place without the lock (served, cancelled, killed, out of time) lets the next
  one try; whoever leaves with it will tell when it is free again.
- Books only: who asks SQLite, and what a newcomer does, is `greentor.db.sqlite3.base`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from threading import get_ident
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from greentor import bridge

#: seconds between two tries for a lock whose holder will not tell
SHORTEST, LONGEST = 0.001, 0.05


class Place:
    """One greenlet's place in a queue. Whoever has it must leave the queue in the end."""

    __slots__ = ("_deadline", "_queue", "expired", "future")

    def __init__(self, queue: LockQueue, timeout: float) -> None:
        self._queue = queue
        self._deadline = time.monotonic() + timeout
        self.expired = False
        self.future: asyncio.Future[None] | None = None

    def wait(self) -> None:
        """Park until the lock may be free for this place, or the time is up: then it is `expired`."""
        loop = self._queue.loop
        self.future = loop.create_future()
        timer = loop.call_later(max(0, self._deadline - time.monotonic()), self._expire)
        self._queue.start_timer()
        try:
            bridge.wait(self.future, "the lock of a database")
        finally:
            timer.cancel()

    def wake(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def _expire(self) -> None:
        self.expired = True
        self.wake()


class LockQueue:
    """Who waits for the lock of one database on one loop, first come, first served."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        #: the connections that this loop has to the database
        self.connections: WeakSet[Any] = WeakSet()
        self._thread_id = get_ident()
        self._places: OrderedDict[Place, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._pause = SHORTEST

    def __len__(self) -> int:
        return len(self._places)

    def join(self, timeout: float) -> Place:
        """Take the last place."""
        place = Place(self, timeout)
        self._places[place] = None
        return place

    def leave(self, place: Place, locked: bool) -> None:
        """Give a place up; ``locked`` says that who had it has the lock now, until its `wake`."""
        first = next(iter(self._places)) is place
        del self._places[place]
        if not self._places:
            self._pause = SHORTEST
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif first and locked:
            self._pause = LONGEST
            self.start_timer()
        elif first:
            self.wake()

    def wake(self) -> None:
        """Let the first try: the lock may be free. Called elsewhere than on the loop, do nothing."""
        if self._places and get_ident() == self._thread_id and not self.loop.is_closed():
            self._pause = SHORTEST
            next(iter(self._places)).wake()

    def start_timer(self) -> None:
        """See to it that the first will try again."""
        if self._timer is None:
            self._timer = self.loop.call_later(self._pause, self._poll)

    def _poll(self) -> None:
        self._timer = None
        if self._places:
            self._pause = min(self._pause * 1.5, LONGEST)
            next(iter(self._places)).wake()


_queues: WeakValueDictionary[tuple[int, str], LockQueue] = WeakValueDictionary()


def find_queue(loop: asyncio.AbstractEventLoop, database: str) -> LockQueue:
    """Return the queue of a database on ``loop``; it lives as long as one refers to it."""
    queue = _queues.get((id(loop), database))
    if queue is None:
        queue = _queues[id(loop), database] = LockQueue(loop)
    return queue
