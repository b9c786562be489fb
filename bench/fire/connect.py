"""A slow connect is not overshot, nobody waits longer than pool_timeout, and no release is lost."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from bench.client import Client
from bench.fire.report import Result
from bench.fire.serving import Fire, fire
from tests.mariadb import MariaDB
from tests.proxy import Proxy

POOL, DELAY, TIMEOUT = 5, 0.2, 1.0
WAITING = 20
TOLERANCE = 0.1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=100)


def trial(options: argparse.Namespace, out: Path) -> Result:
    """Ask for more connections than there may be, through a proxy that delays each connect."""
    result = Result("connect")
    query = f"pool_size={POOL}&max_overflow=0&pool_timeout={TIMEOUT}"
    with (
        MariaDB(max_connections=POOL + 5) as mariadb,
        Proxy(mariadb.host, mariadb.port, connect_delay=DELAY) as proxy,
        fire(
            mariadb, query, out / "connect.log", "--loop", options.loop, port=proxy.port
        ) as server,
    ):
        before = proxy.accepted
        asyncio.run(at_once(server, options.clients, result))
        connects = proxy.accepted - before
        result.figures["connects"] = connects
        result.demand(connects == POOL, f"exactly {POOL} connects: {connects}")
        asyncio.run(in_vain(server, result))
        pool = server.quiet()["pool"]
        result.demand(proxy.accepted - before == POOL, "none was opened later")
        result.demand(
            (pool["in_use"], pool["idle"], pool["waiting"]) == (0, POOL, 0),
            f"{pool['in_use']} in use, {pool['idle']} idle, {pool['waiting']} waiting at the end",
        )
        result.demand(pool["timeouts"] == WAITING, f"{pool['timeouts']} timeouts counted")
        result.none(
            server.complaints(but="503 GET /db .*: no connection after"),
            "complaints in the server's log",
        )
    return result


async def get(server: Fire, path: str) -> tuple[int, float]:
    """Return the status of one request, on a connection of its own, and the seconds that it took."""
    client = Client(server.port)
    start = time.monotonic()
    try:
        status, _ = await client.get(path)
    finally:
        client.vanish()
    return status, time.monotonic() - start


async def at_once(server: Fire, clients: int, result: Result) -> None:
    answers = await asyncio.gather(*(get(server, "/db") for _ in range(clients)))
    result.figures["requests at once"] = clients
    result.none((a for a in answers if a[0] != 200), "requests that were not served")


async def in_vain(server: Fire, result: Result) -> None:
    """Hold all connections; some wait in vain, and one more who comes later is served."""
    hold = 2 * TIMEOUT
    held = [asyncio.create_task(get(server, f"/sleep?ms={hold * 1000:.0f}")) for _ in range(POOL)]
    while (await asyncio.to_thread(server.ask))["pool"]["in_use"] < POOL:
        await asyncio.sleep(0.01)
    reference = asyncio.create_task(lateness(TIMEOUT))  # a busy machine is late for it as well
    waiting = await asyncio.gather(*(get(server, "/db") for _ in range(WAITING)))
    lag = await reference
    last = asyncio.create_task(get(server, "/db"))
    result.none([a for a in await asyncio.gather(*held) if a[0] != 200], "holders that failed")
    status, seconds = await last
    times = sorted(each for _, each in waiting)
    result.figures.update(
        {
            "waited in vain": len(waiting),
            "the first gave up after, s": times[0],
            "the last gave up after, s": times[-1],
            "lateness of a plain timer, s": lag,
            "who came after it waited, s": seconds,
        }
    )
    result.none((a for a in waiting if a[0] != 503), f"other answers than 503 after {TIMEOUT} s")
    low, high = TIMEOUT * (1 - TOLERANCE), TIMEOUT * (1 + TOLERANCE) + lag
    result.demand(
        low <= times[0] and times[-1] <= high,
        f"given up after {times[0]:.3f} to {times[-1]:.3f} s, {low} to {high:.3f} being due",
    )
    result.demand(
        status == 200 and seconds < TIMEOUT,
        f"a release after it is not lost: {status}, {seconds:.3f} s",
    )
    again = await asyncio.gather(*(get(server, "/sleep?ms=50") for _ in range(POOL)))
    result.none((a for a in again if a[0] != 200), f"failures of the next {POOL}")


async def lateness(seconds: float) -> float:
    start = time.monotonic()
    await asyncio.sleep(seconds)
    return time.monotonic() - start - seconds
