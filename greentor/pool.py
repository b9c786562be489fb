"""A bounded, fair pool of connections for the greenlets of one event loop.

The pool is a state machine over three collections: idle connections, the number in use, the queue of
those who wait. It knows connections only through a `Driver`, and does no I/O but what that does.

Invariants
- ``idle + in use <= pool_size + max_overflow`` at every moment. A slot is reserved *before* a connection
  is opened, so that opening, which waits, cannot overshoot.
- First come, first served: a newcomer queues behind those who wait, whatever is free. Idle connections
  are lent last in, first out.
- A hand-off must be accepted. What reaches a waiter that was cancelled in the same iteration of the
  loop is given back by the waiter itself.
- A connection comes back clean (open, no transaction, nothing unread, same loop and process) or not at
  all: then its slot is free again, and passed on. It comes back once, to the pool that lent it.
- The slot of a connection that died while it was lent can be passed on before it comes back.
- No error of a driver changes the accounting. Every step costs the same, however many wait.
- `acquire` waits, in a greenlet. Whatever is called with ``force`` true does not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

from greentor import bridge, process

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)

logger = logging.getLogger("greentor.pool")


class PoolTimeout(TimeoutError):
    """No connection became free within ``pool_timeout``."""


class PoolClosed(RuntimeError):
    """The pool was closed; it lends nothing any more."""


class Driver(Protocol[C_contra]):
    """What a pool needs to know of a kind of connection. Only `reset` may wait."""

    def is_open(self, connection: C_contra) -> bool:
        """Tell, without I/O, whether the connection can be used."""

    def is_clean(self, connection: C_contra) -> bool:
        """Tell, without I/O, whether it carries nothing over: transaction, unread result or bytes."""

    def reset(self, connection: C_contra) -> None:
        """Make it clean, by a rollback. It is discarded if this raises or does not help."""

    def close(self, connection: C_contra) -> None:
        """Close it without waiting for anybody."""


@dataclass(frozen=True)
class PoolOptions:
    """The options of a pool, as they stand in ``OPTIONS["pool"]``."""

    #: connections that are kept open when idle
    pool_size: int = 10
    #: further connections that may be opened under load, and are closed when given back
    max_overflow: int = 10
    #: seconds to wait for a connection before `PoolTimeout`
    pool_timeout: float = 30
    #: seconds after which a connection is replaced; -1 for never
    pool_recycle: float = 3600
    #: log every checkout and check-in
    echo: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> PoolOptions:
        """Check and convert a mapping; raise ValueError naming the option that is wrong."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise ValueError(
                f"unknown pool option {', '.join(map(repr, unknown))}; "
                f"known are {', '.join(sorted(known))}"
            )
        for name, value in options.items():
            number = int if name in ("pool_size", "max_overflow") else (int, float)
            if name == "echo":
                if not isinstance(value, bool):
                    raise ValueError(f"pool option 'echo' must be True or False, not {value!r}")
            elif isinstance(value, bool) or not isinstance(value, number):
                raise ValueError(f"pool option {name!r} must be a number, not {value!r}")
        result = cls(**options)
        if result.pool_size < 0 or result.max_overflow < 0 or result.limit < 1:
            raise ValueError(
                "pool_size and max_overflow must not be negative, nor both 0: "
                f"got {result.pool_size} and {result.max_overflow}"
            )
        if not result.pool_timeout >= 0:  # nan neither
            raise ValueError(f"pool_timeout must not be negative: got {result.pool_timeout}")
        return result

    @property
    def limit(self) -> int:
        """The most connections that may be open at once."""
        return self.pool_size + self.max_overflow


#: what a waiter gets: a connection, or None for the right to open one
_Waiter = asyncio.Future["tuple[C] | None"]


