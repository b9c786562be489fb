"""Start legs, watch them, and read what they wrote.

Invariant: the legs share a server and nothing else; each has databases, settings, results and a log
of its own, so they can run at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent

#: an engine of Django's own on PyMySQL; a package, because the suite hands its parent directory to
#: the subprocesses that it starts
PLAIN_MYSQL = {
    "__init__.py": "import pymysql\n\npymysql.install_as_MySQLdb()\n",
    "base.py": "from django.db.backends.mysql.base import DatabaseWrapper  # noqa: F401\n",
}

ENGINES = {
    "mysql": ("plain_pymysql", "greentor.db.mysql"),
    "sqlite3": ("django.db.backends.sqlite3", "greentor.db.sqlite3"),
}


class Outcome(NamedTuple):
    """What became of one test: ok, fail, error, skip, expected failure, or died."""

    name: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        return self.name in ("fail", "error", "died")


@dataclass
class Leg:
    """One run of the suite: its configuration, its process, and what is known of it so far."""

    name: str
    config: dict[str, Any]
    log: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    loop_errors: list[str] = field(default_factory=list)
    running: str | None = None
    total: int = 0
    apps: int = 0
    tests: int = 0
    ticks: int | None = None
    exit_code: int | None = None
    seconds: float = 0.0
    trouble: str | None = None
    _rest: str = ""

    def start(self, python: str, home: Path) -> None:
        """Start the process; its output goes to the log."""
        config = self.log.with_suffix(".json")
        config.write_text(json.dumps(self.config))
        results = Path(self.config["results"])
        results.write_text("")
        env = {**os.environ, "PYTHONPATH": str(home), "PYTHONHASHSEED": "0"}
        env.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)
        env["DJANGO_SETTINGS_MODULE"] = self.config["settings"]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [python, str(HERE / "leg.py"), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        self._began = self._heard = time.monotonic()
        self._results = results.open()

    def poll(self, stall: float) -> bool:
        """Read what is new; return whether the leg still runs. Kill it if silent for too long."""
        if self._results.closed:
            return False
        code = self._process.poll()  # before reading: nothing is written after it
        *lines, self._rest = (self._rest + self._results.read()).split("\n")
        for line in lines:
            self._read(json.loads(line))
        now = time.monotonic()
        if lines:
            self._heard = now
        elif code is None and now - self._heard > stall:
            self.trouble = f"silent for {stall:.0f} s in {self.running or 'its set-up'}: killed"
            self._process.send_signal(signal.SIGABRT)  # faulthandler says where it was
            code = self._process.wait()
        if code is None:
            return True
        self.stop()
        self.seconds = now - self._began
        if self.exit_code is None:
            self.trouble = self.trouble or f"died with {code} in {self.running or 'its set-up'}"
            if self.running:
                self.outcomes[self.running] = Outcome("died", self.trouble)
        return False

    def stop(self) -> None:
        """End the process, if it still runs, and what it has left behind."""
        if not self._results.closed:
            self._results.close()
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _read(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self.running = event["id"]
        elif kind == "done":
            self.running = None
            self.tests += 1
            self.outcomes[event["id"]] = Outcome(event["outcome"], event["detail"])
        elif kind == "total":
            self.total, self.apps = event["count"], event["apps"]
        elif kind == "ticks":
            self.ticks = event["count"]
        elif kind == "loop error":
            self.loop_errors.append(f"in {self.running}: {event['detail']}")
        elif kind == "end":
            self.exit_code = event["code"]

    def count(self, *names: str) -> int:
        """Return how many tests had one of these outcomes."""
        return sum(outcome.name in names for outcome in self.outcomes.values())

    def __str__(self) -> str:
        failed = sum(outcome.failed for outcome in self.outcomes.values())
        return f"{self.name} {self.tests}/{self.total}, {failed} failed"


@dataclass(frozen=True)
class Suite:
    """Django's suite in one version, on one engine: all that its runs have in common."""

    python: str
    tests: Path
    engine: str
    server: dict[str, Any]
    work: Path
    in_greenlet: bool = True
    serial: bool = False
    stall: float = 600.0

    def run(self, labels: Sequence[str], tag: str, quiet: bool = False) -> tuple[Leg, Leg]:
        """Run these labels on both legs and return (plain, greentor)."""
        legs = self._leg("plain", labels, tag), self._leg("greentor", labels, tag)
        rounds = [[leg] for leg in legs] if self.serial else [list(legs)]
        started: list[Leg] = []
        try:
            for together in rounds:
                for leg in together:
                    leg.start(self.python, self.home)
                    started.append(leg)
                _watch(together, self.stall, quiet)
        finally:
            for leg in started:
                leg.stop()
        return legs

    def _leg(self, name: str, labels: Sequence[str], tag: str) -> Leg:
        green = name == "greentor"
        module = f"oracle_settings_{name}"
        engine = ENGINES[self.engine][green]
        databases = {a: self._database(name, a, engine) for a in ("default", "other")}
        example = (self.tests / "test_sqlite.py").read_text()  # of this version of Django
        (self.home / f"{module}.py").write_text(f"{example}\nDATABASES = {databases!r}\n")
        config = {
            "tests": str(self.tests),
            "labels": list(labels),
            "settings": module,
            "apps": ["greentor"] if green else [],
            "greenlet": green and self.in_greenlet,
            "preload": f"{engine}.base" if green else None,
            "results": str(self.work / f"{tag}-{name}.jsonl"),
        }
        return Leg(name, config, self.work / f"{tag}-{name}.log")

    def _database(self, leg: str, alias: str, engine: str) -> dict[str, Any]:
        if self.engine != "mysql":
            # A file, as a server has it; by default the test database would be in memory.
            files = [str(self.work / f"{leg}-{alias}{tag}.sqlite3") for tag in ("", "-test")]
            options = {"transaction_mode": "IMMEDIATE"}  # greentor's default
            if leg == "plain":  # and this one's log is synchronised seldom, too
                options["init_command"] = "PRAGMA synchronous = OFF"
            return {
                "ENGINE": engine,
                "NAME": files[0],
                "OPTIONS": options,
                "TEST": {"NAME": files[1]},
            }
        return {
            "ENGINE": engine,
            **self.server,
            "NAME": f"oracle_{leg}_{alias}",
            # TLS would cost each of the plain leg's many connections more than its queries.
            "OPTIONS": {"ssl_disabled": True},
            "TEST": {"CHARSET": "utf8mb4"},
        }

    @cached_property
    def home(self) -> Path:
        """Make the directory from which the legs import greentor and their settings, alone.

        It has a copy of greentor, so that an edit does not reach a run that has begun.
        """
        home = self.work / "path"
        shutil.rmtree(home, ignore_errors=True)
        plain = home / "plain_pymysql"
        plain.mkdir(parents=True)
        for name, text in PLAIN_MYSQL.items():
            (plain / name).write_text(text)
        shutil.copytree(REPO / "greentor", home / "greentor")
        return home


def _watch(legs: list[Leg], stall: float, quiet: bool) -> None:
    """Wait for the legs, with a line of progress now and then."""
    shown, tty = time.monotonic(), sys.stdout.isatty()
    while [leg for leg in legs if leg.poll(stall)]:
        time.sleep(0.2)
        if not quiet and time.monotonic() - shown > (1 if tty else 15):
            shown = time.monotonic()
            line = "oracle: " + "; ".join(map(str, legs))
            print(f"\r\033[K{line}" if tty else line, end="" if tty else "\n", flush=True)
    if tty and not quiet:
        print("\r\033[K", end="")
