"""Databases in files of their own."""

import sqlite3

import pytest
from django.conf import settings
from django.db import connections

from tests.sqlite.support import ALIAS
from tests.testapp.models import Counter


@pytest.fixture
def lite(tmp_path, monkeypatch):
    """Return a function that makes the database: its name, and options of the ENGINE."""

    def make(name="db.sqlite3", **options):
        path = name if ":" in name else str(tmp_path / name)
        database = {"ENGINE": "greentor.db.sqlite3", "NAME": path, "OPTIONS": options}
        monkeypatch.setitem(settings.DATABASES, ALIAS, database)
        connections.configure_settings(settings.DATABASES)
        if name != ":memory:":
            with connections[ALIAS].schema_editor() as editor:
                editor.create_model(Counter)
            connections[ALIAS].close()
        return path

    yield make
    if hasattr(connections._connections, ALIAS):
        connection = connections[ALIAS].connection
        if connection is not None:
            connection.close()  # Django never closes one in memory
        del connections[ALIAS]


@pytest.fixture
def locked(lite):
    """Return a database with a lock of another process's, as a connection to release it on."""
    lite(timeout=5)
    other = sqlite3.connect(settings.DATABASES[ALIAS]["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()
