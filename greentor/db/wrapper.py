"""`GreenWrapper`: what greentor's engines put in front of Django's DatabaseWrapper.

Invariants
- In a greenlet a wrapper belongs to a scope. Code of another scope, or of a plain coroutine, is refused
  by name before a byte is written; a helper of the scope waits for its turn, and the owner for it.
- A wrapper borrows its connection from the pool at the first query and gives it back on ``close()`` and
  at the end of the scope, however that comes about.
- Held per transaction, it also goes back while the greenlet waits for something else, if nothing needs it.
- A session is set up once, when its connection is opened, not each time it is lent: a request on an open
  connection sends its own statements and nothing else. ``connection_created`` is sent each time, as with
  Django's own pool: its receivers equip the wrapper.
- A wrapper is kept for the next request only if it is as Django makes it. Whoever still holds it, or a
  cursor of it, after its scope has ended or it gave its connection back, is refused.
- Outside greenlets everything is Django's.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

from django.db import ProgrammingError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.utils.functional import cached_property
from greenlet import getcurrent

from greentor import bridge, holding
from greentor.bridge import Green
from greentor.db.owned import OwnedWrapper
from greentor.db.pools import DatabasePool, find_pool
from greentor.db.session import SessionState
from greentor.pool import Driver
from greentor.scope import Scope

_C = TypeVar("_C")

#: what ``BaseDatabaseWrapper.connect`` assigns, and `GreenWrapper._attach` after it; a test compares
CONNECT_ASSIGNS = (
    "atomic_blocks",
    "close_at",
    "closed_in_transaction",
    "connection",
    "errors_occurred",
    "health_check_done",
    "health_check_enabled",
    "in_atomic_block",
    "needs_rollback",
    "run_on_commit",
    "savepoint_ids",
)


_ensure_connection: Any = None


def _is_patched() -> bool:
    """Tell whether ``BaseDatabaseWrapper.ensure_connection`` is not Django's own."""
    global _ensure_connection
    current = BaseDatabaseWrapper.ensure_connection
    if current is not _ensure_connection:
        if getattr(current, "__qualname__", "") != "BaseDatabaseWrapper.ensure_connection":
            return True
        _ensure_connection = current
    return False


