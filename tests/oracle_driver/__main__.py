"""``python -m tests.oracle_driver``: run PyMySQL's suite on each driver, compare, and report.

The suite is run over TCP, with TLS as PyMySQL uses it by default, and over a unix socket, each leg on a
private MariaDB of its own. A difference counts if it is seen again when both legs are run anew. Tests
that ``exceptions.txt`` names, each with a reason, may differ in greenlets; outside of them none may.

PyMySQL's ``tests/test_auth.py`` is left out: it needs users of plugins that MySQL 8 alone has.
"""

from __future__ import annotations

import argparse
import fcntl
import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pymysql

from tests.mariadb import MariaDB
from tests.oracle.compare import differences, exceptions
from tests.oracle.run import Outcome
from tests.oracle.source import Unavailable
from tests.oracle_driver.suite import interpreter, tests_of

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
TRANSPORTS = ("tcp", "unix")
#: the server that the suite expects: two databases, a user of the second, and the plugin it looks for
SET_UP = (
    "CREATE DATABASE test1 CHARACTER SET utf8mb4",
    "CREATE DATABASE test2 CHARACTER SET utf8mb4",
    "CREATE USER test2@'%%' IDENTIFIED BY 'some password'",
    "GRANT ALL ON test2.* TO test2@'%%'",
)
PLUGIN = (
    "INSTALL SONAME 'auth_ed25519'",
    "CREATE FUNCTION ed25519_password RETURNS STRING SONAME 'auth_ed25519.so'",
)


@dataclass
class Leg:
    """One run of the suite: what became of each test, and what else was seen."""

    name: str
    outcomes: dict[str, Outcome]
    opened: dict[str, int]
    ticks: int
    errors: list[str]
    seconds: float

    def __str__(self) -> str:
        count = Counter(outcome.name for outcome in self.outcomes.values())
        parts = [f"{number} {name}" for name, number in sorted(count.items(), reverse=True)]
        opened = [f"{number} {how}" for how, number in sorted(self.opened.items())]
        text = (
            f"{self.name:14} {len(self.outcomes)} tests in {self.seconds:.0f} s: {', '.join(parts)}"
        )
        return text + (f"; connections: {', '.join(opened)}" if opened else "")


@dataclass(frozen=True)
class Suite:
    """What all the legs have in common."""

    python: Path
    tests: Path
    work: Path
    loop: str
    select: str
    limit: float

    def log(self, driver: str, transport: str) -> Path:
        """Return where the output of a leg goes."""
        return self.work / f"{driver}-{transport}.log"

    def run(self, driver: str, transport: str) -> Leg:
        """Run one leg on a new server; raise `Unavailable` if it dies."""
        name = f"{driver} {transport}"
        log = self.log(driver, transport)
        config, result = log.with_suffix(".json"), log.with_suffix(".result")
        result.unlink(missing_ok=True)
        ini = self.work / "pytest.ini"
        ini.write_text("[pytest]\n")
        env = {**os.environ, "PYTHONPATH": str(self.work / "path"), "USER": getpass.getuser()}
        env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        began = time.monotonic()
        with MariaDB(max_connections=100, options=("--local-infile=1",)) as server:
            set_up(server)
            settings = {
                "driver": driver,
                "loop": self.loop,
                "suite": str(self.tests),
                "select": self.select,
                "ini": str(ini),
                "result": str(result),
            }
            at = self.tests / "pymysql" / "tests" / "databases.json"
            at.write_text(json.dumps(databases(server, transport)))
            config.write_text(json.dumps(settings))
            with log.open("w") as output:
                process = subprocess.Popen(
                    [self.python, HERE / "leg.py", config],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=self.work,
                )
                try:
                    process.wait(self.limit)
                except subprocess.TimeoutExpired:
                    pass
                finally:
                    process.kill()
                    process.wait()
        if not result.exists():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise Unavailable(
                f"the leg {name} died with {process.returncode}; its log ends:\n{tail}"
            )
        seen = json.loads(result.read_text())
        outcomes = {test: Outcome(*outcome) for test, outcome in seen["outcomes"].items()}
        seconds = time.monotonic() - began
        return Leg(name, outcomes, seen["opened"], seen["ticks"], seen["errors"], seconds)


def set_up(server: MariaDB) -> None:
    """Create what the suite expects to find."""
    for statement in SET_UP:
        server.execute(statement.replace("%%", "%"))
    for statement in PLUGIN:
        try:
            server.execute(statement)
        except pymysql.err.MySQLError as exc:  # then the suite skips its tests
            print(f"oracle: no ed25519 here: {exc}")
            break


