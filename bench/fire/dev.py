"""The fault tests and the faults under ``-X dev``: no warning; and what tracemalloc sees levels off."""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
from pathlib import Path

from bench.fire.load import Tally, even, fill, send
from bench.fire.report import Result, slope
from bench.fire.serving import Fire, fire
from tests.mariadb import MariaDB

POOL = 16
TESTS = (
    "test_bridge_cancel",
    "test_bridge_death",
    "test_checkin",
    "test_driver_ends",
    "test_ends",
    "test_kill",
    "test_ownership",
    "test_pool_ends",
    "test_pool_write_off",
    "test_web_ends",
    "test_websocket",
)
#: what the interpreter and asyncio say of something that was left behind
LEFT = re.compile(
    r"ResourceWarning|never retrieved|was destroyed but it is pending|never awaited"
    r"|Exception ignored|RuntimeWarning"
)
#: bytes by which the traced memory may grow with each request: it does so in steps, when tables are enlarged
GROWTH = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tests", nargs="*", default=list(TESTS), help="test modules; none to skip"
    )
    parser.add_argument("--requests", type=int, default=4000, help="under -X dev")
    parser.add_argument("--traced", type=int, default=20_000, help="requests under tracemalloc")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--clients", type=int, default=32)


def trial(options: argparse.Namespace, out: Path) -> Result:
    """Run the tests, the server in development mode, and the server under tracemalloc."""
    result = Result("dev")
    if options.tests:
        tests(options.tests, out / "dev-tests.log", result)
    query = f"pool_size={POOL}&max_overflow=0&pool_timeout=30"
    with MariaDB(max_connections=POOL + 30) as mariadb:
        if options.requests:
            arguments = ("--loop", options.loop, "--periodic")
            log = out / "dev.log"
            with fire(mariadb, query, log, *arguments, python=("-X", "dev")) as server:
                warned(server, options, result)
            text = log.read_text().splitlines()
            result.none((line for line in text if LEFT.search(line)), "-X dev: left behind")
            result.none(server.complaints(), "-X dev: complaints in the server's log")
        if options.traced:
            arguments = ("--loop", options.loop, "--periodic", "--trace")
            with fire(mariadb, query, out / "trace.log", *arguments) as server:
                traced(server, options, result)
    return result


def tests(names: list[str], log: Path, result: Result) -> None:
    """Run test modules in development mode, with asyncio's debug mode, which that implies."""
    paths = [f"tests/{name}.py" for name in names]
    # Warnings are errors in the tests, but for one that the interpreter raises too late for that.
    command = [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=1800)
    lines = log.read_text(errors="replace").splitlines()
    result.figures["-X dev: tests"] = lines[-1].strip("= ") if lines else ""
    result.demand(done.returncode == 0, f"the tests pass under -X dev: {lines[-1].strip('= ')}")
    result.none((line for line in lines if LEFT.search(line)), "-X dev: left behind by the tests")


def warned(server: Fire, options: argparse.Namespace, result: Result) -> None:
    tally = Tally()
    asyncio.run(send(server.port, even(0.05), options.requests, options.clients, tally))
    server.quiet()
    result.figures["-X dev: requests"] = tally.requests
    result.none(tally.wrong, "-X dev: requests without their answer")


def traced(server: Fire, options: argparse.Namespace, result: Result) -> None:
    tally = Tally()
    size = options.traced // options.batches
    mix = even(0.05)
    at, totals, grown = [], [], []
    for batch in range(options.batches):
        asyncio.run(send(server.port, mix, size, options.clients, tally, first=batch * size))
        asyncio.run(fill(server.port, POOL))
        server.quiet()
        # The first look is to be a base, and so is the one at half time: what has grown since is told.
        found = server.ask("POST") if batch in (options.batches // 2, options.batches - 1) else None
        total = found["total"] if found else server.ask("PUT")["total"]
        grown = found["grown"] if found else grown
        at.append(tally.requests)
        totals.append(total)
        print(f"{tally.requests} requests: {total / 2**20:.2f} MiB traced", flush=True)
    half = len(at) // 2
    growing, error = slope(totals[half:], at[half:])
    result.series.update(requests=at, traced=totals)
    result.figures.update(
        {
            "traced: requests": tally.requests,
            "traced: at half time, MiB": totals[half] / 2**20,
            "traced: at the end, MiB": totals[-1] / 2**20,
            "traced: slope, bytes a request": f"{growing:.1f} ± {error:.1f}",
            **{f"grown: {each['where']}": f"{each['bytes']:+,} bytes" for each in grown},
        }
    )
    result.none(tally.wrong, "traced: requests without their answer")
    result.demand(
        growing - error <= 0 or growing <= GROWTH,
        f"traced memory levels off: {growing:.1f} ± {error:.1f} bytes a request in the second half",
    )
