"""The DatabaseWrapper of ENGINE ``greentor.db.sqlite3``.

SQLite answers within the process, so a query runs where it stands and blocks the loop while it does. What
must not block is the waiting for another connection's lock: in a greenlet that is done by parking.

Invariants
- Defaults: write-ahead log, ``synchronous=NORMAL``, ``BEGIN IMMEDIATE``. Readers never wait for a writer,
  and a transaction waits for its lock at its start, where it can be tried again.
- Who wants the lock while others wait for it queues behind them (`greentor.db.sqlite3.locks`).
- Only what begins something is tried again on SQLITE_BUSY, until ``timeout`` (5 s by default, as in
  ``sqlite3.connect``): a ``BEGIN``, a statement of its own, the first one after a deferred ``BEGIN``.
  Any other within a transaction never is, nor BUSY_SNAPSHOT, nor a connection's conflict with itself.
  An ``executemany`` outside a transaction goes on with the row that it had come to.
- A connection is not lent on if its file is no longer the one at its path, and not with a cursor that
  somebody kept: an unread one holds a snapshot, and what is written on an old snapshot is refused.
- A forked child never closes what it inherited, which SQLite forbids: it would undo the parent's work.
- A database in memory is one for each connection, unless its cache is shared, and refused in a greenlet.
"""

from __future__ import annotations

import itertools
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.sqlite3 import base
from greenlet import getcurrent

from greentor import bridge, process
from greentor.db import handler, seams
from greentor.db.pools import pool_hold, pool_options
from greentor.db.sqlite3.locks import LockQueue, Place, find_queue
from greentor.db.sqlite3.session import SQLiteSession
from greentor.db.wrapper import GreenWrapper

T = TypeVar("T")

#: what time mends. SQLITE_LOCKED is not among it: a conflict of the connection with itself
_RETRY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_BUSY_RECOVERY,
    sqlite3.SQLITE_LOCKED_SHAREDCACHE,
}
_DEFAULT_TIMEOUT = 5.0

_BEGINS_DEFERRED = re.compile(r"\s*(?:BEGIN(?:\s+DEFERRED)?\s*;?\s*$|SAVEPOINT\b)", re.IGNORECASE)
_WANTS_LOCK = re.compile(
    r"\s*(?:BEGIN\s+[IE]|(?:INSERT|UPDATE|DELETE|REPLACE|CREATE|ALTER|DROP)\b)", re.IGNORECASE
)


class Connection(sqlite3.Connection):
    """An SQLite connection that, opened in a greenlet, waits for locks by parking it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.closed = False
        self.pid = process.pid
        #: None if opened outside greenlets: then SQLite itself waits, and blocks
        self.queue: LockQueue | None = None
        self.lock_timeout: float = kwargs.get("timeout", _DEFAULT_TIMEOUT)
        #: in a transaction, the last time we looked; begun by whom; and nothing was read in it yet
        self.open = self.deferred = False
        self.user = ""
        self.cursors: WeakSet[sqlite3.Cursor] = WeakSet()
        in_green = bridge.in_green()
        if in_green:
            # SQLite would wait in C, and with it the loop, also for a lock of a parked greenlet.
            kwargs["timeout"] = 0
        super().__init__(*args, **kwargs)
        _connections.add(self)
        [[_, _, path]] = super().execute("PRAGMA database_list").fetchall()
        self.path: str = path
        self.file = _identify(path)
        if in_green:
            loop = bridge.current_green("an SQLite connection").loop
            self.queue = find_queue(loop, path or str(kwargs.get("database")))
            self.queue.connections.add(self)

    def in_place(self) -> bool:
        """Tell whether the file is still the one that stands at its path."""
        return self.file is None or _identify(self.path) == self.file

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        cursor = super().cursor(factory)
        self.cursors.add(cursor)
        return cursor

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self.run(args[0], lambda: super(Connection, self).execute(*args))

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self._note("")

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._note("")

    def close(self) -> None:
        self.closed = True
        if self.pid == process.pid:
            super().close()
            self._note("")

    def run(self, query: str, call: Callable[[], T]) -> T:
        """Return ``call()``, which executes ``query``, parking until the lock that it wants is free."""
        queue = self.queue
        if queue is None or not self.lock_timeout:
            return call()
        begins = self.deferred or not self.in_transaction
        place: Place | None = None
        try:
            if queue and begins and _WANTS_LOCK.match(query) and bridge.in_green():
                place = queue.join(self.lock_timeout)
                place.wait()
            while True:
                try:
                    return call()
                except sqlite3.OperationalError as exc:
                    if exc.sqlite_errorcode not in _RETRY or not (begins and bridge.in_green()):
                        raise
                    if place is None:
                        place = queue.join(self.lock_timeout)
                    elif place.expired:
                        exc.args = (self._describe(exc, queue),)
                        raise
                place.wait()
        finally:
            if not self.closed and (self.deferred or self.open is not self.in_transaction):
                self._note(query)
            if place is not None:
                queue.leave(place, self.open)

    def _note(self, query: str) -> None:
        """Look whether a transaction was begun or ended, and tell those who wait for its lock."""
        was_open, self.open = self.open, not self.closed and self.in_transaction
        if self.open and (self.deferred or not was_open):
            self.deferred = _BEGINS_DEFERRED.match(query) is not None
            g = getcurrent()
            self.user = g.frame.scope.name if type(g) is bridge.Green else "no greenlet"
        elif was_open and not self.open:
            self.deferred = False
            if self.queue is not None:
                self.queue.wake()

    def _describe(self, exc: Exception, queue: LockQueue) -> str:
        users = sorted(c.user for c in queue.connections if c.open and c is not self)
        return (
            f"{exc}: not free after {self.lock_timeout:.1f} s, {len(queue) - 1} others waiting; "
            f"in a transaction here: {', '.join(users) or 'nobody, so another process or thread'}; "
            "end transactions sooner (wait for nobody in atomic), or raise OPTIONS['timeout']"
        )


def _identify(path: str) -> tuple[int, int] | None:
    """Return what tells the file at ``path`` from another one there; None if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


