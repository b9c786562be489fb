"""`greentor.stats`: what is counted, what is recorded and for how long, and what that costs."""

import asyncio
import gc
import json
import math
import subprocess
import sys
import time
import weakref
from collections import defaultdict

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

import greentor
from greentor import checks, recording
from greentor.bridge import running
from greentor.db.recorded import Recorded
from greentor.histogram import BOUNDS, Histogram
from tests.noise import Noise
from tests.testapp.models import Author
from tests.waiting import GATE, await_until

SECRET = "hunter2"


@pytest.fixture
def clean_recording(monkeypatch):
    """Begin without anything recorded, and without a watcher; forget what the test recorded."""
    monkeypatch.setattr(recording, "query_counts", defaultdict(int))
    monkeypatch.setattr(recording, "query_times", defaultdict(Histogram))
    monkeypatch.setattr(recording, "request_times", {})
    monkeypatch.setattr(recording, "_minutes", recording._minutes.copy())
    recording._minutes.clear()
    for name, value in (("active", False), ("_watchers", 0), ("_until", 0.0)):
        monkeypatch.setattr(recording, name, value)


pytestmark = pytest.mark.usefixtures("clean_recording")


@greentor.green
def sleep(seconds):
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s)", [seconds])


# --- what it tells ----------------------------------------------------------------------------


