"""``python -m tests.oracle``: run both legs, compare, rerun what differs, and report.

A test counts against greentor if it fails or does not run in its leg, passes on plain PyMySQL, and
does so again when it, or its directory, is rerun. Tests that ``exceptions.txt`` names, each with a
reason, may differ.
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.oracle.compare import Labels, differences, exceptions, label_of, stale
from tests.oracle.run import ENGINES, HERE, REPO, Leg, Outcome, Suite
from tests.oracle.source import Unavailable, interpreter, tests_of

DIRECTORIES = (
    "backends",
    "basic",
    "transactions",
    "transaction_hooks",
    "queries",
    "select_for_update",
)
RERUNS = 3
#: thousands of tables are made and dropped, and none of them is worth keeping
SERVER = ("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=256M")


def confirm(suite: Suite, found: Mapping[str, Outcome]) -> dict[str, str]:
    """Rerun what differed, alone and then with its whole directory; say what differed again."""
    again: dict[str, str] = {}
    for how in ("alone", "with its directory"):
        rest = {test for test in found if test not in again}
        labels = {label_of(t) if how == "alone" else label_of(t).split(".")[0] for t in rest}
        for test, times in rerun(suite, rest, sorted(labels)).items():
            if times:
                again[test] = f"{times} of {RERUNS} reruns {how}"
    return again


def rerun(suite: Suite, tests: Collection[str], labels: Labels) -> dict[str, int]:
    """Return how often each of ``tests`` differs when only ``labels`` are run."""
    times = dict.fromkeys(tests, 0)
    for number in range(1, RERUNS + 1) if tests else ():
        print(f"oracle: rerun {number} of {RERUNS}: {', '.join(labels)[:200]}", flush=True)
        plain, green = suite.run(labels, f"rerun{number}", quiet=True)
        again = differences(plain.outcomes, green.outcomes)
        for test in tests:
            # A leg that died says nothing good about what it left out.
            times[test] += test in again or bool(green.trouble and test not in green.outcomes)
    return times


# --- reporting --------------------------------------------------------------------------------


def show(leg: Leg) -> None:
    """Print a leg's counts."""
    ticks = "" if leg.ticks is None else f", the loop ticked {leg.ticks} times"
    print(
        f"{leg.name:9} {leg.tests} tests, {leg.apps} applications, in {leg.seconds:.0f} s: "
        f"{leg.count('ok')} ok, "
        f"{leg.count('fail')} failed, {leg.count('error', 'died')} errors, "
        f"{leg.count('skip')} skipped, {leg.count('expected failure')} expected failures{ticks}"
    )
    if leg.trouble:
        print(f"          {leg.trouble}; see {leg.log.relative_to(REPO)}")
    for detail in leg.loop_errors:
        print(f"          the loop reported {detail[:300]}")


def last_line(detail: str) -> str:
    """Return what a traceback ends in, on one line."""
    lines = [line for line in detail.strip().splitlines() if line and not line.startswith(" ")]
    return lines[-1][:200] if lines else ""


def listing(title: str, tests: Mapping[str, str]) -> None:
    """Print a titled list of tests, each with a remark."""
    if tests:
        print(f"\n{title} ({len(tests)}):")
        for test in sorted(tests):
            print(f"  {test}" + (f"\n      {tests[test]}" if tests[test] else ""))


