"""The DatabaseWrapper of ENGINE ``greentor.db.sqlite3``.

SQLite answers within the process, so a query runs where it stands and blocks the loop while it does. What
must not block is the waiting for another connection's lock: in a greenlet that is done by parking.

Invariants
- Defaults: write-ahead log, ``synchronous=NORMAL``, ``BEGIN IMMEDIATE``. Readers never wait for a writer,
  and a transaction waits for its lock at its start, where it can be tried again.
- Those who wait for the lock queue, and what begins something is tried again
  (`greentor.db.sqlite3.connection`).
- A connection is not lent on if its file is no longer the one at its path, and not with a cursor that
  somebody kept: an unread one holds a snapshot, and what is written on an old snapshot is refused.
- A session that was changed is not lent on: SQLite has no reset.
- A database in memory is one for each connection, unless its cache is shared, and refused in a greenlet.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.sqlite3 import base

from greentor import bridge
from greentor.db import handler, seams
from greentor.db.pools import pool_hold, pool_options
from greentor.db.sqlite3.connection import Connection, Cursor
from greentor.db.sqlite3.session import SQLiteSession
from greentor.db.wrapper import GreenWrapper


class ConnectionDriver:
    """What a pool needs to know of SQLite connections."""

    def is_open(self, connection: Connection) -> bool:
        return not connection.closed and connection.in_place()

    def is_clean(self, connection: Connection) -> bool:
        return not (
            connection.in_transaction
            or connection.cursors
            or connection.carries()
            or connection.isolation_level is not None
        )

    def reset(self, connection: Connection) -> None:
        while connection.cursors:
            connection.cursors.pop().close()
        connection.rollback()
        connection.isolation_level = None

    def ping(self, connection: Connection, timeout: float) -> None:
        """Do nothing: the database is in this process, and `is_open` has looked at its file."""

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
