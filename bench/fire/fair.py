"""Many keep-alive clients, fewer connections: each is served, none much less or later than another."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from statistics import mean

from bench.compare.crowd import crowd
from bench.fire.report import Result
from bench.fire.serving import Fire, fire
from tests.mariadb import MariaDB

POOL = 256
PATH = "/sleep?ms=50"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--spread", type=float, default=2, help="p99 by p50, at most")


def trial(options: argparse.Namespace, out: Path) -> Result:
    """Have all clients send requests for some time."""
    result = Result("fair")
    query = f"pool_size={options.pool}&max_overflow=0"
    with (
        MariaDB(max_connections=options.pool + 5) as mariadb,
        fire(mariadb, query, out / "fair.log", "--loop", options.loop) as server,
    ):
        asyncio.run(measure(server, options, result))
        result.none(server.complaints(), "complaints in the server's log")
    return result


async def measure(server: Fire, options: argparse.Namespace, result: Result) -> None:
    found = await crowd(server.port, PATH, options.clients, options.seconds)
    cuts = found.cuts()
    median, late = cuts[49], cuts[98]
    result.figures.update(
        {
            "clients": options.clients,
            "pool": options.pool,
            "seconds": options.seconds,
            "requests a second": len(found.seconds) / options.seconds,
            "clients that were served": sum(1 for n in found.served if n),
            "requests of a client: mean": mean(found.served),
            "requests of a client: least": min(found.served),
            "requests of a client: most": max(found.served),
            "p50, ms": median * 1000,
            "p99, ms": late * 1000,
            "p99 / p50": late / median if median else 0.0,
        }
    )
    result.series.update(served=sorted(found.served), latency=[cut * 1000 for cut in cuts])
    result.none(found.failures, "failures")
    result.demand(min(found.served) > 0, "every client is served")
    result.demand(found.share >= 0.5, f"the slowest client has {found.share:.2f} of the mean")
    spread = result.figures["p99 / p50"]
    result.demand(0 < spread <= options.spread, f"p99 is {spread:.2f} x p50")
