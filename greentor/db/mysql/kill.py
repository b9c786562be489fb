"""``OPTIONS["kill_on_cancel"]``: the server ends what nobody waits for any more.

A query that was cancelled, or ran into a timeout, takes its connection with it, but the server works on,
holding locks and a place among ``max_connections``. A side connection tells it to stop.

Invariants
- One side connection for each pool at a time. It takes the place of a connection that was abandoned, so
  the pool's bound holds, and stays in the pool when its work is done.
- Whoever cancels waits for nothing.
- Only what is certainly ours is killed: the server must show the id with our own address and port. Behind a
  proxy, or on another node of a cluster, the same id is a stranger's; then nothing is killed, and said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from django.db import Error

from greentor import bridge, waits
from greentor.drivers.pymysql import Abandoned, Connection
from greentor.pool import PoolClosed

if TYPE_CHECKING:
    from greentor.db.mysql.base import DatabaseWrapper
    from greentor.db.pools import DatabasePool

logger = logging.getLogger("greentor.db")

#: seconds in which the side connection must have done its work
TIMEOUT = 30

_NO_SUCH_THREAD = 1094


class QueryKiller:
    """Ends the abandoned queries of one pool."""

    def __init__(self, pool: DatabasePool, wrapper: DatabaseWrapper) -> None:
        self._pool = pool
        self._make_wrapper = type(wrapper)
        self._settings = wrapper.settings_dict
        self._loop = asyncio.get_running_loop()
        self._abandoned: list[Abandoned] = []
        self._task: asyncio.Task[None] | None = None
        self._has_slot = False  # that the pool has kept for the side connection
        self._has_warned = False

    def abandon(self, connection: Connection, abandoned: Abandoned) -> None:
        """Pass the slot of ``connection`` on, and have its query ended."""
        if asyncio._get_running_loop() is not self._loop:
            return  # collected after its end
        start = self._task is None
        if not self._pool.write_off(connection, keep_slot=start):
            return
        self._abandoned.append(abandoned)
        if start:
            self._has_slot = True
            name = f"killing abandoned queries on {self._pool.name!r}"
            run = bridge.run_in_scope(name, self._run)
            # Nothing of the context in which a request was cancelled is to outlive it here.
            self._task = self._loop.create_task(run, name=name, context=Context())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # it was cancelled before it began
            self._task = None
        if self._has_slot and self._task is None:
            self._has_slot = False
            self._pool.free_kept()

    def _run(self) -> None:
        wrapper = self._make_wrapper(self._settings, self._pool.name)
        wrapper.enter_scope(bridge.current_green("killing a query").frame.scope)
        try:
            with waits.timeout(TIMEOUT), wrapper.wrap_database_errors:
                self._has_slot = False
                wrapper.connect_kept(self._pool)
                while self._abandoned:
                    batch, self._abandoned = self._abandoned, []
                    self._kill(wrapper, batch)
        except (Error, OSError, PoolClosed) as exc:
            logger.warning("%r: could not end abandoned queries: %s", self._pool, exc)
        finally:
            self._abandoned.clear()
            self._task = None

    def _kill(self, wrapper: DatabaseWrapper, batch: Iterable[Abandoned]) -> None:
        with wrapper.cursor() as cursor:
            cursor.execute("SHOW PROCESSLIST")
            hosts = {row[0]: row[2] for row in cursor.fetchall()}
            own = wrapper.connection
            seen = hosts.get(own.thread_id(), "")
            if not is_ours(seen, own._stream.address, seen):
                self._warn(seen, own._stream.address)
                return
            for abandoned in batch:
                if is_ours(hosts.get(abandoned.id, ""), abandoned.address, seen):
                    self._kill_one(cursor, abandoned)

    def _kill_one(self, cursor: Any, abandoned: Abandoned) -> None:
        try:
            cursor.execute("KILL QUERY %s", [abandoned.id])
        except Error as exc:
            if exc.args[:1] != (_NO_SUCH_THREAD,):
                raise
        else:
            logger.info("%r: ended the abandoned query of connection %d", self._pool, abandoned.id)

    def _warn(self, seen: str, address: Any) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%r: abandoned queries run on in the server: it sees us as %s and not as %s, so there "
                "is a proxy in between, and a connection's id may be somebody else's",
                self._pool,
                seen or "nobody",
                address,
            )


def is_ours(shown: str, address: Any, own: str) -> bool:
    """Tell whether ``HOST`` of the process list names our end of a connection.

    ``own`` is what it shows for a connection of which that is known: the server may resolve names.
    """
    if not address:  # a unix socket has no port
        return shown == own == "localhost"
    host, _, port = shown.rpartition(":")
    return bool(host) and port == str(address[1]) and host == own.rpartition(":")[0]
