"""`MetricsHandler`: what `greentor.stats` knows, for Prometheus. Needs the extra ``metrics``."""

from __future__ import annotations

from collections.abc import Iterator

from greentor import recording
from greentor.metrics import StatsCollector  # first: it says what to install
from greentor.web.permission import Permission, ProtectedHandler

# isort: split
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

#: seconds after a scrape for which queries, requests and the lag of the loop are recorded
LEASE = 300


class MetricsHandler(ProtectedHandler):
    """Answer a scrape: ``(r"/-/metrics", MetricsHandler, {"permission": ..., "registry": ...})``.

    ``permission`` as for `StatusHandler`. The metrics of ``registry``, by default prometheus_client's own,
    come after greentor's. With the first scrape queries, requests and the loop's lag are recorded, and on
    until nobody has scraped for `LEASE` seconds.
    """

    def initialize(
        self, permission: Permission | None = None, registry: Collector = REGISTRY
    ) -> None:
        super().initialize(permission)
        self._registry = registry

    def get(self) -> None:
        recording.watch_for(LEASE)
        encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.write(encode(_Both(self._registry)))


class _Both(Collector):
    """The metrics of greentor, and those of another registry."""

    def __init__(self, other: Collector) -> None:
        self._other = other

    def collect(self) -> Iterator[Metric]:
        yield from StatsCollector().collect()
        yield from self._other.collect()
