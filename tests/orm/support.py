"""What the tests of the ORM ask: was it parked, on which connection, in which thread."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import greenlet
import pymysql
from django.db import connections

from greentor import in_green
from greentor.db.pools import DatabasePool, current_pools
from tests.waiting import await_until


def the_pool(alias: str = "default") -> DatabasePool:
    """Return the one pool of a database on the running loop."""
    [pool] = [pool for pool in current_pools() if pool.name == alias]
    return pool


def server_id(alias: str = "default") -> int:
    """Return the server's number of the connection."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]


class Turns:
    """Counts the turns of the running loop: it stands still while somebody blocks."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None

    def __enter__(self) -> "Turns":
        self._turn()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._handle is not None
        self._handle.cancel()

    def _turn(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._turn)


class Partings:
    """Counts how often each greenlet gives way to the loop."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __enter__(self) -> "Partings":
        self._before = greenlet.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        greenlet.settrace(self._before)

    def _trace(self, event: str, arguments: Any) -> None:
        self._counts[id(arguments[0])] += 1

    @property
    def count(self) -> int:
        """How often the running greenlet did."""
        return self._counts[id(greenlet.getcurrent())]


@contextmanager
def parked(queries: int | None = None, using: str = "default") -> Iterator[list[str]]:
    """Run the block in the greenlet and yield the statements that it sends.

    Each must park the greenlet and run in a greenlet, all on one connection and without a further
    thread; if `queries` is given, there must be so many.
    """
    sent: list[str] = []
    ids = set()
    threads = threading.active_count()

    def watch(execute, sql, params, many, context):
        assert in_green(), f"outside greenlets: {sql}"
        sent.append(sql)
        before = partings.count
        result = execute(sql, params, many, context)
        assert partings.count > before, f"the loop stood still: {sql}"
        ids.add(context["connection"].connection.thread_id())
        return result

    connection = connections[using]
    connection.ensure_connection()  # what sets a session up is not counted
    with Partings() as partings, connection.execute_wrapper(watch):
        yield sent
    assert len(ids) <= 1, f"on several connections: {ids}"
    assert connection.connection is None or ids <= {connection.connection.thread_id()}
    assert threading.active_count() == threads, "a thread was started"
    assert queries in (None, len(sent)), "\n".join(sent)


def kill(mariadb, text: str) -> None:
    """End the statements that contain this text: abandoned ones may run on and hold locks."""
    for row in mariadb.processlist():
        if row["COMMAND"] == "Query" and text in (row["INFO"] or ""):
            with suppress(pymysql.err.OperationalError):  # it has just ended
                mariadb.execute(f"KILL CONNECTION {row['ID']}")


async def returned(in_use: int = 0) -> None:
    """Wait until the pools have got everything back: what a cancel cut off may be ended behind it."""
    await await_until(
        lambda: (
            (sum(p.in_use for p in current_pools()), sum(p.waiting for p in current_pools()))
            == (in_use, 0)
        )
    )


async def executing(mariadb, text: str) -> None:
    """Wait until a connection executes a statement that contains this text."""
    await await_until(
        lambda: any(
            text in (row["INFO"] or "") and row["COMMAND"] == "Query"
            for row in mariadb.processlist()
        ),
        timeout=10,
    )
