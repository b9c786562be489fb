"""`stats`: what one event loop and its pools are doing, as plain data. Needs neither Django nor Tornado."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from greentor import process, recording, stacks
from greentor.histogram import Histogram
from greentor.pool.stats import PoolStats, Timing
from greentor.recording import SlowQuery

#: returns how many requests are running, and how many wait for that: `greentor.web` puts its own here
count_requests: Callable[[], tuple[int, int]] = lambda: (0, 0)  # noqa: E731


@dataclass(frozen=True)
class QueryStats:
    """The queries to one database."""

    #: sent by this process, to the last one
    count: int
    #: how long they took; of those that were recorded
    seconds: Timing


@dataclass(frozen=True)
class RouteStats:
    """The requests that one route answered to one method with one status; those that were recorded."""

    route: str
    method: str
    status: int
    seconds: Timing


@dataclass(frozen=True)
class Stats:
    """What `stats` returns. Times are in seconds; see docs/observability.md for the meaning of each."""

    pid: int
    #: when this was: seconds since the epoch
    time: float
    #: whether queries, requests and the loop's lag are being recorded now
    recording: bool
    #: of the running loop, by alias
    pools: dict[str, PoolStats]
    #: of the running loop: those that are parked, and the one that runs
    greenlets: int
    #: of this process: requests, and messages of websockets, that a `BaseRequestHandler` is at work on
    requests: int
    #: of this process: requests that wait for their turn, where `max_concurrency` is set
    queued: int
    #: how late the loop's timers were; None if nobody has watched yet
    loop_lag: Timing | None
    #: by alias
    queries: dict[str, QueryStats]
    #: of the last minutes, the slowest first
    slowest: list[SlowQuery]
    #: the ones with the most requests first
    routes: list[RouteStats]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)

    def as_json(self) -> str:
        """Return the same as JSON."""
        return json.dumps(self.as_dict())


def stats() -> Stats:
    """Return what the running event loop, its pools and this process are doing.

    It takes some tenths of a millisecond, more with many tasks: ask now and then, not in each request.
    How long queries and requests took, and how late the loop is, is known of the times at which
    somebody watched: see `greentor.recording.start`. Raise RuntimeError without a running event loop.
    """
    loop = asyncio.get_running_loop()
    lag = recording.loop_lag(loop)
    running, queued = count_requests()
    aliases = sorted(set(recording.query_counts) | set(recording.query_times))
    routes = [
        RouteStats(*key, seconds=histogram.timing())
        for key, histogram in list(recording.request_times.items())
    ]
    return Stats(
        pid=process.pid,
        time=time.time(),
        recording=recording.active,
        pools=pools(loop),
        greenlets=sum(1 for _ in stacks.greenlets(loop)),
        requests=running,
        queued=queued,
        loop_lag=None if lag is None else lag.timing(),
        queries={
            alias: QueryStats(
                recording.query_counts.get(alias, 0),
                recording.query_times.get(alias, Histogram()).timing(),
            )
            for alias in aliases
        },
        slowest=recording.slowest_queries(),
        routes=sorted(routes, key=lambda route: -route.seconds.count),
    )


def pools(loop: asyncio.AbstractEventLoop) -> dict[str, PoolStats]:
    """Return what the pools of ``loop`` tell, by alias; of two with the same alias, the newer one."""
    # Without Django nobody has imported this, and there is no pool that it knows of.
    module = sys.modules.get("greentor.db.pools")
    found = module.current_pools(loop) if module is not None else []
    return {pool.name: pool.stats() for pool in found if pool.usable}
