"""The figures of a comparison: cells, medians, ratios, and the limits that ours must keep.

A ratio is taken within a round, and the median of these is shown: what slowed a round down cancels out.
Failed requests are in no rate: a rate is of requests that were answered with 2xx.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from bench.compare.results import Results, Sample
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


def ratio(ours: list[Sample] | None, theirs: list[Sample] | None) -> Ratio | None:
    """Return what our rate is of theirs, round by round; None if there is no round with both.

    A peer that served nothing in a round counts there as infinitely slower.
    """
    one, two = _rates(ours or []), _rates(theirs or [])
    found = [
        one[number] / two[number] if two[number] else math.inf
        for number in one.keys() & two.keys()
        if one[number] or two[number]
    ]
    return Ratio(median(found), min(found), max(found), len(found)) if found else None


def _rates(samples: list[Sample]) -> dict[int, float]:
    rounds: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        rounds[sample.round].append(sample.rate)
    return {number: median(rates) for number, rates in rounds.items()}


# --- limits -----------------------------------------------------------------------------------

#: in place of a peer: the fastest of the others, and what the sleep allows
BEST = "the best peer"
PHYSICAL = "the physical limit"


@dataclass(frozen=True)
class Judged:
    """Whether a limit is kept (None: not measured), what it says, and what was found."""

    kept: bool | None
    limit: str
    found: str

    @property
    def verdict(self) -> str:
        return "not measured" if self.kept is None else "kept" if self.kept else "**missed**"


@dataclass(frozen=True)
class AtLeast:
    """Our rate must be so much of another's; and no request of ours may fail meanwhile."""

    workload: str
    against: str
    least: float
    #: None: the usual number
    connections: int | None = None

    def judge(self, results: Results) -> Judged:
        found = cells(results.samples)
        column = Column(self.workload, self.connections or usual(found))
        title = f"{title_of(column)}: at least {self.least:g} of {self.against}"
        mine = found.get((OURS, column))
        if self.against == PHYSICAL:
            title += f", {column.connections / SLEEP_SECONDS:,.0f}/s"
        against, value = self._ratio(found, column, mine)
        if mine is None or value is None:
            return Judged(None, title, "")
        shown = f"{value.median:.2f} ({value.low:.2f} to {value.high:.2f})"
        if self.against in (BEST, PHYSICAL):
            shown += f", {against}"
        errors = sum(failed(mine).values())
        if errors:
            shown += f"; {errors:,} of our requests failed"
        return Judged(value.median >= self.least and not errors, title, shown)

    def _ratio(
        self, found: Cells, column: Column, mine: list[Sample] | None
    ) -> tuple[str, Ratio | None]:
        if self.against == PHYSICAL:
            limit = column.connections / SLEEP_SECONDS
            rates = [rate / limit for rate in _rates(mine or []).values()]
            if not rates:
                return "", None
            value = Ratio(median(rates), min(rates), max(rates), len(rates))
            return f"{value.median * limit:,.0f}/s", value
        if self.against == BEST:
            others = {
                peer: value
                for (peer, where), theirs in found.items()
                if where == column and not is_ours(peer) and (value := ratio(mine, theirs))
            }
            if not others:
                return "", None
            best = min(others, key=lambda peer: others[peer].median)
            return f"against {best}", others[best]
        return self.against, ratio(mine, found.get((self.against, column)))


@dataclass(frozen=True)
class NobodyStarves:
    """Every client must be served, in every round."""

    workload: str
    connections: int

    def judge(self, results: Results) -> Judged:
        title = f"{self.workload}, {self.connections:,} connections: every client served"
        rounds = [
            each
            for each in results.fairness
            if (each.peer, each.workload, each.connections)
            == (OURS, self.workload, self.connections)
        ]
        if not rounds:
            return Judged(None, title, "")
        worst = min(rounds, key=lambda each: each.served)
        shown = (
            f"{worst.served:,} of {worst.connections:,} in the worst of {len(rounds)} rounds,"
            f" the least of them {worst.least:,} times, the mean {worst.mean:,.1f} times"
        )
        return Judged(worst.served >= worst.connections, title, shown)


@dataclass(frozen=True)
class LessMemory:
    """Our process must be smaller than a peer's with a pool of this size."""

    workload: str
    connections: int
    against: str
    pool: int

    def judge(self, results: Results) -> Judged:
        title = (
            f"{self.workload}, {self.connections:,} connections: less memory than {self.against}"
            f" with {self.pool} {PEERS[self.against].pool_of}"
        )
        column = Column(self.workload, self.connections)
        mine = cells(results.samples).get((OURS, column))
        theirs: list[int] = []
        for source in (results.samples, results.sweep, results.fairness):
            theirs = theirs or [
                each.memory
                for each in source
                if (each.peer, each.pool) == (self.against, self.pool)
                and Column(each.workload, each.connections) == column
            ]
        if not mine or not theirs:
            return Judged(None, title, "")
        one, two = median(each.memory for each in mine), median(theirs)
        return Judged(one < two, title, f"{one / 2**20:,.1f} MiB, {two / 2**20:,.1f} MiB")


Limit = AtLeast | NobodyStarves | LessMemory

LIMITS: list[Limit] = [
    AtLeast(SLEEP, PHYSICAL, 0.85, 256),
    AtLeast(SLEEP, BEST, 1.0, 256),
    NobodyStarves(SLEEP, 1000),
    *(
        AtLeast(workload, against, least)
        for workload, uvicorn in (
            ("db", 2.2),
            ("queries-20", 1.4),
            ("fortunes", 2.0),
            ("updates-20", 1.4),
        )
        for against, least in (
            ("floor", 1.0),
            ("uvicorn", uvicorn),
            ("tornado-sqlalchemy", 1.0),
            ("threads-pymysql", 0.95),
        )
    ),
    LessMemory(SLEEP, 1000, "threads", 256),
]


def judge(results: Results) -> Iterator[Judged]:
    """Judge each limit."""
    return (limit.judge(results) for limit in LIMITS)


def title_of(column: Column, usually: int | None = None) -> str:
    """Return a column's title; the number of connections is left out where it is the usual one."""
    if column.connections == usually:
        return column.workload
    return f"{column.workload}, {column.connections:,} connections"
