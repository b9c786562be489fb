"""Puts the pool and the lives of requests under fire, and says whether they stand it.

    python -m bench.fire bound|kill|connect|fair|level|dev|all [--out DIRECTORY] [options]

Each trial starts a private MariaDB and the reference application, with further handlers that fail, and sends
it requests from this process. It writes a table, results.json and a plot into .cache/bench/fire, and exits
with 1 if something does not hold. ``python -m bench.fire TRIAL --help`` shows how a trial can be shortened.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.fire import bound, connect, dev, fair, kill, level
from bench.fire.report import table, write

TRIALS = {
    "bound": bound,
    "kill": kill,
    "connect": connect,
    "fair": fair,
    "level": level,
    "dev": dev,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one trial, or all; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fire", description=str(__doc__).split("\n")[0]
    )
    commands = parser.add_subparsers(dest="trial", required=True)
    for name, module in TRIALS.items():
        command = commands.add_parser(name, help=str(module.__doc__))
        common(command)
        module.arguments(command)
    common(commands.add_parser("all", help="one after the other, in full"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    names = list(TRIALS) if options.trial == "all" else [options.trial]
    missed = 0
    for name in names:
        if options.trial == "all":
            each = parser.parse_args([name, "--out", str(options.out), "--loop", options.loop])
        else:
            each = options
        result = TRIALS[name].trial(each, options.out)
        write(result, options.out)
        (options.out / f"{name}.md").write_text(table(result) + "\n")
        print(f"\n{table(result)}\n", flush=True)
        missed += not result.passed
    return 1 if missed else 0


def common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path(".cache/bench/fire"))
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")


if __name__ == "__main__":
    sys.exit(main())
