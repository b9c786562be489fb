"""Connections are killed, the server is stopped, and closes what is idle: only who held one fails.

Invariants
- Each request sends its own token through the database and checks that it comes back.
- Its answer, a failure too, tells the ids of the connections that it had, and since when; the killer notes
  what it killed, and when, by the same clock. So it can be decided for each failure whether it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from bench.client import Client
from bench.fire.report import Result
from bench.fire.sampling import sessions, transactions
from bench.fire.serving import Fire, fire
from tests.mariadb import MariaDB

POOL, POOL_TIMEOUT = 16, 2.0
SHAPES = ("plain", "two", "atomic", "write")
#: seconds after a kill within which whoever takes the connection may not know of it
NOTICE = 0.05
#: seconds that a client waits after it was refused, less than the Retry-After that it is told
PAUSE = 0.2
AFTER = 1000
#: seconds from one kill to the next
INTERVAL = 1 / 20


@dataclass
class Reply:
    """What became of a request."""

    token: str
    begin: float
    end: float
    status: int
    body: dict[str, Any]

    def __str__(self) -> str:
        took = self.end - self.begin
        return f"{self.token}: {self.status} after {took:.3f} s, {json.dumps(self.body)[:300]}"

    @property
    def right(self) -> bool:
        return self.status == 200 and self.body["token"] == self.token

    @property
    def wrong(self) -> bool:
        """Whether it is neither its answer nor a failure of the server's."""
        return not self.right and not 500 <= self.status <= 599


