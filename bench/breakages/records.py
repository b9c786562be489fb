"""What the sides write, and what the server knows of it: groups of ``django.contrib.auth``, by name."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pymysql
from django.conf import settings


def fresh(name: str) -> str:
    """Return a name for a row that no row had before; `names` knows it by its first word.

    Until InnoDB has purged a deleted row, whoever inserts its unique name again locks the gap before it,
    and another transaction that inserts there waits.
    """
    return f"{name} {uuid4()}"


def names(server: Any) -> list[str]:
    """Return what is committed."""
    rows = server.execute(f"SELECT name FROM {_table()} ORDER BY name")
    return [row["name"].split()[0] for row in rows]


def are_locked(server: Any) -> bool:
    """Tell whether a transaction has written and not ended, and so holds locks."""
    # INNODB_TRX would not do: while it is asked again and again, it says the same.
    try:
        server.execute(f"SELECT id FROM {_table()} FOR UPDATE NOWAIT")
    except pymysql.OperationalError:
        return True
    return False


def is_running(server: Any, sql: str) -> bool:
    """Tell whether a statement that begins like this is being executed."""
    find = "SELECT 1 FROM information_schema.PROCESSLIST WHERE LEFT(INFO, %s) = %s"
    return bool(server.execute(find, len(sql), sql))


def _table() -> str:
    return f"`{settings.DATABASES['default']['NAME']}`.auth_group"
