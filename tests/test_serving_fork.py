"""A process that has used the ORM forks: the child leaves its connections alone, whatever it does."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.mariadb import MariaDB
from tests.serving.client import ROOT
from tests.waiting import wait_until

#: by where the parent is: what its children do, and what they say
CHILDREN = {
    "within": {
        "leave": "left",
        "query_on_a_loop": "0 rows",
        "query_blocking": "ConcurrentUseError",
        "close_all": "closed",
        "collect": "collected",
    },
    "outside": {
        "query_on_a_loop": "1 rows",
        "query_blocking": "1 rows",
        "close_all": "closed",
        "end_the_interpreter": "ended",
    },
}


def run_forking(database: dict[str, Any], loop: str, where: str, children: dict[str, str]) -> None:
    """Run the program to its end, and check what the children, and then the parent, said."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    options = {"database": database, "loop": loop, "where": where, "actions": [*children]}
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.forking", json.dumps(options)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [*children.values(), "fine"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["within", "outside"])
@pytest.mark.parametrize(("loop", "tls"), [("asyncio", True), ("uvloop", False), ("uvloop", True)])
def test_a_forked_child_sends_nothing_on_connections_of_its_parent(
    mariadb: MariaDB, loop: str, tls: bool, where: str
) -> None:
    mariadb.create_database("forking")
    mariadb.execute("CREATE TABLE forked (id INT) ENGINE = InnoDB", database="forking")
    aborted = mariadb.status("Aborted_clients")
    database = {
        "ENGINE": "greentor.db.mysql",
        "NAME": "forking",
        "USER": mariadb.user,
        "PASSWORD": mariadb.password,
        "HOST": mariadb.host,
        "PORT": mariadb.port,
        "OPTIONS": {"ssl": {"ca": mariadb.ca}} if tls else {"ssl_disabled": True},
    }
    run_forking(database, loop, where, CHILDREN[where])
    wait_until(lambda: all(row["DB"] != "forking" for row in mariadb.processlist()))
    assert mariadb.status("Aborted_clients") == aborted


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("where", ["within", "outside"])
def test_a_forked_child_leaves_the_files_of_sqlite_alone(
    tmp_path: Path, loop: str, where: str
) -> None:
    path = tmp_path / "test.sqlite3"
    with closing(sqlite3.connect(path)) as setup:
        setup.execute("PRAGMA journal_mode = WAL")
        setup.execute("CREATE TABLE forked (id INT)")
    # SQLite forbids it to make queries, as long as the parent has the file open.
    refused = dict.fromkeys(("query_on_a_loop", "query_blocking"), "ProgrammingError")
    children = CHILDREN[where] | refused
    database = {"ENGINE": "greentor.db.sqlite3", "NAME": str(path)}
    run_forking(database, loop, where, children)
    with closing(sqlite3.connect(path)) as check:
        assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
