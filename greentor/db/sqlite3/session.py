"""The session state of SQLite: pragmas, attached databases and temporary tables last with the connection."""

from __future__ import annotations

import re

from greentor.db.session import LEAD, SessionState, starts_with


class SQLiteSession(SessionState):
    """The state of one borrowed connection."""

    affects = re.compile(
        rf"{LEAD}PRAGMA\b[^=;]*=|" + starts_with("ATTACH", "DETACH", r"CREATE\s+TEMP(?:ORARY)?"),
        re.IGNORECASE | re.DOTALL,
    )