def test_a_program_without_django_and_tornado_has_stats():
    program = """
import asyncio, json, sys, greentor

async def main():
    async with asyncio.TaskGroup() as group:
        sleeper = group.create_task(greentor.green(greentor.sleep)(60))
        await asyncio.sleep(0.05)
        print(greentor.stats().as_json())
        sleeper.cancel()

asyncio.run(main())
assert not {"django", "tornado", "pymysql", "prometheus_client"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert (told["greenlets"], told["pools"], told["loop_lag"]) == (1, {}, None)


def test_without_a_loop_there_are_none():
    with pytest.raises(RuntimeError, match="no running event loop"):
        greentor.stats()


@pytest.fixture
def pool_of_one(monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5})


def test_an_exhausted_pool_is_told(run, mariadb, clean_tables, pool_of_one):
    @greentor.green
    def wait():
        with connection.cursor() as cursor:
            cursor.execute(GATE)

    async def main():
        mariadb.execute("DO GET_LOCK('gate', 0)")
        try:
            tasks = [greentor.spawn(wait) for _ in range(3)]
            await await_until(lambda: greentor.stats().pools.get("default", None))
            await await_until(lambda: greentor.stats().pools["default"].waiting == 2)
            await asyncio.sleep(0.05)
            busy = greentor.stats()
        finally:
            mariadb.execute("DO RELEASE_LOCK('gate')")
        await asyncio.gather(*tasks)
        return busy, greentor.stats()

    busy, idle = run(main)
    pool = busy.pools["default"]
    assert (pool.in_use, pool.idle, pool.waiting, pool.options.limit) == (1, 0, 2, 1)
    assert busy.greenlets == 3
    pool = idle.pools["default"]
    assert (pool.in_use, pool.idle, pool.waiting, pool.wait.count) == (0, 1, 0, 3)
    assert pool.wait.max > 0.05
    assert idle.greenlets == 0
    told = json.loads(busy.as_json())
    assert told["pools"]["default"]["closed"]["lost"] == 0
    assert told == json.loads(json.dumps(busy.as_dict()))


def test_a_greenlet_sees_itself_and_those_that_are_parked(run):
    async def main():
        parked = asyncio.ensure_future(greentor.green(greentor.sleep)(5))
        await asyncio.sleep(0)
        count = await greentor.green(lambda: greentor.stats().greenlets)()
        parked.cancel()
        await asyncio.gather(parked, return_exceptions=True)
        return count, greentor.stats().greenlets

    assert run(main) == (2, 0)


# --- queries ----------------------------------------------------------------------------------


def test_queries_are_counted_when_nobody_watches_and_nothing_else_is(run, clean_tables):
    @greentor.green
    def work():
        Author.objects.count()
        Author.objects.using("other").count()
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO testapp_author (name) VALUES (%s)", [["a"], ["b"]])

    async def main():
        await work()  # the first time Django asks the server who it is
        recording.query_counts.clear()
        await work()
        return greentor.stats()

    told = run(main)
    assert {alias: queries.count for alias, queries in told.queries.items()} == {
        "default": 2,
        "other": 1,
    }
    assert told.queries["default"].seconds.count == 0
    assert told.slowest == []
    assert not told.recording


def test_the_slowest_query_is_named_with_its_scope(run, clean_tables):
    @greentor.green
    def work():
        Author.objects.count()
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(%s)", [0.1])

    async def main():
        await work()
        recording.start()
        await work()
        recording.stop()
        return greentor.stats()

    told = run(main)
    slow, fast = told.slowest
    assert slow.sql == "SELECT SLEEP(%s)"
    assert slow.alias == "default"
    assert slow.seconds >= 0.1 > fast.seconds
    assert slow.scope.endswith("work")
    assert abs(slow.ended - time.time()) < 10
    assert told.queries["default"].seconds.count == 2
    assert told.queries["default"].seconds.max >= 0.1


def test_parameters_and_strings_of_a_query_are_not_kept(run, clean_tables):
    @greentor.green
    def work():
        Author.objects.filter(name=SECRET).first()
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s", [SECRET])
            cursor.execute(f"SELECT '{SECRET}', \"{SECRET}\" /* it's */")
            cursor.executemany("INSERT INTO testapp_author (name) VALUES (%s)", [[SECRET]])
            with pytest.raises(DatabaseError):
                cursor.execute(f"SELECT nonsense('{SECRET}'")

    async def main():
        recording.start()
        await work()
        recording.stop()
        return greentor.stats()

    told = run(main)
    assert len(told.slowest) >= 5
    assert SECRET not in told.as_json()


@pytest.mark.parametrize(
    ("text", "ansi", "shown"),
    [
        ("SELECT 'it''s', 1", False, "SELECT '…', 1"),
        (r"SELECT 'a\'b', `c`", False, "SELECT '…', `c`"),
        (r"""SELECT 'a"b', "c'd", 'e'""", False, "SELECT '…', '…', '…'"),
        ("SELECT 'never closed", False, "SELECT '…'"),
        (r"SELECT 'a\', 'b'", True, "SELECT '…', '…'"),
        ('SELECT "name" FROM "a""b"', True, 'SELECT "name" FROM "a""b"'),
        ("SELECT\n    1", False, "SELECT 1"),
        ("SELECT '\n'", False, "SELECT '…'"),
        ("SELECT '" + "x" * 9999 + "'", False, "SELECT '…'"),
        ("S" * 9999, False, "S" * 299 + "…"),
    ],
)
def test_strings_are_left_out_of_a_query(text, ansi, shown):
    assert recording.shorten(text, ansi) == shown


def test_a_query_that_was_cancelled_is_recorded(run, clean_tables):
    async def main():
        recording.start()
        task = greentor.spawn(sleep, 20)
        await await_until(lambda: recording.query_counts["default"])
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        recording.stop()
        return greentor.stats()

    [query] = [query for query in run(main).slowest if "SLEEP" in query.sql]
    assert 0.03 < query.seconds < 15


def test_a_flood_of_one_query_does_not_drive_out_the_others():
    recording.record_query("default", "SELECT 1", 0.5)
    for number in range(1000):
        recording.record_query("default", "SELECT SLEEP(%s)", 1 + number / 1000)
    assert [(query.sql, query.seconds) for query in recording.slowest_queries()] == [
        ("SELECT SLEEP(%s)", 1.999),
        ("SELECT 1", 0.5),
    ]


@pytest.mark.parametrize("factor", [1, 7919])  # each slower than those before, or in disorder
def test_queries_that_all_differ_take_no_more_memory_than_a_few(factor):
    for number in range(5000):
        seconds = (number * factor % 5000 + 1) / 1000
        recording.record_query("default", f"SELECT {number}", seconds)
    found = recording.slowest_queries()
    assert [query.seconds for query in found] == pytest.approx(
        [5 - number / 1000 for number in range(recording.SLOWEST)]
    )
    kept = sum(len(minute.queries) + len(minute.best) for minute in recording._minutes)
    assert kept <= 2 * 11 * recording.SLOWEST


def test_what_was_slow_long_ago_is_forgotten(monkeypatch):
    recording.record_query("default", "SELECT 1", 9)
    now = time.time()
    for later, left in ((120, 2), (60 * recording.MINUTES + 1, 1)):
        monkeypatch.setattr(recording.time, "time", lambda later=later: now + later)
        recording.record_query("default", f"SELECT {later}, 2", 1)
        assert len(recording.slowest_queries()) == left + (later > 120)


def test_counting_a_query_costs_less_than_half_a_microsecond():
    class Sends:
        def _execute(self, sql, params, *args):
            pass

    class Counts(Recorded, Sends):
        class db:
            alias = "default"

    def cost(cursor):
        best = math.inf
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(5000):
                cursor._execute("SELECT 1", None)
            best = min(best, time.perf_counter() - start)
        return best / 5000

    least = cost(Sends())
    # On a slow machine, what an empty call costs says what half a microsecond is.
    assert cost(Counts()) - least < max(0.5e-6, 15 * least)
    assert recording.query_counts["default"] == 20 * 5000


# --- who watches ------------------------------------------------------------------------------


def test_recording_ends_with_the_last_watcher(run):
    async def main():
        told = []
        for change in (recording.start, recording.start, recording.stop, recording.stop):
            change()
            told.append(greentor.stats().recording)
        return told

    assert run(main) == [True, True, True, False]


@pytest.mark.parametrize("leases", [(0.1,), (0.3, 0.05), (0.05, 0.3)])
def test_who_does_not_come_again_does_not_keep_the_recording_on(run, leases):
    async def main():
        end = time.monotonic() + max(leases)
        for seconds in leases:
            recording.watch_for(seconds)
        assert recording.active
        await await_until(lambda: not recording.active)
        assert time.monotonic() >= end

    run(main)


def test_a_setting_records_always_on_every_loop(run, monkeypatch):
    monkeypatch.setattr(running, "scope_hooks", [*running.scope_hooks, recording.scope_hook()])

    async def main():
        await greentor.green(lambda: None)()
        await await_until(lambda: greentor.stats().loop_lag.count)
        return greentor.stats().recording

    assert run(main)
    with asyncio.Runner() as runner:
        assert runner.run(main())
    recording.stop()


def test_the_setting_is_read_and_a_wrong_one_refused():
    assert checks.options()["record"] is False
    with override_settings(GREENTOR={"record": True}):
        assert checks.options()["record"] is True
    with (
        override_settings(GREENTOR={"record": "yes"}),
        pytest.raises(ImproperlyConfigured, match="'record' must be True or False, not 'yes'"),
    ):
        checks.options()


def test_a_loop_that_was_closed_does_not_keep_the_recording_on(run, monkeypatch):
    async def main():
        recording.watch_for(0.01)

    run(main)
    time.sleep(0.02)
    assert recording.active  # nobody was there to end it
    recording.record_query("default", "SELECT 1", 1)
    assert not recording.active


def test_code_that_holds_the_loop_shows_as_lag(run):
    async def main():
        assert greentor.stats().loop_lag is None
        with Noise() as noise:
            recording.start()
            await await_until(lambda: greentor.stats().loop_lag.count > 2)
            quiet = greentor.stats().loop_lag
            time.sleep(0.3)
            await await_until(lambda: greentor.stats().loop_lag.count > quiet.count)
            recording.stop()
        return quiet, greentor.stats().loop_lag, noise.total

    quiet, held, noise = run(main)
    assert quiet.total < 0.2 + noise
    assert 0.2 < held.total - quiet.total < 0.4 + noise


def test_many_watchers_share_one_timer(run):
    async def main():
        for _ in range(5):
            recording.start()
        await asyncio.sleep(10 * recording.INTERVAL)
        for _ in range(5):
            recording.stop()
        return greentor.stats().loop_lag.count

    assert 1 <= run(main) <= 11


def test_the_timer_ends_with_the_last_watcher_and_begins_with_the_next(run):
    async def main():
        recording.start()
        lag = recording._lags[asyncio.get_running_loop()]
        recording.stop()
        recording.start()  # before it has noticed
        await await_until(lambda: lag.times.count > 2)
        recording.stop()
        await await_until(lambda: not lag._timer_set)
        count = lag.times.count
        await asyncio.sleep(3 * recording.INTERVAL)
        assert lag.times.count == count
        recording.start()
        await await_until(lambda: lag.times.count > count)
        recording.stop()
        await await_until(lambda: not lag._timer_set)

    run(main)


def test_a_loop_is_not_kept_by_its_timers(run):
    async def main():
        recording.start()
        recording.watch_for(60)
        await asyncio.sleep(2 * recording.INTERVAL)
        return weakref.ref(asyncio.get_running_loop())

    loop = run(main)
    gc.collect()
    assert loop() is None


def test_routes_without_end_take_no_memory_without_end():
    for number in range(2 * recording.MAX_ROUTES):
        recording.record_request(f"/{number}", "GET", 200, 0.1)
    assert len(recording.request_times) == recording.MAX_ROUTES + 1
    assert recording.request_times["other", "other", 200].count == recording.MAX_ROUTES


# --- percentiles ------------------------------------------------------------------------------

seconds = st.floats(1.01e-5, 99.0)


@given(st.lists(seconds, min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_right_to_within_a_bucket(values, fraction):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[math.ceil(fraction * len(values)) - 1]
    assert exact / 1.3 <= histogram.percentile(fraction) <= exact * 1.3
    timing = histogram.timing()
    assert max(values) <= timing.max <= max(values) * 1.3
    assert (timing.count, timing.total) == (len(values), pytest.approx(sum(values)))
    assert timing.p50 <= timing.p90 <= timing.p99 <= timing.max


def test_a_percentile_lies_within_its_bucket_where_its_rank_does():
    histogram = Histogram()
    for step in range(1, 1001):
        histogram.add(0.2 + 0.05 * step / 1000)  # one bucket, evenly
    assert histogram.percentile(0.5) == pytest.approx(0.225, rel=0.001)
    assert histogram.percentile(0.99) == pytest.approx(0.2495, rel=0.001)


@given(st.lists(seconds), st.lists(seconds))
def test_a_difference_is_what_came_in_between(before, between):
    histogram = Histogram()
    for value in before:
        histogram.add(value)
    earlier = histogram.copy()
    alone = Histogram()
    for value in between:
        histogram.add(value)
        alone.add(value)
    assert (histogram - earlier).counts == alone.counts
    assert (earlier + alone).counts == histogram.counts
    assert (earlier + alone).total == pytest.approx(histogram.total)


def test_what_is_faster_or_slower_than_all_buckets_is_counted():
    histogram = Histogram()
    for value in (0.0, 1e-9, 1e6):
        histogram.add(value)
    assert histogram.counts[0] == 2
    assert histogram.counts[-1] == 1
    assert histogram.timing().max == BOUNDS[-1]
    assert Histogram().timing().max == 0
