"""What the ratios of ours must be: the limits, and what is shown below them for comparison.

A limit is missed, too, if a request of ours failed. What is shown for comparison is neither kept nor missed:
it says how much of a limit the machine, or the HTTP server alone, leaves within reach.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from statistics import median

from bench.compare import ratios
from bench.compare.ratios import OURS, SLEEP, SLEEP_SECONDS, Cells, Column, Ratio, title_of
from bench.compare.results import Results
from bench.peers import PEERS

#: in place of a peer: the fastest of the others, and what the sleep allows
BEST = "the best peer"
PHYSICAL = "the physical limit"
#: what the HTTP server reaches that ours runs on, by itself
CEILING = "tornado-alone"
#: ours with HTTP parsed in C
FASTEST = "greentor-httptools"


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
class Shown:
    """A row among the limits that is none: what was found is there to compare them with."""

    limit: str
    found: str

    @property
    def verdict(self) -> str:
        return "for comparison" if self.found else "not measured"


@dataclass(frozen=True)
class AtLeast:
    """Our rate must be so much of another's; and no request of ours may fail meanwhile."""

    workload: str
    against: str
    least: float
    #: None: the usual number
    connections: int | None = None

    def column(self, usually: int) -> Column:
        return Column(self.workload, self.connections or usually)

    def sides(self, names: Collection[str]) -> set[str]:
        return _sides(OURS, self.against, names)

    def judge(self, results: Results) -> Judged:
        found = ratios.cells(results.samples)
        column = self.column(ratios.usual(found))
        title = f"{title_of(column)}: at least {self.least:g} of {_named(self.against, column)}"
        against, value = _ratio(found, column, OURS, self.against)
        if value is None:
            return Judged(None, title, "")
        shown = str(value)
        if self.against in (BEST, PHYSICAL):
            shown += f", {against}"
        errors = sum(ratios.failed(found[OURS, column]).values())
        if errors:
            shown += f"; {errors:,} of our requests failed"
        return Judged(value.median >= self.least and not errors, title, shown)


@dataclass(frozen=True)
class Reached:
    """What a peer reaches of a ceiling, or a ceiling of what is possible: nobody must."""

    workload: str
    peer: str
    against: str
    connections: int

    def column(self, usually: int) -> Column:
        return Column(self.workload, self.connections)

    def sides(self, names: Collection[str]) -> set[str]:
        return _sides(self.peer, self.against, names)

    def show(self, results: Results) -> Shown:
        found = ratios.cells(results.samples)
        column = self.column(ratios.usual(found))
        title = f"{title_of(column)}: what {self.peer} reaches of {_named(self.against, column)}"
        against, value = _ratio(found, column, self.peer, self.against)
        if value is None:
            return Shown(title, "")
        shown = f"{value}, {against}" if self.against in (BEST, PHYSICAL) else str(value)
        for name in (self.peer, self.against):
            if errors := sum(ratios.failed(found.get((name, column), ())).values()):
                shown += f"; {errors:,} requests to {name} failed"
        return Shown(title, shown)


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
        mine = ratios.cells(results.samples).get((OURS, column))
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

COMPARISONS = [
    Reached(SLEEP, OURS, CEILING, 256),
    Reached(SLEEP, CEILING, PHYSICAL, 256),
    Reached(SLEEP, FASTEST, PHYSICAL, 256),
    Reached(SLEEP, FASTEST, BEST, 256),
]


def judge(results: Results) -> Iterator[Judged]:
    """Judge each limit."""
    return (limit.judge(results) for limit in LIMITS)


def compare(results: Results) -> Iterator[Shown]:
    """Return what is shown for comparison."""
    return (each.show(results) for each in COMPARISONS)


def judged_by(column: Column, usually: int, names: Collection[str]) -> set[str]:
    """Return whom of these the ratios are of that a column is judged by; none if it has none."""
    rules = [each for each in (*LIMITS, *COMPARISONS) if isinstance(each, AtLeast | Reached)]
    found = [each.sides(names) for each in rules if each.column(usually) == column]
    return set().union(*found)


# --- inside -----------------------------------------------------------------------------------


def _sides(peer: str, against: str, names: Collection[str]) -> set[str]:
    """Return both sides of a ratio, as far as they are peers; none if one of them is missing."""
    others = {against}
    if against == BEST:
        others = {name for name in names if _competes(name)}
    sides = {peer} if against == PHYSICAL else {peer, *others}
    return sides if others and sides <= set(names) else set()


def _competes(name: str) -> bool:
    return not ratios.is_ours(name) and not ratios.is_ceiling(name)


def _ratio(found: Cells, column: Column, peer: str, against: str) -> tuple[str, Ratio | None]:
    """Return what a peer is of another, or of what stands for one; and what that was."""
    mine = found.get((peer, column))
    if against == PHYSICAL:
        limit = _possible(column)
        value = Ratio.of(rate / limit for rate in ratios.rates(mine or []).values())
        return f"{value.median * limit:,.0f}/s" if value else "", value
    if against == BEST:
        others = {
            name: value
            for (name, where), theirs in found.items()
            if where == column and _competes(name) and (value := ratios.ratio(mine, theirs))
        }
        if not others:
            return "", None
        best = min(others, key=lambda name: others[name].median)
        return f"against {best}", others[best]
    return against, ratios.ratio(mine, found.get((against, column)))


def _possible(column: Column) -> float:
    """Return the requests a second that the sleep allows."""
    return column.connections / SLEEP_SECONDS


def _named(peer: str, column: Column) -> str:
    if peer == PHYSICAL:
        return f"{peer}, {_possible(column):,.0f}/s"
    return f"{peer}, the ceiling" if ratios.is_ceiling(peer) else peer
