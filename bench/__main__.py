"""The comparison of greentor with its peers, on this machine: ``python -m bench``, or ``make bench``.

Starts a private MariaDB and each peer in its own process, verifies what they answer, looks for the best pool
size of each, and sends the workloads in rounds. Everything is on 127.0.0.1, and ends with this command;
Ctrl-C ends it early and keeps what was found. Writes results.json, table.md and plots into bench/report.

Exits with 0; with 1 if a request to greentor failed, or greentor was not verified; with 2 for an option that
is none, or if nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.compare import machine
from bench.compare.load import LOADS, missing
from bench.compare.measure import Gauge
from bench.compare.pace import SLOW, Pace
from bench.compare.progress import Progress, clock, open_progress
from bench.compare.results import Results
from bench.compare.rounds import Comparison, Plan
from bench.compare.servers import ROOT, Fleet
from bench.compare.workloads import WORKLOADS, Cell, select
from bench.peers import PEERS, Peer
from tests.mariadb import MariaDB

DATABASE = "bench"
LOGS = Path(".cache/bench")
INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    results = Results()
    load = LOADS[options.load](options.processes) if options.load == "wrk" else LOADS["ab"]()
    peers = present(options.peers, results)
    cells = sendable(load, options.cells, results)
    peers = useful(peers, cells, results)
    if (lack := missing(load)) or not peers or not cells:
        print(lack or "there is nothing to measure", file=sys.stderr)
        return 2
    plan = Plan(
        cells=cells,
        rounds=options.rounds,
        seconds=options.seconds,
        connections=options.connections,
        sweep_rounds=0 if options.no_sweep or options.pool is not None else 2,
        pool=options.pool,
        crowd_rounds=options.crowd_rounds,
        judged_rounds=options.judged_rounds,
    )
    cores = machine.Cores.split(options.processes)
    begun = time.monotonic()
    interrupted = False
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts this aside ignores one
        signal.signal(number, interrupt)
    machine.allow_files()
    results.about = machine.describe(cores) | {
        "load": load.version(),
        "packages": machine.versions(sorted({each for p in peers.values() for each in p.packages})),
        "options": {name: value for name, value in vars(options).items() if name != "cells"}
        | {"out": str(options.out), "workloads": [str(cell) for cell in cells]},
        "seed": options.seed,
        "tls": "off",
    }
    results.peers = {
        name: {
            "title": peer.title,
            "packages": machine.versions(peer.packages),
            "pool_of": peer.pool_of,
            "pools": list(peer.pools),
            "ours": peer.ours,
            "ceiling": peer.ceiling,
        }
        for name, peer in peers.items()
    }
    try:
        with machine.pinned(cores.others), open_progress() as progress:
            compare(plan, peers, load, results, progress, options, cores)
    except KeyboardInterrupt:
        results.about["interrupted"] = interrupted = True
    finally:
        results.about["took"] = clock(time.monotonic() - begun)
        slow = sum(each.pace > SLOW for each in results.samples)
        results.about["samples_beside_which_a_core_was_slow"] = f"{slow} of {len(results.samples)}"
        results.save(options.out / "results.json")
    publish(results, options.out)
    return INTERRUPTED if interrupted else status(results, peers)


def interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt, once: what was started must be ended then."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def compare(
    plan: Plan,
    peers: dict[str, Peer],
    load: Any,
    results: Results,
    progress: Progress,
    options: argparse.Namespace,
    cores: machine.Cores,
) -> None:
    """Start the database and the servers, measure, and end them."""
    places = plan.places(peers.values())
    with MariaDB(max_connections=places) as mariadb:
        [row] = mariadb.execute("SELECT VERSION() AS version, @@max_connections AS places")
        results.about["database"] = row["version"]
        if row["places"] < places:  # it may have as many as it may open files for
            progress.say(f"MariaDB takes {row['places']} connections, not {places}: see ulimit -n")
        mariadb.create_database(DATABASE)
        params = mariadb.params(DATABASE)
        fill(params)
        fleet = Fleet(peers, params, LOGS, processes=options.processes, cores=cores.server)
        with fleet:
            Comparison(
                plan,
                peers,
                Gauge(fleet, load, mariadb, Pace((*cores.server, *cores.others))),
                results,
                progress,
                mariadb.url(DATABASE),
                random.Random(options.seed),
            ).run()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exit with 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=str(__doc__).split("\n")[0]
    )

    def several(text: str) -> list[str]:
        return text.split(",")

    add = parser.add_argument
    add("--peers", type=several, default=list(PEERS), metavar="A,B", help=f"of {', '.join(PEERS)}")
    add("--workloads", type=several, metavar="A,B", help=f"of {', '.join(WORKLOADS)}")
    add("--seconds", type=float, help="of each run of the load: 2, or 1 with --quick")
    add("--rounds", type=int, help="3, or 2 with --quick")
    judged = "further ones, of what the limits are judged by: 8, or 2 with --quick; 0 for none"
    add("--judged-rounds", type=int, help=judged)
    add("--connections", type=int, default=64, help="64, where a workload says nothing else")
    add("--load", choices=LOADS, default="wrk", help="what sends the requests: wrk")
    add("--processes", type=int, default=1, help="of each server: 1")
    add("--quick", action="store_true", help="short, few workloads, no search for pool sizes")
    add("--pool", type=int, help="one size for all, not the best of each")
    add("--no-sweep", action="store_true", help="usual pool sizes, not the best of each")
    add("--seed", type=int, help="of the order; drawn if not given")
    add("--out", type=Path, default=Path("bench/report"), help="bench/report")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (1.0 if options.quick else 2.0)
    options.rounds = options.rounds or (2 if options.quick else 3)
    if options.judged_rounds is None:
        options.judged_rounds = 2 if options.quick else 8
    options.seed = random.randrange(2**32) if options.seed is None else options.seed
    options.crowd_rounds = 1 if options.quick else 2
    options.no_sweep = options.no_sweep or options.quick
    if unknown := [name for name in options.peers if name not in PEERS]:
        parser.error(f"no peer {', '.join(map(repr, unknown))}; known: {', '.join(PEERS)}")
    for name, least in (
        ("seconds", 0.1),
        ("rounds", 1),
        ("judged-rounds", 0),
        ("connections", 1),
        ("processes", 1),
    ):
        if getattr(options, name.replace("-", "_")) < least:
            parser.error(f"--{name} is {least} at least")
    if options.pool is not None and options.pool < 1:
        parser.error("--pool is 1 at least")
    try:
        options.cells = select(options.workloads, options.connections, options.quick)
    except ValueError as exc:
        parser.error(str(exc))
    return options


def present(names: Sequence[str], results: Results) -> dict[str, Peer]:
    """Return the peers whose packages are installed; the others are left out."""
    found = {}
    for name in dict.fromkeys(names):
        peer = PEERS[name]
        if lacking := [each for each in peer.packages if each not in machine.versions([each])]:
            why = f"not installed: {', '.join(lacking)}; `make bench` installs all"
            results.left_out[name] = why
            print(f"{name} is left out: {why}", file=sys.stderr)
        else:
            found[name] = peer
    return found


def sendable(load: Any, cells: Sequence[Cell], results: Results) -> list[Cell]:
    """Return the cells that the load can send; the others are left out."""
    found = []
    for cell in cells:
        if why := load.lacks(cell):
            results.left_out[cell.workload.name] = why
            print(f"{cell.workload.name} is left out: {why}", file=sys.stderr)
        else:
            found.append(cell)
    return found


def useful(peers: dict[str, Peer], cells: Sequence[Cell], results: Results) -> dict[str, Peer]:
    """Return the peers that serve one of the cells at least; the others are left out."""
    found = {}
    for name, peer in peers.items():
        if not peer.workloads or any(peer.serves(cell.workload.name) for cell in cells):
            found[name] = peer
        else:
            why = f"it serves {', '.join(peer.workloads)} only"
            results.left_out[name] = why
            print(f"{name} is left out: {why}", file=sys.stderr)
    return found


def fill(params: dict[str, Any]) -> None:
    """Create the tables, in a process of its own: Django is not set up here."""
    subprocess.run(
        [sys.executable, "-m", "bench.peers.tables"],
        cwd=ROOT,
        env={**os.environ, "BENCH_DATABASE": json.dumps(params)},
        check=True,
    )


def publish(results: Results, out: Path) -> None:
    """Write the report, and tell what failed."""
    try:
        from bench.compare.report import write
    except ImportError as exc:
        print(f"no report: {exc}", file=sys.stderr)
    else:
        write(results, out)
    print(f"{out / 'results.json'}: {len(results.samples)} samples, {results.about['took']}")
    for line in troubles(results):
        print(line)


def troubles(results: Results) -> Iterator[str]:
    """Name what was left out, every rule that is not kept, and every failed request."""
    for what, why in results.left_out.items():
        yield f"left out: {what}: {why}"
    for name, rules in results.verified.items():
        for rule in rules:
            if rule["problems"]:
                yield f"{rule['verdict']}: {name}: {rule['rule']}: {'; '.join(rule['problems'])}"
    failed: dict[str, Counter[str]] = {}
    for what, samples in (("", results.samples), ("pool sizes, ", results.sweep)):
        for each in samples:
            if each.failed:
                key = f"{what}{each.peer}, pool {each.pool}: {each.workload}, {each.connections} connections"
                failed.setdefault(key, Counter()).update(each.errors)
    for one in results.fairness:
        if one.failed:
            key = f"crowd, {one.peer}, pool {one.pool}: {one.workload}, {one.connections} clients"
            failed.setdefault(key, Counter())["failed"] += one.failed
    for key, kinds in failed.items():
        told = ", ".join(f"{name} {count}" for name, count in kinds.items() if count)
        yield f"failed requests: {key}: {told}"


def status(results: Results, peers: dict[str, Peer]) -> int:
    """Return 1 if a request to ours failed, or ours was not verified; or else 0."""
    ours = {name for name, peer in peers.items() if peer.ours}
    measured = (*results.samples, *results.sweep, *results.fairness)
    failed = any(each.failed for each in measured if each.peer in ours)
    left_out = any(what.partition(",")[0] in ours for what in results.left_out)
    return 1 if failed or left_out else 0


if __name__ == "__main__":
    sys.exit(main())
