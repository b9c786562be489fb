"""Measure what a query costs, with each driver: `python -m bench.driver`.

The server is private and on one core, the process that is measured on the other; what is measured is the
process's own CPU time. Blocking drivers have one connection and ask one query after the other.

Exit status: 1 if a limit is not kept (with `--check`), 2 if drivers do not agree about a row, or one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from bench import status_line
from bench.compare import machine
from bench.driver import report
from bench.driver.clients import DRIVERS, available
from bench.driver.rounds import REFERENCE, Different, Plan, Samples, run_rounds
from bench.driver.worker import WorkerEnded, pin
from bench.driver.workloads import DATABASE, WORKLOADS, create_tables
from tests.mariadb import MariaDB

PACKAGES = ("greentor", "PyMySQL", "mysqlclient", "aiomysql", "asyncmy", "greenlet", "uvloop")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    server_core, core = cores()
    pin(server_core)  # the server inherits it
    plan = Plan(
        drivers=available(options.drivers),
        loops=available(options.loops),
        workloads=options.workloads,
        flights=options.flight,
        rounds=options.rounds,
        scale=options.scale,
        core=core,
    )
    with MariaDB(max_connections=plan.connections() + 10) as server:
        create_tables(server)
        plan.params = server.params(DATABASE)
        if options.profile:
            return show_profile(options, plan)
        try:
            samples = run_rounds(plan, status_line.show)
        except (Different, WorkerEnded) as exc:
            print(f"FAILED: {exc}")
            return 2
        about = describe(plan, server)
    return publish(samples, plan, about, options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.driver", description=str(__doc__).split("\n")[0]
    )

    def several(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("--quick", action="store_true", help="3 rounds of short samples")
    parser.add_argument("--rounds", type=int, help="11, or 3 with --quick")
    parser.add_argument("--scale", type=float, help="length of the samples: 1, or 0.2 with --quick")
    parser.add_argument("--drivers", default=list(DRIVERS), help=",".join(DRIVERS), type=several)
    parser.add_argument(
        "--workloads", default=list(WORKLOADS), help=",".join(WORKLOADS), type=several
    )
    parser.add_argument(
        "--loops", default=["asyncio", "uvloop"], help="asyncio,uvloop", type=several
    )
    parser.add_argument(
        "--flight", default=["1", "64"], help="queries at a time: 1,64", type=several
    )
    parser.add_argument("--out", type=Path, default=Path(".cache/bench/driver"))
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is not kept")
    parser.add_argument("--profile", choices=WORKLOADS, help="where our driver spends its time")
    parser.add_argument("--seconds", type=float, default=8, help="of --profile")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 11)
    options.scale = options.scale or (0.2 if options.quick else 1.0)
    options.flight = [int(number) for number in options.flight]
    for chosen, known in (
        (options.drivers, DRIVERS),
        (options.workloads, WORKLOADS),
        (options.loops, ("asyncio", "uvloop")),
    ):
        if unknown := set(chosen) - set(known):
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if REFERENCE not in options.drivers:
        options.drivers.append(REFERENCE)  # what the others are compared with
    return options


def cores() -> tuple[int | None, int | None]:
    """Return the server's core and the client's, if there are two."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else (None, None)


def show_profile(options: argparse.Namespace, plan: Plan) -> int:
    from bench.driver.profiler import profile

    pin(plan.core)
    for loop in plan.loops:
        for flight in plan.flights:
            print(profile(options.profile, loop, flight, plan.params, options.seconds), end="\n\n")
    return 0


def describe(plan: Plan, server: MariaDB) -> dict[str, Any]:
    """Tell what was measured on."""
    [row] = server.execute("SELECT VERSION() AS version")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "pinned": plan.core is not None,
        "server": row["version"],
        "packages": machine.versions(PACKAGES),
        "rounds": plan.rounds,
        "queries": {
            f"{name}, {flight} in flight": plan.count(name, flight)
            for name in plan.workloads
            for flight in plan.flights
        },
    }


def publish(
    samples: Samples, plan: Plan, about: dict[str, Any], options: argparse.Namespace
) -> int:
    """Print the table and the limits, write the files, and return the exit status."""
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    pinned = "one pinned core" if about["pinned"] else "not pinned"
    text = (
        f"CPU microseconds a query, of the process that asks ({pinned}); medians of {plan.rounds} rounds."
        f" Python {about['python']}, {about['server']}; {packages}. TLS off, utf8mb4, autocommit.\n"
        "Blocking drivers have one connection and ask one query after the other.\n\n"
        + report.table(samples)
    )
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    limits = list(report.check(samples, plan.loops))
    results = {
        **about,
        "limits": [{"kept": kept, "limit": line} for kept, line in limits],
        "results": report.as_json(samples),
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    try:
        report.plot(samples, options.out / "plot.png")
    except ImportError as exc:
        print(f"no plot: {exc}")
    print("\nLimits")
    for kept, line in limits:
        print(f"{'kept  ' if kept else 'MISSED'} {line}")
    return 0 if all(kept for kept, _ in limits) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
