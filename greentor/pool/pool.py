"""A bounded, fair pool of connections for the greenlets of one event loop.

Who has what, and who is next, stands in the books (`greentor.pool.state`); what is done with a connection,
through its `Driver`, in `greentor.pool.driver`. Here the two meet, and greenlets wait.

Invariants
- A slot is reserved *before* a connection is opened, so that opening, which waits, cannot overshoot.
- A hand-off must be accepted. What reaches a waiter that was cancelled in the same iteration of the
  loop is given back by the waiter itself.
- A connection comes back clean (open, no transaction, nothing unread, same loop and process) or not at
  all: then its slot is free again, and passed on. It comes back once, to the pool that lent it.
- The slot of a connection that died while it was lent can be passed on before it comes back; it need not be
  at once: the server may still be at work for it.
- No error of a driver changes the accounting.
- `acquire` waits, in a greenlet. Whatever is called with ``force`` true does not.
- Nobody is handed anything by another thread, nor on a loop that is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Generic, TypeVar, cast

from greentor import bridge, process
from greentor.pool.driver import Caretaker, Driver
from greentor.pool.options import PoolOptions
from greentor.pool.state import BETWEEN, LENT, WRITTEN_OFF, Entry, PoolState
from greentor.pool.stats import Counters, PoolStats
from greentor.pool.upkeep import IdleTimer, open_ahead

C = TypeVar("C")

logger = logging.getLogger("greentor.pool")


class PoolTimeout(TimeoutError):
    """No connection became free within ``pool_timeout``."""


class PoolFull(PoolTimeout):
    """As many as ``max_waiting`` wait for a connection already; there is no point in queueing as well."""


class PoolClosed(RuntimeError):
    """The pool was closed; it lends nothing any more."""


class Pool(Generic[C]):
    """Lend the connections of one event loop, at most ``options.limit`` at once."""

    def __init__(self, name: str, driver: Driver[C], options: PoolOptions) -> None:
        self.name = name
        self.options = options
        self.closed = False
        self._counters = Counters()
        self._state: PoolState[C] = PoolState(name, options.pool_size, options.limit)
        self._care = Caretaker(driver, options, self._state, self._counters)
        self._idle_timer = IdleTimer(self._state, options, self._care.close)
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the first who asked
        self._pid = process.pid
        self._what = f"a connection from the pool {name!r}"
        self._kept = 0  # the slots of connections that were written off

    def __repr__(self) -> str:
        return repr(self._state)

    @property
    def usable(self) -> bool:
        """Whether the pool still lends: it is open, and of this process."""
        return not self.closed and self._pid == process.pid

    @property
    def in_use(self) -> int:
        """Connections lent, or being opened."""
        return self._state.in_use

    @property
    def idle(self) -> int:
        return len(self._state.idle)

    @property
    def waiting(self) -> int:
        return len(self._state.waiters)

    def stats(self) -> PoolStats:
        """Return a snapshot; idle connections that were lost are dropped before."""
        if self.usable:
            is_open, close = self._care.is_open, self._care.close
            for entry in self._state.drop_idle(lambda connection: not is_open(connection)):
                close(entry, "lost")
        return self._counters.snapshot(self.name, self.options, self._state, monotonic())

    # --- lending ------------------------------------------------------------------------------

    def acquire(self, open_: Callable[[], C]) -> tuple[C, bool]:
        """Return a connection and whether ``open_`` was called for it just now.

        Wait in the queue if none is free; raise `PoolTimeout` after ``pool_timeout`` seconds, `PoolFull`
        at once if ``max_waiting`` wait already, `PoolClosed` once the pool is closed, RuntimeError on
        another event loop than before, and whatever ``open_`` raises.
        """
        green = bridge.check_alive(self._what)
        self._check_usable(green.loop)
        start = now = monotonic()
        offered = None
        if not self._state.claim():
            offered = self._queue(green.loop, start)
            now = monotonic()
        return self._lend(offered, open_, start, now)

    def _lend(
        self, offered: Entry[C] | None, open_: Callable[[], C], start: float, now: float
    ) -> tuple[C, bool]:
        """Lend what was offered, an idle connection, or a new one, on a slot that was claimed."""
        try:
            entry = self._care.take(offered, now)
            fresh = entry is None
            if entry is None:
                entry = self._care.open(open_)
                now = monotonic()
            elif self.options.pool_pre_ping:
                now = monotonic()
        except BaseException:
            self._pass_on()
            raise
        self._counters.wait.add(now - start)
        entry.since = now
        entry.place = LENT
        if self.options.echo:
            logger.info("%r: lent %r", self, entry.connection)
        return entry.connection, fresh

    def release(self, connection: C, force: bool = False) -> None:
        """Take a connection back: lend it on if it is, or can be made, clean, else discard it.

        Roll back, and so wait, unless ``force``. An interruption of that discards the connection and
        is raised. Raise ValueError if the connection is not on loan from this pool.
        """
        if self._pid != process.pid:
            self._care.driver.close(connection)
            return
        loop = self._loop
        if asyncio._get_running_loop() is not loop and loop is not None and loop.is_running():
            if not force:
                raise RuntimeError(f"{connection!r} came back to {self!r} in another thread")
            loop.call_soon_threadsafe(self.release, connection, True)
            return
        entry = self._state.find_lent(connection)
        if entry is None:
            raise ValueError(f"{connection!r} is not on loan from {self!r}")
        if entry.place is WRITTEN_OFF:
            self._care.close(entry, "killed")
            return
        entry.place = BETWEEN
        now = monotonic()
        self._counters.hold.add(now - entry.since)
        reason: str | None = "interrupted"
        try:
            if self.closed:
                reason = "shutdown"
            elif force:
                reason = "discarded"
            else:
                reason = self._care.judge(entry, now)
        finally:
            if reason is None:
                self._give(entry)
            else:
                self._discard(entry, reason)

    def write_off(self, connection: C, keep_slot: bool = False) -> bool:
        """Count a connection that is lent, but dead, as given back: its slot is free now.

        With ``keep_slot`` the slot is kept until `free_kept`, or `acquire_kept`, one of which must follow.
        Return False, and do nothing, for one that is not on loan. Its borrower still gives it back.
        """
        entry = self._state.find_lent(connection)
        if self._pid != process.pid or entry is None or entry.place is WRITTEN_OFF:
            return False
        entry.place = WRITTEN_OFF
        self._counters.kills += 1
        self._counters.hold.add(monotonic() - entry.since)
        if keep_slot:
            self._kept += 1
        else:
            self._pass_on()
        return True

    def acquire_kept(self, open_: Callable[[], C], patience: float) -> tuple[C, bool, bool]:
        """Borrow a connection to do away with those that were written off and whose slots are kept.

        That is an idle one, or the next to come back, before all who wait. If none has come after
        ``patience`` seconds, or none can come, ``open_`` is called on one of the kept slots. Return the
        connection, whether it was opened just now, and whether that took a kept slot.
        """
        green = bridge.check_alive(self._what)
        self._check_usable(green.loop)
        state, start = self._state, monotonic()
        offered = None
        claimed = state.claim()
        if not claimed and state.in_use > self._kept:  # one that is not written off may come back
            try:
                offered = self._wait(green.loop, start, patience, self._give_up, first=True)
                claimed = True
            except PoolTimeout:
                pass
        if claimed:
            return *self._lend(offered, open_, start, monotonic()), False
        self._kept -= 1
        try:
            entry = self._care.open(open_)
        except BaseException:
            self._kept += 1
            raise
        entry.since = monotonic()
        entry.place = LENT
        return entry.connection, True, True

    def free_kept(self) -> None:
        """Pass a slot on that `write_off` has kept."""
        self._kept -= 1
        self._pass_on()

    def is_clean(self, connection: C) -> bool:
        """Tell whether a connection that is lent could be lent on as it is, without I/O."""
        return self._care.is_open(connection) and self._care.driver.is_clean(connection)

    # --- the beginning and the end ------------------------------------------------------------

    async def warm(self, open_: Callable[[], C]) -> int:
        """Open connections until ``min_size`` are open; return how many were opened.

        Some at a time, each by a call of ``open_`` in a greenlet of its own. They count against the
        bound from the first moment, and go to whoever waits. If ``min_size`` is not reached, raise
        the first error of ``open_``, or `PoolClosed`; what was opened until then stays.
        """
        self._check_usable(asyncio.get_running_loop())
        before = self._counters.opened
        wanted = self.options.min_size
        errors = await open_ahead(self._state, wanted, lambda: self._add(open_))
        self._check_usable(asyncio.get_running_loop())
        if errors and self._state.size < wanted:
            raise errors[0]
        return self._counters.opened - before

    def _add(self, open_: Callable[[], C]) -> None:
        """Open a connection that nobody has asked for, on a slot that was claimed."""
        try:
            self._check_usable(None)
            entry = self._care.open(open_)
        except BaseException:
            self._pass_on()
            raise
        self._give(entry)

    def close(self) -> None:
        """Close the idle connections and lend no more; those lent are closed when they come back."""
        self.closed = True
        state = self._state
        if state.in_use:
            logger.warning("%r: closed while connections are still lent", self)
        self._idle_timer.cancel()
        while (entry := state.pop_idle()) is not None:
            self._care.close(entry, "shutdown")
        for waiter in state.empty_queue():
            future = cast("asyncio.Future[Entry[C] | None]", waiter)
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(self._closed_error())

    # --- waiting ------------------------------------------------------------------------------

    def _queue(self, loop: asyncio.AbstractEventLoop, now: float) -> Entry[C] | None:
        """Wait for a slot; return the connection that comes with it, if one does."""
        state, most = self._state, self.options.max_waiting
        if 0 <= most <= len(state.waiters):
            self._counters.refused += 1
            raise PoolFull(
                f"refused at once by the pool {self.name!r}: max_waiting is {most} and "
                f"{self._describe_use()}"
            )
        return self._wait(loop, now, self.options.pool_timeout, self._expire)

    def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        now: float,
        timeout: float,
        expire: Callable[[asyncio.Future[Entry[C] | None]], None],
        first: bool = False,
    ) -> Entry[C] | None:
        state = self._state
        waiter: asyncio.Future[Entry[C] | None] = loop.create_future()
        state.waiters[waiter] = now
        if first:
            state.waiters.move_to_end(waiter, last=False)
        # In a context of its own: once cancelled it may stay with the loop until its time.
        timer = loop.call_later(timeout, expire, waiter, context=Context())
        try:
            return bridge.wait(waiter, self._what)
        except BaseException:
            handed = waiter.done() and not waiter.cancelled() and waiter.exception() is None
            if handed and self._pid == process.pid:
                # Interrupted after the hand-off: it is ours to give back.
                if (entry := waiter.result()) is None:
                    self._pass_on()
                else:
                    self._give(entry)
            raise
        finally:
            timer.cancel()
            state.waiters.pop(waiter, None)

    def _expire(self, waiter: asyncio.Future[Entry[C] | None]) -> None:
        if not waiter.done():
            self._counters.timeouts += 1
            error = PoolTimeout(
                f"no connection after {self.options.pool_timeout:.1f} s from the pool "
                f"{self.name!r}: {self._describe_use()}"
            )
            del self._state.waiters[waiter]
            waiter.set_exception(error)

    def _give_up(self, waiter: asyncio.Future[Entry[C] | None]) -> None:
        if not waiter.done():
            waiter.set_exception(PoolTimeout())

    def _describe_use(self) -> str:
        return (
            f"{self.in_use} of {self.options.limit} in use, {self.waiting} waiting; raise pool_size "
            "or max_overflow, or release connections sooner"
        )

    # --- what comes and goes ------------------------------------------------------------------

    def _give(self, entry: Entry[C]) -> None:
        """Hand a clean connection, and its slot, to the next in the queue, or keep it idle."""
        state = self._state
        if self.closed:
            self._discard(entry, "shutdown")
            return
        if state.waiters and self._may_serve() and state.offer(entry):
            return
        if state.is_full() and not self._care.is_open(state.idle[0].connection):
            self._care.close(state.pop_coldest(), "lost")
        expires = self.options.max_idle >= 0
        if not state.shelve(entry, monotonic() if expires else 0.0):
            self._discard(entry, "overflow")
            return
        if expires and self._loop is not None:
            self._idle_timer.watch(self._loop)
        if self.options.echo:
            logger.info("%r: took back %r", self, entry.connection)

    def _discard(self, entry: Entry[C], reason: str) -> None:
        try:
            self._care.close(entry, reason)
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the right to open a connection to the next in the queue."""
        state = self._state
        if self.closed or not (state.waiters and self._may_serve() and state.offer(None)):
            state.free_slot()

    def _may_serve(self) -> bool:
        """Tell whether those who wait can be served: not if they wait for ever."""
        return self._pid == process.pid and self._loop is not None and not self._loop.is_closed()

    def _check_usable(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._pid != process.pid:
            raise PoolClosed(f"the pool {self.name!r} belongs to another process")
        if self.closed:
            raise self._closed_error()
        if loop is not self._loop and loop is not None:
            if self._loop is not None:
                raise RuntimeError(
                    f"the pool {self.name!r} serves another event loop: each needs its own"
                )
            self._loop = loop

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"the pool {self.name!r} is closed")
