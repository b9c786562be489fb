"""Requests that spend their time waiting for the database."""

from __future__ import annotations

from contextlib import nullcontext

from django.db import connection, transaction

import greentor
from handlers.base import JSONHandler

MAX_MS = 10_000


def sleep_in_database(ms: int, token: str = "") -> str:
    """Sleep in the database and return the token as it came back from there.

    SQLite cannot sleep: there the greenlet does, before it asks.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute("SELECT SLEEP(%s), %s", [ms / 1000, token])
        else:
            greentor.sleep(ms / 1000)
            cursor.execute("SELECT 0, %s", [token])
        return cursor.fetchone()[1]


class Sleep(JSONHandler):
    def get(self) -> None:
        ms = self.get_integer("ms", 0, MAX_MS)
        sleep_in_database(ms)
        self.write_json({"ms": ms})


class Echo(JSONHandler):
    """Send a token through the database, with ``atomic=1`` within a transaction."""

    def get(self) -> None:
        token = self.get_query_argument("token", strip=False)
        ms = self.get_integer("ms", 0, MAX_MS, default=0)
        atomic = self.get_integer("atomic", 0, 1, default=0)
        with transaction.atomic() if atomic else nullcontext():
            token = sleep_in_database(ms, token)
        self.write_json({"token": token})
