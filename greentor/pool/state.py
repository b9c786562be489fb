"""The books of a pool: who has which connection, and who is next. No I/O, no clock, no event loop.

Invariants
- ``size``, the connections in use and idle together, never exceeds ``limit``. What is in use is a *slot*:
  it is claimed before a connection is opened on it, and outlives that connection when it is discarded.
- First come, first served: a slot that becomes free goes to the head of the queue, and a newcomer gets
  one only if nobody waits. So while somebody waits nothing is idle.
- Last in, first out: the connection lent next is the one that was used last. So the idle connections
  stand in the order in which they came, and the first of them has been idle longest.
- Every step costs the same, however many connect or wait.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


# Where a connection is:
#: kept for whoever comes next
IDLE: Final = "idle"
#: with a borrower
LENT: Final = "lent"
#: on its slot, but with nobody: being opened, pinged or reset, or on its way to a waiter
BETWEEN: Final = "between"
#: with a borrower still, its slot gone to somebody else
WRITTEN_OFF: Final = "written off"


class Entry(Generic[C]):
    """A connection that is open, and what its pool knows of it."""

    __slots__ = ("connection", "expires", "place", "since")

    def __init__(self, connection: C, expires: float) -> None:
        self.connection = connection
        #: when it is too old to be lent
        self.expires = expires
        self.place: str = BETWEEN
        #: since when it has been idle, or lent
        self.since = 0.0


class Waiter(Protocol[C_contra]):
    """What stands in the queue: a future."""

    def done(self) -> bool:
        """Tell whether it was served, or has given up."""

    def set_result(self, result: C_contra, /) -> None:
        """Serve it."""


class PoolState(Generic[C]):
    """Who has what, and who waits."""

    def __init__(self, name: str, pool_size: int, limit: int) -> None:
        self.name = name
        self.pool_size = pool_size
        self.limit = limit
        #: the slots that are taken
        self.in_use = 0
        #: the connections that nobody uses; the one used last is at the end
        self.idle: deque[Entry[C]] = deque()
        #: all that are open, by the id of the connection
        self.entries: dict[int, Entry[C]] = {}
        #: who waits, and since when. It is given a connection, or None for the right to open one
        self.waiters: OrderedDict[Waiter[Entry[C] | None], float] = OrderedDict()

    def __repr__(self) -> str:
        return (
            f"<Pool {self.name!r}: {self.in_use} of {self.limit} in use, "
            f"{len(self.idle)} idle, {len(self.waiters)} waiting>"
        )

    @property
    def size(self) -> int:
        return self.in_use + len(self.idle)

    def is_full(self) -> bool:
        """Tell whether as many connections are idle as are kept, and not none."""
        return 0 < self.pool_size <= len(self.idle)

    def claim(self) -> bool:
        """Take a slot for a newcomer; False if it has to queue."""
        if self.waiters or not (self.idle or self.in_use < self.limit):
            return False
        self.in_use += 1
        return True

    def claim_below(self, size: int) -> bool:
        """Take a slot to open a connection on, if that makes no more than ``size`` of them."""
        if self.waiters or self.size >= min(size, self.limit):
            return False
        self.in_use += 1
        return True

    def pop_idle(self) -> Entry[C] | None:
        """Take the connection used last, for a slot that was claimed; None if there is none."""
        if not self.idle:
            return None
        entry = self.idle.pop()
        entry.place = BETWEEN
        return entry

    def pop_coldest(self) -> Entry[C]:
        """Take the connection that has been idle longest, to close it."""
        entry = self.idle.popleft()
        entry.place = BETWEEN
        return entry

    def drop_idle(self, is_lost: Callable[[C], bool]) -> list[Entry[C]]:
        """Take those idle connections for which ``is_lost`` is true, to close them."""
        dropped = [entry for entry in self.idle if is_lost(entry.connection)]
        if dropped:
            lost = set(dropped)
            self.idle = deque(entry for entry in self.idle if entry not in lost)
        return dropped

    def add(self, connection: C, expires: float) -> Entry[C]:
        """Enter a connection that was opened on a slot."""
        entry = self.entries[id(connection)] = Entry(connection, expires)
        return entry

    def forget(self, entry: Entry[C]) -> None:
        """Strike a connection that is to be closed. The slot that it may be on stays taken."""
        self.entries.pop(id(entry.connection), None)

    def find_lent(self, connection: C) -> Entry[C] | None:
        """Return the entry of a connection that is lent, or written off; None for any other."""
        entry = self.entries.get(id(connection))
        if entry is None or entry.place is LENT or entry.place is WRITTEN_OFF:
            return entry
        return None

    def offer(self, entry: Entry[C] | None) -> bool:
        """Give a slot, and the connection on it if there is one, to the next in the queue, if any."""
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(entry)
                return True
        return False

    def empty_queue(self) -> Iterable[Waiter[Entry[C] | None]]:
        """Send everybody away who waits; return them, in their order."""
        waiters, self.waiters = self.waiters, OrderedDict()
        return waiters

    def shelve(self, entry: Entry[C], now: float) -> bool:
        """Keep a connection for later and free its slot; False if there are enough of them already."""
        if len(self.idle) >= self.pool_size:
            return False
        entry.place = IDLE
        entry.since = now
        self.idle.append(entry)
        self.in_use -= 1
        return True

    def free_slot(self) -> None:
        """Free a slot that has no connection, for whoever comes next; nobody is waiting."""
        self.in_use -= 1