class GreenWrapper(OwnedWrapper):
    """A DatabaseWrapper on a pooled, cooperative connection, owned by a scope."""

    _known_attributes: ClassVar[dict[type, frozenset[str]]] = {}
    #: what follows the state of a session that is held per transaction
    session_class: ClassVar[type[SessionState]] = SessionState

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pool: DatabasePool | None = None  # that the connection was borrowed from
        self._home: DatabasePool | None = None  # that it last borrowed from
        self._suspect = self._judged = False  # `close` is to discard, not to lend on
        self._ensuring = False  # within somebody's patch of ``ensure_connection``
        self._configured = False  # has read its settings, as it does to open a connection
        self._pristine: tuple[int, str] | None = None  # how its attributes were when last looked at
        super().__init__(*args, **kwargs)

    @staticmethod
    def make_driver(settings: dict[str, Any]) -> Driver[Any]:
        """Return what the pool needs to know of this engine's connections."""
        raise NotImplementedError

    # --- the scope ----------------------------------------------------------------------------

    def enter_scope(self, scope: Scope) -> None:
        """Make the wrapper belong to ``scope``, and be released with it."""
        if self._scope is not scope:
            scope.add_resource(self, self._release)
            self._scope = scope

    def _release(self, force: bool) -> None:
        """Give everything up at the end of the scope; keep the wrapper if it is as new."""
        scope, self._scope = self._scope, None
        if scope is not None:
            self._was = scope.name
        clean = not self.in_atomic_block and not self._thread_sharing_count
        home = self._home
        self._give_back(force)
        if home is not None and clean and self._kept and not home.closed and self._is_pristine():
            if self.queries_log:
                self.queries_log.clear()
            self.savepoint_state = 0
            self.needs_rollback = self.closed_in_transaction = self.errors_occurred = False
            self.run_commit_hooks_on_set_autocommit_on = False
            self.rollback_exc = None
            home.wrappers.append(self)

    def _is_pristine(self) -> bool:
        """Tell whether nobody has changed what Django makes of a wrapper."""
        if self.execute_wrappers or self.run_on_commit or self.force_debug_cursor:
            return False
        attributes = self.__dict__
        # An attribute that is new since we last looked is the last one.
        seen = (len(attributes), next(reversed(attributes)))
        if seen != self._pristine:
            if not self._known_names().issuperset(attributes):
                return False
            self._pristine = seen
        return True

    def _known_names(self) -> frozenset[str]:
        """Return the names of the attributes that a wrapper of this class may have."""
        cls = type(self)
        known = self._known_attributes.get(cls)
        if known is None:
            new = cls(self.settings_dict, self.alias)
            new.get_connection_params()
            members = [member for base in cls.__mro__ for member in vars(base).items()]
            cached = {name for name, value in members if isinstance(value, cached_property)}
            known = self._known_attributes[cls] = frozenset(vars(new)) | cached
        return known

    # --- the connection -----------------------------------------------------------------------

    def ensure_connection(self) -> None:
        if not self._ensuring and _is_patched():
            # By Django's SimpleTestCase or by pytest-django, to refuse queries: that is theirs to say.
            self._ensuring = True
            try:
                super().ensure_connection()
            finally:
                self._ensuring = False
            return
        # As Django's, which looks for an event loop before; `connect` does so when it is about to block.
        if self.connection is not None:
            return
        if self.in_atomic_block and self.closed_in_transaction:
            raise ProgrammingError("Cannot open a new connection in an atomic block.")
        with self.wrap_database_errors:
            self.connect()

    def connect(self) -> None:
        g = getcurrent()
        if type(g) is not Green or not bridge.in_green():
            super().connect()
            return
        if g.dying:
            bridge.check_alive(f"connecting to {self.alias!r}")
        if not self._kept:
            self.enter_scope(g.frame.scope)
        if g.frame.scope is not self._scope or g.frame.child:
            self._check_owner()
        pool = find_pool(g.loop, self.alias, self.settings_dict, self.make_driver)
        if pool is None:
            self._open()
            return
        connection, fresh = pool.acquire(self._open)
        self._borrowed(pool, connection, fresh)

    def _borrowed(self, pool: DatabasePool, connection: Any, fresh: bool) -> None:
        self._pool = self._home = pool
        scope = self._scope
        connection.owner = scope
        connection.holder = self
        if (reset := pool.options.reset) != "auto":
            connection.watched = reset == "always"
            connection.left |= connection.watched
        if pool.loans is not None:
            pool.loans.note(connection)
        if scope is not None and (scope.hold or pool.hold) == holding.TRANSACTION:
            self._session = self.session_class()
            self._cursors = weakref.WeakSet()
            scope.parked[self] = self._let_go
        if fresh:
            self._opened(pool, connection)
            return
        self._attach(connection)
        if connection_created.receivers:
            connection_created.send(sender=type(self), connection=self)

    def _opened(self, pool: DatabasePool, connection: Any) -> None:
        """Do what is to be done once for each connection of a pool."""

    def _open(self) -> Any:
        """Open a connection and set its session up, as Django does."""
        self.__dict__["init_connection_state"] = partial(self._set_up, self.init_connection_state)
        try:
            super().connect()
        except BaseException:
            connection, self.connection = self.connection, None
            if connection is not None:
                self.make_driver(self.settings_dict).close(connection)
            raise
        finally:
            self.__dict__.pop("init_connection_state", None)
        return self.connection

    def open_for(self, pool: DatabasePool) -> Any:
        """Open a connection for the pool, as a borrower would, and part from it."""
        with self.wrap_database_errors:
            connection = self._open()
        self._opened(pool, connection)
        self.connection = connection.owner = connection.holder = None
        return connection

    def _set_up(self, init_connection_state: Callable[[], None]) -> None:
        """Send what sets a session up; what follows, by receivers, is each borrower's own."""
        self.__dict__.pop("init_connection_state", None)
        init_connection_state()
        connection = self.connection
        connection.owner = self._scope
        connection.holder = self
        connection.end_set_up()

    def _attach(self, connection: Any) -> None:
        """Take over a connection whose session is set up: the state that ``connect`` leaves."""
        settings = self.settings_dict
        if not self._configured:
            self.get_connection_params()
            self._configured = True
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        self.health_check_enabled = settings["CONN_HEALTH_CHECKS"]
        max_age = settings["CONN_MAX_AGE"]
        # 0 is the default: it is over at once.
        self.close_at = max_age and time.monotonic() + max_age
        self.closed_in_transaction = False
        self.errors_occurred = False
        self.health_check_done = True
        self.connection = connection
        self.autocommit = settings["AUTOCOMMIT"]
        self.run_on_commit = []

    def close_if_health_check_failed(self) -> None:
        # A connection that was lost outside a transaction is replaced, as the next request's would be.
        if (
            self.connection is not None
            and self._scope is not None
            and self.autocommit
            and not self.in_atomic_block
            and not self._is_connected()
        ):
            self.close()
        if self.health_check_enabled and not self.health_check_done:
            self._suspect = True  # Django closes it there for one reason only
            try:
                super().close_if_health_check_failed()
            finally:
                self._suspect = False

    def close_if_unusable_or_obsolete(self) -> None:
        self._judged = True  # closed there with errors_occurred still set: it is unusable
        try:
            super().close_if_unusable_or_obsolete()
        finally:
            self._judged = False

    def set_autocommit(self, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        self._check_owner()
        # Django ends every atomic block with this. When its connection was lost it would connect again,
        # or raise InterfaceError in place of what had happened: a cancel during COMMIT was swallowed.
        if (
            self._scope is None
            or self.in_atomic_block
            or autocommit != self.settings_dict["AUTOCOMMIT"]
        ):
            super().set_autocommit(autocommit, *args, **kwargs)
            return
        try:
            if self._is_connected() or self.run_commit_hooks_on_set_autocommit_on:
                super().set_autocommit(autocommit, *args, **kwargs)
        finally:
            if not self._is_connected():
                self.close()
                self.autocommit = autocommit

    def _is_connected(self) -> bool:
        connection = self.connection
        return connection is not None and self.make_driver(self.settings_dict).is_open(connection)

    def _close(self) -> None:
        if self._scope is None:
            super()._close()  # type: ignore[misc]
        else:
            bad = self._suspect or (self._judged and self.errors_occurred)
            self._give_back(bad or bridge.is_dying())
            if not self._kept:
                self._scope.remove_resource(self)
                self._scope = None

    def _let_go(self) -> None:
        """Give the connection back while its greenlet waits for something else, if nothing holds it."""
        scope, pool, session = self._scope, self._pool, self._session
        if (
            scope is not None
            and pool is not None
            and session is not None
            and not session
            and not self._cursors
            and not self.in_atomic_block
            and not self._thread_sharing_count
            and (scope.hold or pool.hold) == holding.TRANSACTION
            and pool.is_clean(self.connection)
        ):
            self._give_back(False)

    def _give_back(self, force: bool) -> None:
        """Part from the connection before it can be lent to somebody else."""
        connection, self.connection = self.connection, None
        pool, self._pool = self._pool, None
        session, self._session = self._session, None
        if session is not None:
            if connection is not None:
                session.hand_over(connection)
            self._cursors = None
            if self._scope is not None:
                self._scope.parked.pop(self, None)
        if connection is None:
            return
        if pool is None:
            self.make_driver(self.settings_dict).close(connection)
            return
        try:
            pool.release(connection, force)
        finally:
            connection.owner = connection.holder = None
