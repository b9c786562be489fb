"""Scopes: what a greenlet and its helpers share, and whose turn it is.

A *scope* is opened with a request (or with ``spawn``, or with the outermost ``green``) and owns what
must not outlive it: the namespaces of every `greentor.glocal.local`, and resources such as database
connections. A *frame* is one greenlet's place in a scope: the root frame belongs to the greenlet that
opened it, every helper greenlet that a child task starts on the scope adds one below.

Invariants
- This module only keeps the books. It never switches greenlets and never waits; `greentor.bridge` does.
- A frame lends its scope to one helper at a time (`child`), in the order in which they asked. While it
  does, the frame's own statements wait (`owner_waiter`), with priority over helpers still queued.
- A helper is let in only while the frame's greenlet waits for something else than the database
  (`busy` is false), so never between two statements of one ORM operation.
- Helpers of a helper take turns below that helper's frame: nesting cannot deadlock.
- A closed scope accepts nobody; whoever still asks gets `ScopeClosed`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("greentor")

Release = Callable[[bool], None]


class ScopeClosed(RuntimeError):
    """Work was started on a scope that has ended: use `greentor.spawn` for what outlives it."""


class Scope:
    """Own the locals and the resources of one greenlet and of its helpers."""

    __slots__ = ("__weakref__", "_resources", "closed", "hold", "locals", "name", "parked")

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        #: namespaces of `greentor.glocal.local` instances, by the key of the instance
        self.locals: dict[int, dict[str, Any]] = {}
        #: how long connections are kept, see `greentor.holding`; None leaves it to each database
        self.hold: str | None = None
        #: called when a greenlet of the scope waits for something other than its resources
        self.parked: dict[Hashable, Callable[[], None]] = {}
        self._resources: dict[Hashable, Release] = {}

    def __repr__(self) -> str:
        return f"<Scope {self.name!r}{' closed' if self.closed else ''}>"

    def add_resource(self, key: Hashable, release: Release) -> None:
        """Have ``release(force)`` called when the scope ends.

        With ``force`` true it must not wait: close what it holds at once. Raise `ScopeClosed` if the
        scope has ended.
        """
        self.check_open()
        self._resources[key] = release

    def remove_resource(self, key: Hashable) -> None:
        """Forget a resource that was released before the end of the scope."""
        self._resources.pop(key, None)
        self.parked.pop(key, None)

    def park(self) -> None:
        """Have what is not needed meanwhile given up, before a greenlet of the scope waits."""
        for give_up in list(self.parked.values()):
            give_up()

    def check_open(self) -> None:
        """Raise `ScopeClosed` if the scope has ended."""
        if self.closed:
            raise self.refusal()

    def refusal(self) -> ScopeClosed:
        return ScopeClosed(
            f"{self.name} has ended, and with it the connections and locals of its scope; a task "
            "that it left behind may not use them. Await the task before the end, or start "
            "work that outlives it with greentor.spawn()"
        )

    def close(self, force: bool) -> None:
        """Release every resource, the last one first, then drop the locals.

        An interruption (a second cancel) while one is being released goes on with the rest, by
        force, and is raised at the end.
        """
        interruption: BaseException | None = None
        self.parked.clear()
        while self._resources:
            _, release = self._resources.popitem()
            try:
                release(force)
            except Exception:
                logger.exception("releasing a resource of %s failed", self.name)
            except BaseException as exc:
                interruption = exc
                force = True
        self.closed = True
        self.locals.clear()
        if interruption is not None:
            raise interruption


#: the queue of a frame that nobody has asked yet: few ever are, and a deque is 700 bytes
_NOBODY: deque[asyncio.Future[bool]] = deque(maxlen=0)


class Frame:
    """One greenlet's place in a scope, and the turns that its helpers take."""

    __slots__ = ("_queue", "busy", "child", "closed", "loop", "owner_waiter", "parent", "scope")

    def __init__(
        self, scope: Scope, loop: asyncio.AbstractEventLoop, parent: Frame | None = None
    ) -> None:
        self.scope = scope
        self.loop = loop
        self.parent = parent
        self.closed = False
        #: the greenlet of this frame waits for the database
        self.busy = False
        #: a helper has the turn
        self.child = False
        #: the greenlet of this frame waits until the helper gives the turn back
        self.owner_waiter: asyncio.Future[None] | None = None
        self._queue = _NOBODY

    def nearest_open(self) -> Frame:
        """Return this frame, or the closest one above it whose greenlet still runs."""
        frame: Frame | None = self
        while frame is not None and frame.closed:
            frame = frame.parent
        if frame is None or self.scope.closed:
            raise self.scope.refusal()
        return frame

    def ask(self) -> asyncio.Future[bool] | None:
        """Take the turn as a helper: None if it was free, else a future to wait for.

        The future's result is False if the frame ended meanwhile: ask the nearest open one.
        """
        if not self.child and not self.busy and not self._queue:
            self.child = True
            return None
        waiter: asyncio.Future[bool] = self.loop.create_future()
        if self._queue is _NOBODY:
            self._queue = deque()
        self._queue.append(waiter)
        return waiter

    def withdraw(self, waiter: asyncio.Future[bool]) -> None:
        """Stop asking; pass on a turn that was handed over in the same iteration of the loop."""
        if waiter in self._queue:
            self._queue.remove(waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.result():
            self.give_back()

    def give_back(self) -> None:
        """Return the turn: to the frame's own greenlet if it waits, else to the next helper."""
        self.child = False
        waiter, self.owner_waiter = self.owner_waiter, None
        if not (waiter and self._tell(waiter, None)) and not self.busy:
            self.grant()

    def grant(self) -> None:
        """Hand the turn to the next helper in the queue, if nobody has it."""
        while self._queue and not self.child:
            self.child = self._tell(self._queue.popleft(), True)

    @property
    def has_queue(self) -> bool:
        return bool(self._queue)

    def close(self) -> None:
        """Accept no further helper; send those who queue to the nearest open frame."""
        self.closed = True
        while self._queue:
            self._tell(self._queue.popleft(), False)

    def _tell(self, waiter: asyncio.Future[Any], answer: bool | None) -> bool:
        """Complete a future; return False if nobody waits for it any more."""
        if waiter.done() or self.loop.is_closed():
            return False
        waiter.set_result(answer)
        return True
