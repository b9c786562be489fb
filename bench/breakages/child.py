"""One side of one case, in the interpreter of that side: ``-m bench.breakages.child SCRIPT NUMBER SIDE``.

Sets Django up, creates the tables, runs the side and prints one line of JSON: what it saw, or ``{"port": n}``
when it listens. No module of greentor is imported in a peer's process.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import signal
import sys
from typing import Any

import django
import pymysql.cursors
from django.core.management import call_command
from django.db import connections

#: seconds that a side may take
DEADLINE = 90


class Server:
    """The database server as root sees it; what the tests' `MariaDB` offers, for a child."""

    def __init__(self, unix_socket: str, pid: int) -> None:
        self.pid = pid
        self._unix_socket = unix_socket

    @functools.cached_property
    def _root(self) -> pymysql.Connection[Any]:
        return pymysql.connect(
            unix_socket=self._unix_socket,
            user="root",
            autocommit=True,
            cursorclass=pymysql.cursors.DictCursor,
        )

    def execute(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        """Run one statement and return its rows."""
        with self._root.cursor() as cursor:
            cursor.execute(sql, args or None)
            return list(cursor.fetchall())


def main() -> None:
    signal.alarm(DEADLINE)  # ends the process, whatever it hangs in and whoever has forgotten it
    script, number, side = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    if side == "peer":
        pymysql.install_as_MySQLdb()
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.breakages.settings"
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    connections.close_all()
    case = importlib.import_module(f"bench.breakages.{script}").CASES[int(number)]
    server = Server(os.environ["BREAKAGES_SOCKET"], int(os.environ["BREAKAGES_PID"]))
    seen = getattr(case, side)(server)
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
