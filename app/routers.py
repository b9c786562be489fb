"""Reads from the replica, writes to the default database.

A replica lags behind. So within a request (a scope, to be exact: see `greentor.local`) only what comes before
the first write, and outside transactions, is read from it: whoever has written sees what he wrote. Outside
greenlets that holds for a thread.
"""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model

import greentor

REPLICA = "replica"


class Pin(greentor.local):
    """Whether the running scope has written, and so stays with the default database."""

    written = False


pin = Pin()


class ReplicaRouter:
    """A router for the databases ``default`` and ``replica``, which have the same tables."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        if pin.written or connections[DEFAULT_DB_ALIAS].in_atomic_block:
            return DEFAULT_DB_ALIAS
        return REPLICA

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        pin.written = True
        return DEFAULT_DB_ALIAS

    def allow_relation(self, first: Model, second: Model, **hints: Any) -> bool:
        """Allow all: the same row, whichever database it was read from."""
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Migrate the default database alone; the replica gets its tables from there."""
        return db == DEFAULT_DB_ALIAS
