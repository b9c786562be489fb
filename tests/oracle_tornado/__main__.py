"""``python -m tests.oracle_tornado``: Tornado's own tests on its server and on `FrontServer`, compared.

A difference counts if it is seen again when both legs are run anew. Tests that ``exceptions.txt`` names, each
with a reason, may differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tornado

from tests.oracle.compare import differences, exceptions
from tests.oracle.run import Outcome

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
LIMIT = 300.0


@dataclass
class Leg:
    """One run of the tests: what became of each, and how many requests were answered by a front."""

    server: str
    outcomes: dict[str, Outcome]
    answers: int

    def __str__(self) -> str:
        count = Counter(outcome.name for outcome in self.outcomes.values())
        parts = [f"{number} {name}" for name, number in sorted(count.items(), reverse=True)]
        text = f"{self.server:8} {len(self.outcomes)} tests: {', '.join(parts)}"
        return text + (f"; {self.answers} answers of the front" if self.answers else "")


def run(loop: str, patterns: Sequence[str]) -> tuple[Leg, Leg]:
    """Run both legs, side by side; raise RuntimeError if one dies."""
    with tempfile.TemporaryDirectory() as directory:
        processes = {}
        for server in ("tornado", "front"):
            result, log = Path(directory, f"{server}.json"), Path(directory, f"{server}.log")
            command = [sys.executable, "-m", "tests.oracle_tornado.leg", server, loop, str(result)]
            with log.open("w") as output:
                processes[server] = subprocess.Popen(
                    [*command, *patterns],
                    cwd=REPO,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        end = time.monotonic() + LIMIT
        legs = []
        try:
            for server, process in processes.items():
                try:
                    process.wait(max(end - time.monotonic(), 0))
                except subprocess.TimeoutExpired:
                    pass
                result, log = Path(directory, f"{server}.json"), Path(directory, f"{server}.log")
                if not result.exists():
                    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                    raise RuntimeError(
                        f"the leg {server} died with {process.returncode}; its log ends:\n{tail}"
                    )
                seen = json.loads(result.read_text())
                outcomes = {test: Outcome(*found) for test, found in seen["outcomes"].items()}
                legs.append(Leg(server, outcomes, seen["answers"]))
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    return legs[0], legs[1]


def compare(loop: str, patterns: Sequence[str] = ()) -> int:
    """Run, compare and report; return the number of differences that count."""
    excepted = exceptions((HERE / "exceptions.txt").read_text())
    stock, front = run(loop, patterns)
    print(stock, front, sep="\n", flush=True)
    if not front.answers:
        print("    TROUBLE: nothing was answered by the front: the tests prove nothing")
        return 1
    for test, outcome in sorted(stock.outcomes.items()):
        if outcome.failed:
            print(f"    fails on Tornado's server: {test}")
    found = differences(stock.outcomes, front.outcomes)
    for test in sorted(found.keys() & excepted.keys()):
        print(f"    excepted: {test}: {excepted[test]}")
    open_ = found.keys() - excepted.keys()
    if open_:
        again = differences(*(leg.outcomes for leg in run(loop, patterns)))
        for test in sorted(open_ - again.keys()):
            print(f"    differed once and not again: {test}")
        open_ &= again.keys()
    for test in sorted(open_):
        print(f"    DIFFERENCE: {test}: here {found[test].name}\n{found[test].detail}")
    if not patterns:
        for test in sorted((excepted.keys() & stock.outcomes.keys()) - found.keys()):
            print(f"an exception that nothing needed: {test}")
    print(f"differences: {len(open_)}")
    return len(open_)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle_tornado", description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument(
        "patterns", nargs="*", help="as unittest's -k: tests with this in their name"
    )
    options = parser.parse_args()
    if importlib.util.find_spec("tornado.test") is None:
        print("oracle: this Tornado is installed without its tests", file=sys.stderr)
        return 2
    print(f"oracle: Tornado {tornado.version} on {options.loop}", flush=True)
    return 1 if compare(options.loop, options.patterns) else 0


if __name__ == "__main__":
    sys.exit(main())
