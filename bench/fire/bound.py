"""Many clients, few connections: never above the bound, one statement a request, exact accounts."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from bench.fire.load import Tally, send
from bench.fire.report import Result
from bench.fire.sampling import sampled, sessions, status, transactions
from bench.fire.serving import Fire, fire
from tests.mariadb import MariaDB

POOL = 8
CLEAN = {"db": 0.5, "sleep": 0.5}
#: a fifth of the clients vanish, half of them from requests that end with them
FAULTS = {
    "gone": 0.1,
    "unheard": 0.1,
    "raising": 0.05,
    "cancelled": 0.05,
    "deadline": 0.05,
    "db": 0.325,
    "sleep": 0.325,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--requests", type=int, default=20_000, help="of each of the two runs")


def trial(options: argparse.Namespace, out: Path) -> Result:
    """Run without faults, and again with them."""
    result = Result("bound")
    query = f"pool_size={POOL}&max_overflow=0&pool_timeout=60"
    with (
        MariaDB(max_connections=POOL + 4) as mariadb,
        fire(mariadb, query, out / "bound.log", "--loop", options.loop) as server,
    ):
        asyncio.run(clean(server, options, result))
        asyncio.run(faults(server, options, result))
        result.none(server.complaints(), "complaints in the server's log")
    return result


async def clean(server: Fire, options: argparse.Namespace, result: Result) -> None:
    # So many at once that all connections are open, and set up, before statements are counted.
    await send(server.port, {"sleep": 1}, 4 * POOL, 4 * POOL, Tally())
    tally = Tally()
    async with sampled(server.mariadb) as samples:
        before = status(server.mariadb)
        await send(server.port, CLEAN, options.requests, options.clients, tally)
    after = status(server.mariadb)
    # One a sample, and this last one; `before` counts itself. Each is a question, none a select.
    ours = samples.asked + 1
    questions = (after["Questions"] - before["Questions"] - ours) / tally.requests
    selects = (after["Com_select"] - before["Com_select"]) / tally.requests
    seconds = samples.times[-1]
    result.figures.update(
        {
            "clients": options.clients,
            "requests": tally.requests,
            "requests a second": tally.requests / seconds,
            "samples": samples.asked,
            "most connections": max(samples.most, *samples.connected),
            "statements a request": questions,
            "selects a request": selects,
        }
    )
    result.series.update(clean_times=samples.times, clean_connected=samples.connected)
    result.none(tally.wrong, "requests without their answer")
    most = max(samples.most, *samples.connected)
    result.demand(most <= POOL, f"at most {POOL} connections: {most}")
    result.demand(questions == 1, f"statements a request: {questions:.4f}")


async def faults(server: Fire, options: argparse.Namespace, result: Result) -> None:
    tally = Tally()
    async with sampled(server.mariadb) as samples:
        await send(server.port, FAULTS, options.requests, options.clients, tally, first=1_000_000)
    probe = await asyncio.to_thread(server.quiet)
    pool = probe["pool"]
    open_ = sessions(server.mariadb)
    most = max(samples.most, *samples.connected)
    result.figures.update(
        {
            "with faults: requests": tally.requests,
            **{f"with faults: {name}": n for name, n in sorted(tally.answers.items())},
            "with faults: requests a second": tally.requests / samples.times[-1],
            "with faults: most connections": most,
            "with faults: most sampled": max(samples.connected),
            "in use at the end": pool["in_use"],
            "idle at the end": pool["idle"],
            "sessions at the end": len(open_),
            "connections opened": pool["opened"],
            "connections killed": pool["kills"],
        }
    )
    result.series.update(faults_times=samples.times, faults_connected=samples.connected)
    result.none(tally.wrong, "with faults: requests without their answer")
    result.demand(most <= POOL, f"with faults: at most {POOL} connections: {most}")
    result.demand(
        pool["in_use"] == pool["waiting"] == 0,
        f"nothing in use at the end: {pool['in_use']}, waiting {pool['waiting']}",
    )
    result.demand(
        pool["idle"] == len(open_),
        f"the pool's idle connections are the server's sessions: {pool['idle']} and {len(open_)}",
    )
    balance = pool["opened"] - sum(pool["closed"].values())
    result.demand(balance == pool["idle"], f"opened less closed are idle: {balance}")
    result.none(transactions(server.mariadb), "transactions open on the server")
    check_rows(server, probe["on_commit"], result)


def check_rows(server: Fire, hooks: dict[str, int], result: Result) -> None:
    """Demand that what was rolled back is not there, and that hooks ran for what is, and for nothing else."""
    found = {
        row["kind"]: row["n"]
        for row in server.mariadb.execute(
            "SELECT kind, COUNT(*) AS n FROM fire GROUP BY kind", database="fire"
        )
    }
    result.demand(
        found == hooks, f"on_commit ran once for each row that is there: {hooks}, {found}"
    )
    lost = ("raising", "cancelled", "deadline", "timedout", "abandoned", "collected")
    result.none(sorted(set(found) & set(lost)), "kinds of requests that should have left no row")
