"""What our driver's connections weigh: resident memory of idle ones, and the peak of a long unbuffered read.

    python -m bench.memory [--quick] [--check] [--trace]

Each figure comes from a process of its own: the resident memory after a garbage collection, less what it
was with half of the connections open. What all share is paid for by then, and what memory was free in the
process is taken. `--trace` tells which lines of Python hold the memory; it does not see what OpenSSL and
libuv allocate.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from bench.driver.clients import available, loop_factory
from greentor import sleep
from greentor.bridge import run_green
from tests.mariadb import MariaDB

KIB = 1024
MIB = 1024 * KIB

CONNECTIONS = 200
OPENED_BEFORE = 200
ROWS = 2_000_000
#: the most bytes of an idle connection, by loop, without TLS and with it
IDLE_LIMITS = {
    ("asyncio", False): 16 * KIB,
    ("uvloop", False): 16 * KIB,
    ("asyncio", True): 330 * KIB,
    ("uvloop", True): 60 * KIB,
}
PASS_LIMIT = 30 * MIB


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one process a figure, 200,000 rows")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is not kept")
    parser.add_argument("--trace", action="store_true", help="show what holds the memory")
    parser.add_argument("--loops", default="asyncio,uvloop", type=lambda text: text.split(","))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return 0
    options.loops = available(options.loops)
    with MariaDB(max_connections=OPENED_BEFORE + CONNECTIONS + 10) as server:
        server.create_database("bench_memory")
        return 1 if show(server, options) and options.check else 0


def show(server: MariaDB, options: argparse.Namespace) -> int:
    """Print the table; return how many limits are not kept."""
    missed = 0
    times, rows = (1, ROWS // 10) if options.quick else (3, ROWS)
    print("| what | loop | TLS | bytes | limit | |\n|---|---|---|--:|--:|---|")
    for loop in options.loops:
        for tls in (False, True):
            ask = {"what": "idle", "loop": loop, "params": params(server, tls)}
            found = median(run_child(ask)["bytes"] for _ in range(times))
            missed += show_line("an idle connection", loop, tls, found, IDLE_LIMITS[loop, tls])
    for loop in options.loops:
        ask = {"what": "pass", "loop": loop, "params": params(server, False), "rows": rows}
        found = run_child(ask)["bytes"]
        missed += show_line(f"peak of {rows:,} rows unbuffered", loop, False, found, PASS_LIMIT)
    if options.trace:
        for loop in options.loops:
            for tls in (False, True):
                ask = {"what": "idle", "loop": loop, "params": params(server, tls), "trace": True}
                print(f"\nAn idle connection on {loop}, TLS {'on' if tls else 'off'}")
                print("\n".join(run_child(ask)["trace"]))
    return missed


def show_line(what: str, loop: str, tls: bool, found: float, limit: int) -> bool:
    """Print one figure; return whether it is over its limit."""
    size, name = (MIB, "MiB") if limit >= MIB else (KIB, "KiB")
    verdict = "kept" if found < limit else "MISSED"
    cells = [what, loop, "on" if tls else "off"]
    cells += [f"{found / size:.1f} {name}", f"{limit // size} {name}", verdict]
    print(f"| {' | '.join(cells)} |", flush=True)
    return found >= limit


def params(server: MariaDB, tls: bool) -> dict[str, Any]:
    security = {"ssl_ca": server.ca} if tls else {"ssl_disabled": True}
    return {**server.params("bench_memory"), **security}


def run_child(ask: dict[str, Any]) -> Any:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "bench.memory", "--child", json.dumps(ask)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return json.loads(done.stdout)


# --- in the process that is measured ----------------------------------------------------------


def child(ask: dict[str, Any]) -> dict[str, Any]:
    from greentor.drivers import pymysql

    connect = partial(pymysql.connect, **ask["params"])
    with asyncio.Runner(loop_factory=loop_factory(ask["loop"])) as runner:
        if ask["what"] == "idle":
            return runner.run(idle(connect, ask.get("trace", False)))
        return {"bytes": runner.run(run_green(long_pass, connect, ask["rows"]))}


async def idle(connect: Callable[[], Any], trace: bool) -> dict[str, Any]:
    """Open connections, use each once, and weigh them."""
    connections = [await run_green(opened, connect) for _ in range(OPENED_BEFORE)]
    gc.collect()
    if trace:
        tracemalloc.start(4)
    before = resident()
    for _ in range(CONNECTIONS):
        connections.append(await run_green(opened, connect))
    gc.collect()
    weight = (resident() - before) / CONNECTIONS
    lines = traced() if trace else []
    for connection in connections:
        await run_green(connection.close)
    return {"bytes": weight, "trace": lines}


def opened(connect: Callable[[], Any]) -> Any:
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq, 'a row with text' FROM seq_1_to_12")
        cursor.fetchall()
    return connection


def traced() -> list[str]:
    """Return the lines whose memory is still held, and how many bytes of each connection."""
    snapshot = tracemalloc.take_snapshot().filter_traces(
        (tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__))
    )
    statistics = snapshot.statistics("lineno")
    total = sum(line.size for line in statistics) / CONNECTIONS
    lines = [f"{total:10,.0f} bytes in Python's own allocations"]
    for line in statistics[:15]:
        frame = line.traceback[-1]
        where = "/".join(frame.filename.split("/")[-2:])
        lines.append(
            f"{line.size / CONNECTIONS:10,.0f} bytes, {line.count / CONNECTIONS:5.1f} blocks:"
            f" {where}:{frame.lineno}"
        )
    return lines


def long_pass(connect: Callable[[], Any], rows: int) -> int:
    """Read many rows unbuffered; return how far the resident memory rose above the start.

    The loop gets a turn every thousand rows: it could read ahead without end.
    """
    from pymysql.cursors import SSCursor

    connection = opened(connect)
    with connection.cursor(SSCursor) as cursor:
        cursor.execute("SELECT seq, 'a row with text' FROM seq_1_to_1000")
        assert len(cursor.fetchall()) == 1000
    gc.collect()
    start = highest = resident()
    ever = highest_ever()
    with connection.cursor(SSCursor) as cursor:
        cursor.execute(f"SELECT seq, CONCAT('row number ', seq) FROM seq_1_to_{rows}")
        number = 0
        for number, row in enumerate(cursor, 1):
            assert row[0] == number
            if number % 1000 == 0:
                highest = max(highest, resident())
                sleep(0)
        assert number == rows
    connection.close()
    if highest_ever() > ever:  # between two looks
        highest = max(highest, highest_ever())
    return highest - start


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def highest_ever() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


if __name__ == "__main__":
    sys.exit(main())
