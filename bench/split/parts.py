"""The parts of a request's CPU time, by subtraction, and their table.

With h, a, n, c, r the CPU time of the variants http, application, handler, canned and real of one way, and
``floor.`` those of the way that blocks the loop and has no bridge:

- HTTP = h; application = a - h: random numbers, JSON, templates
- ORM = floor.c - floor.a: the same code in all ways
- bridge = (n - a) + (c - n) - ORM = c - a - ORM: what the way adds, for the request and for its queries
- driver = r - c: escape, send, park or block, receive, parse

Invariants
- The parts add up to r. One that is negative is shown so: it is cheaper than what it stands in for.
- What is subtracted are the medians of the rounds: so the ORM's part is the same in all ways, and the sum
  is right to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from statistics import median
from typing import Any

from bench.growth.curves import show

PARTS = ("HTTP", "application", "bridge", "ORM", "driver")
FLOOR = "floor"

Figure = Callable[[list[float]], float]

#: CPU microseconds by way, workload and variant, of each round
Samples = Mapping[tuple[str, str, str], list[float]]


def divide(own: Mapping[str, float], floor: Mapping[str, float]) -> dict[str, float]:
    """Return the parts, from the figures of the variants of a way and of the floor."""
    orm = floor["canned"] - floor["application"]
    return {
        "HTTP": own["http"],
        "application": own["application"] - own["http"],
        "bridge": own["canned"] - own["application"] - orm,
        "ORM": orm,
        "driver": own["real"] - own["canned"],
    }


def rows(samples: Samples, variants: Iterable[str]) -> list[dict[str, Any]]:
    """Return the parts of each way and workload, as they are written to ``split.json``."""
    variants = tuple(variants)
    found = []
    for way, workload in dict.fromkeys((way, workload) for way, workload, _ in samples):

        def measured(name: str, of: Figure, workload: str = workload) -> dict[str, float]:
            return {each: of(samples[name, workload, each]) for each in variants}

        own = measured(way, median)
        rounds = [
            divide(measured(way, itemgetter(number)), measured(FLOOR, itemgetter(number)))
            for number in range(len(samples[way, workload, "real"]))
        ]
        found.append(
            {
                "name": way,
                "workload": workload,
                "parts": divide(own, measured(FLOOR, median)),
                "total": own["real"],
                #: of the bridge: what a request costs that asks nothing
                "bridge_without_queries": own["handler"] - own["application"],
                #: what was found in single rounds
                "low": {part: min(each[part] for each in rounds) for part in PARTS},
                "high": {part: max(each[part] for each in rounds) for part in PARTS},
            }
        )
    return found


def table(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the parts as a Markdown table."""
    titles = ["workload", "", *PARTS, "total", "bridge without queries"]
    lines = ["| " + " | ".join(titles) + " |", "|---|---|" + "--:|" * (len(titles) - 2)]
    for row in sorted(found, key=lambda row: str(row["workload"])):
        cells = [row["workload"], row["name"]]
        cells += [show(row["parts"][part]) for part in PARTS]
        cells += [show(row["total"]), show(row["bridge_without_queries"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
