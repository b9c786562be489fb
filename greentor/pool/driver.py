"""What a pool does with a connection, through its `Driver`: open, check, ping, reset, close, and count it.

Invariants
- No error of a driver changes the accounting: what cannot be checked, pinged or reset is closed, and what
  cannot be closed is forgotten all the same.
- What interrupts a ping or a reset closes the connection, and is raised.
- Connections that were opened together do not expire together.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from time import monotonic
from typing import Generic, Protocol, TypeVar

from greentor import bridge
from greentor.pool.options import PoolOptions
from greentor.pool.state import Entry, PoolState
from greentor.pool.stats import Counters

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)

logger = logging.getLogger("greentor.pool")

#: seconds in which a connection must answer a ping
PING_TIMEOUT = 5.0
#: the share of ``pool_recycle`` by which a connection may be replaced earlier than another
JITTER = 0.1


class Driver(Protocol[C_contra]):
    """What a pool needs to know of a kind of connection. Only `reset` and `ping` may wait."""

    def is_open(self, connection: C_contra) -> bool:
        """Tell, without I/O, whether the connection can be used."""

    def is_clean(self, connection: C_contra) -> bool:
        """Tell, without I/O, whether it carries nothing over: transaction, unread result or bytes."""

    def reset(self, connection: C_contra) -> None:
        """Make it clean, by a rollback. It is discarded if this raises or does not help."""

    def ping(self, connection: C_contra, timeout: float) -> None:
        """Raise unless the server answers within ``timeout`` seconds. Only for ``pool_pre_ping``."""

    def close(self, connection: C_contra) -> None:
        """Close it without waiting for anybody."""


class Caretaker(Generic[C]):
    """Looks after the connections of one pool."""

    def __init__(
        self, driver: Driver[C], options: PoolOptions, state: PoolState[C], counters: Counters
    ) -> None:
        self.driver = driver
        self.counters = counters
        self._options = options
        self._state = state

    def take(self, entry: Entry[C] | None, now: float) -> Entry[C] | None:
        """Return what was handed over, or the idle connection used last, if it is fit; None to open one."""
        state = self._state
        if entry is None:
            entry, ping = state.pop_idle(), self._options.pool_pre_ping
        else:
            ping = False  # it was in use a moment ago
        while entry is not None:
            if not self.is_open(entry.connection):
                self.close(entry, "lost")
            elif entry.expires <= now:
                self.close(entry, "recycled")
            else:
                return entry if not ping or self._ping(entry) else None
            entry, ping = state.pop_idle(), self._options.pool_pre_ping
        return None

    def _ping(self, entry: Entry[C]) -> bool:
        """Ask for a sign of life, and wait for it; close the connection if there is none."""
        self.counters.pings += 1
        reason: str | None = "interrupted"
        try:
            self.driver.ping(entry.connection, PING_TIMEOUT)
            reason = None
        except bridge.DeadlineExceeded:
            raise
        except Exception:
            reason = "ping"
        finally:
            if reason is not None:
                self.close(entry, reason)
        return reason is None

    def open(self, open_: Callable[[], C]) -> Entry[C]:
        try:
            connection = open_()
        except BaseException:
            self.counters.failed += 1
            raise
        self.counters.opened += 1
        age = self._options.pool_recycle
        lives = math.inf if age < 0 else age * (1 - JITTER * random.random())
        return self._state.add(connection, monotonic() + lives)

    def judge(self, entry: Entry[C], now: float) -> str | None:
        """Roll back if need be, and wait for it; return why the connection cannot be lent on, if so."""
        driver, connection = self.driver, entry.connection
        try:
            if not driver.is_open(connection):
                return "lost"
            if not driver.is_clean(connection):
                self.counters.resets += 1
                driver.reset(connection)
                if not driver.is_clean(connection):
                    return "dirty"
        except bridge.DeadlineExceeded:
            raise
        except Exception as exc:
            logger.warning("%r: discarded a connection that failed its reset: %s", self._state, exc)
            return "dirty"
        return "recycled" if entry.expires <= now else None

    def close(self, entry: Entry[C], reason: str) -> None:
        self._state.forget(entry)
        self.counters.closed[reason] += 1
        if self._options.echo:
            logger.info("%r: closed %r (%s)", self._state, entry.connection, reason)
        try:
            self.driver.close(entry.connection)
        except Exception as exc:
            logger.warning("%r: closing a connection failed: %s", self._state, exc)

    def is_open(self, connection: C) -> bool:
        try:
            return self.driver.is_open(connection)
        except Exception as exc:
            logger.warning("%r: discarded a connection that failed its check: %s", self._state, exc)
            return False