def compare(suite: Suite, labels: Labels) -> int:
    """Run, compare and report; return the number of differences that count."""
    excepted = exceptions((HERE / "exceptions.txt").read_text())
    plain, green = suite.run(labels, "full")
    found = differences(plain.outcomes, green.outcomes)
    if green.trouble:  # what it did not come to is no difference of its own
        found = {test: outcome for test, outcome in found.items() if outcome.name != "missing"}
    open_ = {test: outcome for test, outcome in found.items() if test not in excepted}
    again = confirm(suite, open_) if open_ else {}
    counted = {t: o for t, o in open_.items() if t in again}

    print()
    for leg in (plain, green):
        show(leg)
    for leg in (plain, green):
        failing = {t: last_line(o.detail) for t, o in leg.outcomes.items() if o.failed}
        listing(f"failing in {leg.name}'s leg", failing)
    listing("excepted", {t: excepted[t] for t in found if t in excepted})
    needless = stale(excepted, green.outcomes, labels)
    listing("exceptions that this run did not need", dict.fromkeys(needless, ""))
    listing(
        f"differed once, in none of {2 * RERUNS} reruns",
        {t: f"{o.name}: {last_line(o.detail)}" for t, o in open_.items() if t not in again},
    )
    listing(
        "DIFFERENCES",
        {t: f"{o.name}, {again[t]}: {last_line(o.detail)}" for t, o in counted.items()},
    )
    for test, outcome in sorted(counted.items()):
        print(f"\n--- {test}: {outcome.name}\n{outcome.detail}")
    broken = sum(leg.exit_code is None for leg in (plain, green))
    waits = suite.engine == "mysql" and suite.in_greenlet  # SQLite answers within the process
    idle = waits and not green.ticks and not green.trouble
    if idle:
        print("\nthe loop never ticked during greentor's leg: it ran blocking, and proves nothing")
    total = len(counted) + broken + idle
    died = f"; legs that died: {broken}" if broken else ""
    print(f"\ndifferences: {len(counted)}{died}")
    return total


# --- the command ------------------------------------------------------------------------------


def server(url: str | None, timezones: bool, stack: ExitStack) -> dict[str, Any]:
    """Return the connection settings of the server named by a URL, or of a private MariaDB."""
    if url is None:
        from tests.mariadb import MariaDB

        mariadb = MariaDB(max_connections=200, timezones=timezones, options=SERVER)
        stack.enter_context(mariadb)
        params = {key.upper(): value for key, value in mariadb.params().items()}
    else:
        parts = urlsplit(url)
        params = {"HOST": parts.hostname, "PORT": parts.port}
        params |= {"USER": unquote(parts.username or ""), "PASSWORD": unquote(parts.password or "")}
    return {key: params.get(key) or "" for key in ("HOST", "PORT", "USER", "PASSWORD")}


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("labels", nargs="*", metavar="directory", help="or any label of runtests")
    parser.add_argument("--all", action="store_true", help="the whole suite")
    parser.add_argument("--engine", choices=ENGINES, default="mysql")
    parser.add_argument("--django", help="a version or a pattern as 6.1.*; else what is installed")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the legs")
    parser.add_argument("--url", help="mysql://user:password@host:port of a running server")
    parser.add_argument("--serial", action="store_true", help="one leg after the other")
    parser.add_argument("--blocking", action="store_true", help="greentor's leg without a loop")
    parser.add_argument("--stall", type=float, default=600.0, help="seconds of silence allowed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and stop the legs
    labels = [] if options.all else options.labels or list(DIRECTORIES)

    began = time.monotonic()
    cache = REPO / ".cache" / "oracle"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    with ExitStack() as stack:
        try:
            python, version = interpreter(options.python, options.django, cache)
            tests = tests_of(version, python, cache)
        except Unavailable as exc:
            print(f"oracle: {exc}", file=sys.stderr)
            return 2
        work = cache / f"run-{options.engine}-{version}"
        work.mkdir(exist_ok=True)
        lock = stack.enter_context((work / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"oracle: another one is at work in {work}", file=sys.stderr)
            return 2
        at = server(options.url, options.all, stack) if options.engine == "mysql" else {}
        suite = Suite(
            python=python,
            tests=tests,
            engine=options.engine,
            server=at,
            work=work,
            in_greenlet=not options.blocking,
            serial=options.serial,
            stall=options.stall,
        )
        print(f"oracle: Django {version} on {options.engine}: {' '.join(labels) or 'everything'}")
        remaining = compare(suite, labels)
    print(f"{time.monotonic() - began:.0f} s; details in {work.relative_to(REPO)}")
    return 1 if remaining else 0


if __name__ == "__main__":
    sys.exit(main())