@dataclass
class Clients:
    """Some clients, each of which sends one request after the other until it is told to stop."""

    port: int
    count: int
    #: their tokens begin with it
    name: str
    replies: list[Reply] = field(default_factory=list)
    stopped: bool = False

    async def run(self, each: int | None = None) -> None:
        """Send requests: so many by each client, or until `stopped`."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self.one(number, each))

    async def one(self, number: int, each: int | None) -> None:
        client = Client(self.port)
        chance = random.Random(number)
        sent = 0
        while not self.stopped and (each is None or sent < each):
            sent += 1
            token = f"{self.name}-{number}-{len(self.replies)}-{chance.randrange(10**6)}"
            begin = time.monotonic()
            try:
                path = f"/token?token={token}&shape={chance.choice(SHAPES)}"
                async with asyncio.timeout(60):
                    status, text = await client.get(path)
                body = json.loads(text)
            except (OSError, TimeoutError, ValueError) as error:
                status, body = 0, {"error": repr(error)}
                client.vanish()
            self.replies.append(Reply(token, begin, time.monotonic(), status, body))
            if status != 200:
                await asyncio.sleep(PAUSE)
        client.vanish()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60, help="of killing")
    parser.add_argument("--down", type=float, default=5, help="seconds without a server")
    parser.add_argument("--rounds", type=int, default=5, help="of pauses of 2 s")


def trial(options: argparse.Namespace, out: Path) -> Result:
    """Kill connections, then the server, then have it close what is idle."""
    result = Result("kill")
    query = f"pool_size={POOL}&max_overflow=0&pool_timeout={POOL_TIMEOUT}"
    with (
        MariaDB(max_connections=POOL + 8) as mariadb,
        fire(mariadb, query, out / "kill.log", "--loop", options.loop) as server,
    ):
        asyncio.run(killing(server, options, result))
        asyncio.run(stopping(server, options, result))
        asyncio.run(closing(server, options, result))
        pool = server.quiet()["pool"]
        result.demand(
            pool["in_use"] == pool["waiting"] == 0 and pool["idle"] == len(sessions(mariadb)),
            f"accounts exact at the end: {pool['in_use']} in use, {pool['idle']} idle",
        )
        result.none(transactions(mariadb), "transactions open on the server")
        result.none(server.complaints(), "complaints in the server's log")
    result.demand(server.process.returncode == 0, "the same process to its end, and its status 0")
    return result


# --- connections are killed -------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """A connection was killed: when it was asked for, and when the server had let go of it."""

    begin: float
    end: float


async def killing(server: Fire, options: argparse.Namespace, result: Result) -> None:
    clients = Clients(server.port, options.clients, "kill")
    kills: dict[int, Kill] = {}
    work = asyncio.create_task(clients.run())
    chance = random.Random(1)
    start = time.monotonic()
    while (now := time.monotonic()) < start + options.seconds:
        await asyncio.to_thread(kill_one, server.mariadb, chance, kills)
        await asyncio.sleep(max(0.0, now + INTERVAL - time.monotonic()))
    clients.stopped = True
    await work
    failures = [reply for reply in clients.replies if not reply.right]
    ever_held = {number for reply in clients.replies for number, _ in reply.body.get("held", ())}
    causes = Counter(due(reply, kills, ever_held) for reply in failures)
    result.figures.update(
        {
            "killing: seconds": options.seconds,
            "killing: connections killed": len(kills),
            "killing: requests": len(clients.replies),
            "killing: requests failed": len(failures),
            **{f"killing: failed, {cause}": n for cause, n in causes.items()},
            "killing: statuses": str(dict(Counter(reply.status for reply in clients.replies))),
        }
    )
    result.none((r for r in clients.replies if r.wrong), "killing: wrong answers")
    undue = (r for r in failures if due(r, kills, ever_held) is None)
    result.none(undue, "killing: failures without a killed connection")


def kill_one(mariadb: MariaDB, chance: random.Random, kills: dict[int, Kill]) -> None:
    """Kill a random connection of the application that was not killed before."""
    found = [row["ID"] for row in sessions(mariadb) if row["ID"] not in kills]
    if not found:
        return
    number = chance.choice(found)
    begin = time.monotonic()
    try:
        mariadb.execute(f"KILL CONNECTION {number}")
    except pymysql.err.OperationalError:  # it has gone by itself
        return
    left = "SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = %s"
    while mariadb.execute(left, number) and time.monotonic() < begin + 1:
        time.sleep(0.002)
    kills[number] = Kill(begin, time.monotonic())


def due(reply: Reply, kills: dict[int, Kill], ever_held: set[int]) -> str | None:
    """Say why a request may have failed; None if it may not."""
    for number, since in reply.body.get("held", ()):
        kill = kills.get(number)
        if kill is not None and kill.begin <= reply.end:
            if since <= kill.end:
                return "held when it was killed"
            if since <= kill.end + NOTICE:
                return "taken within 50 ms of the kill"
    if (asked := reply.body.get("connecting")) is not None:
        for number, kill in kills.items():
            if number not in ever_held and asked <= kill.end and kill.begin <= reply.end:
                return "killed while being opened"
    return None


# --- the server is away -----------------------------------------------------------------------


async def stopping(server: Fire, options: argparse.Namespace, result: Result) -> None:
    mariadb = server.mariadb
    clients = Clients(server.port, options.clients, "stop")
    work = asyncio.create_task(clients.run())
    await asyncio.sleep(1)
    stop = time.monotonic()
    await asyncio.to_thread(stop_in_good_order, mariadb)
    down = time.monotonic()
    await asyncio.sleep(options.down)
    up = time.monotonic()
    await asyncio.to_thread(mariadb.start)
    back = time.monotonic()
    end = back + 60
    while len(since(clients, back)) < AFTER and time.monotonic() < end:
        await asyncio.sleep(0.05)
    clients.stopped = True
    await work
    meanwhile = [r for r in clients.replies if r.begin >= down and r.end <= up]
    slowest = max((r.end - r.begin for r in meanwhile), default=0.0)
    first = sorted(since(clients, back), key=lambda r: r.begin)[:AFTER]
    result.figures.update(
        {
            "stopping: seconds without a server": up - down,
            "stopping: requests meanwhile": len(meanwhile),
            "stopping: their statuses": str(dict(Counter(r.status for r in meanwhile))),
            "stopping: the slowest of them, s": slowest,
            "stopping: requests after it": len(first),
        }
    )
    result.none((r for r in clients.replies if r.wrong), "stopping: wrong answers")
    result.demand(bool(meanwhile), "there were requests while the server was away")
    result.none(
        (r for r in meanwhile if r.status != 503), "stopping: other answers than 503 meanwhile"
    )
    result.demand(slowest <= POOL_TIMEOUT, f"refused within {POOL_TIMEOUT} s: {slowest:.3f} s")
    early = (r for r in clients.replies if not r.right and r.end < stop)
    result.none(early, "stopping: failures before")
    result.demand(len(first) == AFTER, f"{len(first)} requests after the server came back")
    result.none((r for r in first if not r.right), f"failures among the first {AFTER} after it")


def since(clients: Clients, when: float) -> list[Reply]:
    return [reply for reply in clients.replies if reply.begin >= when]


def stop_in_good_order(mariadb: MariaDB) -> None:
    """End the server as a service manager does, so that `start` can bring it back."""
    os.kill(mariadb.pid, signal.SIGTERM)
    end = time.monotonic() + 30
    while Path(f"/proc/{mariadb.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    mariadb.kill()


# --- the server closes what is idle -----------------------------------------------------------


async def closing(server: Fire, options: argparse.Namespace, result: Result) -> None:
    mariadb = server.mariadb
    mariadb.execute("SET GLOBAL wait_timeout = 1")
    for row in sessions(mariadb):  # those that do not know of it yet
        mariadb.execute(f"KILL CONNECTION {row['ID']}")
    await asyncio.sleep(1)
    left, replies = [], []
    for round in range(options.rounds):
        clients = Clients(server.port, options.clients, f"close-{round}")
        await clients.run(each=3)
        replies += clients.replies
        await asyncio.sleep(2)
        left.append(len(sessions(mariadb)))
    clients = Clients(server.port, options.clients, "close-last")
    await clients.run(each=3)
    replies += clients.replies
    mariadb.execute("SET GLOBAL wait_timeout = 28800")
    result.figures["closing: requests"] = len(replies)
    result.figures["closing: connections left after each pause"] = str(left)
    result.demand(not any(left), f"the server closed all that were idle: {left} are left")
    result.none((r for r in replies if not r.right), "closing: failures after a pause")
