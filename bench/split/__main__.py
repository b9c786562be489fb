"""Divide the CPU time of a request into HTTP, application, bridge, ORM and driver: `python -m bench.split`.

    python -m bench.split [--quick] [--rounds N] [--ways WAY,...] [--workloads NAME,...] [--out bench/report]

By subtraction, from runs without each (see `bench.split.parts`), of our server on asyncio and uvloop, of
the ORM blocking in the loop, and of threads: one process on a core of its own, 64 keep-alive connections
that ask all the time, the database and the load on the other core, TLS off. In rounds, each with new
processes, in an order drawn anew. *Bridge* is all that a way adds to the ORM's work: greenlets, scopes,
signals, the pool, wrappers and the checks of cursors; with threads, the hand-over to one and back.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import status_line
from bench.compare import machine
from bench.driver.__main__ import cores
from bench.driver.worker import pin
from bench.split import parts
from bench.split.crowd import Crowd
from bench.split.process import Server, started
from bench.split.server import VARIANTS, WORKLOADS
from bench.split.tables import DATABASE, create_tables
from tests.mariadb import MariaDB

CONNECTIONS = 64
POOL = 32
#: in a sample; those of the second line where the workload asks the driver
REQUESTS = 2500
ASKING = {"db": 4000, "queries-20": 600, "fortunes": 3000, "updates-20": 300}

#: by name: arguments of `bench.split.server`
WAYS = {
    "greentor": ("--way", "greentor"),
    "greentor-uvloop": ("--way", "greentor", "--loop", "uvloop"),
    parts.FLOOR: ("--way", "floor"),
    "threads-pymysql": ("--way", "threads-pymysql"),
}
PACKAGES = ("greentor", "tornado", "Django", "PyMySQL", "greenlet", "uvloop")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    database_core, core = cores()
    pin(database_core)  # the database inherits it; the load is made here
    with MariaDB(max_connections=len(options.ways) * (POOL + 1) + 10) as mariadb:
        create_tables(mariadb)
        samples = measure(options, mariadb.params(DATABASE), core)
        about = describe(options, mariadb, core)
    found = parts.rows(samples, VARIANTS)
    print("CPU microseconds a request, medians\n")
    print(parts.table(found))
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"about": about, "rows": found}, indent=1)
    (options.out / "split.json").write_text(text + "\n", encoding="utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.split", description=str(__doc__).split("\n")[0]
    )

    def several(text: str) -> list[str]:
        return text.split(",")

    add = parser.add_argument
    add("--quick", action="store_true", help="3 rounds of short samples")
    add("--rounds", type=int, help="5, or 3 with --quick")
    add("--scale", type=float, help="length of the samples: 1, or 0.3 with --quick")
    add("--ways", default=list(WAYS), type=several, help=",".join(WAYS))
    add("--workloads", default=list(WORKLOADS), type=several, help=",".join(WORKLOADS))
    add("--out", type=Path, default=Path("bench/report"))
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.scale = options.scale or (0.3 if options.quick else 1.0)
    for chosen, known in ((options.ways, WAYS), (options.workloads, WORKLOADS)):
        if unknown := set(chosen) - set(known):
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if parts.FLOOR not in options.ways:
        options.ways.append(parts.FLOOR)  # what the others' ORM is taken from
    if find_spec("uvloop") is None:
        options.ways = [way for way in options.ways if "uvloop" not in way]
    return options


def measure(
    options: argparse.Namespace, database: dict[str, Any], core: int | None
) -> dict[tuple[str, str, str], list[float]]:
    """Return the CPU microseconds of a request, by way, workload and variant, of each round."""
    chance = random.Random(1)
    samples: dict[tuple[str, str, str], list[float]] = {}
    for way in options.ways:  # in this order they are shown
        for workload in options.workloads:
            samples.update(((way, workload, variant), []) for variant in VARIANTS)
    for number in range(options.rounds):
        with ExitStack() as stack:
            servers = {
                way: stack.enter_context(
                    started(
                        "bench.split.server",
                        *WAYS[way],
                        *("--pool", str(POOL)),
                        database=database,
                        core=core,
                    )
                )
                for way in options.ways
            }
            crowds = {
                way: stack.enter_context(Crowd(server.port, CONNECTIONS, "/http/db"))
                for way, server in servers.items()
            }
            for way, server in servers.items():
                warm_up(server, crowds[way])
            cells = [(workload, variant) for workload in options.workloads for variant in VARIANTS]
            chance.shuffle(cells)
            for workload, variant in cells:
                status_line.show(f"round {number + 1} of {options.rounds}: {workload}, {variant}")
                count = ASKING[workload] if variant in ("canned", "real") else REQUESTS
                count = max(round(count * options.scale), CONNECTIONS)
                for way in chance.sample(options.ways, len(options.ways)):
                    used = sample(servers[way], crowds[way], workload, variant, count)
                    samples[way, workload, variant].append(used)
    return samples


def warm_up(server: Server, crowd: Crowd) -> None:
    """Open the connections, fill the caches, and learn the answers."""
    for workload in WORKLOADS:
        crowd.send(f"/real/{workload}", CONNECTIONS, CONNECTIONS)
    server.get("/-/canned?mode=learn")
    for workload in WORKLOADS:
        server.get(f"/real/{workload}")
    server.get("/-/canned?mode=stop")


def sample(server: Server, crowd: Crowd, workload: str, variant: str, count: int) -> float:
    """Return the CPU microseconds of a request."""
    path = f"/{variant}/{workload}"
    if variant == "canned":
        server.get("/-/canned?mode=give")
    try:
        crowd.send(path, max(count // 10, CONNECTIONS), CONNECTIONS)
        before = server.cpu()
        crowd.send(path, count, CONNECTIONS)
        return (server.cpu() - before) * 1e6 / count
    finally:
        if variant == "canned":
            server.get("/-/canned?mode=stop")


def describe(options: argparse.Namespace, mariadb: MariaDB, core: int | None) -> dict[str, Any]:
    """Tell what was measured, and on what."""
    [row] = mariadb.execute("SELECT VERSION() AS version")
    return {
        "what": "CPU microseconds a request, medians",
        "parts": dict(zip(parts.PARTS, PART_TITLES, strict=True)),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "pinned": core is not None,
        "database": row["version"],
        "packages": machine.versions(PACKAGES),
        "rounds": options.rounds,
        "connections": CONNECTIONS,
        "pool": POOL,
    }


PART_TITLES = (
    "Tornado's HTTP and a RequestHandler with a ready body",
    "random numbers, JSON, templates",
    "what the way adds: greenlets, scopes, signals, pool, wrappers; or threads",
    "Django's ORM",
    "the driver: send, wait, receive, parse",
)


if __name__ == "__main__":
    sys.exit(main())
