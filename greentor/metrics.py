"""`StatsCollector`: what `greentor.stats` knows, as Prometheus metrics. Needs the extra ``metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from greentor import recording
from greentor.histogram import BOUNDS, Histogram
from greentor.pool.stats import PoolStats, Timing
from greentor.statistics import Stats, stats

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "greentor.metrics needs prometheus_client: pip install 'greentor[metrics]'"
    ) from error

#: the places in `BOUNDS` of the buckets that are exported: 0.1, 0.25, 0.5 ms, and so on to 100 s
_EXPORTED = [
    index
    for index, bound in enumerate(BOUNDS)
    if bound >= 1e-4 and f"{bound:e}"[:3] in ("1.0", "2.5", "5.0")
]

_POOL_GAUGES: dict[str, tuple[str, Callable[[PoolStats], float]]] = {
    "limit": ("connections that may be open at once", lambda pool: pool.options.limit),
    "waiting": ("greenlets that wait for a connection", lambda pool: pool.waiting),
    "longest_wait_seconds": (
        "for how long the first in the queue has been waiting",
        lambda pool: pool.longest_wait,
    ),
    "longest_hold_seconds": (
        "for how long the connection that is lent longest has been out",
        lambda pool: pool.longest_hold,
    ),
}

_POOL_COUNTERS = {
    "opened": "connections opened",
    "failed": "openings that failed",
    "timeouts": "waiters that got no connection within pool_timeout",
    "refused": "requests for a connection refused because max_waiting waited already",
    "resets": "resets of connections that came back unclean",
    "kills": "connections given up with a statement that was abandoned",
    "pings": "connections asked by pool_pre_ping",
}


class StatsCollector(Collector):
    """Read `greentor.stats` at each scrape, on the loop that the scrape runs on.

    Raise RuntimeError outside of an event loop, as in the thread of ``start_http_server()``.
    """

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand, so that it can be registered without a loop."""
        return []

    def collect(self) -> Iterator[Metric]:
        now = stats()
        yield from _pools(now.pools)
        yield from _queries(now)
        yield GaugeMetricFamily(
            "greentor_greenlets", "Greenlets of this event loop.", value=now.greenlets
        )
        yield GaugeMetricFamily(
            "greentor_requests_running", "Requests being answered.", value=now.requests
        )
        yield GaugeMetricFamily(
            "greentor_requests_queued",
            "Requests that wait for their turn, as max_concurrency are running.",
            value=now.queued,
        )
        requests = HistogramMetricFamily(
            "greentor_request_duration_seconds",
            "How long requests took, while they were recorded.",
            labels=["route", "method", "status"],
        )
        for (route, method, status), histogram in list(recording.request_times.items()):
            _add(requests, [route, method, str(status)], histogram)
        yield requests
        lag = HistogramMetricFamily(
            "greentor_loop_lag_seconds", "How late timers of the event loop were."
        )
        _add(lag, [], recording.loop_lag(asyncio.get_running_loop()) or Histogram())
        yield lag


def _queries(now: Stats) -> Iterator[Metric]:
    count = CounterMetricFamily("greentor_queries", "Queries sent.", labels=["alias"])
    for alias, queries in now.queries.items():
        count.add_metric([alias], queries.count)
    yield count
    times = HistogramMetricFamily(
        "greentor_query_duration_seconds",
        "How long greenlets waited for queries, while they were recorded.",
        labels=["alias"],
    )
    for alias, histogram in list(recording.query_times.items()):
        _add(times, [alias], histogram)
    yield times


def _pools(pools: dict[str, PoolStats]) -> Iterator[Metric]:
    open_ = GaugeMetricFamily(
        "greentor_pool_connections", "Open connections.", labels=["alias", "state"]
    )
    closed = CounterMetricFamily(
        "greentor_pool_closed", "Connections closed.", labels=["alias", "reason"]
    )
    for alias, pool in pools.items():
        open_.add_metric([alias, "in_use"], pool.in_use)
        open_.add_metric([alias, "idle"], pool.idle)
        for reason, number in pool.closed.items():
            closed.add_metric([alias, reason], number)
    yield open_
    yield closed
    for name, (text, read) in _POOL_GAUGES.items():
        gauge = GaugeMetricFamily(f"greentor_pool_{name}", _sentence(text), labels=["alias"])
        for alias, pool in pools.items():
            gauge.add_metric([alias], read(pool))
        yield gauge
    for name, text in _POOL_COUNTERS.items():
        counter = CounterMetricFamily(f"greentor_pool_{name}", _sentence(text), labels=["alias"])
        for alias, pool in pools.items():
            counter.add_metric([alias], getattr(pool, name))
        yield counter
    yield _summary(
        "greentor_pool_wait_seconds",
        "How long it took to get a connection.",
        {alias: pool.wait for alias, pool in pools.items()},
    )
    yield _summary(
        "greentor_pool_hold_seconds",
        "How long connections were lent.",
        {alias: pool.hold for alias, pool in pools.items()},
    )


def _summary(name: str, text: str, timings: dict[str, Timing]) -> Metric:
    """Make a summary with quantiles, which the library's own class of that name has not."""
    metric = Metric(name, text, "summary")
    for alias, timing in timings.items():
        labels = {"alias": alias}
        for quantile, value in (("0.5", timing.p50), ("0.9", timing.p90), ("0.99", timing.p99)):
            metric.add_sample(name, labels | {"quantile": quantile}, value)
        metric.add_sample(f"{name}_count", labels, timing.count)
        metric.add_sample(f"{name}_sum", labels, timing.total)
    return metric


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    sums = list(accumulate(histogram.counts))
    buckets = [(repr(BOUNDS[index]), float(sums[index])) for index in _EXPORTED]
    family.add_metric(labels, [*buckets, ("+Inf", float(sums[-1]))], histogram.total)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
