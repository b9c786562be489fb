"""What is asked of each peer: the workloads, by how many connections, and what pools are chosen by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: stands for ``--connections``
USUAL = 0


@dataclass(frozen=True)
class Workload:
    """Requests that are sent over and over."""

    name: str
    #: the pool size is chosen for all workloads of a group
    group: str
    #: each with its weight
    paths: tuple[tuple[str, int], ...]
    #: keep-alive connections that send them, each in a run of its own
    connections: tuple[int, ...] = (USUAL,)
    #: the same with ``--quick``; none: then it is not among those that are measured
    quick: tuple[int, ...] = ()
    #: requests that are sent before the first answer is waited for
    pipeline: int = 1

    @property
    def routes(self) -> set[str]:
        """The routes that must be verified before it can be measured."""
        return {path.partition("?")[0] for path, _ in self.paths}


@dataclass(frozen=True)
class Cell:
    """A workload at a number of connections."""

    workload: Workload
    connections: int

    def __str__(self) -> str:
        return f"{self.workload.name}, {self.connections} connections"


def _one(name: str, group: str, path: str, *args: tuple[int, ...], pipeline: int = 1) -> Workload:
    return Workload(name, group, ((path, 1),), *args, pipeline=pipeline)


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        _one("json", "cpu", "/json", (USUAL,), (USUAL,)),
        _one("plaintext", "cpu", "/plaintext", pipeline=16),
        _one("db", "cpu", "/db", (USUAL, 16, 32, 64, 128, 256, 512), (USUAL,)),
        *(_one(f"queries-{n}", "queries", f"/queries?queries={n}") for n in (1, 5, 10, 15)),
        _one("queries-20", "queries", "/queries?queries=20", (USUAL,), (USUAL,)),
        _one("fortunes", "cpu", "/fortunes", (USUAL,), (USUAL,)),
        _one("updates-1", "updates", "/updates?queries=1"),
        _one("updates-20", "updates", "/updates?queries=20", (USUAL,), (USUAL,)),
        Workload("mixed", "cpu", (("/db", 16), ("/fortunes", 3), ("/updates?queries=1", 1))),
        _one("page", "cpu", "/page"),
        _one("sleep-50", "sleep", "/sleep?ms=50", (64, 256, 1000), (256,)),
    )
}

#: by group: what its pool size is chosen by, and the size that is taken without a sweep
SWEEP: dict[str, tuple[str, int, int]] = {
    "cpu": ("db", USUAL, 32),
    "queries": ("queries-20", USUAL, 32),
    "updates": ("updates-20", USUAL, 32),
    "sleep": ("sleep-50", 256, 256),
}

#: where the share of clients that are served is looked at, and with how many of them
CROWDS: dict[str, int] = {"sleep-50": 1000, "db": 512}


def select(names: Iterable[str] | None, usual: int, quick: bool = False) -> list[Cell]:
    """Return the cells of the named workloads, or of all (with ``quick``: of those that are quick).

    A name may also be the beginning of several, as "queries". Raise ValueError for one that is none.
    """
    if names is None:
        chosen = [each for each in WORKLOADS.values() if each.quick or not quick]
    else:
        chosen = []
        for name in names:
            found = [each for each in WORKLOADS.values() if name in (each.name, _family(each))]
            if not found:
                raise ValueError(f"no workload {name!r}; known: {', '.join(WORKLOADS)}")
            chosen += [each for each in found if each not in chosen]
    return [
        Cell(workload, connections)
        for workload in chosen
        for connections in _counts(workload, usual, quick)
    ]


def sweep_cell(group: str, usual: int) -> Cell:
    """Return what the pool size of a group is chosen by."""
    name, connections, _ = SWEEP[group]
    return Cell(WORKLOADS[name], connections or usual)


def _family(workload: Workload) -> str:
    return workload.name.partition("-")[0]


def _counts(workload: Workload, usual: int, quick: bool) -> list[int]:
    counts = (workload.quick or (USUAL,)) if quick else workload.connections
    return sorted({count or usual for count in counts})
