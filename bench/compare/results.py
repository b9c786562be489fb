"""What a comparison has found, as it is written to ``results.json`` and read again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Sample:
    """One run of the load on one server."""

    peer: str
    pool: int
    workload: str
    connections: int
    round: int
    seconds: float
    #: requests that were answered, and answered with 2xx
    requests: int
    served: int
    #: what failed: connect, read, write, timeout, status (not 2xx), unanswered (none was in all the time)
    errors: dict[str, int]
    #: milliseconds
    p50: float
    p90: float
    p99: float
    longest: float
    #: CPU microseconds a request, of all processes of the server; and of the database server
    cpu: float
    database_cpu: float
    #: bytes, of all processes of the server, each page divided among those who share it
    memory: int
    #: that the database server counted, a request
    statements: float
    #: how many times as long as usual a loop took on the slower core, beside it: see `bench.compare.pace`
    pace: float = 1.0

    @property
    def rate(self) -> float:
        """Requests answered with 2xx, a second."""
        return self.served / self.seconds

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True)
class Fairness:
    """How a crowd of keep-alive clients was served."""

    peer: str
    pool: int
    workload: str
    connections: int
    round: int
    seconds: float
    #: clients with at least one answer, and with at least half of the mean
    served: int
    fairly: int
    mean: float
    least: int
    p50: float
    p99: float
    failed: int
    #: bytes, at the end
    memory: int


@dataclass
class Results:
    """A whole comparison."""

    #: versions, machine, options
    about: dict[str, Any] = field(default_factory=dict)
    #: by peer: title, packages with versions, what is pooled
    peers: dict[str, Any] = field(default_factory=dict)
    #: by peer: each rule with its problems; and why a peer was left out, if it was
    verified: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    #: by peer and group of workloads: the pool size that was best
    chosen: dict[str, dict[str, int]] = field(default_factory=dict)
    sweep: list[Sample] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    fairness: list[Fairness] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` has written; raise OSError or ValueError if that is not what it is."""
        value = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in (("sweep", Sample), ("samples", Sample), ("fairness", Fairness)):
            value[name] = [kind(**each) for each in value[name]]
        return cls(**value)
