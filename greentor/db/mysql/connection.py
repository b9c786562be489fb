"""The connection that a pool lends: it knows who has it, what its session carries, and how to undo that.

Invariants
- Only the scope that has borrowed a connection can send anything on it, whatever it holds of it: the
  connection itself, a cursor, a wrapper. Anybody else is refused by name before a byte is written.
- Each statement is looked at before it is sent, whoever sends it. What may be left in the session is noted
  in `left`, and taken back before the connection is lent again, or the connection is not lent again.
- What set the session up, the driver's part and Django's, is remembered as it was sent, and sent again after
  a reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenlet import getcurrent
from pymysql import err
from pymysql.constants import CLIENT, ER, SERVER_STATUS

from greentor import bridge
from greentor.db.mysql.residue import RESETS, SCHEMA, is_ordinary, residue
from greentor.db.ownership import describe_user, refusal
from greentor.drivers.pymysql import Connection

if TYPE_CHECKING:
    from greentor.db.wrapper import GreenWrapper
    from greentor.scope import Scope

_COM_RESET_CONNECTION = 0x1F


class PooledConnection(Connection):
    """A cooperative connection on loan to one scope at a time."""

    #: the scope that has borrowed it, and its wrapper; None while nobody has
    owner: Scope | None = None
    holder: GreenWrapper | None = None
    #: where and by whom it was borrowed: see `greentor.db.loans`
    taken: Any = None
    #: what its session may carry, in the terms of `greentor.db.mysql.residue`
    left = 0
    #: whether that is noted; no for ``reset="never"``
    watched = True

    _several = False
    _set_up_by: list[Any] | None = None
    _is_set_up = False

    def connect(self, sock: Any = None) -> None:
        """Connect; a second time, as a ping may do it, leaves a session that is not set up."""
        self.owner = bridge.current_scope()
        self._several = bool(self.client_flag & CLIENT.MULTI_STATEMENTS)
        if self._set_up_by is None:
            self._set_up_by = []
        else:
            self._leave(RESETS)
        super().connect(sock)

    def end_set_up(self) -> None:
        """Take what was sent so far as what sets the session up."""
        self._is_set_up = True
        self._names = self.charset, self.collation
        self.left = 0

    # --- what is sent -------------------------------------------------------------------------

    def query(self, sql: Any, unbuffered: bool = False) -> Any:
        if type(sql) is str and is_ordinary(sql, self._several):
            return super().query(sql, unbuffered)
        return self._query_watched(sql, unbuffered)

    def _query_watched(self, sql: Any, unbuffered: bool) -> Any:
        text = sql if isinstance(sql, str) else bytes(sql).decode(self.encoding, "replace")
        backslashes = not self.server_status & SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES
        before = self.left
        if leaves := residue(text, self._several, backslashes):
            self._leave(leaves)
            if not self._is_set_up and self._set_up_by is not None:
                self._set_up_by.append(sql)
        try:
            return super().query(sql, unbuffered)
        except err.ProgrammingError as exc:
            if exc.args[:1] == (ER.PARSE_ERROR,) and not self._several:
                self.left = before  # it was not even begun
            raise

    def _leave(self, what: int) -> None:
        if self.watched:
            self.left |= what

    def select_db(self, db: Any) -> None:
        self._leave(SCHEMA)
        super().select_db(db)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        if self._is_set_up:
            self._leave(RESETS)
        super().set_character_set(charset, collation)

    def _execute_command(self, command: int, sql: Any) -> None:
        g = getcurrent()
        if type(g) is not bridge.Green or g.frame.scope is not self.owner:
            self._check_user(g)
        super()._execute_command(command, sql)

    def _check_user(self, g: Any) -> None:
        if self._stream is None:
            return  # a blocking one, which no pool lends
        holder = self.holder
        if holder is not None and holder._thread_sharing_count:
            return
        name = holder.alias if holder is not None else str(self.host_info)
        owner = "was given back" if self.owner is None else f"belongs to {self.owner.name}"
        raise err.ProgrammingError(refusal(name, owner, describe_user(g)))

    # --- taking it back -----------------------------------------------------------------------

    def reset_session(self) -> None:
        """Have the server forget what the session carries, and set it up again.

        What `LASTS` it does not forget: such a connection is to be closed.
        """
        left = self.left
        self._execute_command(_COM_RESET_CONNECTION, b"")
        self._read_ok_packet()
        if left & SCHEMA:
            super().select_db(self.db)
        # MySQL falls back to its own character set (bug 85185), MariaDB to that of the handshake, in a
        # collation that need not be the one that SET NAMES chooses.
        super().set_character_set(*self._names)
        for sql in self._set_up_by or ():
            super().query(sql)
            while self._result is not None and self._result.has_next:
                self.next_result()
        self.left = 0
