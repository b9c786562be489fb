"""What an unbuffered cursor does at its end on a cooperative connection: it never waits in the collector."""

from __future__ import annotations

from typing import Any

from greentor.drivers.results import Result


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
