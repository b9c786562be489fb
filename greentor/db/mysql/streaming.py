"""``OPTIONS["stream_iterator"]``: ``.iterator()`` reads row by row instead of the whole result at once.

Invariants
- While rows are still to come the connection can answer nothing else: a query between them is refused by
  name before a byte is sent, instead of the rows being thrown away, as PyMySQL does.
- The end of a transaction ends the reading, too. Whoever reads on then gets an error, never a result that
  looks complete.
"""

from __future__ import annotations

from typing import Any

from django.db import ProgrammingError
from pymysql import err
from pymysql.cursors import SSCursor

from greentor import bridge
from greentor.db.mysql.upstream import base


class StreamCursor(SSCursor):  # type: ignore[misc]
    """An unbuffered cursor whose result cannot be cut short unnoticed."""

    def read_next(self) -> Any:
        connection = self.connection
        if connection is None or not connection.open or self._result is not connection._result:
            raise err.ProgrammingError(
                "iterator(): the rows were not all read when its transaction ended or its connection "
                "was given back; read them within it"
            )
        return super().read_next()

    @property
    def unread(self) -> bool:
        """Whether rows are still to come."""
        result = self._result
        return self.connection is not None and result is not None and result.unbuffered_active


class StreamingMixin:
    """What a wrapper does with an iterator that is being read."""

    alias: str
    settings_dict: dict[str, Any]
    connection: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._stream: StreamCursor | None = None
        super().__init__(*args, **kwargs)

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()  # type: ignore[misc]
        params.pop("stream_iterator", None)
        return params

    def chunked_cursor(self) -> Any:
        if not self.settings_dict["OPTIONS"].get("stream_iterator"):
            return super().chunked_cursor()  # type: ignore[misc]
        return self._cursor(name="stream")  # type: ignore[attr-defined]

    def create_cursor(self, name: Any = None) -> Any:
        if name is None:
            if self.connection is None or not bridge.in_green():
                return super().create_cursor()  # type: ignore[misc]
            return base.CursorWrapper(
                self.connection.cursor()
            )  # as Django's, which looks for a loop
        self.refuse_while_streaming()
        self._stream = self.connection.cursor(StreamCursor)
        return base.CursorWrapper(self._stream)

    def refuse_while_streaming(self) -> None:
        """Raise ProgrammingError if rows of an ``iterator()`` are still to be read."""
        stream = self._stream
        if stream is not None and stream.connection is self.connection and stream.unread:
            raise ProgrammingError(
                f"the connection {self.alias!r} is still reading the rows of an iterator() "
                "(OPTIONS['stream_iterator']), and can answer nothing else until that is read to its "
                "end or closed: load what the loop needs with select_related() or annotate(), read "
                "the rows into a list first, or use another alias for one of the two"
            )

    def check_cursor(self, cursor: Any) -> None:
        super().check_cursor(cursor)  # type: ignore[misc]
        if self._stream is not None and cursor.cursor.cursor is not self._stream:
            self.refuse_while_streaming()

    def _set_autocommit(self, autocommit: bool) -> None:
        self.refuse_while_streaming()
        super()._set_autocommit(autocommit)  # type: ignore[misc]

    def _commit(self) -> None:
        self._end_stream()
        super()._commit()  # type: ignore[misc]

    def _rollback(self) -> None:
        self._end_stream()
        super()._rollback()  # type: ignore[misc]

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and stream.connection is self.connection and stream.unread:
            stream.close()  # reads on to the end of the result
