"""`Case`: one scenario on two sides, and how a side is run and watched.

Invariants: a child has a deadline and is gone when `Case.run` returns; each side starts on an empty
database.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mariadb import MariaDB

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "bench"

Seen = dict[str, Any]
Side = Callable[[Any], Seen]


@dataclass
class Child:
    """The process of one side: what it said first, and its log."""

    said: Seen
    _log: Any

    def log(self) -> str:
        """Return what it has written to stderr so far."""
        self._log.seek(0)
        return self._log.read()


def what_it_said(child: Child, mariadb: MariaDB) -> Seen:
    """Watch a side that watches itself."""
    return child.said


@dataclass
class Case:
    """One scenario.

    ``peer`` and ``greentor`` run in the child and get the database server as root sees it. They return
    what they saw, or announce a port and serve; then ``watch`` sends the requests and returns what was
    seen. ``documented`` tells whether that is the breakage the peer is known for, and ``broken`` whether
    anything at all is wrong: greentor must not have that.
    """

    what: str
    peer_name: str
    packages: tuple[str, ...]
    peer: Side
    greentor: Side
    documented: Callable[[Seen], bool]
    broken: Callable[[Seen], bool]
    watch: Callable[[Child, MariaDB], Seen] = what_it_said
    conn_max_age: int = 0
    pool: Any = field(default_factory=lambda: {"pool_size": 8, "max_overflow": 0})
    gevent: bool = False

    def run(self, script: str, number: int, side: str, python: str, mariadb: MariaDB) -> Seen:
        """Run one side, ``peer`` or ``greentor``, and return what was seen.

        Raise RuntimeError with its log if its process fails.
        """
        mariadb.create_database(DATABASE)
        interpreter = [python if side == "peer" else sys.executable]
        if self.gevent and side == "peer":
            interpreter += ["-m", "gevent.monkey", "--module"]
        else:
            interpreter += ["-m"]
        command = [*interpreter, "bench.breakages.child", script, str(number), side]
        with _started(command, self._environ(side, mariadb)) as child:
            return self.watch(child, mariadb)

    def _environ(self, side: str, mariadb: MariaDB) -> dict[str, str]:
        options: Seen = {"ssl_disabled": True}
        database = {
            "ENGINE": "django.db.backends.mysql",
            "NAME": DATABASE,
            "HOST": mariadb.host,
            "PORT": mariadb.port,
            "USER": mariadb.user,
            "PASSWORD": mariadb.password,
            "CONN_MAX_AGE": self.conn_max_age,
            "OPTIONS": options,
        }
        if side == "greentor":
            database["ENGINE"] = "greentor.db.mysql"
            options["pool"] = self.pool
        return os.environ | {
            "BREAKAGES_DATABASE": json.dumps(database),
            "BREAKAGES_SOCKET": mariadb.unix_socket,
            "BREAKAGES_PID": str(mariadb.pid),
        }


@contextmanager
def _started(command: list[str], environ: dict[str, str]) -> Iterator[Child]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("{"):
                log.seek(0)
                raise RuntimeError(f"{' '.join(command)} said {line!r}:\n{log.read()[-3000:]}")
            yield Child(json.loads(line), log)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