_connections: WeakSet[Connection] = WeakSet()
_inherited: list[Connection] = []
os.register_at_fork(after_in_child=lambda: _inherited.extend(_connections))


class _Rows:
    """The rows of an ``executemany``, which goes on with the one that found the database locked."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = iter(rows)
        self._current: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        for row in itertools.chain(self._current, self._rows):
            self._current = [row]
            yield row


class Cursor(base.SQLiteCursorWrapper):
    """A cursor that parks the greenlet while the database is locked."""

    connection: Connection

    def execute(self, query: Any, params: Any = None) -> Any:
        return self.connection.run(query, lambda: super(Cursor, self).execute(query, params))

    def executemany(self, query: Any, param_list: Any) -> Any:
        if self.connection.queue is None:
            return super().executemany(query, param_list)
        rows = _Rows(param_list)
        return self.connection.run(query, lambda: super(Cursor, self).executemany(query, rows))


class ConnectionDriver:
    """What a pool needs to know of SQLite connections."""

    def is_open(self, connection: Connection) -> bool:
        return not connection.closed and connection.in_place()

    def is_clean(self, connection: Connection) -> bool:
        return not (
            connection.in_transaction
            or connection.cursors
            or connection.isolation_level is not None
        )

    def reset(self, connection: Connection) -> None:
        while connection.cursors:
            connection.cursors.pop().close()
        connection.rollback()
        connection.isolation_level = None

    def close(self, connection: Connection) -> None:
        connection.close()


_driver = ConnectionDriver()


def _write_ahead(connection: Connection) -> None:
    """Switch the write-ahead log on; where the database is in it already, that takes no lock."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        connection.execute("PRAGMA schema_version")  # it may be possible to read it all the same
    connection.execute("PRAGMA synchronous = NORMAL")


def _check_factory(alias: str, factory: Any) -> None:
    if not (isinstance(factory, type) and issubclass(factory, Connection)):
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['factory'] must be a subclass of "
            f"{Connection.__module__}.Connection, not {factory!r}"
        )


class DatabaseWrapper(GreenWrapper, base.DatabaseWrapper):
    """Django's SQLite wrapper, which waits for locks by parking the greenlet."""

    session_class = SQLiteSession

    @staticmethod
    def make_driver(settings: dict[str, Any]) -> ConnectionDriver:
        return _driver

    def get_connection_params(self) -> dict[str, Any]:
        params = super().get_connection_params()
        params.pop("pool", None)
        if "transaction_mode" not in self.settings_dict["OPTIONS"]:
            self.transaction_mode = "IMMEDIATE"
        params.setdefault("factory", Connection)
        _check_factory(self.alias, params["factory"])
        name = str(self.settings_dict["NAME"])
        in_memory = ":memory:" in name or "mode=memory" in name
        if in_memory and "cache=shared" not in name and bridge.in_green():
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]: {name!r} is another database in every connection; "
                "use a file, or 'file:name?mode=memory&cache=shared'"
            )
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        try:
            connection = super().get_new_connection(conn_params)
            if not self.is_in_memory_db():
                try:
                    _write_ahead(connection)
                except BaseException:
                    connection.close()
                    raise
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                exc.args = (
                    f"{exc}: {self.settings_dict['NAME']!s}; its directory must exist and be "
                    "writable, because SQLite makes files beside the database",
                )
            raise
        return connection

    def create_cursor(self, name: Any = None) -> Any:
        return self.connection.cursor(factory=Cursor)

    def close(self) -> None:
        if self._scope is not None and self.is_in_memory_db():
            self.validate_thread_sharing()
            return
        super().close()


_OPTIONS = {
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "factory",
    "init_command",
    "pool",
    "timeout",
    "transaction_mode",
}


def check_options(alias: str, settings: dict[str, Any]) -> None:
    """Raise ImproperlyConfigured for an option that neither the pool, Django nor sqlite3 takes."""
    pool_options(alias, settings)
    pool_hold(alias, settings)
    options = settings.get("OPTIONS", {})
    if unknown := sorted(set(options) - _OPTIONS):
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']: unknown option {', '.join(map(repr, unknown))}; "
            f"known are {sorted(_OPTIONS)}"
        )
    modes = sorted(DatabaseWrapper.transaction_modes)
    mode = options.get("transaction_mode")
    if mode is not None and str(mode).upper() not in modes:
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['transaction_mode'] must be one of {modes} or None, "
            f"not {mode!r}"
        )
    if "factory" in options:
        _check_factory(alias, options["factory"])


handler.register_engine("greentor.db.sqlite3", DatabaseWrapper)
seams.install()
