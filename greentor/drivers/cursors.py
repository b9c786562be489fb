"""PyMySQL's cursors on a cooperative connection.

Invariants
- The buffered one does what PyMySQL's does, in fewer steps: it looks for further results of the statement
  before only if there are any. Where somebody has patched PyMySQL's, that is taken.
- An unbuffered one never waits in the collector: it gives its connection up.
"""

from __future__ import annotations

from typing import Any

from pymysql.cursors import Cursor

from greentor.drivers.results import Result
from greentor.patched import original

_execute, _query = original(Cursor, "execute"), original(Cursor, "_query")
_close, _nextset = original(Cursor, "close"), original(Cursor, "nextset")


class BufferedCursor(Cursor):  # type: ignore[misc]
    """PyMySQL's usual cursor."""

    def execute(self, query: Any, args: Any = None) -> Any:
        """Send a statement; return the number of its rows."""
        connection = self.connection
        result = self._result
        if connection is None or (result is not None and result.has_next):
            return super().execute(query, args)
        if args is not None:
            query = self.mogrify(query, args)
        self._clear_result()
        connection.query(query)
        self._do_get_result()
        self._executed = query
        return self.rowcount

    def close(self) -> None:
        """Read what further results there are, and forget the connection."""
        result = self._result
        if result is not None and result.has_next:
            super().close()
        else:
            self.connection = None


def buffered(connection: Any) -> Cursor:
    """Return PyMySQL's usual cursor, for a cooperative connection."""
    if (
        Cursor.execute is _execute
        and Cursor._query is _query
        and Cursor.close is _close
        and Cursor.nextset is _nextset
    ):
        return BufferedCursor(connection)
    return Cursor(connection)


class Abandoning:
    """Stands before a class of PyMySQL's unbuffered cursors."""

    def close(self: Any) -> None:
        """Read on to the end of the result, as PyMySQL does, unless the connection is closed."""
        if self.connection is not None and not self.connection.open:
            self.__del__()
            self.connection = None
        else:
            super().close()  # type: ignore[misc]

    def __del__(self: Any) -> None:
        if isinstance(self._result, Result):
            self._result.abandon()


_classes: dict[type, type] = {}


def abandoning(cls: type) -> type:
    """Return a subclass of an SSCursor class that, collected unread, closes instead of reading on."""
    found = _classes.get(cls)
    if found is None:
        found = type(cls.__name__, (Abandoning, cls), {"__module__": cls.__module__})
        _classes[cls] = found
    return found
