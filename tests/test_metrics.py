"""What Prometheus is told: names and labels by its conventions, and nothing that stalls or lingers."""

import asyncio
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from tornado.web import Application

import greentor
from greentor import metrics, recording
from greentor.db.pools import current_pools
from greentor.web import metrics as web_metrics
from greentor.web.metrics import MetricsHandler
from tests.test_stats import clean_recording  # noqa: F401
from tests.test_status import Gate, Sleep, allow
from tests.test_web import Served
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables", "clean_recording")

OPEN = {"Accept": "application/openmetrics-text; version=1.0.0"}


async def scrape(*paths, parser=parse, registry=None, **headers):
    """Ask for the paths, then for the metrics: return its answer, and samples by name and labels."""
    options = {"permission": allow, "registry": registry or CollectorRegistry()}
    served = Served(Application([("/metrics", MetricsHandler, options), ("/sleep/(.*)", Sleep)]))
    try:
        await served.fetch("/metrics")
        for path in paths:
            await served.fetch(path)
        answer = await served.fetch("/metrics", **headers)
    finally:
        served.client.close()
        served.server.stop()
        await served.server.close_all_connections()
        recording._until = 0.0
    samples = {}
    for family in parser(answer.body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return answer, samples


@pytest.mark.parametrize(("headers", "parser"), [({}, parse), (OPEN, parse_openmetrics)])
def test_pools_queries_and_requests_are_told_in_each_format(run, headers, parser):
    answer, samples = run(scrape, "/sleep/0.02", "/sleep/0", parser=parser, headers=headers)
    assert answer.code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("openmetrics" in answer.headers["Content-Type"]) is (parser is parse_openmetrics)
    alias = ("alias", "default")
    assert samples["greentor_pool_connections", (alias, ("state", "idle"))] == 1
    assert samples["greentor_pool_connections", (alias, ("state", "in_use"))] == 0
    assert samples["greentor_pool_limit", (alias,)] == 12
    assert samples["greentor_pool_opened_total", (alias,)] == 1
    assert samples["greentor_pool_closed_total", (alias, ("reason", "lost"))] == 0
    assert samples["greentor_pool_wait_seconds_count", (alias,)] == 2
    assert samples["greentor_pool_hold_seconds_sum", (alias,)] >= 0.02
    assert samples["greentor_pool_hold_seconds", (alias, ("quantile", "0.99"))] >= 0.02
    assert samples["greentor_queries_total", (alias,)] >= 2
    assert samples["greentor_query_duration_seconds_count", (alias,)] >= 2
    route = (("method", "GET"), ("route", "/sleep/(.*)"), ("status", "200"))
    assert samples["greentor_request_duration_seconds_count", route] == 2
    buckets = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples.items()
        if name == "greentor_request_duration_seconds_bucket"
    ]
    assert [value for _, value in sorted(buckets)] == sorted(value for _, value in buckets)
    assert dict(buckets)[0.01] <= 1
    assert dict(buckets)[float("inf")] == 2
    assert 0.0025 in dict(buckets)


def test_names_follow_the_conventions(run):
    answer, _ = run(scrape, "/sleep/0")
    for family in parse(answer.body.decode()):
        assert family.name.startswith("greentor_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_count", "_sum"))
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter")
            assert set(sample.labels) <= {
                *("alias", "state", "reason", "quantile", "le"),
                *("route", "method", "status"),
            }


def test_exported_buckets_agree_with_those_that_are_counted():
    bounds = [metrics.BOUNDS[index] for index in metrics._EXPORTED]
    assert bounds[:4] == [0.0001, 0.00025, 0.0005, 0.001]
    assert bounds[-1] == 100
    assert len(bounds) == 19


def test_the_metrics_of_the_program_itself_come_with_them(run):
    registry = CollectorRegistry()
    Counter("orders", "Orders.", registry=registry).inc(3)
    _, samples = run(scrape, registry=registry)
    assert samples["orders_total", ()] == 3
    assert ("greentor_greenlets", ()) in samples


def test_a_scrape_records_until_nobody_has_scraped_for_a_while(run, monkeypatch):
    monkeypatch.setattr(web_metrics, "LEASE", 0.1)

    async def main():
        assert not recording.active
        options = {"permission": allow, "registry": CollectorRegistry()}
        served = Served(Application([("/metrics", MetricsHandler, options)]))
        assert "greentor_loop_lag_seconds_count 0.0" in await served.get("/metrics")
        assert recording.active
        lag = recording.loop_lag(asyncio.get_running_loop())
        await await_until(lambda: lag.count)
        await await_until(lambda: not recording.active)
        served.client.close()
        served.server.stop()
        await served.server.close_all_connections()

    run(main)


def test_a_scrape_needs_no_connection(run, mariadb, monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 25})

    async def main():
        mariadb.execute("DO GET_LOCK('gate', 0)")  # until it is done
        try:
            held, waits = (greentor.spawn(Gate.get, None) for _ in range(2))
            await await_until(lambda: any(pool.waiting for pool in current_pools()))
            _, samples = await asyncio.wait_for(scrape(), 20)
        finally:
            mariadb.execute("DO RELEASE_LOCK('gate')")
        await asyncio.gather(held, waits)
        return samples

    samples = run(main)
    alias = ("alias", "default")
    assert samples["greentor_pool_waiting", (alias,)] == 1
    assert samples["greentor_pool_longest_wait_seconds", (alias,)] > 0


def test_without_prometheus_client_the_extra_is_named():
    program = """
import sys
sys.modules["prometheus_client"] = sys.modules["prometheus_client.core"] = None
import django
from django.conf import settings
settings.configure()
import greentor.web
try:
    from greentor.web.metrics import MetricsHandler
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'greentor[metrics]'" in done.stdout
