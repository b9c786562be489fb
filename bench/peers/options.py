"""The command line and the environment that all peers share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

MYSQLCLIENT, PYMYSQL = "mysqlclient", "PyMySQL"
DRIVERS = (MYSQLCLIENT, PYMYSQL)

DJANGOS_ENGINE = "django.db.backends.mysql"
GREEN_ENGINE = "greentor.db.mysql"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return what reads ``--port``, ``--pool`` and ``--processes``; a peer adds what else it takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--port", type=int, default=8000, help="of 127.0.0.1; 8000 by default")
    add("--pool", type=int, default=32, help="connections, or threads; 32 by default")
    add("--processes", type=int, default=1, help="1 by default")
    return parser


def database() -> dict[str, Any]:
    """Return ``BENCH_DATABASE``: host, port, user, password, database."""
    return json.loads(os.environ["BENCH_DATABASE"])


def choose(
    engine: str = "",
    *,
    driver: str = MYSQLCLIENT,
    pool: int = 0,
    persistent: bool = True,
    urls: str = "bench.peers.django_sync",
) -> None:
    """Say what `bench.peers.settings` are to be, in this process and in those that it starts.

    ``django.setup()`` comes after it. Without an engine there is Django's template engine, and no model.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.peers.settings"
    os.environ["BENCH_ENGINE"] = engine
    os.environ["BENCH_DRIVER"] = driver
    os.environ["BENCH_POOL"] = str(pool)
    os.environ["BENCH_CONN_MAX_AGE"] = "" if persistent else "0"
    os.environ["BENCH_URLS"] = urls


def become(program: str, *arguments: str) -> None:
    """Go on as ``python -m program``, in this process: its id stays, and a signal reaches it."""
    os.execv(sys.executable, [sys.executable, "-m", program, *arguments])
