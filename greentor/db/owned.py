"""Whose a wrapper and its cursors are: the checks in front of everything that is sent or read.

Invariants
- In a greenlet a wrapper belongs to a scope. Code of another scope, or of a plain coroutine or thread, is
  refused by name before a byte is written; a helper of the scope waits for its turn, and the owner for it.
- A cursor belongs to the scope and to the loan in which it was opened, also for reading.
- What Django guards by looking for an event loop, and raising an exception where there is none, is not
  guarded a second time in a greenlet.
"""

from __future__ import annotations

import weakref
from typing import Any, ClassVar, TypeVar

from django.db import DatabaseError, ProgrammingError
from django.db.backends.base.base import BaseDatabaseWrapper
from greenlet import getcurrent

from greentor import bridge
from greentor.bridge import Green
from greentor.db.cursors import GreenCursor, GreenDebugCursor, OwnedCursor
from greentor.db.ownership import describe_user, refusal
from greentor.db.session import SessionState
from greentor.scope import Scope

_C = TypeVar("_C")


class OwnedWrapper(BaseDatabaseWrapper):
    """A DatabaseWrapper that serves the scope to which it belongs, and nobody else."""

    #: what Django's engine puts before the driver's cursors, if it puts something
    cursor_wrapper: ClassVar[type | None] = None

    _thread_sharing_count: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._scope: Scope | None = None
        self._was = ""  # the name of the scope that it belonged to last
        self._kept = False  # lives in the handler's store, and is reused
        self._session: SessionState | None = None  # of a connection held per transaction
        self._cursors: weakref.WeakSet[Any] | None = None  # that are open on it, then
        super().__init__(*args, **kwargs)

    def _check_owner(self) -> bool:
        """Refuse whoever has no part in the wrapper's scope; tell whether it has one."""
        scope = self._scope
        g = getcurrent()
        if scope is None:
            if not self._kept and (self.connection is None or type(g) is not Green):
                return False
        elif type(g) is Green and (frame := g.frame).scope is scope:
            if frame.child:
                bridge.take_turn()
            return True
        if self._thread_sharing_count:
            return False
        if scope is not None:
            owner = f"belongs to {scope.name}"
        elif self._kept:
            owner = f"belonged to {self._was or 'a scope'}, which has ended,"
        else:
            owner = "was opened outside greenlets"
        raise DatabaseError(refusal(self.alias, owner, describe_user(g)))

    def validate_thread_sharing(self) -> None:
        if not self._check_owner():
            super().validate_thread_sharing()

    def validate_no_broken_transaction(self) -> None:
        self._check_owner()
        if self.needs_rollback:
            super().validate_no_broken_transaction()

    # --- cursors ------------------------------------------------------------------------------

    def cursor(self) -> Any:
        return self._cursor() if bridge.in_green() else super().cursor()  # type: ignore[attr-defined]

    def make_cursor(self, cursor: Any) -> GreenCursor:
        return self._watch(GreenCursor(cursor, self))

    def make_debug_cursor(self, cursor: Any) -> GreenDebugCursor:
        return self._watch(GreenDebugCursor(cursor, self))

    def _watch(self, cursor: _C) -> _C:
        if self._cursors is not None:
            self._cursors.add(cursor)
        return cursor

    def check_cursor(self, cursor: OwnedCursor) -> None:
        """Wait for the turn; refuse a cursor of another scope, or whose connection was given back."""
        g = getcurrent()
        scope = cursor.scope
        if type(g) is Green and (frame := g.frame).scope is scope:
            if frame.child:
                bridge.take_turn()
            if cursor.loan is self.connection:
                return
        if scope is not None:
            self.check_reader(cursor)
        if cursor.loan is not self.connection and type(g) is Green:
            raise DatabaseError(
                f"a cursor of {self.alias!r} was used after its connection was given back, by "
                "close() or at the end of its request: open a new one"
            )

    def check_reader(self, cursor: OwnedCursor) -> None:
        """Refuse to read a cursor in another scope than its own."""
        scope = cursor.scope
        if scope is None:
            return
        g = getcurrent()
        if (type(g) is Green and g.frame.scope is scope) or self._thread_sharing_count:
            return
        ended = ", which has ended," if scope.closed else ""
        raise ProgrammingError(
            f"a cursor of {self.alias!r} was opened by {scope.name}{ended} and used by "
            f"{describe_user(g)}: each opens its own; read rows into a list to hand them on"
        )
