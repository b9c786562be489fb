"""The session state of MySQL and MariaDB: what sets it, and how the server is asked whether it is gone.

- Variables: their values before the first ``SET`` are remembered, and compared after each.
- User variables: gone when NULL. ``GET_LOCK``: gone when ``IS_USED_LOCK`` is no longer this connection.
- Temporary tables, prepared statements: by name, until they are dropped.
- ``LOCK TABLES`` until ``UNLOCK TABLES``; ``SET TRANSACTION`` until the next statement.
- What a procedure or ``EXECUTE`` does nobody can know: it lasts, as do ``USE`` and ``HANDLER``.

The functions of a session that refer to its last statement (``LAST_INSERT_ID()``, ``FOUND_ROWS()``, ``SHOW
WARNINGS``) do not hold it once the cursor is closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pymysql.cursors import Cursor

from greentor.db.session import LEAD, SessionState, starts_with

_LASTING = starts_with(
    "CALL", "EXECUTE", r"BEGIN\s+NOT", "USE", "HANDLER", "XA", r"SET\s+(?:DEFAULT\s+)?ROLE"
)
_TABLES = starts_with(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?TEMPORARY",
    r"DROP\s+(?:TEMPORARY\s+)?TABLES?",
    r"LOCK\s+TABLES?",
    r"UNLOCK\s+TABLES?",
    "FLUSH",
    "PREPARE",
    r"(?:DEALLOCATE|DROP)\s+PREPARE",
)
_FUNCTIONS = r"\b(?:GET_LOCK|RELEASE_LOCK|RELEASE_ALL_LOCKS)\s*\("
_FLAGS = re.IGNORECASE | re.DOTALL

_STRING = r"'(?:[^'\\]|\\.|'')*'" + "|" + r'"(?:[^"\\]|\\.|"")*"'
_NAME = r"(?:`[^`]+`|[\w$]+)(?:\s*\.\s*(?:`[^`]+`|[\w$]+))?"

_lasting = re.compile(_LASTING, _FLAGS)
_set = re.compile(starts_with("SET"), _FLAGS)
_set_transaction = re.compile(starts_with(r"SET\s+TRANSACTION"), _FLAGS)
_set_statement = re.compile(starts_with(r"SET\s+STATEMENT"), _FLAGS)
_strings = re.compile(_STRING)
_user_variable = re.compile(r"(?<!@)@(`[^`]+`|[\w$.]+)")
_get_lock = re.compile(r"\bGET_LOCK\s*\(", _FLAGS)
_lock_name = re.compile(rf"\b(?:GET|RELEASE)_LOCK\s*\(\s*({_STRING})", _FLAGS)
_locks = re.compile(_FUNCTIONS, _FLAGS)
_release_all = re.compile(r"\bRELEASE_ALL_LOCKS\s*\(", _FLAGS)
_create = re.compile(
    rf"{LEAD}CREATE\s+(?:OR\s+REPLACE\s+)?TEMPORARY\s+(?:TABLE|SEQUENCE)\s+"
    rf"(?:IF\s+NOT\s+EXISTS\s+)?({_NAME})",
    _FLAGS,
)
_drop = re.compile(
    rf"{LEAD}DROP\s+(?:TEMPORARY\s+)?(?:TABLES?|SEQUENCE)\s+(?:IF\s+EXISTS\s+)?"
    rf"({_NAME}(?:\s*,\s*{_NAME})*)",
    _FLAGS,
)
_lock_tables = re.compile(starts_with(r"LOCK\s+TABLES?", r"FLUSH\b.*\bREAD\s+LOCK"), _FLAGS)
_unlock_tables = re.compile(starts_with(r"UNLOCK\s+TABLES?"), _FLAGS)
_prepare = re.compile(rf"{LEAD}PREPARE\s+({_NAME})", _FLAGS)
_deallocate = re.compile(rf"{LEAD}(?:DEALLOCATE|DROP)\s+PREPARE\s+({_NAME})", _FLAGS)

_CHARSETS = (
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "collation_connection",
)
#: variables that a SET sets without naming them
_IMPLIED = {
    "names": _CHARSETS,
    "character": _CHARSETS,
    "charset": _CHARSETS,
    "transaction": (
        "tx_isolation",
        "transaction_isolation",
        "tx_read_only",
        "transaction_read_only",
    ),
}


class MySQLSession(SessionState):
    """The state of one borrowed connection."""

    affects = re.compile(
        f"{starts_with('SET')}|{_LASTING}|{_TABLES}|{_FUNCTIONS}|:=|INTO\\s+@", _FLAGS
    )

    def __init__(self) -> None:
        super().__init__()
        self.variables: set[str] = set()  # that differ from before
        self.user_variables: set[str] = set()
        self.locks: set[str] = set()  # of GET_LOCK, as they are written in SQL
        self.tables: set[str] = set()
        self.prepared: set[str] = set()
        self.next_transaction = False
        self.left = 0  # what its connection has noted of the statements that were followed
        self._before: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(
            self.lasting
            or self.variables
            or self.user_variables
            or self.locks
            or self.tables
            or self.prepared
            or self.next_transaction
        )

    def execute(self, cursor: Any, sql: Any, params: Any, call: Callable[[], Any]) -> Any:
        if self.next_transaction and not _set.match(sql):
            try:
                return super().execute(cursor, sql, params, call)
            finally:
                self.next_transaction = False
        return super().execute(cursor, sql, params, call)

    def follow(
        self, cursor: Any, sql: str, params: Any, call: Callable[[], Any], found: re.Match[str]
    ) -> Any:
        connection = cursor.connection
        before, connection.left = connection.left, 0
        try:
            return self._follow(cursor, sql, params, call)
        finally:  # from here on it is known here, and better
            self.left |= connection.left
            connection.left = before

    def hand_over(self, connection: Any) -> None:
        if self:
            connection.left |= self.left

    def _follow(self, cursor: Any, sql: str, params: Any, call: Callable[[], Any]) -> Any:
        text = cursor.mogrify(sql, params)
        if lasts := _lasting.match(text):
            self.lasting.add(" ".join(lasts.group().split()))
        sets = _set.match(text) and not _set_statement.match(text)
        if sets:
            self._remember(cursor, text)
        locks = _locks.search(text) is not None
        if locks and len(_get_lock.findall(text)) > len(_lock_name.findall(text)):
            self.lasting.add("GET_LOCK")  # of a name that only the server knows
        try:
            result = call()
        except Exception:
            if not sets:  # which fails as a whole
                self.lasting.add("a statement that failed")
            raise
        if not cursor.connection.quiet:  # the server cannot be asked now
            self.lasting.add("an unread result")
            return result
        self._tables_and_statements(text)
        if sets and _set_transaction.match(text):
            self.next_transaction = True
        elif sets:
            now = self._values(cursor, self._before)
            self.variables = {name for name, value in self._before.items() if now[name] != value}
        if sets or ":=" in text or "@" in text:
            self._user_variables(cursor, text)
        if locks:
            self._locks(cursor, text)
        return result

    def _remember(self, cursor: Any, text: str) -> None:
        words = {word.lower() for word in re.findall(r"[A-Za-z_]\w*", _strings.sub("", text))}
        names = words.union(*(_IMPLIED.get(word, ()) for word in words)) - self._before.keys()
        self._before.update(self._values(cursor, names))

    def _values(self, cursor: Any, names: Iterable[str]) -> dict[str, str]:
        known = [f"'{name}'" for name in names]
        if not known:
            return {}
        sql = f"SHOW SESSION VARIABLES WHERE Variable_name IN ({', '.join(known)})"
        return dict(_ask(cursor, sql))

    def _user_variables(self, cursor: Any, text: str) -> None:
        seen = self.user_variables.union(_user_variable.findall(_strings.sub("", text)))
        if seen:
            names = sorted(seen)
            [row] = _ask(cursor, f"SELECT {', '.join(f'@{name} IS NULL' for name in names)}")
            self.user_variables = {name for name, gone in zip(names, row, strict=True) if not gone}

    def _locks(self, cursor: Any, text: str) -> None:
        if _release_all.search(text):
            self.lasting.discard("GET_LOCK")
        names = sorted(self.locks.union(_lock_name.findall(text)))
        if names:
            mine = ", ".join(f"IS_USED_LOCK({name}) <=> CONNECTION_ID()" for name in names)
            [row] = _ask(cursor, f"SELECT {mine}")
            self.locks = {name for name, held in zip(names, row, strict=True) if held}

    def _tables_and_statements(self, text: str) -> None:
        if made := _create.match(text):
            self.tables.add(_bare(made.group(1)))
        elif dropped := _drop.match(text):
            self.tables.difference_update(map(_bare, dropped.group(1).split(",")))
        elif _lock_tables.match(text):
            self.lasting.add("LOCK TABLES")
        elif _unlock_tables.match(text):
            self.lasting.discard("LOCK TABLES")
        elif prepared := _prepare.match(text):
            self.prepared.add(_bare(prepared.group(1)))
        elif gone := _deallocate.match(text):
            self.prepared.discard(_bare(gone.group(1)))


def _bare(name: str) -> str:
    """Return a name without its schema and its quotes."""
    return name.rsplit(".", 1)[-1].strip().strip("`").lower()


def _ask(cursor: Any, sql: str) -> Any:
    """Return the answer of the server to a question of our own, on the cursor's connection."""
    with cursor.connection.cursor(Cursor) as own:
        own.execute(sql)
        return own.fetchall()
