"""Starts the server under fire, asks it what it holds, and reads what it has logged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.server import Server, _watch
from tests.mariadb import MariaDB

DATABASE = "fire"
TABLE = "CREATE TABLE fire (kind VARCHAR(20), token VARCHAR(40), PRIMARY KEY (kind, token))"
#: what an asyncio in debug mode says of a slow step is no fault
HARMLESS = re.compile(r"WARNING asyncio: Executing <|^\s*$")


class Fire(Server):
    """The running server."""

    def __init__(self, process: subprocess.Popen[str], port: int, mariadb: MariaDB, log: Path):
        super().__init__(process, port)
        self.mariadb = mariadb
        self.log = log

    def ask(self, method: str = "GET", collect: bool = False) -> dict[str, Any]:
        """Return what the process says that it holds."""
        url = f"{self.url}/-/probe{'?collect=1' if collect else ''}"
        headers = {"Connection": "close"}
        request = urllib.request.Request(url, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def quiet(self, timeout: float = 30) -> dict[str, Any]:
        """Wait until nothing is at work, at most so long; return what is held then."""
        end = time.monotonic() + timeout
        before = None
        while True:
            probe = self.ask(collect=True)
            pool = probe["pool"] or {"in_use": 0, "waiting": 0}
            at_rest = not (pool["in_use"] or pool["waiting"] or probe["requests"])
            now = (probe["fds"], probe["tasks"])
            if (at_rest and now == before) or time.monotonic() > end:
                return probe
            before = now
            time.sleep(0.1)

    def complaints(self, but: str = "$^") -> list[str]:
        """Return the lines of the log that are not harmless, nor match the pattern ``but``."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [each for each in lines if not (HARMLESS.search(each) or re.search(but, each))]


@contextmanager
def fire(
    mariadb: MariaDB,
    query: str,
    log: Path,
    *arguments: str,
    python: Sequence[str] = (),
    port: int | None = None,
) -> Iterator[Fire]:
    """Start the server on a new database; end it with SIGTERM, and raise unless it ends with 0.

    ``port`` is that of a proxy before the database.
    """
    mariadb.create_database(DATABASE)
    mariadb.execute(TABLE, database=DATABASE)
    url = mariadb.url(DATABASE)
    if port is not None:
        url = url.replace(f":{mariadb.port}/", f":{port}/")
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "app.settings",
        "DATABASE_URL": f"{url}?ssl_disabled=1&{query}",
    }
    command = [sys.executable, *python, "-m", "bench.fire.program", *arguments]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=file, text=True
        )
        try:
            with contextmanager(_watch)(process) as server:
                yield Fire(server.process, server.port, mariadb, log)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: see {log}") from None
        finally:
            assert process.stdout is not None
            process.stdout.close()