def databases(server: MariaDB, transport: str) -> list[dict[str, Any]]:
    """Return what the suite reads from its databases.json."""
    at: dict[str, Any] = {"host": server.host, "port": server.port}
    if transport == "unix":
        at = {"host": "localhost", "unix_socket": server.unix_socket}
    return [
        {**at, "user": "root", "password": "", "database": "test1", "local_infile": True},
        {**at, "user": "test2", "password": "some password", "database": "test2"},
    ]


def differ(plain: Leg, other: Leg) -> dict[str, Outcome]:
    """Return what counts: in greenlets what fails there alone, else every other outcome."""
    if other.name.startswith("greenlet"):
        return differences(plain.outcomes, other.outcomes)
    tests = plain.outcomes.keys() | other.outcomes.keys()
    missing = Outcome("missing")
    return {
        test: other.outcomes.get(test, missing)
        for test in tests
        if plain.outcomes.get(test, missing).name != other.outcomes.get(test, missing).name
    }


def last_line(detail: str) -> str:
    """Return what a traceback of pytest's comes to, on one line."""
    lines = [line[1:].strip() for line in detail.splitlines() if line.startswith("E ")]
    return (lines[0] if lines else detail.strip().partition("\n")[0])[:200]


def compare(suite: Suite) -> int:
    """Run, compare and report; return the number of differences that count."""
    excepted = exceptions((HERE / "exceptions.txt").read_text())
    needed: set[str] = set()
    seen: set[str] = set()
    total = 0
    for transport in TRANSPORTS:
        plain = suite.run("plain", transport)
        print(plain, flush=True)
        seen |= plain.outcomes.keys()
        for test, outcome in sorted(plain.outcomes.items()):
            if outcome.failed:
                print(f"    fails on plain PyMySQL: {test}: {last_line(outcome.detail)}")
        for driver in ("greenlet", "blocking"):
            leg = suite.run(driver, transport)
            print(leg, flush=True)
            found = differ(plain, leg)
            allowed = excepted if driver == "greenlet" else {}
            for test in sorted(found.keys() & allowed.keys()):
                print(f"    excepted: {test}: {allowed[test]}")
            needed |= found.keys() & allowed.keys()
            open_ = found.keys() - allowed.keys()
            if open_:
                again = differ(suite.run("plain", transport), suite.run(driver, transport))
                for test in sorted(open_ - again.keys()):
                    print(f"    differed once and not again: {test}")
                open_ &= again.keys()
            for test in sorted(open_):
                was = plain.outcomes.get(test, Outcome("missing")).name
                now = f"{found[test].name}: {last_line(found[test].detail)}"
                print(f"    DIFFERENCE: {test}: {was} on plain PyMySQL; here {now}")
            if open_:
                print(f"    the tracebacks: {suite.log(driver, transport).relative_to(REPO)}")
            total += len(open_) + trouble(leg)
    for test in sorted((excepted.keys() & seen) - needed):
        print(f"an exception that nothing needed: {test}")
    print(f"differences: {total}")
    return total


def trouble(leg: Leg) -> int:
    """Report what is wrong with a leg besides its outcomes; return how much."""
    problems = list(leg.errors)
    if leg.name.startswith("greenlet"):
        if not leg.ticks or not leg.opened.get("cooperative"):
            problems.append("the loop never ran beside the tests: they prove nothing")
        if number := leg.opened.get("blocking in a greenlet"):
            problems.append(f"{number} connections blocked in a greenlet")
    for problem in problems:
        print(f"    TROUBLE: {problem}")
    return len(problems)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle_driver", description=__doc__)
    parser.add_argument("--pymysql", metavar="VERSION", help="else the installed one")
    parser.add_argument("--tests-of", metavar="VERSION", help="the suite of another version")
    parser.add_argument("--source", type=Path, help="a checkout or an archive with pymysql/tests")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds allowed to a leg")
    parser.add_argument("-k", dest="select", default="", help="as pytest's -k")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end the leg

    version = options.pymysql or metadata.version("PyMySQL")
    cache = REPO / ".cache" / "oracle"
    work = cache / f"run-pymysql-{version}"
    work.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"oracle: another one is at work in {work}", file=sys.stderr)
            return 2
        try:
            python = interpreter(version, cache)
            tests = work / "suite"
            origin = tests_of(options.tests_of or version, options.source, cache, tests)
            path = work / "path"  # a copy, so that an edit does not reach a run that has begun
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(REPO / "greentor", path / "greentor")
            print(f"oracle: PyMySQL {version} on {options.loop}; its tests: {origin}", flush=True)
            suite = Suite(python, tests, work, options.loop, options.select, options.limit)
            return 1 if compare(suite) else 0
        except Unavailable as exc:
            print(f"oracle: {exc}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
