"""`max_concurrency`: how many requests run at once; who comes later waits, in order, before it begins.

A request that waits for a connection has a greenlet, with two stacks, a scope and Django's wrapper. Here it
is a coroutine and a future: half the memory, and fewer requests for the processor's caches to hold.

Invariants
- There is one queue for each loop and application, and one for each handler class with a number of its own.
- Nobody overtakes. Who is cancelled in the queue leaves it; a turn that it was just given goes to the next.
- A request has its turn until its greenlet has ended, and so has given its connections back.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from tornado.web import RequestHandler

_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, Queue]] = WeakKeyDictionary()

#: requests of this process that wait for their turn
waiting = 0


class Queue(asyncio.Semaphore):
    """Lets ``limit`` requests run at a time."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    async def enter(self) -> None:
        """Wait for a turn; `release` ends it."""
        global waiting
        waiting += 1
        try:
            await self.acquire()
        finally:
            waiting -= 1


def check(limit: object, what: str) -> int:
    """Return ``limit`` if it is a number of requests; raise ValueError naming ``what`` if not."""
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0:
        return limit
    raise ValueError(f"{what} must be a number of requests, 0 for any, not {limit!r}")


def queue_for(
    handler: RequestHandler, own: int | None, loop: asyncio.AbstractEventLoop
) -> Queue | None:
    """Return the queue that ``handler``, with a limit of its own or without, belongs to; None if to none."""
    key: object
    if own is None:
        setting: Any = handler.settings.get("max_concurrency")
        if not setting:
            return None
        limit, key = check(setting, "max_concurrency"), handler.application
    else:
        limit, key = own, type(handler)
        if not limit:
            return None
    queues = _queues.get(loop)
    if queues is None:
        queues = _queues[loop] = {}
    queue = queues.get(key)
    if queue is None or queue.limit != limit:
        queue = queues[key] = Queue(limit)
    return queue
