"""`max_concurrency`: how many requests run at once; who comes later waits, in order, before it begins.

A request that waits for a connection has a greenlet, with two stacks, a scope and Django's wrapper. Here it
is a coroutine and a future: half the memory, and fewer requests for the processor's caches to hold.

Invariants
- There is one queue for each loop and application, and one for each handler class with a number of its own.
- Nobody overtakes: a turn that ends is handed to who has waited longest. Who is cancelled in the queue leaves
  it; a turn that it was just given goes to the next.
- Only who has had a turn ends one, and on its own loop: who is collected may be on another, or on none.
- A request has its turn until its greenlet has ended, and so has given its connections back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from tornado.web import RequestHandler

#: by application or handler class, then by loop; those of closed loops go when the next one is made
_queues: WeakKeyDictionary[object, dict[asyncio.AbstractEventLoop, Queue]] = WeakKeyDictionary()

#: requests of this process that wait for their turn
waiting = 0


class Queue:
    """Lets ``limit`` requests run at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit  # turns that nobody has
        self._waiting: deque[asyncio.Future[None]] = deque()

    def enter(self) -> bool:
        """Take a turn if one is free and nobody waits; `leave` ends it. Return False if not: then `wait`."""
        if not self.free or self._waiting:
            return False
        self.free -= 1
        return True

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a turn; `leave` ends it."""
        global waiting
        turn = loop.create_future()
        self._waiting.append(turn)
        waiting += 1
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave(loop)  # it was given one in the same moment
            else:
                with suppress(ValueError):
                    self._waiting.remove(turn)
            raise
        finally:
            waiting -= 1

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """End a turn on ``loop``, from wherever its request is ended."""
        if asyncio._get_running_loop() is loop:
            self._pass_on()
        else:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


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
    queues = _queues.get(key)
    if queues is None:
        queues = _queues[key] = {}
    queue = queues.get(loop)
    if queue is None or queue.limit != limit:
        for closed in [each for each in queues if each.is_closed()]:
            del queues[closed]
        queue = queues[loop] = Queue(limit)
    return queue