class Pool(Generic[C]):
    """Lend the connections of one event loop, at most ``options.limit`` at once."""

    def __init__(self, name: str, driver: Driver[C], options: PoolOptions) -> None:
        self.name = name
        self.options = options
        self.closed = False
        self._driver = driver
        self._idle: list[C] = []
        self._opened: dict[int, float] = {}  # by id of the connection: when it was opened
        self._lent: set[int] = set()  # their ids
        self._lost: set[int] = set()  # of those lent whose slot was passed on already
        self._in_use = 0
        self._waiters: OrderedDict[_Waiter[C], None] = OrderedDict()
        self._pid = process.pid

    def __repr__(self) -> str:
        return (
            f"<Pool {self.name!r}: {self._in_use} of {self.options.limit} in use, "
            f"{len(self._idle)} idle, {self.waiting} waiting>"
        )

    @property
    def usable(self) -> bool:
        """Whether the pool still lends: it is open, and of this process."""
        return not self.closed and self._pid == process.pid

    @property
    def in_use(self) -> int:
        """Connections lent, or being opened."""
        return self._in_use

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    # --- lending ------------------------------------------------------------------------------

    def acquire(self, open_: Callable[[], C]) -> tuple[C, bool]:
        """Return a connection and whether ``open_`` was called for it just now.

        Wait in the queue if none is free; raise `PoolTimeout` after ``pool_timeout`` seconds,
        `PoolClosed` once the pool is closed, and whatever ``open_`` raises.
        """
        green = bridge.check_alive(f"a connection from the pool {self.name!r}")
        self._check_usable()
        offered = None
        if self._waiters or not (self._idle or self._in_use < self.options.limit):
            offered = self._queue(green.loop)
        else:
            self._in_use += 1
        try:
            lent = self._take(offered)
            if lent is not None:
                connection = lent[0]
            else:
                connection = open_()
                self._opened[id(connection)] = time.monotonic()
        except BaseException:
            self._free_slot()
            raise
        self._lent.add(id(connection))
        if self.options.echo:
            logger.info("%r: lent %r", self, connection)
        return connection, lent is None

    def release(self, connection: C, force: bool = False) -> None:
        """Take a connection back: lend it on if it is, or can be made, clean, else discard it.

        Roll back, and so wait, unless ``force``. An interruption of that discards the connection and
        is raised. Raise ValueError if the connection is not on loan from this pool.
        """
        if self._pid != process.pid:
            self._driver.close(connection)
            return
        if id(connection) in self._lost:
            self._lost.remove(id(connection))
            self._close(connection)
            return
        if id(connection) not in self._lent:
            raise ValueError(f"{connection!r} is not on loan from {self!r}")
        self._lent.remove(id(connection))
        clean = False
        try:
            clean = not (self.closed or force) and self._clean(connection)
        finally:
            if clean:
                self._give(connection)
            else:
                self._discard(connection)

    def write_off(self, connection: C, keep_slot: bool = False) -> bool:
        """Count a connection that is lent, but dead, as given back: its slot is free now.

        With ``keep_slot`` the slot is kept, for `acquire_kept` or `free_kept`, one of which must follow.
        Return False, and do nothing, for one that is not on loan. Its borrower still gives it back.
        """
        if self._pid != process.pid or id(connection) not in self._lent:
            return False
        self._lent.remove(id(connection))
        self._lost.add(id(connection))
        if not keep_slot:
            self._free_slot()
        return True

    def acquire_kept(self, open_: Callable[[], C]) -> C:
        """Open a connection, without queueing, on the slot that `write_off` has kept."""
        try:
            self._check_usable()
            connection = open_()
        except BaseException:
            self._free_slot()
            raise
        self._opened[id(connection)] = time.monotonic()
        self._lent.add(id(connection))
        return connection

    def free_kept(self) -> None:
        """Pass the slot on that `write_off` has kept."""
        self._free_slot()

    def is_clean(self, connection: C) -> bool:
        """Tell whether a connection that is lent could be lent on as it is, without I/O."""
        return self._is_open(connection) and self._driver.is_clean(connection)

    def close(self) -> None:
        """Close the idle connections and lend no more; those lent are closed when they come back."""
        self.closed = True
        if self._in_use:
            logger.warning("%r: closed while connections are still lent", self)
        while self._idle:
            self._close(self._idle.pop())
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(self._closed_error())

    # --- the state machine --------------------------------------------------------------------

    def _take(self, offered: tuple[C] | None) -> tuple[C] | None:
        """Return what was offered, or the idle connection used last, if it is open; None to open one."""
        while offered is not None or self._idle:
            connection = offered[0] if offered is not None else self._idle.pop()
            offered = None
            if self._is_open(connection) and not self._is_old(connection):
                return (connection,)
            self._close(connection)
        return None

    def _clean(self, connection: C) -> bool:
        """Roll back if need be, and wait for it; tell whether the connection can be lent on."""
        driver = self._driver
        try:
            if not driver.is_open(connection):
                return False
            if not driver.is_clean(connection):
                driver.reset(connection)
                if not driver.is_clean(connection):
                    return False
            return not self._is_old(connection)
        except bridge.DeadlineExceeded:
            raise
        except Exception as exc:
            logger.warning("%r: discarded a connection that failed its reset: %s", self, exc)
            return False

    def _queue(self, loop: asyncio.AbstractEventLoop) -> tuple[C] | None:
        waiter: _Waiter[C] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_later(self.options.pool_timeout, self._expire, waiter)
        try:
            return bridge.wait(waiter, "a connection")
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # Interrupted after the hand-off: it is ours to give back.
                lent = waiter.result()
                if lent is None:
                    self._free_slot()
                else:
                    self._give(lent[0])
            raise
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)

    def _expire(self, waiter: _Waiter[C]) -> None:
        if not waiter.done():
            waiting = self.waiting
            del self._waiters[waiter]
            waiter.set_exception(
                PoolTimeout(
                    f"no connection after {self.options.pool_timeout:.1f} s from the pool "
                    f"{self.name!r}: {self._in_use} of {self.options.limit} in use, {waiting} waiting; "
                    "raise pool_size or max_overflow, or release connections sooner"
                )
            )

    def _give(self, connection: C) -> None:
        """Hand a clean connection, and its slot, to the next in the queue, or keep it idle."""
        if self.closed:
            self._discard(connection)
            return
        if waiter := self._next_waiter():
            waiter.set_result((connection,))
            return
        if len(self._idle) >= self.options.pool_size:
            self._discard(connection)
            return
        self._in_use -= 1
        self._idle.append(connection)
        if self.options.echo:
            logger.info("%r: took back %r", self, connection)

    def _discard(self, connection: C) -> None:
        try:
            self._close(connection)
        finally:
            self._free_slot()

    def _free_slot(self) -> None:
        """Give the right to open a connection to the next in the queue."""
        if not self.closed and (waiter := self._next_waiter()):
            waiter.set_result(None)
        else:
            self._in_use -= 1

    def _next_waiter(self) -> _Waiter[C] | None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def _close(self, connection: C) -> None:
        self._opened.pop(id(connection), None)
        if self.options.echo:
            logger.info("%r: closed %r", self, connection)
        try:
            self._driver.close(connection)
        except Exception as exc:
            logger.warning("%r: closing a connection failed: %s", self, exc)

    def _is_open(self, connection: C) -> bool:
        try:
            return self._driver.is_open(connection)
        except Exception as exc:
            logger.warning("%r: discarded a connection that failed its check: %s", self, exc)
            return False

    def _is_old(self, connection: C) -> bool:
        recycle = self.options.pool_recycle
        return 0 <= recycle < time.monotonic() - self._opened[id(connection)]

    def _check_usable(self) -> None:
        if self._pid != process.pid:
            raise PoolClosed(f"the pool {self.name!r} belongs to another process")
        if self.closed:
            raise self._closed_error()

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"the pool {self.name!r} is closed")
