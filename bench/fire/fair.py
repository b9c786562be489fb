"""Many keep-alive clients, fewer connections: each is served, none much less or later than another."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from statistics import mean, quantiles

from bench.client import Client
from bench.fire.report import Result
from bench.fire.serving import Fire, fire
from tests.mariadb import MariaDB

POOL = 256
PATH = "/sleep?ms=50"
#: requests that each client has answered before the counting begins
WARM_UP = 2


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
    served = [0] * options.clients
    seconds: list[float] = []
    failures: list[str] = []
    warm, begun = 0, asyncio.Event()
    end = 0.0

    async def one(number: int) -> None:
        nonlocal warm, end
        client = Client(server.port)
        for _ in range(WARM_UP):
            await client.get(PATH)
        warm += 1
        if warm == options.clients:
            end = time.monotonic() + options.seconds
            begun.set()
        while not begun.is_set():  # all are at work until the last one is warm, and then on
            await client.get(PATH)
        while (start := time.monotonic()) < end:
            status, body = await client.get(PATH)
            if (now := time.monotonic()) > end:
                break
            if status != 200:
                failures.append(f"{status}: {body[:100]!r}")
            seconds.append(now - start)
            served[number] += 1
        client.vanish()

    await asyncio.gather(*(one(number) for number in range(options.clients)))
    cuts = quantiles(seconds, n=100)
    median, late = cuts[49], cuts[98]
    share = min(served) / mean(served)
    result.figures.update(
        {
            "clients": options.clients,
            "pool": options.pool,
            "seconds": options.seconds,
            "requests a second": len(seconds) / options.seconds,
            "clients that were served": sum(1 for n in served if n),
            "requests of a client: mean": mean(served),
            "requests of a client: least": min(served),
            "requests of a client: most": max(served),
            "p50, ms": median * 1000,
            "p99, ms": late * 1000,
            "p99 / p50": late / median,
        }
    )
    result.series.update(served=sorted(served), latency=[cut * 1000 for cut in cuts])
    result.none(failures, "failures")
    result.demand(min(served) > 0, "every client is served")
    result.demand(share >= 0.5, f"the slowest client has {share:.2f} of the mean")
    result.demand(late <= options.spread * median, f"p99 is {late / median:.2f} x p50")
