"""The pools of a process: one for each event loop and database.

Invariants
- A pool serves the greenlets of one loop in one process. Those of a closed loop, or inherited through
  a fork, are dropped when the next one is made; a forked child says nothing to the server.
- ``asyncio.run`` closes the pools of its loop: an asynchronous generator is left open on purpose, which
  the loop closes at its end.
- A pool's connections are alike. Settings that differ, where they point or in how they set a session up,
  have another pool, under the same alias as well: the test runner renames its databases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS

from greentor import holding
from greentor.db.loans import Loans
from greentor.pool import Driver, Pool, PoolOptions
from greentor.pool.state import LENT

if TYPE_CHECKING:
    from greentor.db.wrapper import GreenWrapper

#: the settings that tell one database, and the sessions on it, from another
IDENTITY = ("NAME", "HOST", "PORT", "USER", "PASSWORD", "AUTOCOMMIT", "TIME_ZONE", "OPTIONS")
_identify = itemgetter(*IDENTITY)

#: seconds that a pool's own work gets at the end of the loop
AT_END = 2.0


class DatabasePool(Pool[Any]):
    """A pool, with the idle wrappers of its database and what was learned of the server."""

    def __init__(
        self,
        name: str,
        driver: Driver[Any],
        options: PoolOptions,
        identity: tuple[Any, ...],
        hold: str,
    ) -> None:
        super().__init__(name, driver, options)
        #: how long scopes keep what they borrow, unless they say otherwise: see `greentor.holding`
        self.hold = hold
        #: the values of the settings named in `IDENTITY`
        self.identity = identity
        self.wrappers: list[GreenWrapper] = []
        #: who has which of its connections; None if ``leak_warning`` is off
        self.loans: Loans | None = None
        #: what it does for itself, and is to finish before the loop ends
        self.work: set[asyncio.Task[Any]] = set()
        self.memo: dict[str, Any] = {}

    def close(self) -> None:
        if self.loans is not None:
            self.loans.close()
        super().close()

    def lent_for(self, seconds: float) -> list[Any]:
        """Return the connections that have been lent for longer than that."""
        before = monotonic() - seconds
        entries = self._state.entries.values()
        return [e.connection for e in entries if e.place is LENT and e.since < before]


class _LoopPools:
    """The pools of one loop, and the generator that closes them at its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pools: list[DatabasePool] = []
        self.at_end = _at_end_of_loop(loop)
        try:
            self.at_end.asend(None).send(None)
        except StopIteration:
            pass


_loops: dict[int, _LoopPools] = {}


async def _at_end_of_loop(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await _finish_work(current_pools(loop))
        close_pools(loop)
        _loops.pop(id(loop), None)
        for _ in range(3):  # let the transports close, TLS and below
            await asyncio.sleep(0)


async def _finish_work(pools: list[DatabasePool]) -> None:
    """Give the pools' own work, the ending of abandoned queries, a moment, and then cancel it."""
    if tasks := [task for pool in pools for task in pool.work]:
        _, late = await asyncio.wait(tasks, timeout=AT_END)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)


def find_pool(
    loop: asyncio.AbstractEventLoop,
    alias: str,
    settings: dict[str, Any],
    make_driver: Callable[[dict[str, Any]], Driver[Any]],
) -> DatabasePool | None:
    """Return the pool for a database on ``loop``, made at the first call; None if it is to have none."""
    if alias == NO_DB_ALIAS or settings["OPTIONS"].get("pool") is False:
        return None
    entry = _loops.get(id(loop))
    if entry is None or entry.loop is not loop:
        entry = _add_loop(loop)
    identity = _identify(settings)
    for pool in entry.pools:
        if pool.usable and pool.name == alias and pool.identity == identity:
            return pool
    options = pool_options(alias, settings)
    assert options is not None
    copies = tuple(_copy(value) for value in identity)
    pool = DatabasePool(alias, make_driver(settings), options, copies, pool_hold(alias, settings))
    if options.leak_warning:
        pool.loans = Loans(pool, loop, options.leak_warning)
    entry.pools.append(pool)
    return pool


def _copy(value: Any) -> Any:
    """Copy dicts, which somebody may change in place; what else stands in them may not be copied."""
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def pool_options(alias: str, settings: dict[str, Any]) -> PoolOptions | None:
    """Return the pool's options of a database; None for no pool.

    Raise ImproperlyConfigured naming the option that is wrong.
    """
    given = settings.get("OPTIONS", {}).get("pool", {})
    if given is False:
        return None
    if given is True:
        given = {}
    if not isinstance(given, dict):
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['pool'] must be a dict, True or False, not {given!r}"
        )
    try:
        return PoolOptions.parse(given, others=("hold",))
    except ValueError as exc:
        raise ImproperlyConfigured(f"DATABASES[{alias!r}]['OPTIONS']['pool']: {exc}") from None


def pool_hold(alias: str, settings: dict[str, Any]) -> str:
    """Return the option ``hold``, how long a scope keeps a connection of the database.

    Raise ImproperlyConfigured if it is none of those that `greentor.holding` knows.
    """
    given = settings.get("OPTIONS", {}).get("pool", {})
    when = given.get("hold", holding.REQUEST) if isinstance(given, dict) else holding.REQUEST
    try:
        return holding.check(when, f"DATABASES[{alias!r}]['OPTIONS']['pool']['hold']")
    except ValueError as exc:
        raise ImproperlyConfigured(str(exc)) from None


def current_pools(loop: asyncio.AbstractEventLoop | None = None) -> list[DatabasePool]:
    """Return the pools of ``loop``, or of the running one."""
    entry = _loops.get(id(loop or asyncio.get_running_loop()))
    return list(entry.pools) if entry is not None else []


def close_pools(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Close the pools of ``loop``, or of the running one.

    Idle connections are closed at once, those lent when they come back. A later query makes new ones.
    """
    entry = _loops.get(id(loop or asyncio.get_running_loop()))
    if entry is not None:
        pools, entry.pools = entry.pools, []
        for pool in pools:
            pool.close()


def _add_loop(loop: asyncio.AbstractEventLoop) -> _LoopPools:
    for key, entry in list(_loops.items()):
        if entry.loop.is_closed():
            del _loops[key]
            for pool in entry.pools:
                pool.close()
    entry = _loops[id(loop)] = _LoopPools(loop)
    return entry
