"""What a pool tells of itself: gauges, counters, and how long waiting and holding took.

Invariants
- What is counted in each loan costs a fraction of a microsecond: an addition, and a place in a ring of the
  last `WINDOW` durations. Percentiles are worked out when somebody asks, and are exact for that window.
- A snapshot does not change afterwards.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from greentor.pool.options import PoolOptions
from greentor.pool.state import LENT, PoolState

#: of how many of the last durations percentiles are given
WINDOW = 2048

#: why a connection was closed
CLOSE_REASONS = (
    "recycled",  # it was older than ``pool_recycle`` allows
    "overflow",  # it came back when ``pool_size`` were idle
    "idle",  # nobody used it for ``max_idle`` seconds
    "lost",  # it was found closed: by the server, the network or an interrupted statement
    "ping",  # it did not answer when ``pool_pre_ping`` asked
    "dirty",  # it could not be made clean: its reset failed, or did not help
    "discarded",  # it was given back by force: with session state, or by what was being closed
    "interrupted",  # a cancel or a deadline came during its reset or ping
    "killed",  # it was written off while it was lent: its statement was abandoned
    "shutdown",  # the pool was closed
)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long something took, in seconds."""

    #: how often it was measured since the pool was made
    count: int
    #: all of it together
    total: float
    #: of the last `WINDOW` times: half took no longer than this; 0.0 if there were none yet
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment. Counters run since it was made."""

    name: str
    options: PoolOptions
    #: connections lent, or being opened, pinged or reset: what counts against the limit
    in_use: int
    idle: int
    waiting: int
    #: seconds that the first in the queue has been waiting; 0.0 if nobody waits
    longest_wait: float
    #: seconds for which the connection that is lent longest has been out; 0.0 if none is
    longest_hold: float
    opened: int
    #: openings that raised
    failed: int
    #: by reason, one of `CLOSE_REASONS`
    closed: dict[str, int]
    #: how often `greentor.pool.PoolTimeout` was raised
    timeouts: int
    #: how often `greentor.pool.PoolFull` was raised
    refused: int
    #: resets of what came back unclean
    resets: int
    #: connections written off while they were lent
    kills: int
    #: how often ``pool_pre_ping`` asked
    pings: int
    #: from the call of `greentor.pool.Pool.acquire` to the loan, opening included
    wait: Timing
    #: from a loan to its return
    hold: Timing

    @property
    def open(self) -> int:
        """What counts against ``options.limit``."""
        return self.in_use + self.idle


class Durations:
    """How often and how long, with the last `WINDOW` of them."""

    __slots__ = ("count", "recent", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.recent: deque[float] = deque(maxlen=WINDOW)

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.recent.append(seconds)

    def snapshot(self) -> Timing:
        values = sorted(self.recent) or [0.0]

        def percentile(share: float) -> float:
            return values[max(0, math.ceil(share * len(values)) - 1)]

        return Timing(
            count=self.count,
            total=self.total,
            p50=percentile(0.5),
            p90=percentile(0.9),
            p99=percentile(0.99),
            max=values[-1],
        )


class Counters:
    """What a pool counts as it goes."""

    __slots__ = (
        "closed",
        "failed",
        "hold",
        "kills",
        "opened",
        "pings",
        "refused",
        "resets",
        "timeouts",
        "wait",
    )

    def __init__(self) -> None:
        self.opened = self.failed = self.timeouts = self.refused = 0
        self.resets = self.kills = self.pings = 0
        self.closed = dict.fromkeys(CLOSE_REASONS, 0)
        self.wait = Durations()
        self.hold = Durations()

    def snapshot(
        self, name: str, options: PoolOptions, state: PoolState[Any], now: float
    ) -> PoolStats:
        lent = (entry.since for entry in state.entries.values() if entry.place is LENT)
        return PoolStats(
            name=name,
            options=options,
            in_use=state.in_use,
            idle=len(state.idle),
            waiting=len(state.waiters),
            longest_wait=now - next(iter(state.waiters.values()), now),
            longest_hold=now - min(lent, default=now),
            opened=self.opened,
            failed=self.failed,
            closed=dict(self.closed),
            timeouts=self.timeouts,
            refused=self.refused,
            resets=self.resets,
            kills=self.kills,
            pings=self.pings,
            wait=self.wait.snapshot(),
            hold=self.hold.snapshot(),
        )
