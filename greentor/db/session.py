"""What a statement leaves in its session, for connections that are held per transaction.

Invariants
- A session that carries something that its owner may come back to is not lent to anybody else.
- Whoever is not sure keeps the connection: state that cannot be followed holds it to the end of the scope.
- A connection that is given up with state is reset, or discarded, before it is lent again.
- It costs nothing where ``hold`` is ``"request"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

#: white space, comments and brackets before the first word of a statement
LEAD = r"^(?:[\s(]|/\*.*?\*/|--[^\n]*\n|\#[^\n]*\n)*"


def starts_with(*words: str) -> str:
    """Return a pattern for statements that begin with one of ``words``, each a pattern itself."""
    return rf"{LEAD}(?:{'|'.join(words)})\b"


class SessionState:
    """The state of one borrowed connection; true while it has to be kept."""

    #: statements that have to be looked at; each engine has its own
    affects: re.Pattern[str] = re.compile("(?!)")

    def __init__(self) -> None:
        #: what holds the connection to the end of its scope, as it is called in SQL
        self.lasting: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.lasting)

    def execute(self, cursor: Any, sql: Any, params: Any, call: Callable[[], Any]) -> Any:
        """Return ``call()``, which sends the statement, and see what it leaves behind."""
        if (found := self.affects.search(sql)) is None:
            return call()
        return self.follow(cursor, sql, params, call, found)

    def follow(
        self, cursor: Any, sql: str, params: Any, call: Callable[[], Any], found: re.Match[str]
    ) -> Any:
        """As `execute`, for a statement that `affects` was found in."""
        self.lasting.add(" ".join(found.group().split()))
        return call()

    def hand_over(self, connection: Any) -> None:
        """Tell a connection that is given back what its session carries."""
