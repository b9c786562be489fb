"""Measure how cost grows, and show what grows worse than in proportion: `python -m bench.growth`.

    python -m bench.growth [--quick] [--parts NAME,...] [--loop uvloop] [--out bench/report] [--check]

CPU and memory of our server, one process on a core of its own, the database and the load on the other, TLS
off, against the number of keep-alive connections, the rows of a result, the queries of a request, and the
greenlets that are parked. Medians of several rounds; where y is of one request or greenlet, what is judged
is what all of them cost together.

Exit status with ``--check``: 1 if something grows worse than linear, or a greenlet weighs too much.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import status_line
from bench.compare import machine
from bench.driver.__main__ import cores
from bench.driver.worker import pin
from bench.growth.curves import KIB, MIB, Curve, show, table
from bench.growth.plan import FULL, PARTS, POOL, QUICK, Plan, measure
from bench.split.tables import DATABASE, create_tables
from tests.mariadb import MariaDB

#: the most bytes that a parked greenlet may weigh
GREENLET_LIMIT = 20 * KIB

PACKAGES = ("greentor", "tornado", "Django", "PyMySQL", "greenlet", "uvloop")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    database_core, core = cores()
    pin(database_core)  # the database inherits it; the load is made here
    with MariaDB(max_connections=4 * POOL) as mariadb:
        create_tables(mariadb)
        plan = replace(
            QUICK if options.quick else FULL,
            core=core,
            loop=options.loop,
            database=mariadb.params(DATABASE),
            tell=status_line.show,
        )
        plan.rounds = options.rounds or plan.rounds
        curves = list(measure(plan, options.parts))
        [row] = mariadb.execute("SELECT VERSION() AS version")
    about = describe(plan, row["version"])
    about["each"] = weights(curves)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"about": about, "curves": [curve.as_json() for curve in curves]}
    text = json.dumps(found, indent=1)
    (options.out / "growth.json").write_text(text + "\n", encoding="utf-8")
    print(table(curves))
    print("\n" + "\n".join(f"- {name}: {show(kib)} KiB" for name, kib in about["each"].items()))
    for curve in curves:
        if curve.worse_than_linear and curve.explained:
            print(f"- {curve.name}, worse than linear: {curve.explained}")
    problems = judge(curves)
    print("\n" + ("\n".join(problems) or "Nothing grows worse than linear."))
    return 1 if problems and options.check else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=str(__doc__).split("\n")[0]
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer points, 3 rounds")
    add("--rounds", type=int, help="5, or 3 with --quick")
    add("--parts", default=list(PARTS), type=lambda text: text.split(","), help=",".join(PARTS))
    add("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    add("--out", type=Path, default=Path("bench/report"))
    add("--check", action="store_true", help="exit with 1 if something is worse than it may be")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(PARTS)}")
    return options


def weights(curves: Sequence[Curve]) -> dict[str, float]:
    """Return what one more of each weighs, in KiB, by the name of its curve."""
    sizes = {"MiB": MIB, "KiB at the peak": KIB}
    return {
        curve.name: curve.slope * sizes[curve.y_label] / KIB
        for curve in curves
        if curve.y_label in sizes
    }


def judge(curves: Sequence[Curve]) -> list[str]:
    """Return what is worse than it may be."""
    bent = [curve for curve in curves if curve.worse_than_linear and not curve.explained]
    problems = [f"{curve.name} grows worse than linear" for curve in bent]
    for name, kib in weights(curves).items():
        if "greenlets" in name and kib * KIB > GREENLET_LIMIT:
            problems.append(
                f"{name}: {kib:.1f} KiB each, and not {GREENLET_LIMIT // KIB} KiB or less"
            )
    return problems


def describe(plan: Plan, server: str) -> dict[str, Any]:
    """Tell what was measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "pinned": plan.core is not None,
        "loop": plan.loop,
        "database": server,
        "packages": machine.versions(PACKAGES),
        "pool": POOL,
        "rounds": plan.rounds,
        "requests": plan.requests,
    }


if __name__ == "__main__":
    sys.exit(main())
