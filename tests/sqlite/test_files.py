"""The file of an SQLite database: missing, read-only, replaced; and what is kept open of it."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, ProgrammingError, connections

from greentor import green
from greentor.db.pools import current_pools
from greentor.db.sqlite3.base import Connection, check_options
from tests.sqlite.support import ALIAS, atomic, counters, query


def create(path):
    """Make another database with the table of `Counter`, and one row."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE testapp_counter"
            " (id INTEGER PRIMARY KEY, name VARCHAR(100) UNIQUE, n INTEGER NOT NULL)"
        )
        connection.execute("INSERT INTO testapp_counter (name, n) VALUES ('of the new file', 0)")
        connection.commit()


def replace(path):
    """Put another database in its place, as one should: its log belongs to it, and goes with it."""
    create(f"{path}.new")
    for file in (path, f"{path}-wal", f"{path}-shm"):
        Path(file).unlink(missing_ok=True)
    os.replace(f"{path}.new", path)


def names():
    return sorted(counters().values_list("name", flat=True))


# --- replaced ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [{}, False])
def test_a_database_that_is_replaced_is_opened_anew(run, lite, pool):
    """As by ``rm db.sqlite3; manage.py migrate`` beside a server: its writes would go to nowhere."""
    path = lite(pool=pool)

    async def main():
        await green(counters().create)(name="of the old file")
        replace(path)
        await green(counters().create)(name="new")
        assert await green(names)() == ["new", "of the new file"]
        assert all((pool.in_use, pool.idle) == (0, 1) for pool in current_pools())

    run(main)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM testapp_counter").fetchall() == [(2,)]


def test_a_request_that_is_at_work_opens_a_replaced_database_between_transactions(run, lite):
    path = lite()

    @green
    def request():
        with atomic():
            counters().create(name="of the old file")
            replace(path)
            assert names() == ["of the old file"]
        assert names() == ["of the new file"]

    run(request)


def test_a_database_that_is_deleted_is_made_anew_as_django_does(run, lite, tmp_path):
    lite()

    async def main():
        await green(counters().create)(name="x")
        for file in tmp_path.glob("db.sqlite3*"):
            file.unlink()
        with pytest.raises(OperationalError, match="no such table"):
            await green(counters().count)()

    run(main)


# --- not to be opened, or not to be written ---------------------------------------------------


@pytest.mark.parametrize("in_green", [True, False])
def test_a_directory_that_does_not_exist_is_named(run, lite, monkeypatch, tmp_path, in_green):
    lite()
    path = tmp_path / "missing" / "db.sqlite3"
    monkeypatch.setitem(settings.DATABASES[ALIAS], "NAME", path)
    with pytest.raises(OperationalError) as caught:
        run(green(query), "SELECT 1") if in_green else query("SELECT 1")
    assert str(caught.value) == (
        f"unable to open database file: {path}; its directory must exist and be writable, because "
        "SQLite makes files beside the database"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_writable_is_named(run, lite, tmp_path):
    lite()
    for file in tmp_path.glob("db.sqlite3-*"):
        file.unlink()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OperationalError, match="must exist and be writable"):
            run(green(query), "SELECT * FROM testapp_counter")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_that_is_opened_read_only_can_be_read(run, lite, monkeypatch, mode):
    path = lite()
    counters().create(name="x")
    connections[ALIAS].close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    monkeypatch.setitem(settings.DATABASES[ALIAS], "NAME", f"file:{path}?mode=ro")

    async def main():
        assert await green(names)() == ["x"]
        with pytest.raises(OperationalError, match="attempt to write a readonly database"):
            await green(counters().create)(name="y")
        assert await green(names)() == ["x"]

    run(main)


# --- in memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [":memory:", "file::memory:", "file:name?mode=memory"])
def test_memory_is_refused_where_every_connection_would_have_its_own(run, lite, name):
    lite(name)
    with pytest.raises(ImproperlyConfigured, match=r"'lite'.*another database in every connection"):
        run(green(query), "SELECT 1")
    assert query("SELECT 1") == [(1,)]


def test_memory_with_a_shared_cache_is_waited_for_like_a_file(run, tmp_path, lite):
    """Its locks are on tables, and readers wait, too."""
    lite(f"file:{tmp_path.name}?mode=memory&cache=shared", timeout=10)
    last = connections[ALIAS].connection  # while it is open there is a database

    async def write(parked, go):
        with atomic():
            counters().create(name="x")
            parked.set()
            await go.wait()

    async def main():
        parked, go = asyncio.Event(), asyncio.Event()
        writer = asyncio.create_task(green(write)(parked, go))
        await parked.wait()
        others = [
            asyncio.create_task(green(counters().count)()),
            asyncio.create_task(green(counters().create)(name="y")),
        ]
        await asyncio.sleep(0.03)
        assert not any(task.done() for task in others)
        go.set()
        await writer
        assert await others[0] == 1
        await others[1]
        assert await green(names)() == ["x", "y"]

    run(main)
    last.close()


# --- kept open --------------------------------------------------------------------------------


def test_opening_a_connection_takes_no_lock_if_the_log_is_written_ahead_already(run, lite):
    path = lite(timeout=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert run(green(query), "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("pool", [{}, False])
@pytest.mark.parametrize("max_age", [0, None, 60])
def test_connections_end_with_the_scope_or_go_back_to_the_pool(
    run, lite, monkeypatch, pool, max_age
):
    path = lite(pool=pool, timeout=10)
    monkeypatch.setitem(settings.DATABASES[ALIAS], "CONN_MAX_AGE", max_age)

    async def main():
        await asyncio.gather(*(green(counters().create)(name=str(n)) for n in range(5)))
        return sum(pool.idle for pool in current_pools())

    assert run(main) == (0 if pool is False else 1)
    # The last connection that is closed takes the log with it.
    assert not Path(f"{path}-wal").exists()
    assert counters().count() == 5


def test_a_cursor_that_somebody_keeps_is_closed_with_its_loan(run, lite):
    """Unread, it would hold a snapshot, and who borrows the connection next could not write."""
    lite(pool={"pool_size": 1, "max_overflow": 1})
    kept = []

    @green
    def leave_unread():
        counters().bulk_create([counters().model(name=name) for name in "ab"])
        cursor = connections[ALIAS].cursor()
        cursor.execute("SELECT name FROM testapp_counter ORDER BY id")
        assert cursor.fetchone() == ("a",)
        kept.append(cursor)

    async def main():
        await leave_unread()
        with closing(sqlite3.connect(settings.DATABASES[ALIAS]["NAME"])) as other:
            other.execute("UPDATE testapp_counter SET n = 1")
            other.commit()
        await green(counters().create)(name="c")
        assert [(pool.in_use, pool.idle) for pool in current_pools()] == [(0, 1)]
        with pytest.raises(ProgrammingError, match="leave_unread, which has ended"):
            kept[0].fetchone()

    run(main)


def test_a_factory_must_be_ours(lite):
    class Mine(Connection):
        pass

    check_options("x", {"NAME": "x", "OPTIONS": {"factory": Mine}})
    for factory in (sqlite3.Connection, "x", lambda **kwargs: None):
        with pytest.raises(ImproperlyConfigured, match=r"'lite'.*subclass of greentor.*Connection"):
            lite(factory=factory)
        with pytest.raises(ImproperlyConfigured, match="'factory'"):
            check_options("x", {"NAME": "x", "OPTIONS": {"factory": factory}})
