"""SQLite connections that wait for locks by parking their greenlet, and know what their session carries.

Invariants
- Only what begins something is tried again on SQLITE_BUSY, until ``timeout`` (5 s by default, as in
  ``sqlite3.connect``): a ``BEGIN``, a statement of its own, the first one after a deferred ``BEGIN``.
  Any other within a transaction never is, nor BUSY_SNAPSHOT, nor a connection's conflict with itself.
  An ``executemany`` outside a transaction goes on with the row that it had come to.
- Who wants the lock while others wait for it queues behind them (`greentor.db.sqlite3.locks`).
- Opened in a greenlet it belongs to the scope that has borrowed it: whoever else sends something on it is
  refused by name.
- What changes its session is noted in `left`: nothing takes that back, so it is not lent again.
- A forked child neither uses nor closes what it inherited, which SQLite forbids: it would undo the parent's
  work, or spoil the file. Nor does it open such a file once more: SQLite counts its locks by file and
  process, and that count was inherited (https://sqlite.org/howtocorrupt.html, 2.6).
"""

from __future__ import annotations

import itertools
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from django.db.backends.sqlite3 import base
from greenlet import getcurrent

from greentor import bridge, process
from greentor.db.ownership import describe_user, refusal
from greentor.db.sqlite3.locks import LockQueue, Place, find_queue
from greentor.db.sqlite3.session import leaves_something

if TYPE_CHECKING:
    from greentor.db.wrapper import GreenWrapper
    from greentor.scope import Scope

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

    #: the scope that has borrowed it, and its wrapper; None while nobody has
    owner: Scope | None = None
    holder: GreenWrapper | None = None
    #: where and by whom it was borrowed: see `greentor.db.loans`
    taken: Any = None
    #: whether its session was changed, and whether that is noted; no for ``reset="never"``
    left = 0
    watched = True

    _factories: tuple[Any, Any] | None = None  # of rows and of texts, once it is set up

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
        [[_, _, path]] = super().execute("PRAGMA database_list").fetchall()
        self.path: str = path
        self.file = _identify(path)
        if self.file and any(c.file == self.file and not c.closed for c in _inherited):
            super().close()
            raise sqlite3.ProgrammingError(
                f"{path} is open in the process that this one was forked from, and SQLite forbids to use it "
                "here as well: close it before the fork, with django.db.connections.close_all()"
            )
        _connections.add(self)
        if in_green:
            loop = bridge.current_green("an SQLite connection").loop
            self.queue = find_queue(loop, path or str(kwargs.get("database")))
            self.queue.connections.add(self)

    def in_place(self) -> bool:
        """Tell whether the file is still the one that stands at its path."""
        return self.file is None or _identify(self.path) == self.file

    def end_set_up(self) -> None:
        """Take the session as it is for one that is set up."""
        self._factories = self.row_factory, self.text_factory
        self.left = 0

    def carries(self) -> bool:
        """Tell whether the session is not as it was set up."""
        return bool(self.left) or (
            self.watched
            and self._factories is not None
            and self._factories != (self.row_factory, self.text_factory)
        )

    def note(self, query: Any) -> None:
        """Look at a statement before it is sent: may this user send it, and does it leave something?"""
        if self.pid != process.pid:
            raise sqlite3.ProgrammingError(
                f"the connection to {self.path or 'a database in memory'} belongs to the process that this "
                "one was forked from: close it before the fork, with django.db.connections.close_all()"
            )
        g = getcurrent()
        if self._factories is not None and not (
            type(g) is bridge.Green and g.frame.scope is self.owner
        ):
            self._check_user(g)
        if self.watched and leaves_something(query):
            self.left = 1

    def _check_user(self, g: Any) -> None:
        holder = self.holder
        if self.queue is None or (holder is not None and holder._thread_sharing_count):
            return
        name = holder.alias if holder is not None else self.path
        owner = "was given back" if self.owner is None else f"belongs to {self.owner.name}"
        raise sqlite3.ProgrammingError(refusal(name, owner, describe_user(g)))

    def cursor(self, factory: Any = None) -> Any:
        cursor = super().cursor(factory or RawCursor)
        self.cursors.add(cursor)
        return cursor

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return self.run(args[0], lambda: super(Connection, self).execute(*args))

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        self.note(args[0])
        return super().executemany(*args)

    def executescript(self, *args: Any) -> sqlite3.Cursor:
        self.note(None)
        return super().executescript(*args)

    def create_function(self, *args: Any, **kwargs: Any) -> None:
        self.note(None)
        super().create_function(*args, **kwargs)

    def create_aggregate(self, *args: Any, **kwargs: Any) -> None:
        self.note(None)
        super().create_aggregate(*args, **kwargs)

    def create_collation(self, *args: Any, **kwargs: Any) -> None:
        self.note(None)
        super().create_collation(*args, **kwargs)

    def commit(self) -> None:
        self.note("COMMIT")
        try:
            super().commit()
        finally:
            self._note("")

    def rollback(self) -> None:
        self.note("ROLLBACK")
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
        self.note(query)
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

    def executescript(self, *args: Any) -> Any:
        self.connection.note(None)
        return super().executescript(*args)

    def executemany(self, query: Any, param_list: Any) -> Any:
        if self.connection.queue is None:
            return super().executemany(query, param_list)
        rows = _Rows(param_list)
        return self.connection.run(query, lambda: super(Cursor, self).executemany(query, rows))


class RawCursor(sqlite3.Cursor):
    """What ``connection.connection.cursor()`` returns: sqlite3's, watched."""

    connection: Connection

    def execute(self, *args: Any) -> Any:
        self.connection.note(args[0])
        return super().execute(*args)

    def executemany(self, *args: Any) -> Any:
        self.connection.note(args[0])
        return super().executemany(*args)

    def executescript(self, *args: Any) -> Any:
        self.connection.note(None)
        return super().executescript(*args)
