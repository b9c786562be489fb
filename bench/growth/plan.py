"""What is measured: the points of each curve, in rounds that are interleaved, and the curves they make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.compare.machine import allow_files
from bench.growth.curves import KIB, MIB, Curve, make_curve
from bench.split.crowd import Crowd
from bench.split.process import started

#: connections that ask at the same time, where not all do
AT_ONCE = 64
POOL = 8
#: files that are open besides the connections
OTHER_FILES = 100

CPU = "CPU µs a request"
CPU_EACH = "CPU µs each"
CONNECTIONS = "keep-alive connections"
GREENLETS = "greenlets parked"

#: of the slow ones, in which a point takes a process
MOST_ROUNDS = 3

#: why that curve may bend
COLLECTOR = (
    "CPython's collector looks at everything that lives whenever that has grown by a quarter: not at all "
    "below some thousand objects, and from there on 4 to 5 times at each"
)

TORNADO = "nothing of ours is in it; it is there for the others to be compared with"

Samples = dict[int, list[float]]


@dataclass
class Plan:
    """How far each curve goes, and how often each point is measured."""

    connections: list[int]
    rows: list[int]
    queries: list[int]
    greenlets: list[int]
    rounds: int
    #: on the connections together, for each figure
    requests: int
    #: CPU seconds of a sample of `bench.growth.inside`
    length: float
    loop: str = "asyncio"
    core: int | None = None
    database: dict[str, Any] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda line: None


FULL = Plan(
    connections=[1, 10, 100, 1000, 2000, 5000],
    rows=[1, 10, 100, 1000, 3000, 10_000],
    queries=[1, 5, 20, 50, 100, 200, 500],
    greenlets=[1, 10, 100, 1000, 10_000, 25_000, 50_000],
    rounds=5,
    requests=10_000,
    length=0.2,
)
QUICK = Plan(
    connections=[1, 100, 1000, 2000],
    rows=[1, 100, 1000, 3000, 10_000],
    queries=[1, 20, 100, 500],
    greenlets=[1, 1000, 5000, 10_000],
    rounds=3,
    requests=2000,
    length=0.05,
)


def measure(plan: Plan, parts: list[str]) -> Iterator[Curve]:
    """Yield the curves of each part; see `PARTS`."""
    for part in parts:
        yield from PARTS[part](plan)


# --- over HTTP ----------------------------------------------------------------------------------


def connections(plan: Plan) -> Iterator[Curve]:
    """More and more connections to a new server, the same number of requests on all of them together."""
    allowed = allow_files(max(plan.connections) + OTHER_FILES) - OTHER_FILES
    points = [x for x in plan.connections if x <= allowed]
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    for number in range(plan.rounds):
        for x in points if number % 2 else reversed(points):
            plan.tell(f"{x:,} connections, round {number + 1} of {plan.rounds}")
            for name, value in _server_with(plan, x).items():
                found[name][x].append(value)
    few = f"{AT_ONCE} at once"
    for name, label, each in (
        (f"connections, Tornado alone, {few}", CPU, True),
        (f"connections, without a query, {few}", CPU, True),
        (f"connections, /db, {few}", CPU, True),
        ("connections, /db, all at once", CPU, True),
        ("memory of connections", "MiB", False),
        ("memory of requests in flight", "MiB", False),
    ):
        yield make_curve(
            name,
            found[name],
            x_label=CONNECTIONS,
            y_label=label,
            each=each,
            explained=TORNADO if "Tornado alone" in name else "",
        )


def _server_with(plan: Plan, number: int) -> dict[str, float]:
    """Return the figures of a server with so many connections."""
    arguments = ("--way", "greentor", "--loop", plan.loop, "--pool", str(POOL))
    few = f"{AT_ONCE} at once"
    with started(
        "bench.split.server", *arguments, database=plan.database, core=plan.core
    ) as server:
        with Crowd(server.port, 2, "/real/db") as crowd:
            for path in ("/handler/db", "/real/db"):  # what all share is paid for by then
                crowd.send(path, 200, 2)
        before = server.resident()
        with Crowd(server.port, number, "/handler/db") as crowd:
            now = server.resident()

            def cpu(path: str, at_once: int) -> float:
                start = server.cpu()
                crowd.send(path, plan.requests, at_once)
                return (server.cpu() - start) * 1e6 / plan.requests

            server.forget_most()
            crowd.send(
                "/real/db", max(number, AT_ONCE), number
            )  # what is paid for once is, by then
            all_at_once = cpu("/real/db", number)
            most = server.most_resident()
            return {
                f"connections, Tornado alone, {few}": cpu("/http/db", AT_ONCE),
                f"connections, without a query, {few}": cpu("/handler/db", AT_ONCE),
                f"connections, /db, {few}": cpu("/real/db", AT_ONCE),
                "connections, /db, all at once": all_at_once,
                "memory of connections": (now - before) / MIB,
                "memory of requests in flight": (most - now) / MIB,
            }


# --- in a process of their own ------------------------------------------------------------------


def rows(plan: Plan) -> Iterator[Curve]:
    for what, title in (("models", "model instances"), ("values", "values_list")):
        yield from _requests(plan, what, plan.rows, f"result size, {title}", "rows")


def queries(plan: Plan) -> Iterator[Curve]:
    yield from _requests(plan, "queries", plan.queries, "queries", "queries a request")


def _requests(plan: Plan, what: str, points: list[int], name: str, x_label: str) -> Iterator[Curve]:
    cpu: Samples = defaultdict(list)
    peak: Samples = defaultdict(list)
    for number in range(plan.rounds):
        plan.tell(f"{name}, round {number + 1} of {plan.rounds}")
        ask = {"what": what, "x": points, "rounds": 2, "length": plan.length}
        found = _inside(plan, ask)
        for x in points:
            cpu[x] += found["cpu"][str(x)]
            peak[x].append(found["peak"][str(x)] / KIB)
    yield make_curve(name, cpu, x_label=x_label, y_label=CPU)
    yield make_curve(f"memory, {name}", peak, x_label=x_label, y_label="KiB at the peak")


def greenlets(plan: Plan) -> Iterator[Curve]:
    for what, title in (
        ("parked asleep", "greenlets asleep"),
        ("parked in the pool", "greenlets waiting for a connection"),
        ("parked in a query", "ORM queries waiting for a connection"),
    ):
        found: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
        for number in range(min(plan.rounds, MOST_ROUNDS)):
            for x in plan.greenlets:
                plan.tell(f"{x:,} {title}, round {number + 1} of {plan.rounds}")
                for name, value in _inside(plan, {"what": what, "x": x}).items():
                    found[name][x].append(value / MIB if name == "bytes" else value)
        for name, label, y_label, explained in (
            ("bytes", f"memory of {title}", "MiB", ""),
            ("start", f"start of {title}", CPU_EACH, ""),
            ("end", f"end of {title}", CPU_EACH, ""),
            ("collector", f"garbage collector, {title}", CPU_EACH, COLLECTOR),
        ):
            yield make_curve(
                label,
                found[name],
                x_label=GREENLETS,
                y_label=y_label,
                each=y_label == CPU_EACH,
                explained=explained,
            )


def _inside(plan: Plan, ask: dict[str, Any]) -> Any:
    ask = {**ask, "core": plan.core, "loop": plan.loop}
    done = subprocess.run(
        [sys.executable, "-m", "bench.growth.inside"],
        input=json.dumps(ask) + "\n",
        env={**os.environ, "BENCH_DATABASE": json.dumps(plan.database)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return json.loads(done.stdout)


PARTS: dict[str, Callable[[Plan], Iterator[Curve]]] = {
    "connections": connections,
    "rows": rows,
    "queries": queries,
    "greenlets": greenlets,
}
