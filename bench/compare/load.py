"""The programs that send the requests: wrk, or ab.

Either is ended by SIGINT when its time is over, and tells what it has counted until then: so a run may last
half a second, and a server that answers no more cannot hold it up.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.compare import machine
from bench.compare.workloads import Cell

#: seconds after which wrk and ab give a request up
TIMEOUT = 30
#: seconds within which they must have ended after SIGINT, and those after which they would by themselves
PATIENCE, MORE = 20, 60
SCRIPT = Path(__file__).with_name("load.lua")


class LoadFailed(Exception):
    """The load could not be sent, or what its sender printed cannot be understood."""


@dataclass(frozen=True)
class Outcome:
    """What became of the requests; the times are in milliseconds."""

    seconds: float
    requests: int
    served: int
    errors: dict[str, int]
    p50: float
    p90: float
    p99: float
    longest: float


class Wrk:
    """https://github.com/wg/wrk"""

    name = "wrk"
    install = "apt-get install wrk"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def lacks(self, cell: Cell) -> str | None:
        """Return why a workload cannot be sent, if it cannot."""
        return None

    def version(self) -> str:
        # It prints this with its usage, and exits with 1.
        text = subprocess.run([self.name, "-v"], capture_output=True, text=True).stdout
        found = re.match(r"wrk (\S+)", text)
        return f"wrk {found[1] if found else 'of an unknown version'}"

    def run(
        self, port: int, cell: Cell, seconds: float, late: Callable[[], None] | None = None
    ) -> Outcome:
        """Send requests for some time; call ``late`` near the end of it. Raise `LoadFailed`."""
        paths = cell.workload.paths
        turns = [str(word) for path, weight in paths for word in (weight, path)]
        command = [
            *(self.name, "-t", str(min(self.threads, cell.connections))),
            *("-c", str(cell.connections), "-d", f"{int(seconds) + MORE}s"),
            *("--timeout", f"{TIMEOUT}s", "-s", str(SCRIPT)),
            *(f"http://127.0.0.1:{port}{paths[0][0]}", "--", str(cell.workload.pipeline)),
            *(turns if len(paths) > 1 else ()),
        ]
        return _some(parse_wrk(_run(command, seconds, late)), cell)


class Ab:
    """https://httpd.apache.org/docs/current/programs/ab.html"""

    name = "ab"
    install = "apt-get install apache2-utils"

    def lacks(self, cell: Cell) -> str | None:
        if len(cell.workload.paths) > 1:
            return "ab asks for one path only"
        if cell.workload.pipeline > 1:
            return "ab does not pipeline"
        return None

    def version(self) -> str:
        text = subprocess.run([self.name, "-V"], capture_output=True, text=True).stdout
        found = re.search(r"Version (\S+)", text)
        return f"ab {found[1] if found else 'of an unknown version'}"

    def run(
        self, port: int, cell: Cell, seconds: float, late: Callable[[], None] | None = None
    ) -> Outcome:
        """Send requests for some time; call ``late`` near the end of it. Raise `LoadFailed`."""
        with tempfile.TemporaryDirectory() as directory:
            table = Path(directory, "percentiles.csv")
            # -l: answers may differ in length. -r: a connection that is reset does not end it.
            # -n comes after -t, which sets a number of its own.
            command = [
                *(self.name, "-k", "-l", "-r", "-q", "-s", str(TIMEOUT)),
                *("-c", str(cell.connections), "-t", str(int(seconds) + MORE), "-n", "1000000"),
                *("-e", str(table), f"http://127.0.0.1:{port}{cell.workload.paths[0][0]}"),
            ]
            output = _run(command, seconds, late)
            return _some(parse_ab(output, table.read_text() if table.exists() else ""), cell)


LOADS = {load.name: load for load in (Wrk, Ab)}


def missing(load: Wrk | Ab) -> str | None:
    """Return how to install the program, if it is not."""
    return None if shutil.which(load.name) else f"{load.name} is not installed ({load.install})"


def parse_wrk(output: str) -> Outcome:
    """Read the line that ``load.lua`` prints; raise `LoadFailed` if there is none."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    try:
        value: dict[str, Any] = json.loads(re.sub(r"-?\b(nan|inf)\b", "0", lines[-1]))
    except (IndexError, ValueError):
        raise LoadFailed(f"wrk has counted nothing: {output.strip()[-500:]}") from None
    errors = {name: value[name] for name in ("connect", "read", "write", "timeout", "status")}
    return Outcome(
        seconds=value["duration"] / 1e6,
        requests=value["requests"],
        served=value["requests"] - value["status"],
        errors=errors,
        p50=value["p50"] / 1000,
        p90=value["p90"] / 1000,
        p99=value["p99"] / 1000,
        longest=value["max"] / 1000,
    )


def parse_ab(output: str, percentiles: str) -> Outcome:
    """Read what ab prints, and its table of percentiles; raise `LoadFailed` if it has no result."""

    def number(pattern: str) -> float:
        found = re.search(pattern, output)
        return float(found[1]) if found else 0

    if "Complete requests:" not in output:
        raise LoadFailed(f"ab has counted nothing: {output.strip()[-500:]}")
    cuts = {int(row[0]): float(row[1]) for row in csv.reader(percentiles.splitlines()[1:])}
    complete = int(number(r"Complete requests:\s+(\d+)"))
    errors = {
        "connect": int(number(r"\(Connect: (\d+)")),
        "read": int(number(r"Receive: (\d+)")),
        "write": int(number(r"Write errors:\s+(\d+)")),
        "timeout": 0,  # ab ends with an error
        "status": int(number(r"Non-2xx responses:\s+(\d+)")),
        "length": int(number(r"Length: (\d+)")),
        "exceptions": int(number(r"Exceptions: (\d+)")),
    }
    # An answer that is not read to its end is "complete", too.
    errors["other"] = max(
        int(number(r"Failed requests:\s+(\d+)"))
        - sum(errors[name] for name in ("connect", "read", "length", "exceptions")),
        0,
    )
    return Outcome(
        seconds=number(r"Time taken for tests:\s+([\d.]+)"),
        requests=complete,
        served=max(complete - sum(errors.values()), 0),
        errors=errors,
        p50=cuts.get(50, 0),
        p90=cuts.get(90, 0),
        p99=cuts.get(99, 0),
        longest=number(r"100%\s+(\d+)"),
    )


def _some(outcome: Outcome, cell: Cell) -> Outcome:
    """Return the outcome; if nothing at all was answered, what was at work until the end has failed."""
    if outcome.requests or any(outcome.errors.values()):
        return outcome
    return replace(outcome, errors={**outcome.errors, "unanswered": cell.connections})


def _run(command: list[str], seconds: float, late: Callable[[], None] | None) -> str:
    """Run a command for so long; return what it printed."""
    end = time.monotonic() + seconds
    process = None
    try:
        with machine.uninterrupted():
            process = _start(command)
        if late is not None and _lasts(process, seconds * 0.8):
            late()
        interrupted = _lasts(process, end - time.monotonic())
        if interrupted:
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{command[0]} has not ended within {PATIENCE} s of SIGINT") from None
    finally:
        if process is not None:
            _end(process)
    if process.returncode and not interrupted:  # ab ends with 1 then
        raise LoadFailed(f"{command[0]} ended with {process.returncode}: {output.strip()[-500:]}")
    return output


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process
    )


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _lasts(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.wait(max(seconds, 0.001))
    except subprocess.TimeoutExpired:
        return True
    return False
