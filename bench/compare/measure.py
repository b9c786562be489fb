"""One sample: what a server does with a workload for some seconds, and what that costs.

The CPU time and the statements are those of the load, without the warm-up, until the server has come to rest:
each connection has a request at work when the load ends, which is done, and paid for, but not counted as
answered. So costs are divided by one more for each connection.
"""

from __future__ import annotations

import time
from dataclasses import replace
from weakref import WeakSet

from bench.compare import machine
from bench.compare.load import Ab, Wrk
from bench.compare.pace import SLOW, TIMES, Pace
from bench.compare.results import Sample
from bench.compare.servers import Fleet, Server
from bench.compare.workloads import Cell
from tests.mariadb import MariaDB

#: seconds of load before a sample, which do not count; and before the first one of a server: it opens its
#: connections, and Python learns what its code is called with
WARM_UP, FIRST_WARM_UP = 0.5, 1.5
#: seconds within which a server must have done its work when the load has ended, or it is started again
SETTLE = 3.0
#: seconds between two looks, and how many of them in a row must find nothing at work
LOOK, LOOKS = 0.02, 3


class Gauge:
    """Takes samples of the servers of a fleet."""

    def __init__(
        self, fleet: Fleet, load: Wrk | Ab, mariadb: MariaDB, pace: Pace | None = None
    ) -> None:
        self.fleet, self.load, self.mariadb = fleet, load, mariadb
        self.pace = pace
        self._asked = 0
        self._warm: WeakSet[Server] = WeakSet()

    def sample(self, peer: str, pool: int, cell: Cell, number: int, seconds: float) -> Sample:
        """Measure, and let the server come to rest.

        With a `Pace`, wait for it before, and measure again if a core was slow after. Of several samples
        return the one beside which the cores were fastest; one in which requests failed is the last, and
        returned. Raise `servers.ServerFailed` if the server does not survive, and `load.LoadFailed` if
        nothing can be sent.
        """
        server = self.fleet[peer]
        server.check()
        # No more connections than can be at work: nobody's request is left behind.
        warm = Cell(
            cell.workload, min(cell.connections, max(pool, 8)) if pool else cell.connections
        )
        try:
            self.load.run(server.port, warm, WARM_UP if server in self._warm else FIRST_WARM_UP)
            self._warm.add(server)
            self.settle(peer)
        finally:
            server.check()  # that is why, whatever the load says
        if self.pace is None:
            return self._take(peer, pool, cell, number, seconds)
        found: list[Sample] = []
        while not found or (found[-1].pace > SLOW and len(found) < TIMES):
            self.pace.wait()
            sample = self._take(peer, pool, cell, number, seconds)
            found.append(replace(sample, pace=self.pace.look()))
            if sample.failed:
                return found[-1]
        return min(found, key=lambda each: each.pace)

    def _take(self, peer: str, pool: int, cell: Cell, number: int, seconds: float) -> Sample:
        server = self.fleet[peer]
        try:
            before = self._costs(peer)
            memory = [0]
            outcome = self.load.run(
                server.port, cell, seconds, lambda: memory.append(server.memory())
            )
            rested = self.settle(peer)
            after = self._costs(peer)
        finally:
            server.check()
        if not rested:
            self.fleet.restart(peer)
        done = outcome.requests + cell.connections * cell.workload.pipeline
        cpu, database_cpu, statements = (
            (new - old) / done for old, new in zip(before, after, strict=True)
        )
        return Sample(
            peer=peer,
            pool=pool,
            workload=cell.workload.name,
            connections=cell.connections,
            round=number,
            seconds=outcome.seconds,
            requests=outcome.requests,
            served=outcome.served,
            errors=outcome.errors,
            p50=outcome.p50,
            p90=outcome.p90,
            p99=outcome.p99,
            longest=outcome.longest,
            cpu=cpu * 1e6,
            database_cpu=database_cpu * 1e6,
            memory=memory[-1],
            statements=statements,
        )

    def settle(self, peer: str) -> bool:
        """Wait until the server and the database have nothing to do; return whether they have not."""
        server = self.fleet[peer]
        end = time.monotonic() + SETTLE
        idle = 0
        while idle < LOOKS:
            if time.monotonic() > end:
                return False
            time.sleep(LOOK)
            # The question itself is running.
            busy = server.busy() or self._ask("Threads_running") > 1
            idle = 0 if busy else idle + 1
        return True

    def _costs(self, peer: str) -> tuple[float, float, int]:
        """Return the CPU seconds of the server and of the database, and the statements until now."""
        statements = self._ask("Questions") - self._asked
        return self.fleet[peer].cpu(), machine.cpu([self.mariadb.pid]), statements

    def _ask(self, name: str) -> int:
        """Return a number of the database server, and count the question: it is not the server's."""
        self._asked += 1
        return self.mariadb.status(name)
