"""What a request leaves in an SQLite session never reaches the next one: the connection is replaced."""

import asyncio
import sqlite3
from contextlib import nullcontext

import pytest
from django.conf import settings
from django.db import connections, transaction

import greentor
from greentor import green
from greentor.db.pools import current_pools

ALIAS = "checkin"


@pytest.fixture
def lite(tmp_path, monkeypatch):
    def lite(**of_pool):
        database = {
            "ENGINE": "greentor.db.sqlite3",
            "NAME": str(tmp_path / "db.sqlite3"),
            "OPTIONS": {"pool": {"pool_size": 1, "max_overflow": 0} | of_pool},
        }
        monkeypatch.setitem(settings.DATABASES, ALIAS, database)
        connections.configure_settings(settings.DATABASES)

    lite()
    return lite


def execute(sql):
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def raw():
    connections[ALIAS].ensure_connection()
    return connections[ALIAS].connection


def set_text_factory():
    raw().text_factory = bytes


def set_row_factory():
    raw().row_factory = sqlite3.Row


STATE = {
    "pragma": lambda: execute("PRAGMA foreign_keys = OFF"),
    "pragma as a function": lambda: execute("PRAGMA foreign_keys(0)"),
    "cache": lambda: execute("PRAGMA cache_size = 77"),
    "attached": lambda: execute("ATTACH ':memory:' AS attached"),
    "temporary table": lambda: execute("CREATE TEMP TABLE leftover (a)"),
    "table of temp": lambda: execute("CREATE TABLE temp.leftover (a)"),
    "raw": lambda: raw().execute("PRAGMA foreign_keys = OFF"),
    "raw cursor": lambda: raw().cursor().execute("PRAGMA foreign_keys = OFF"),
    "script": lambda: raw().executescript("SELECT 1; PRAGMA foreign_keys = OFF"),
    "script of a cursor": lambda: raw().cursor().executescript("PRAGMA foreign_keys = OFF"),
    "function": lambda: raw().create_function("leftover", 0, lambda: 1),
    "collation": lambda: raw().create_collation("leftover", lambda a, b: 0),
    "text factory": set_text_factory,
    "row factory": set_row_factory,
}

NOTHING = {
    "query": lambda: execute("SELECT 'PRAGMA a = 1'"),
    "question": lambda: execute("PRAGMA table_info('t')"),
    "table": lambda: execute("CREATE TABLE IF NOT EXISTS t (a)"),
    "transaction": lambda: transaction.atomic(using=ALIAS).__enter__(),
}


def session():
    connection = raw()
    found = {"factories": (connection.text_factory, connection.row_factory)}
    connection.text_factory, connection.row_factory = str, None
    for sql in (
        "PRAGMA foreign_keys",
        "PRAGMA cache_size",
        "SELECT name FROM pragma_database_list WHERE name <> 'temp'",
        "SELECT name FROM sqlite_temp_master",
        "SELECT leftover()",
        "SELECT 'a' = 'b' COLLATE leftover",
    ):
        try:
            found[sql] = execute(sql)
        except Exception as exc:
            found[sql] = str(exc)
    connection.text_factory, connection.row_factory = found["factories"]
    return found


class Crash(Exception):
    pass


@pytest.mark.parametrize("how", ["return", "exception", "cancel"])
@pytest.mark.parametrize("name", STATE)
def test_state_of_a_session_does_not_reach_the_next_request(run, lite, name, how):
    @green
    def changes():
        before = session()
        STATE[name]()
        assert session() != before
        seen.append(raw())
        if how == "exception":
            raise Crash
        if how == "cancel":
            asyncio.current_task().cancel()
            greentor.sleep(30)

    seen = []
    expected = {
        "exception": pytest.raises(Crash),
        "cancel": pytest.raises(asyncio.CancelledError),
    }

    async def main():
        before = await green(session)()
        with expected.get(how, nullcontext()):
            await changes()
        assert await green(session)() == before
        assert await green(raw)() is not seen[0]
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 1)

    run(main)


@pytest.mark.parametrize("name", NOTHING)
def test_what_leaves_nothing_keeps_the_connection(run, lite, name):
    @green
    def request():
        NOTHING[name]()
        return raw()

    async def main():
        first, second = await request(), await request()
        assert first is second

    run(main)


def test_a_session_that_is_never_looked_at_keeps_what_was_set(run, lite):
    lite(reset="never")

    async def main():
        await green(STATE["cache"])()
        assert await green(lambda: execute("PRAGMA cache_size"))() == [(77,)]

    run(main)


def test_always_reset_every_request_has_a_connection_of_its_own(run, lite):
    lite(reset="always")

    async def main():
        assert await green(raw)() is not await green(raw)()

    run(main)
