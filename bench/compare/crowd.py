"""A crowd of keep-alive clients, all at work at once: how many of them are served, and how evenly.

wrk and ab do not tell their connections apart; here each is a client whose answers are counted.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from statistics import mean, quantiles

from bench.client import Client
from bench.compare.results import Fairness
from bench.compare.servers import Server
from bench.compare.workloads import Cell

#: seconds that a client waits after a failure
PAUSE = 0.05


@dataclass
class Crowd:
    """What each client got between the beginning and the end."""

    #: answers of each client, and how long each answer took
    served: list[int]
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """What the client with the fewest answers has of the mean."""
        return min(self.served) / mean(self.served) if any(self.served) else 0.0

    def cuts(self) -> list[float]:
        """Return the percentiles 1 to 99 of the seconds."""
        if len(self.seconds) < 2:
            return (self.seconds or [0.0]) * 99
        return quantiles(self.seconds, n=100)


class Polite(Client):
    """A client that opens another connection when the server says that it closes this one."""

    async def get(self, path: str) -> tuple[int, bytes]:
        await self.send(path)
        assert self._reader is not None
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
            headers = {name: value.strip() for name, _, value in lines}
            body = await self._reader.readexactly(int(headers.get(b"content-length", 0)))
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError("the server closed the connection") from exc
        if headers.get(b"connection") == b"close":
            self.vanish()
        return int(head.split(b" ", 2)[1]), body


async def crowd(
    port: int, path: str, clients: int, seconds: float, *, warm_up: int = 2, patience: float = 60
) -> Crowd:
    """Have all clients send one request after the other, and count the answers of so many seconds.

    These begin when each client has had ``warm_up`` answers, or after ``patience`` seconds. A request that is
    at work at the end is waited for as long, and does not count.
    """
    found = Crowd([0] * clients)
    begin = end = math.inf
    cold = clients

    def begin_now() -> None:
        nonlocal begin, end
        if begin == math.inf:
            begin = time.monotonic()
            end = begin + seconds

    async def one(number: int) -> None:
        nonlocal cold
        client = Polite(port)
        answers = 0
        try:
            while (start := time.monotonic()) < end:
                problem = await ask(client)
                now = time.monotonic()
                if problem is None:
                    answers += 1
                    if answers == warm_up:
                        cold -= 1
                        if not cold:
                            begin_now()
                if begin <= now <= end:
                    if problem is None:
                        found.served[number] += 1
                        found.seconds.append(now - start)
                    else:
                        found.failures.append(problem)
                if problem is not None:
                    await asyncio.sleep(PAUSE)
        finally:
            client.vanish()

    async def ask(client: Client) -> str | None:
        """Return what is wrong with the answer, if anything is."""
        try:
            status, body = await client.get(path)
        except (OSError, ValueError, IndexError) as exc:
            client.vanish()
            return repr(exc)
        return None if status == 200 else f"{status}: {body[:100]!r}"

    tasks = {asyncio.create_task(one(number)) for number in range(clients)}
    try:
        await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_EXCEPTION)
        begin_now()
        rest = max(end - time.monotonic(), 0)
        await asyncio.wait(tasks, timeout=rest + patience, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for problem in ends:
        if isinstance(problem, Exception):
            raise problem
    return found


def fairness(
    server: Server, peer: str, pool: int, cell: Cell, number: int, seconds: float
) -> Fairness:
    """Have a crowd ask a server for a workload of one path."""
    [(path, _)] = cell.workload.paths
    found = asyncio.run(crowd(server.port, path, cell.connections, seconds, warm_up=1, patience=3))
    average = mean(found.served)
    cuts = found.cuts()
    return Fairness(
        peer=peer,
        pool=pool,
        workload=cell.workload.name,
        connections=cell.connections,
        round=number,
        seconds=seconds,
        served=sum(1 for count in found.served if count),
        fairly=sum(1 for count in found.served if count and count >= average / 2),
        mean=average,
        least=min(found.served),
        p50=cuts[49] * 1000,
        p99=cuts[98] * 1000,
        failed=len(found.failures),
        memory=server.memory(),
    )
