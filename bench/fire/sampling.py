"""Looks at the database ten times a second, on a connection that takes nothing from the limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.mariadb import MariaDB

INTERVAL = 0.1
#: root's connection, which looks, comes by a port of its own: it is in this maximum, and in no other figure
OWN = 1

STATUS = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN"
    " ('Threads_connected', 'Max_used_connections', 'Questions', 'Com_select')"
)


@dataclass
class Samples:
    """What was seen, and how often was asked."""

    times: list[float] = field(default_factory=list)
    connected: list[int] = field(default_factory=list)
    most: int = 0
    asked: int = 0


def status(mariadb: MariaDB) -> dict[str, int]:
    return {row["Variable_name"]: int(row["Value"]) for row in mariadb.execute(STATUS)}


@asynccontextmanager
async def sampled(mariadb: MariaDB) -> AsyncIterator[Samples]:
    """Sample while the body runs; the maximum is reset before, by FLUSH STATUS."""
    mariadb.execute("FLUSH STATUS")
    samples = Samples()
    start = time.monotonic()

    async def sample() -> None:
        while True:
            found = await asyncio.to_thread(status, mariadb)
            samples.asked += 1
            samples.times.append(time.monotonic() - start)
            samples.connected.append(found["Threads_connected"])
            samples.most = max(samples.most, found["Max_used_connections"] - OWN)
            await asyncio.sleep(INTERVAL)

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()
        await asyncio.wait([task])
        found = status(mariadb)
        samples.asked += 1
        samples.most = max(samples.most, found["Max_used_connections"] - OWN)


def sessions(mariadb: MariaDB) -> list[dict[str, Any]]:
    """Return the sessions of the application."""
    return [row for row in mariadb.processlist() if row["USER"] == mariadb.user]


def transactions(mariadb: MariaDB) -> list[dict[str, Any]]:
    return mariadb.execute("SELECT trx_id, trx_state, trx_query FROM information_schema.innodb_trx")
