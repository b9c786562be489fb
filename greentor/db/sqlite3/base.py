"""The DatabaseWrapper of ENGINE ``greentor.db.sqlite3``.

SQLite answers within the process, so a query runs where it stands and blocks the loop while it does. What
must not block is the waiting for another connection's lock: in a greenlet that is done by parking.

Invariants
- Defaults: write-ahead log, ``synchronous=NORMAL``, ``BEGIN IMMEDIATE``. Readers never wait for a writer,
  and a transaction waits for its lock at its start, where it can be tried again.
- Only a ``BEGIN`` or a statement of its own is tried again on SQLITE_BUSY, until ``timeout`` (5 s by
  default, as in ``sqlite3.connect``); a statement inside a transaction never is, nor BUSY_SNAPSHOT.
  An ``executemany`` outside a transaction goes on with the row that it had come to.
- ``:memory:`` is a database for each connection, and refused in a greenlet.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.sqlite3 import base

from greentor import bridge, waits
from greentor.db import handler, seams
from greentor.db.pools import pool_options
from greentor.db.wrapper import GreenWrapper

T = TypeVar("T")

_RETRY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_LOCKED_SHAREDCACHE}
_DEFAULT_TIMEOUT = 5.0


class Connection(sqlite3.Connection):
    """An SQLite connection that knows how long its statements may wait for a lock."""

    lock_timeout = 0.0
    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


def _retry(connection: Any, call: Callable[[], T]) -> T:
    """Return ``call()``, tried again, parking in between, while the database is locked."""
    if not isinstance(connection, Connection) or not connection.lock_timeout:
        return call()
    deadline = time.monotonic() + connection.lock_timeout
    pause = 0.001
    while True:
        try:
            return call()
        except sqlite3.OperationalError as exc:
            if (
                exc.sqlite_errorcode not in _RETRY
                or connection.in_transaction
                or time.monotonic() + pause > deadline
                or not bridge.in_green()
            ):
                raise
        waits.pause(pause)
        pause = min(pause * 1.5, 0.05)


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

    def execute(self, query: Any, params: Any = None) -> Any:
        return _retry(self.connection, lambda: super(Cursor, self).execute(query, params))

    def executemany(self, query: Any, param_list: Any) -> Any:
        if not bridge.in_green():
            return super().executemany(query, param_list)
        rows = _Rows(param_list)
        return _retry(self.connection, lambda: super(Cursor, self).executemany(query, rows))


class ConnectionDriver:
    """What a pool needs to know of SQLite connections."""

    def is_open(self, connection: Any) -> bool:
        return not getattr(connection, "closed", False)

    def is_clean(self, connection: Any) -> bool:
        return not connection.in_transaction and connection.isolation_level is None

    def reset(self, connection: Any) -> None:
        connection.rollback()
        connection.isolation_level = None

    def close(self, connection: Any) -> None:
        connection.close()


_driver = ConnectionDriver()


class DatabaseWrapper(GreenWrapper, base.DatabaseWrapper):
    """Django's SQLite wrapper, which waits for locks by parking the greenlet."""

    @staticmethod
    def make_driver(settings: dict[str, Any]) -> ConnectionDriver:
        return _driver

    def get_connection_params(self) -> dict[str, Any]:
        params = super().get_connection_params()
        params.pop("pool", None)
        if "transaction_mode" not in self.settings_dict["OPTIONS"]:
            self.transaction_mode = "IMMEDIATE"
        params.setdefault("factory", Connection)
        if bridge.in_green() and self.settings_dict["NAME"] == ":memory:":
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]: ':memory:' is another database in every connection; "
                "use a file, or 'file:name?mode=memory&cache=shared'"
            )
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        if bridge.in_green() and isinstance(connection, Connection):
            # SQLite would wait in C, and with it the loop, also for a lock of a parked greenlet.
            connection.execute("PRAGMA busy_timeout = 0")
            connection.lock_timeout = conn_params.get("timeout", _DEFAULT_TIMEOUT)
        if not self.is_in_memory_db():
            try:
                _retry(connection, lambda: connection.execute("PRAGMA journal_mode = WAL"))
            except BaseException:
                connection.close()
                raise
            connection.execute("PRAGMA synchronous = NORMAL")
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


handler.register_engine("greentor.db.sqlite3", DatabaseWrapper)
seams.install()
