"""Cancelled in mid-transaction: it commits all the same, or leaves half a packet and hangs with its locks.

A cancelled `sync_to_async` returns at once, but its thread cannot be stopped: whoever gave up after a timeout
finds the transaction committed later, and one who tries again has it twice. Under gevent the greenlet is
interrupted, but PyMySQL leaves a connection open whose write was interrupted: the ROLLBACK then goes out as
part of the half statement, its answer never comes, and the transaction keeps its locks.
Documented: asgiref PR #567 (a cancelled call completes at once and orphans the sync work), Django's
docs/topics/async ("Handling disconnects"); PyMySQL #275, #724 and its `Connection._write_bytes`, which closes
on OSError only; of the same class psycopg #1208, SQLAlchemy #12099.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, transaction

from bench.breakages.case import Case, Seen
from bench.breakages.records import are_locked, fresh, is_running, names
from tests.waiting import await_until

SLOW = "SELECT SLEEP(1)"
#: bytes, more than the sockets of both ends take while nobody reads
LARGE = 12_000_000
#: seconds after which a rollback counts as hung
PATIENCE = 3


# --- cancelled while it waits for an answer ----------------------------------------------------


def transfer() -> None:
    """Move something in a transaction; it takes a second in the server."""
    with transaction.atomic():
        Group.objects.create(name=fresh("debit"))
        with connection.cursor() as cursor:
            cursor.execute(SLOW)
        Group.objects.create(name=fresh("credit"))


async def cancelled_query(bridge: Any, server: Any) -> Seen:
    """Cancel a transfer while its slow query is in the server."""
    task = asyncio.create_task(bridge(transfer)())
    await await_until(lambda: is_running(server, SLOW))
    task.cancel()
    seen: Seen = {}
    try:
        await task
    except asyncio.CancelledError as exc:
        seen["the transfer"] = type(exc).__name__
    await await_until(lambda: not is_running(server, SLOW) and not are_locked(server))
    seen["rows afterwards"] = names(server)
    return seen


def django_cancelled_query(server: Any) -> Seen:
    return asyncio.run(cancelled_query(sync_to_async, server))


def greentor_cancelled_query(server: Any) -> Seen:
    from greentor import green

    return asyncio.run(cancelled_query(green, server))


# --- timed out while it writes -----------------------------------------------------------------


def write(timeout: Any, server: Any) -> None:
    """Write a row, then a statement that the server does not read: it is stopped on the way."""
    with transaction.atomic():
        Group.objects.create(name=fresh("debit"))
        with connection.cursor() as cursor:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                with timeout(0.5):
                    cursor.execute("SELECT LENGTH(%s)", ["x" * LARGE])
            finally:
                os.kill(server.pid, signal.SIGCONT)


def gevent_write(server: Any) -> Seen:
    """Interrupt it with gevent.Timeout."""
    import gevent

    greenlet = gevent.spawn(write, gevent.Timeout, server)
    greenlet.join(PATIENCE)
    seen: Seen = {"the greenlet": _ended(greenlet.exception) if greenlet.dead else "hangs"}
    seen["its rows"] = "locked" if are_locked(server) else "free"
    seen["rows afterwards"] = names(server)
    return seen


def greentor_write(server: Any) -> Seen:
    return asyncio.run(interrupted_write(server))


async def interrupted_write(server: Any) -> Seen:
    """Interrupt it with greentor.timeout."""
    import greentor

    task = greentor.spawn(write, greentor.timeout, server)
    await asyncio.wait([task], timeout=PATIENCE)
    seen: Seen = {"the greenlet": _ended(task.exception()) if task.done() else "hangs"}
    try:  # the server has to notice that the connection was closed
        await await_until(lambda: not are_locked(server), timeout=PATIENCE)
    except AssertionError:
        pass
    seen["its rows"] = "locked" if are_locked(server) else "free"
    seen["rows afterwards"] = names(server)
    return seen


def _ended(exc: BaseException | None) -> str:
    return f"ended with {type(exc).__name__}"


def committed(seen: Seen) -> bool:
    """Tell whether what was cancelled is there, as a whole."""
    return seen["the transfer"] == "CancelledError" and seen["rows afterwards"] == [
        "credit",
        "debit",
    ]


def hung(seen: Seen) -> bool:
    """Tell whether the greenlet waits for ever, in a transaction."""
    return seen["the greenlet"] == "hangs" and seen["its rows"] == "locked"


def broken(seen: Seen) -> bool:
    """Tell whether a cancelled transaction left a row, a lock or a hung greenlet."""
    return bool(
        seen["rows afterwards"]
        or seen.get("its rows") == "locked"
        or seen.get("the greenlet") == "hangs"
    )


CASES = [
    Case(
        "a transaction is cancelled while it waits for a query",
        peer_name="sync_to_async around a function with atomic",
        packages=("Django", "asgiref"),
        peer=django_cancelled_query,
        greentor=greentor_cancelled_query,
        documented=committed,
        broken=broken,
    ),
    Case(
        "a transaction runs into a timeout while it writes a large statement",
        peer_name="gevent.Timeout within atomic, with PyMySQL",
        packages=("gevent", "Django", "PyMySQL"),
        peer=gevent_write,
        greentor=greentor_write,
        documented=hung,
        broken=broken,
        gevent=True,
    ),
]
