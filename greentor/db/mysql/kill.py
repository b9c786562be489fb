"""``OPTIONS["kill_on_cancel"]``: the server ends what nobody waits for any more.

A query that was cancelled, or ran into a timeout, takes its connection with it, but the server works on,
holding locks and a place among ``max_connections``. A side connection tells it to stop.

Invariants
- The place of a connection that was abandoned is free when the server has let go of it, not before: else
  there would be more connections to the server than the pool may have.
- One side connection for each pool at a time: an idle one, or the next to come back, before all who wait for
  one. Only if none comes soon, or all are abandoned, it is opened in addition, in place of one of those. It
  stays in the pool when its work is done.
- Whoever cancels waits for nothing.
- Only what is certainly ours is killed: the server must show the id with our own address and port. Behind a
  proxy, or on another node of a cluster, the same id is a stranger's; then nothing is killed, and said once.
"""

from __future__ import annotations

import asyncio
import logging
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

#: seconds in which the side connection must be there, and then have an answer
TIMEOUT = 10
#: seconds for which a connection of the pool is waited for, to be the side connection
PATIENCE = 0.25
#: seconds that the server gets to let go of a connection whose query was ended
LET_GO = 5
#: seconds between two looks whether it has: the first and the longest ones
PAUSES = 0.001, 0.1

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
        self._kept = 0  # places of abandoned connections that are not free yet
        self._has_warned = False

    def abandon(self, connection: Connection, abandoned: Abandoned) -> None:
        """Have the query of ``connection`` ended, and then its place given to somebody else."""
        if asyncio._get_running_loop() is not self._loop:
            return  # collected after its end
        if not self._pool.write_off(connection, keep_slot=True):
            return
        self._kept += 1
        self._abandoned.append(abandoned)
        if self._task is None:
            name = f"killing abandoned queries on {self._pool.name!r}"
            run = bridge.run_in_scope(name, self._run)
            # Nothing of the context in which a request was cancelled is to outlive it here.
            self._task = self._loop.create_task(run, name=name, context=Context())
            self._pool.work.add(self._task)
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._pool.work.discard(task)
        if self._task is task:  # it was cancelled before it began
            self._end()

    def _end(self) -> None:
        self._task = None
        self._abandoned.clear()
        self._free(self._kept)

    def _free(self, count: int) -> None:
        for _ in range(count):
            self._kept -= 1
            self._pool.free_kept()

    def _run(self) -> None:
        wrapper = self._make_wrapper(self._settings, self._pool.name)
        wrapper.enter_scope(bridge.current_green("killing a query").frame.scope)
        try:
            with wrapper.wrap_database_errors:
                with waits.timeout(TIMEOUT):
                    taken = int(wrapper.connect_kept(self._pool, PATIENCE))
                self._kept -= taken
                with wrapper.cursor() as cursor:
                    self._work(wrapper.connection, cursor, taken)
        except (Error, OSError, PoolClosed) as exc:
            logger.warning("%r: could not end abandoned queries: %s", self._pool, exc)
        finally:
            self._end()

    def _work(self, own: Any, cursor: Any, taken: int) -> None:
        """End what is abandoned until nothing is; free the places but those that were ``taken``."""
        killed: dict[Abandoned, float] = {}  # and when
        pause, longest = PAUSES
        while self._abandoned or killed:
            batch, self._abandoned = self._abandoned, []
            now = self._loop.time()
            count = len(killed) + len(batch)
            with waits.timeout(TIMEOUT):
                there = self._find(own, cursor, [*killed, *batch])
                killed = {each: killed.get(each, now) for each in there}
                for each in batch:
                    if each in killed:
                        self._kill_one(cursor, each)
            killed = {each: when for each, when in killed.items() if now < when + LET_GO}
            free = count - len(killed)
            used = min(free, taken)
            taken -= used
            self._free(free - used)
            if killed:
                pause = PAUSES[0] if batch else min(2 * pause, longest)
                waits.sleep(pause)

    def _find(self, own: Any, cursor: Any, wanted: list[Abandoned]) -> list[Abandoned]:
        """Return those that the server still has, and that certainly are ours."""
        cursor.execute("SHOW PROCESSLIST")
        hosts = {row[0]: row[2] for row in cursor.fetchall()}
        seen, address = hosts.get(own.thread_id(), ""), own._stream.address
        if not is_ours(seen, address, seen):
            self._warn(seen, address)
            return []
        return [each for each in wanted if is_ours(hosts.get(each.id, ""), each.address, seen)]

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
