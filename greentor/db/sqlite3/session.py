"""The session state of SQLite: pragmas, attached databases and temporary tables last with the connection."""

from __future__ import annotations

import re
from typing import Any

from greentor.db.session import LEAD, SessionState, starts_with

#: pragmas that ask, or that change the file and not the session
_HARMLESS = (
    "application_id|foreign_key_check|foreign_key_list|incremental_vacuum|index_info|index_list|index_xinfo|"
    "integrity_check|optimize|quick_check|table_info|table_list|table_xinfo|user_version|wal_checkpoint"
)

_changes = re.compile(
    rf"{LEAD}PRAGMA\s+(?:\w+\s*\.\s*)?(?!(?:{_HARMLESS})\b)\w+\s*[=(]|"
    + starts_with("ATTACH", "DETACH", r"CREATE\s+(?:TEMP(?:ORARY)?\b|[^(]*?\bTEMP\s*\.).*"),
    re.IGNORECASE | re.DOTALL,
)

#: the first six characters of what leaves nothing
_ORDINARY = {
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "REPLAC",
    "BEGIN",
    "BEGIN ",
    "COMMIT",
    "ROLLBA",
    "SAVEPO",
}


def leaves_something(query: Any) -> bool:
    """Tell whether a statement changes the session; None stands for whatever cannot be told."""
    if type(query) is not str:
        return True
    return query[:6] not in _ORDINARY and _changes.search(query) is not None


class SQLiteSession(SessionState):
    """The state of one borrowed connection."""

    affects = _changes
