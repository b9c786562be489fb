"""Django's cursors, on a connection that is only lent: each belongs to the scope in which it was opened.

Invariants
- A cursor that is used in another scope, or after its connection was given back, is refused by name before
  a byte is written, and before a row is read.
- A usual statement goes to the driver's cursor by the shortest way; one that somebody else is to see before
  or after it (an execute wrapper, a recorder, a log, who has patched Django's cursor, or has an engine with
  a cursor of its own) goes the way that Django has for that.
- Held per transaction, what a statement leaves in its session is followed (`greentor.db.session`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db.backends.utils import CursorDebugWrapper, CursorWrapper

from greentor import recording
from greentor.db.recorded import Recorded
from greentor.patched import original

if TYPE_CHECKING:
    from greentor.db.owned import OwnedWrapper
    from greentor.scope import Scope


# What the short way leaves out, as long as it is Django's.
_django: Any = CursorWrapper
_execute = original(CursorWrapper, "execute")
_execute_with_wrappers = original(CursorWrapper, "_execute_with_wrappers")
_execute_one = original(CursorWrapper, "_execute")


class OwnedCursor:
    """What a cursor does before it sends or reads anything."""

    cursor: Any
    db: OwnedWrapper

    def __init__(self, cursor: Any, db: OwnedWrapper) -> None:
        self.cursor = cursor
        # The driver's cursor, unless an engine has put more than Django does before it.
        self._raw: Any = self.cursor.cursor if type(cursor) is db.cursor_wrapper else cursor
        self.db = db
        #: the scope and the connection for which it was opened
        self.scope: Scope | None = db._scope
        self.loan = db.connection

    def _execute(self, sql: Any, params: Any, *args: Any) -> Any:
        db = self.db
        db.check_cursor(self)
        if (session := db._session) is None:
            return super()._execute(sql, params, *args)  # type: ignore[misc]
        call = partial(super()._execute, sql, params, *args)  # type: ignore[misc]
        return session.execute(self.cursor, sql, params, call)

    def _executemany(self, sql: Any, *args: Any) -> Any:
        self.db.check_cursor(self)
        if (session := self.db._session) is not None and session.affects.search(sql):
            session.lasting.add("executemany()")  # of many statements, which are not followed
        return super()._executemany(sql, *args)  # type: ignore[misc]

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        self.db.check_cursor(self)
        if self.db._session is not None:
            self.db._session.lasting.add("CALL")
        return super().callproc(*args, **kwargs)  # type: ignore[misc]

    # Reading: past Django's own wrapper of the driver's cursor, which only hands on; and its context manager
    # for errors is entered when there is one.

    def fetchone(self) -> Any:
        self.db.check_reader(self)
        try:
            return self._raw.fetchone()
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def fetchmany(self, *args: Any) -> Any:
        self.db.check_reader(self)
        try:
            return self._raw.fetchmany(*args)
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def fetchall(self) -> Any:
        self.db.check_reader(self)
        try:
            return self._raw.fetchall()
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def nextset(self) -> Any:
        db = self.db
        db.check_reader(self)
        with db.wrap_database_errors:
            return self.cursor.nextset()

    def __iter__(self) -> Any:
        db = self.db
        db.check_reader(self)
        with db.wrap_database_errors:
            for row in self.cursor:
                yield row
                db.check_reader(self)

    def close(self, *args: Any) -> None:
        if self.db._cursors is not None:
            self.db._cursors.discard(self)
        self._raw.close(*args)


class _Failed:
    """In place of a driver's cursor: raises what that has raised."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    def execute(self, *args: Any) -> None:
        error, self._error = self._error, None
        try:
            raise error  # type: ignore[misc]
        finally:
            del error  # whose traceback has this frame


class GreenCursor(OwnedCursor, Recorded, CursorWrapper):
    """Django's cursor, which does not outlive its loan."""

    def execute(self, sql: Any, params: Any = None) -> Any:
        # What five methods do, of three classes: each query comes by here, and each that is parked keeps the
        # frames of its greenlet.
        db: Any = self.db
        db.check_cursor(self)
        if (
            self.scope is None  # opened outside greenlets: for whom, the long way asks
            or db.execute_wrappers
            or db.needs_rollback
            or db._session is not None
            or recording.active
            or not apps.ready
            or _django.execute is not _execute
            or _django._execute_with_wrappers is not _execute_with_wrappers
            or _django._execute is not _execute_one
        ):
            return super().execute(sql, params)
        recording.query_counts[db.alias] += 1
        try:
            return self._raw.execute(sql, params)
        except Exception as exc:
            with db.wrap_database_errors:
                if self._raw is not self.cursor:
                    type(self.cursor)(_Failed(exc)).execute(sql, params)  # which may judge it anew
                raise


class GreenDebugCursor(OwnedCursor, Recorded, CursorDebugWrapper):
    """The same, logging its queries."""
