"""The order of a comparison: the rules, the pool sizes, the rounds, more of what is judged, the crowds.

Invariants
- In a round each peer is measured once at each cell, next to all others, in an order that is drawn anew:
  what disturbs the machine disturbs all alike. In a further round those are that a limit of the cell names.
- No two rounds have the same number: ratios are taken by it.
- Of each peer one server is up, with the pool that was chosen for the group of the workload.
- A peer that breaks down is left out from then on, and why is among the results; what it had is kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from bench.compare import limits
from bench.compare.crowd import fairness
from bench.compare.load import LoadFailed
from bench.compare.measure import WARM_UP, Gauge
from bench.compare.progress import Progress
from bench.compare.ratios import Column
from bench.compare.results import Fairness, Results, Sample
from bench.compare.servers import ServerFailed
from bench.compare.verify import closed, verify, why_not
from bench.compare.workloads import CROWDS, SWEEP, WORKLOADS, Cell, sweep_cell
from bench.peers import Peer

#: what things take besides the load, in seconds, as far as it can be known beforehand
OF_A_SAMPLE, OF_A_START, OF_THE_RULES = 0.6, 2.0, 12.0

Found = TypeVar("Found", Sample, Fairness)


@dataclass
class Plan:
    """What to do."""

    cells: list[Cell]
    rounds: int
    seconds: float
    #: that are used where a workload has no number of its own
    connections: int
    #: rounds of the search for the best pool size; without any, a size is taken that usually is good
    sweep_rounds: int = 2
    #: the size that all have that have more than one
    pool: int | None = None
    crowd_rounds: int = 2
    #: further rounds of what the limits are judged by
    judged_rounds: int = 0

    @property
    def sweep_seconds(self) -> float:
        return min(self.seconds, 1.0)

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(cell.workload.group for cell in self.cells))

    @property
    def crowds(self) -> list[Cell]:
        """Where a crowd is sent to: what is measured, but with its own number of clients."""
        measured = {cell.workload.name for cell in self.cells}
        return [Cell(WORKLOADS[name], n) for name, n in CROWDS.items() if name in measured]

    def swept(self, peer: Peer) -> tuple[int, ...]:
        """Return the pool sizes among which is to be chosen."""
        if self.pool is None and self.sweep_rounds and len(peer.pools) > 1:
            return peer.pools
        return ()

    def taken(self, peer: Peer, group: str) -> int:
        """Return the pool size without a search."""
        wish = SWEEP[group][2] if self.pool is None else self.pool
        if self.pool is not None and len(peer.pools) > 1:
            return self.pool
        return min(peer.pools, key=lambda size: abs(size - wish))

    def places(self, peers: Iterable[Peer]) -> int:
        """Return how many connections the database may be asked for."""
        most = [max(*peer.pools, self.pool or 0) for peer in peers]
        # A peer may have two pools of the size, or as many connections as it has clients.
        clients = max(cell.connections for cell in (*self.cells, *self.crowds))
        return 2 * sum(most) + 2 * clients + 500


@dataclass
class Comparison:
    """A comparison on the way."""

    plan: Plan
    peers: Mapping[str, Peer]
    gauge: Gauge
    results: Results
    progress: Progress
    url: str
    chance: random.Random = field(default_factory=random.Random)
    #: by peer: the routes that are not to be measured; by peer and cell likewise
    _shut: dict[str, dict[str, str]] = field(default_factory=dict)
    _broken: set[tuple[str, Cell]] = field(default_factory=set)

    def run(self) -> None:
        """Do all that is planned; what was found until an exception is in the results."""
        self.progress.expect(self.duration())
        self.verify()
        self.sweep()
        self.measure()
        self.judged()
        self.crowds()

    def duration(self) -> float:
        """Return the seconds that all this is expected to take."""
        plan, peers = self.plan, len(self.peers)
        sample = WARM_UP + OF_A_SAMPLE

        def samples(cells: Mapping[Cell, Collection[str]]) -> int:
            return sum(map(len, cells.values()))

        stages = sum(len(plan.swept(peer)) for peer in self.peers.values())
        return (
            peers * (OF_THE_RULES + OF_A_START)
            + plan.sweep_rounds * stages * len(plan.groups) * (sample + plan.sweep_seconds)
            + plan.sweep_rounds * stages * OF_A_START
            + plan.rounds * samples(self._served()) * (sample + plan.seconds)
            + plan.judged_rounds * samples(self._judged()) * (sample + plan.seconds)
            + plan.crowd_rounds * samples(self._crowded()) * (OF_A_SAMPLE + plan.seconds)
        )

    def verify(self) -> None:
        """Look at the rules, one peer after the other: only its statements are counted then."""
        for name, peer in self.peers.items():

            def doing(rule: str, name: str = name) -> None:
                self.progress.doing(f"rules: {name} {rule}")

            self.progress.doing(f"rules: {name}")
            group = self.plan.groups[0]
            if self._up({name: self.plan.taken(peer, group)}):
                only = {route for each in peer.workloads for route in WORKLOADS[each].routes}
                rules = verify(self.gauge.fleet[name].port, self.url, doing, sorted(only))
                self.results.verified[name] = rules
                self._judge(name, closed(rules))
            self.progress.done(OF_THE_RULES + OF_A_START)
            self.progress.finished(f"rules: {name}")

    def sweep(self) -> None:
        """Find the best pool size of each peer for each group of workloads."""
        plan = self.plan
        sizes = {name: plan.swept(peer) for name, peer in self.peers.items()}
        for number in range(plan.sweep_rounds):
            stages = list(range(max(map(len, sizes.values()), default=0)))
            for stage in self._shuffled(stages):
                wanted = {name: each[stage] for name, each in sizes.items() if stage < len(each)}
                wanted = self._up(wanted)
                self.progress.done(len(wanted) * OF_A_START)
                for group in self._shuffled(plan.groups):
                    cell = sweep_cell(group, plan.connections)
                    self._all(cell, number, wanted, plan.sweep_seconds, self.results.sweep)
                self.progress.finished(
                    f"pool sizes, round {number + 1} of {plan.sweep_rounds}:"
                    f" {', '.join(map(str, sorted(set(wanted.values()))))}"
                )
        cells = {group: sweep_cell(group, plan.connections) for group in plan.groups}
        for name, peer in self.peers.items():
            self.results.chosen[name] = {
                group: choose(self.results.sweep, name, cell) or plan.taken(peer, group)
                for group, cell in cells.items()
            }

    def measure(self) -> None:
        """The rounds."""
        for number in range(self.plan.rounds):
            told = f"round {number + 1} of {self.plan.rounds}"
            self._round(number, self._served(), told)

    def judged(self) -> None:
        """Further rounds of what is judged: of the others a few tell enough."""
        for number in range(self.plan.judged_rounds):
            told = f"what is judged, round {number + 1} of {self.plan.judged_rounds}"
            self._round(self.plan.rounds + number, self._judged(), told)

    def crowds(self) -> None:
        """The share of the clients that are served."""
        plan = self.plan
        for number in range(plan.crowd_rounds):
            who = self._crowded()
            for cell in self._shuffled(who):
                wanted = self._up(self._chosen(cell.workload.group, who[cell]))
                self._all(cell, number, wanted, plan.seconds, self.results.fairness, self._crowd)
                self.progress.finished(f"crowd {number + 1} of {plan.crowd_rounds}: {cell}")

    # --- inside ---------------------------------------------------------------------------------

    def _round(self, number: int, who: Mapping[Cell, Collection[str]], told: str) -> None:
        """Measure at each cell the peers that are named for it, once."""
        # By group: a server is not started anew for each workload.
        for group in self._shuffled(dict.fromkeys(cell.workload.group for cell in who)):
            cells = [cell for cell in who if cell.workload.group == group]
            needed = {name for cell in cells for name in who[cell]}
            up = self._up(self._chosen(group, needed))
            for cell in self._shuffled(cells):
                wanted = {name: pool for name, pool in up.items() if name in who[cell]}
                self._all(cell, number, wanted, self.plan.seconds, self.results.samples)
                self.progress.finished(f"{told}: {cell}")

    def _served(self) -> dict[Cell, list[str]]:
        """Return the cells, each with those who serve its workload."""
        return {cell: self._serving(cell) for cell in self.plan.cells}

    def _judged(self) -> dict[Cell, Collection[str]]:
        """Return the cells that have a limit, each with those whose ratios tell whether it is kept."""
        usually = self.plan.connections
        found = {
            cell: limits.judged_by(Column(cell.workload.name, cell.connections), usually, names)
            for cell, names in self._served().items()
        }
        return {cell: names for cell, names in found.items() if names}

    def _crowded(self) -> dict[Cell, list[str]]:
        """Return the crowds, each with those to whom it is sent: a ceiling has nothing to share out."""
        return {
            cell: [name for name in self._serving(cell) if not self.peers[name].ceiling]
            for cell in self.plan.crowds
        }

    def _serving(self, cell: Cell) -> list[str]:
        return [name for name in self._left() if self.peers[name].serves(cell.workload.name)]

    def _all(
        self,
        cell: Cell,
        number: int,
        wanted: Mapping[str, int],
        seconds: float,
        to: list[Found],
        take: Callable[[str, int, Cell, int, float], Found] | None = None,
    ) -> None:
        """Measure all peers at a cell, one after the other."""
        take = take or self.gauge.sample  # type: ignore[assignment]
        cost = seconds + OF_A_SAMPLE + (WARM_UP if take == self.gauge.sample else 0)
        for name in self._shuffled(wanted):
            if name in self._left() and not self._closed(name, cell):
                self.progress.doing(f"{cell}, round {number + 1}: {name}, pool {wanted[name]}")
                try:
                    to.append(take(name, wanted[name], cell, number, seconds))
                except ServerFailed as exc:
                    self._leave_out(name, f"{cell}: {exc}")
                except LoadFailed as exc:
                    self._broken.add((name, cell))
                    self._leave_out(f"{name}, {cell}", str(exc))
            self.progress.done(cost)

    def _crowd(self, name: str, pool: int, cell: Cell, number: int, seconds: float) -> Fairness:
        server = self.gauge.fleet[name]
        server.check()
        found = fairness(server, name, pool, cell, number, seconds)
        server.check()
        if not self.gauge.settle(name):
            self.gauge.fleet.restart(name)
        return found

    def _up(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Have these servers up, but for those that are left out; return which are."""
        wanted = {name: pool for name, pool in wanted.items() if name in self._left()}
        failed = self.gauge.fleet.need(wanted)
        for name, why in failed.items():
            self._leave_out(name, why)
        return {name: pool for name, pool in wanted.items() if name not in failed}

    def _chosen(self, group: str, names: Collection[str]) -> dict[str, int]:
        """Return the pool sizes of these, as far as they are left."""
        return {name: self.results.chosen[name][group] for name in self._left() if name in names}

    def _left(self) -> list[str]:
        return [name for name in self.peers if name not in self.results.left_out]

    def _closed(self, name: str, cell: Cell) -> bool:
        shut = self._shut.get(name, {})
        return (name, cell) in self._broken or why_not(cell.workload.routes, shut) is not None

    def _judge(self, name: str, shut: dict[str, str]) -> None:
        """Leave out what the rules have closed."""
        if "all" in shut:
            return self._leave_out(name, shut["all"])
        self._shut[name] = shut
        for workload in dict.fromkeys(cell.workload for cell in self.plan.cells):
            if why := why_not(workload.routes, shut):
                self._leave_out(f"{name}, {workload.name}", why)

    def _leave_out(self, what: str, why: str) -> None:
        self.results.left_out[what] = why
        self.progress.say(f"{what} is left out: {why}")

    def _shuffled(self, things: Iterable[str] | Iterable[Cell] | Iterable[int]) -> list:  # type: ignore[type-arg]
        every = list(things)
        return self.chance.sample(every, len(every))


def choose(sweep: Iterable[Sample], peer: str, cell: Cell) -> int | None:
    """Return the pool size with the highest median rate among those without a failed request.

    If each has some, that with the fewest; None if there is no sample.
    """
    by_pool: dict[int, list[Sample]] = {}
    for each in sweep:
        if (each.peer, each.workload, each.connections) == (
            peer,
            cell.workload.name,
            cell.connections,
        ):
            by_pool.setdefault(each.pool, []).append(each)

    def merit(pool: int) -> tuple[int, float]:
        samples = by_pool[pool]
        return -sum(each.failed for each in samples), median(each.rate for each in samples)

    return max(by_pool, key=merit, default=None)
