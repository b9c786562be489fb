"""The load test of the pool: many clients, few connections, not one failed request.

    python -m bench.load [--seconds 20] [--requests 20000]

Starts a private MariaDB that admits 12 connections and the reference application with a pool of 8 and no
overflow; sends `ab` and `wrk` at it, then clients of which a tenth vanish without reading the answer, then
requests that must each get their own token back. Exits with 1 if a request failed, an answer was somebody
else's, a ninth connection was opened, a thread was started, or anything was left over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
import time

from bench.client import Client, hammer
from bench.server import Server, serve
from tests.mariadb import MariaDB
from tests.waiting import wait_until

POOL = 8


class Failure(Exception):
    """A load test found something wrong."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seconds", type=int, default=20, help="of each run of wrk")
    parser.add_argument("--requests", type=int, default=20_000, help="of ab on /db")
    parser.add_argument("--tokens", type=int, default=20_000, help="echo requests, each checked")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    for tool in ("ab", "wrk"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed (Debian: apt-get install apache2-utils wrk)")
    with (
        MariaDB(max_connections=12) as mariadb,
        serve(mariadb, f"pool_size={POOL}&max_overflow=0", "--loop", options.loop) as server,
    ):
        mariadb.execute("FLUSH STATUS")
        threads = server.threads
        try:
            ab(server, "/db", options.requests)
            wrk(server, "/db", options.seconds)
            ab(server, "/sleep?ms=50", options.requests // 5)
            wrk(server, "/sleep?ms=50", options.seconds)
            asyncio.run(vanishing(server, options.requests // 4))
            asyncio.run(tokens(server, options.tokens))
            leftovers(mariadb, server, threads)
        except (Failure, AssertionError) as exc:
            print(f"FAILED: {exc}")
            return 1
    print("passed")
    return 0


def ab(server: Server, path: str, requests: int) -> None:
    """200 connections of `ab`; every request must be answered with a 2xx."""
    output = run("ab", "-q", "-l", "-s", "60", "-n", str(requests), "-c", "200", server.url + path)
    failed = number(r"Failed requests:\s+(\d+)", output)
    refused = number(r"Non-2xx responses:\s+(\d+)", output, 0)
    complete = number(r"Complete requests:\s+(\d+)", output)
    rate = number(r"Requests per second:\s+([\d.]+)", output)
    print(f"ab   {path}: {complete:.0f} requests, {rate:.0f}/s, {failed + refused:.0f} failed")
    if failed or refused or complete != requests:
        raise Failure(output)


def wrk(server: Server, path: str, seconds: int) -> None:
    """500 connections of `wrk`; every request must be answered with a 2xx, none may time out."""
    output = run(
        "wrk", "-t", "2", "-c", "500", "-d", f"{seconds}s", "--timeout", "40s", server.url + path
    )
    errors = re.search(r"Socket errors:.*|Non-2xx.*", output)
    rate = number(r"Requests/sec:\s+([\d.]+)", output)
    print(f"wrk  {path}: {rate:.0f}/s, {errors[0] if errors else 'no errors'}")
    if errors:
        raise Failure(output)


async def vanishing(server: Server, requests: int) -> None:
    """A tenth of the clients send a request and drop the connection; all others must be served."""
    vanished = 0
    chance = random.Random(1)

    async def one(client: Client, index: int) -> None:
        nonlocal vanished
        path = "/sleep?ms=5" if index % 2 else "/updates?queries=2"
        if chance.random() < 0.1:
            vanished += 1
            await client.send(path)
            client.vanish()
        else:
            status, body = await client.get(path)
            if status != 200:
                raise Failure(f"{path}: {status} {body[:200]!r}")

    await hammer(server.port, requests, 200, one)
    print(f"vanishing clients: {vanished} of {requests}, all others served")


async def tokens(server: Server, requests: int) -> None:
    """Each request's token goes through the database and must come back to its own client."""
    started = time.monotonic()

    async def one(client: Client, index: int) -> None:
        path = f"/echo?token=t{index}&ms={index % 4}&atomic={index % 2}"
        status, body = await client.get(path)
        if status != 200 or json.loads(body) != {"token": f"t{index}"}:
            raise Failure(f"{path}: {status} {body[:200]!r}")

    await hammer(server.port, requests, 200, one)
    print(f"tokens: {requests} sent, none crossed, in {time.monotonic() - started:.0f} s")


def leftovers(mariadb: MariaDB, server: Server, threads: int) -> None:
    """After the load: the bound was kept, no thread was started, nothing is still at work."""
    most = mariadb.status("Max_used_connections")
    print(f"Max_used_connections {most}, threads {threads} then {server.threads}")
    if most > POOL + 1:  # our own question counts
        raise Failure(f"{most} connections were open at once")
    if server.threads != threads:
        raise Failure(f"{threads} threads at the start, {server.threads} at the end")
    wait_until(lambda: all(row["COMMAND"] == "Sleep" for row in mariadb.processlist()))
    if rows := mariadb.execute("SELECT * FROM information_schema.innodb_trx"):
        raise Failure(f"transactions left open: {rows}")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def number(pattern: str, text: str, default: float | None = None) -> float:
    match = re.search(pattern, text)
    if match is None:
        if default is None:
            raise Failure(f"{pattern} not found in {text}")
        return default
    return float(match[1])


if __name__ == "__main__":
    sys.exit(main())
