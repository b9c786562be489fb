"""A database that answers at once: PyMySQL's connections, theirs and ours, with answers from memory.

    answers = Answers(pymysql.connections.Connection)
    answers.learn()    # what is asked from here on goes to the server, and is remembered
    answers.give()     # no byte is sent, and nothing is parsed
    answers.stop()

Only what ends in a socket is replaced: `_execute_command`, `_read_query_result` and `_read_ok_packet` of the
class. Pools, wrappers, cursors and the checks in front of them are as ever.

Invariants
- A statement is known by its first `LENGTH` bytes: each row of a table is answered with the one that was
  learnt, a changed row with "1 row".
- Other statements, those that set a session up for one, are always sent.
- The state of the server's session is not touched: AUTOCOMMIT is on in it, and on again before `stop`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pymysql.constants import COMMAND, SERVER_STATUS

LENGTH = 14
SELECTS = (b"SELECT `world`", b"SELECT `fortun")
CHANGES = (b"UPDATE world S",)
ENDS = (b"SET AUTOCOMMIT", b"COMMIT", b"ROLLBACK")

_AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT


def ok(rows: int) -> Any:
    """Return what PyMySQL's result is for a statement that changed rows."""
    return SimpleNamespace(
        affected_rows=rows,
        insert_id=0,
        server_status=None,
        warning_count=0,
        message=b"",
        description=None,
        rows=None,
        has_next=0,
        unbuffered_active=False,
    )


class Answers:
    """The answers that the connections of one class get."""

    def __init__(self, cls: Any) -> None:
        self.cls = cls
        self.known: dict[bytes, Any] = {start: ok(1) for start in CHANGES}
        self.known.update((start, ok(0)) for start in ENDS)
        #: statements that were answered, and not sent
        self.given = 0
        self._real: dict[str, Any] = {}

    def learn(self) -> None:
        """Remember what the server answers to the SELECTs that are known."""
        self.stop()
        execute, read = self.cls._execute_command, self.cls._read_query_result
        known = self.known

        def learning(connection: Any, command: int, sql: Any) -> None:
            connection._asked = start_of(sql)
            execute(connection, command, sql)

        def remembering(connection: Any, unbuffered: bool = False) -> Any:
            affected = read(connection, unbuffered)
            if connection._asked in SELECTS and not unbuffered:
                known[connection._asked] = connection._result
            return affected

        self._replace(_execute_command=learning, _read_query_result=remembering)

    def give(self) -> None:
        """Answer what is known from memory."""
        self.stop()
        execute, read = self.cls._execute_command, self.cls._read_query_result
        read_ok, known = self.cls._read_ok_packet, self.known

        def answering(connection: Any, command: int, sql: Any) -> None:
            answer = known.get(start_of(sql)) if command == COMMAND.COM_QUERY else None
            connection._answer = answer
            if answer is None:
                execute(connection, command, sql)
                return
            self.given += 1
            connection._result = None
            if sql[:LENGTH] == "SET AUTOCOMMIT":
                status = connection.server_status & ~_AUTOCOMMIT
                connection.server_status = status | (_AUTOCOMMIT if sql[-1] == "1" else 0)

        def result(connection: Any, unbuffered: bool = False) -> Any:
            answer = connection._answer
            if answer is None:
                return read(connection, unbuffered)
            connection._result = answer
            return answer.affected_rows

        def agreeing(connection: Any, *args: Any) -> Any:
            return read_ok(connection, *args) if _waits(connection) else None

        self._replace(
            _execute_command=answering, _read_query_result=result, _read_ok_packet=agreeing
        )

    def stop(self) -> None:
        """Have everything sent again."""
        for name, method in self._real.items():
            if method is None:
                delattr(self.cls, name)
            else:
                setattr(self.cls, name, method)
        self._real.clear()

    def _replace(self, **methods: Any) -> None:
        for name, method in methods.items():
            self._real[name] = vars(self.cls).get(name)
            setattr(self.cls, name, method)


def start_of(sql: Any) -> bytes:
    start = sql[:LENGTH]
    return start.encode() if isinstance(start, str) else bytes(start)


def _waits(connection: Any) -> bool:
    """Tell whether something was sent, so that an answer comes."""
    return getattr(connection, "_answer", None) is None
