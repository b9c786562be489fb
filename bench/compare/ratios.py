"""The figures of a comparison: cells, medians, and ratios. What they must be: `bench.compare.limits`.

A ratio is taken within a round, and the median of these is shown: what slowed a round down cancels out.
Failed requests are in no rate: a rate is of requests that were answered with 2xx.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from bench.compare.results import Sample
from bench.compare.workloads import WORKLOADS
from bench.peers import PEERS

SLEEP = "sleep-50"
SLEEP_SECONDS = 0.05
USUAL = 64
OURS = "greentor"


@dataclass(frozen=True)
class Column:
    """What was asked for, and over how many connections."""

    workload: str
    connections: int

    @property
    def order(self) -> tuple[int, str, int]:
        known = list(WORKLOADS)
        at = known.index(self.workload) if self.workload in known else len(known)
        return at, self.workload, self.connections


Cells = dict[tuple[str, Column], list[Sample]]


def cells(samples: Iterable[Sample]) -> Cells:
    """Return the samples of each peer and column; of several pool sizes the best one's."""
    pools: dict[tuple[str, Column], dict[int, list[Sample]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for sample in samples:
        key = sample.peer, Column(sample.workload, sample.connections)
        pools[key][sample.pool].append(sample)
    return {
        key: max(by_pool.values(), key=lambda each: median(sample.rate for sample in each))
        for key, by_pool in pools.items()
    }


def usual(found: Cells) -> int:
    """Return the number of connections that most workloads were measured with."""
    counts = Counter(column.connections for _, column in found if column.workload != SLEEP)
    return max(counts, key=lambda number: (counts[number], number == USUAL), default=USUAL)


def columns(found: Cells, connections: int) -> list[Column]:
    """Return the columns at this number of connections, and those of `SLEEP`, in their order."""
    every = {column for _, column in found}
    chosen = (each for each in every if each.workload == SLEEP or each.connections == connections)
    return sorted(chosen, key=lambda column: column.order)


def peers(names: Iterable[str]) -> list[str]:
    """Return the names in the order of the registry, unknown ones last."""
    known = list(PEERS)
    return sorted(
        set(names), key=lambda name: (known.index(name) if name in known else len(known), name)
    )


def is_ours(name: str) -> bool:
    return name in PEERS and PEERS[name].ours


def is_ceiling(name: str) -> bool:
    """Return whether it is none of those that compete: it only shows what can be reached."""
    return name in PEERS and PEERS[name].ceiling


def failed(samples: Iterable[Sample]) -> dict[str, int]:
    """Return what failed, by kind, summed over the rounds."""
    total: Counter[str] = Counter()
    for sample in samples:
        total.update(sample.errors)
    return {kind: number for kind, number in total.items() if number}


def clean(samples: Iterable[Sample]) -> bool:
    """Return whether something was served and nothing failed."""
    samples = list(samples)
    return any(each.served for each in samples) and not failed(samples)


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds, the lowest, the highest, and how many there were."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, rounds: Iterable[float]) -> Ratio | None:
        """Return that of what was found in each round; None if there was none."""
        found = list(rounds)
        return cls(median(found), min(found), max(found), len(found)) if found else None

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(ours: list[Sample] | None, theirs: list[Sample] | None) -> Ratio | None:
    """Return what our rate is of theirs, round by round; None if there is no round with both.

    A peer that served nothing in a round counts there as infinitely slower.
    """
    one, two = rates(ours or []), rates(theirs or [])
    return Ratio.of(
        one[number] / two[number] if two[number] else math.inf
        for number in one.keys() & two.keys()
        if one[number] or two[number]
    )


def rates(samples: Iterable[Sample]) -> dict[int, float]:
    """Return the requests a second of each round."""
    rounds: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        rounds[sample.round].append(sample.rate)
    return {number: median(rates) for number, rates in rounds.items()}


def title_of(column: Column, usually: int | None = None) -> str:
    """Return a column's title; the number of connections is left out where it is the usual one."""
    if column.connections == usually:
        return column.workload
    return f"{column.workload}, {column.connections:,} connections"
