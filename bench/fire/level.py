"""Faults of every kind, over and over: memory, files, greenlets, tasks and timers level off.

Invariants
- It is looked at at rest, between two batches: nothing is at work then, and a garbage collection has run.
- The first half is for caches to fill; the second half is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from bench.fire.bound import check_rows
from bench.fire.load import Tally, even, fill, send
from bench.fire.report import Result, slope
from bench.fire.sampling import sessions, transactions
from bench.fire.serving import Fire, fire
from tests.mariadb import MariaDB

POOL = 16
#: what must not grow at all
COUNTS = ("fds", "threads", "tasks", "timers", "greenlets", "all greenlets")
#: by so many they may be apart at two looks: a timer may just be due, or a socket be closing
APART = 2
#: bytes by which the resident memory may grow with each request, for all that statistics can tell
GROWTH = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.05, help="of each kind of fault")
    parser.add_argument("--growth", type=float, default=GROWTH, help="of memory, bytes a request")


def trial(options: argparse.Namespace, out: Path) -> Result:
    """Send batches of requests, and look at the server after each."""
    result = Result("level")
    query = f"pool_size={POOL}&max_overflow=0&pool_timeout=30"
    with (
        MariaDB(max_connections=POOL + 30) as mariadb,
        fire(mariadb, query, out / "level.log", "--loop", options.loop, "--periodic") as server,
    ):
        run(server, options, result)
        result.none(server.complaints(), "complaints in the server's log")
    return result


def run(server: Fire, options: argparse.Namespace, result: Result) -> None:
    tally = Tally()
    mix = even(options.share)
    size = options.requests // options.batches
    start = time.monotonic()
    seconds = 0.0
    for batch in range(options.batches):
        begin = time.monotonic()
        asyncio.run(send(server.port, mix, size, options.clients, tally, first=batch * size))
        seconds += time.monotonic() - begin
        asyncio.run(fill(server.port, POOL))
        probe = server.quiet()
        result.series.setdefault("requests", []).append(tally.requests)
        for name in ("rss", *COUNTS, "cancelled timers"):
            result.series.setdefault(name, []).append(probe[name])
        if batch % 10 == 9:
            shown = {name: probe[name] for name in ("rss", *COUNTS)}
            print(
                f"{tally.requests} requests, {time.monotonic() - start:.0f} s: {shown}", flush=True
            )
    pool = probe["pool"]
    result.figures.update(
        {
            "requests": tally.requests,
            "of each kind of fault": f"{options.share:.0%}",
            "requests a second": tally.requests / seconds,
            **{f"{name}": n for name, n in sorted(tally.answers.items())},
            "connections opened": pool["opened"],
            "connections killed": pool["kills"],
        }
    )
    result.none(tally.wrong, "requests without their answer")
    judge(result, options.growth)
    result.demand(
        pool["in_use"] == pool["waiting"] == 0 and pool["idle"] == len(sessions(server.mariadb)),
        f"accounts exact at the end: {pool['in_use']} in use, {pool['idle']} idle",
    )
    result.none(transactions(server.mariadb), "transactions open on the server")
    check_rows(server, probe["on_commit"], result)


def judge(result: Result, growth: float) -> None:
    """Demand of the second half that it is level."""
    at = result.series["requests"]
    half = len(at) // 2
    for name in COUNTS:
        values = result.series[name]
        if values[0] is None:
            continue
        first, second = values[:half], values[half:]
        result.figures[f"{name}: first half"] = f"{min(first)} to {max(first)}"
        result.figures[f"{name}: second half"] = f"{min(second)} to {max(second)}"
        growing, error = slope(second, at[half:])
        result.demand(
            max(second) <= max(first) + APART or growing - error <= 0,
            f"{name} level off: {min(second)} to {max(second)}, at first {min(first)} to {max(first)}",
        )
    rss = result.series["rss"]
    growing, error = slope(rss[half:], at[half:])
    result.figures["memory at the start, MiB"] = rss[0] / 2**20
    result.figures["memory at half time, MiB"] = rss[half] / 2**20
    result.figures["memory at the end, MiB"] = rss[-1] / 2**20
    result.figures["slope, bytes a request"] = f"{growing:.1f} ± {error:.1f}"
    result.demand(
        growing - error <= 0 or growing <= growth,
        f"memory levels off: {growing:.1f} ± {error:.1f} bytes a request in the second half",
    )
