"""The order of the measurements: in rounds, each with new processes.

A round starts a worker for each driver and loop and asks them, for one workload at a time, in an order that
is drawn anew: what disturbs the machine disturbs all alike, and none keeps a lucky layout of its memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.driver.clients import BLOCKING, EXPECTED_SESSION
from bench.driver.worker import Worker
from bench.driver.workloads import WORKLOADS

REFERENCE = "PyMySQL"
NO_LOOP = "none"


class Different(Exception):
    """A driver returned other rows than PyMySQL, or talks to the server in another way."""


@dataclass(frozen=True, order=True)
class Key:
    """What a figure is about; a blocking driver has no loop, and never more than 1 in flight.

    It is measured next to the others that have ``flight`` queries in flight, to be compared with them.
    """

    workload: str
    flight: int
    driver: str
    loop: str


@dataclass
class Plan:
    """What to measure."""

    drivers: list[str]
    loops: list[str]
    workloads: list[str]
    flights: list[int]
    rounds: int
    scale: float = 1.0
    core: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    seed: int = 1

    def workers(self) -> list[tuple[str, str]]:
        """Return each driver with each loop that it is to run on."""
        return [
            (driver, loop)
            for driver in self.drivers
            for loop in ([NO_LOOP] if driver in BLOCKING else self.loops)
        ]

    def connections(self) -> int:
        """How many connections are open at once."""
        return sum(1 if loop == NO_LOOP else max(self.flights) for _, loop in self.workers())

    def count(self, workload: str, flight: int) -> int:
        """How many queries a sample sends: each connection sends two or more."""
        return max(round(WORKLOADS[workload].count * self.scale), 2 * flight)


Samples = dict[Key, list[float]]


def run_rounds(plan: Plan, tell: Callable[[str], None]) -> Samples:
    """Measure; return the CPU microseconds of a query, by round.

    Raise `Different` if a driver's rows are not PyMySQL's, before anything is measured.
    """
    samples: Samples = {}
    chance = random.Random(plan.seed)
    for number in range(plan.rounds):
        with started(plan, chance) as workers:
            verify(workers, plan.workloads)
            cells = [(name, flight) for name in plan.workloads for flight in plan.flights]
            chance.shuffle(cells)
            for name, flight in cells:
                tell(f"round {number + 1} of {plan.rounds}: {name}, {flight} in flight")
                for worker in chance.sample(workers, len(workers)):
                    key = Key(name, flight, worker.driver, worker.loop)
                    count = plan.count(name, flight)
                    samples.setdefault(key, []).append(worker.measure(name, flight, count))
    return samples


@contextmanager
def started(plan: Plan, chance: random.Random) -> Iterator[list[Worker]]:
    """Start the workers, and end them."""
    workers: list[Worker] = []
    try:
        for driver, loop in chance.sample(plan.workers(), len(plan.workers())):
            workers.append(Worker(driver, loop, plan.params, plan.core))
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def verify(workers: list[Worker], workloads: list[str]) -> None:
    """Raise `Different` unless all workers have the session and the rows that PyMySQL has."""
    for worker in workers:
        if (session := worker.session()) != EXPECTED_SESSION:
            raise Different(f"{worker.driver} on {worker.loop}: the session is {session}")
    [reference] = [worker for worker in workers if worker.driver == REFERENCE]
    for name in workloads:
        expected = reference.rows(name)
        for worker in workers:
            compare(f"{worker.driver} on {worker.loop}: {name}", expected, worker.rows(name))


def compare(what: str, expected: list[str], rows: list[str]) -> None:
    """Raise `Different` with the first row that is another one."""
    for number, (one, other) in enumerate(zip(expected, rows, strict=False)):
        if one != other:
            raise Different(f"{what}: line {number} is {other}, and {one} with {REFERENCE}")
    if len(expected) != len(rows):
        raise Different(f"{what}: {len(rows)} lines, and {len(expected)} with {REFERENCE}")
