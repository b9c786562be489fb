"""What a request leaves in its session never reaches the next one, however the request ends."""

import asyncio
from contextlib import nullcontext

import pymysql
import pytest
from django.conf import settings
from django.db import connection, transaction

import greentor
from greentor import green
from greentor.db.mysql import connection as mysql_connection
from greentor.db.pools import current_pools
from tests.testapp.models import Author

pytestmark = pytest.mark.usefixtures("clean_tables", "objects")


@pytest.fixture(autouse=True)
def options(monkeypatch):
    """Set options of the default database, whose pool has one connection."""
    given = settings.DATABASES["default"]["OPTIONS"]
    pool = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}

    def options(changes=None, **of_pool):
        monkeypatch.setitem(given, "pool", pool | of_pool)
        for name, value in (changes or {}).items():
            monkeypatch.setitem(given, name, value)

    options()
    return options


@pytest.fixture(scope="module")
def objects(mariadb, django_db_tables):
    mariadb.execute("CREATE OR REPLACE PROCEDURE greentor.leaves() SET @left = 1, sql_mode = ''")
    mariadb.execute(
        "CREATE OR REPLACE PROCEDURE greentor.leaves_schema() EXECUTE IMMEDIATE 'USE greentor_other'"
    )
    mariadb.execute("CREATE OR REPLACE PROCEDURE greentor.takes(a INT) SET @taken = a")
    mariadb.execute("CREATE OR REPLACE FUNCTION greentor.hidden() RETURNS INT RETURN @left := 5")
    mariadb.execute("CREATE ROLE IF NOT EXISTS reader")
    mariadb.execute("GRANT reader TO greentor")
    yield
    for name in ("leaves", "leaves_schema", "takes"):
        mariadb.execute(f"DROP PROCEDURE greentor.{name}")
    mariadb.execute("DROP FUNCTION greentor.hidden")
    mariadb.execute("DROP ROLE reader")


def execute(sql, params=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else None


#: what differs between two sessions that nobody has touched
VOLATILE = {
    "error_count", "identity", "in_transaction", "last_gtid", "last_insert_id", "pseudo_thread_id",
    "rand_seed1", "rand_seed2", "timestamp", "warning_count",
}  # fmt: skip


def session():
    """Return all that the server tells of the session that this request has borrowed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT @left, @taken, @a, DATABASE(), CURRENT_ROLE(), LAST_INSERT_ID(),"
            " IS_USED_LOCK('mine'), @@autocommit, CONNECTION_ID()"
        )
        found = dict(enumerate(cursor.fetchone()))
        found["number"] = found.pop(8)
        cursor.execute("SHOW SESSION VARIABLES")
        found.update((name, value) for name, value in cursor.fetchall() if name not in VOLATILE)
        for name, sql in {
            "temporary table": "SELECT * FROM greentor.leftover",
            "prepared statement": "DEALLOCATE PREPARE prepared",
            "handler": "HANDLER books READ FIRST",
            "locked tables": "SELECT 1 FROM greentor_other.testapp_author LIMIT 0",
        }.items():
            try:
                cursor.execute(sql)
                found[name] = cursor.fetchall()
            except Exception as exc:
                found[name] = exc.args[0]
    return found


def raw(sql):
    def use():
        with connection.connection.cursor() as cursor:
            cursor.execute(sql)

    return use


def raw_query(sql):
    return lambda: connection.connection.query(sql)


def many(sql, rows):
    def use():
        with connection.cursor() as cursor:
            cursor.executemany(sql, rows)

    return use


def procedure(name, *args):
    def use():
        with connection.cursor() as cursor:
            cursor.callproc(name, args)

    return use


class Composed(str):
    """What a library that puts SQL together may return."""


#: what a request may do to its session
STATE = {
    "isolation level": "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "read only": "SET SESSION TRANSACTION READ ONLY",
    "isolation level of the next transaction": "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "time zone": "SET time_zone = '+05:00'",
    "sql_mode": "SET sql_mode = ''",
    "sql_mode without backslashes": "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
    "several variables": "SET foreign_key_checks = 0, unique_checks = 0, lock_wait_timeout = 3",
    "timestamp": "SET timestamp = 5, insert_id = 7",
    "with @@": "SET @@session.max_statement_time = 30",
    "lower case": "set sort_buffer_size=65536",
    "names": "SET NAMES latin1",
    "collation": "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    "character set": "SET CHARACTER SET latin1",
    "autocommit by its name": "SET @@autocommit = 0",
    "user variable": "SET @left = 1",
    "user variable in a query": "SELECT @left := 1",
    "user variable in an insert": "INSERT INTO testapp_author (name) VALUES (@left := 'x')",
    "user variable of a quoted name": "SELECT @`left` := 1",
    "into": "SELECT 7 INTO @left",
    "into, with a comment": "SELECT 7 INTO /* a */ @left",
    "after a comment": "/* a */ -- b\n # c\n SET @left = 1",
    "executable comment": "/*!40101 SET @left = 1 */",
    "executable comment of MariaDB": "SELECT 1 /*M! , @left := 1 */",
    "in brackets": "(SELECT @left := 1)",
    "for one statement": "SET STATEMENT sort_buffer_size = 65536 FOR SELECT @left := 1",
    "do": "DO @left := 1",
    "diagnostics": "GET DIAGNOSTICS @left = NUMBER",
    "user lock": "SELECT GET_LOCK('mine', 1)",
    "user lock, spelt otherwise": "select `Get_Lock` ('mine', 1)",
    "user lock of a parameter": ("SELECT GET_LOCK(%s, 1)", ["mine"]),
    "temporary table": "CREATE TEMPORARY TABLE leftover (a INT)",
    "temporary table, replaced": "create or replace temporary table leftover select 1",
    "locked tables": "LOCK TABLES testapp_author READ",
    "prepared statement": "PREPARE prepared FROM 'SELECT 1'",
    "handler": "HANDLER testapp_author OPEN AS books",
    "schema": "USE greentor_other",
    "schema, by the driver": lambda: connection.connection.select_db("greentor_other"),
    "names, by the driver": lambda: connection.connection.set_character_set("latin1"),
    "autocommit, by the driver": lambda: connection.connection.autocommit(False),
    "role": "SET ROLE reader",
    "role, in an executable comment": "/*!40101 SET ROLE reader */",
    "role, executed": "EXECUTE IMMEDIATE 'SET ROLE reader'",
    "block": "BEGIN NOT ATOMIC SET @left = 1; SET ROLE reader; END",
    "loop": "FOR i IN 1..2 DO SET @left = 1; END FOR",
    "call": "CALL leaves()",
    "call that changes the schema": "CALL leaves_schema()",
    "call with an argument": procedure("takes", 5),
    "executemany": many("SET @left = %s", [[1], [2]]),
    "executemany of an insert": many(
        "INSERT INTO testapp_author (name) VALUES (@left := %s)", [["x"], ["y"]]
    ),
    "raw cursor": raw("SET @left = 1"),
    "raw query": raw_query("SET @left = 1"),
    "bytes": raw_query(b"SET @left = 1"),
    "bytearray": raw_query(bytearray(b"SELECT 1 INTO @left")),
    "composed": Composed("SET @left = 1"),
    "failed half-way": "SELECT GET_LOCK('mine', 1), (SELECT 1 UNION SELECT 2)",
    "distributed transaction": "XA START 'x'",
}

#: what is not undone by a reset: the connection is replaced
REPLACED = {
    "role", "role, in an executable comment", "role, executed", "block", "loop",
}  # fmt: skip
#: what a transaction forbids, or ends
OUTSIDE = {
    "isolation level of the next transaction", "autocommit by its name", "autocommit, by the driver",
    "locked tables", "distributed transaction",
}  # fmt: skip


class Crash(Exception):
    pass


def do(what):
    if callable(what):
        connection.ensure_connection()
        what()
        return
    sql, params = what if isinstance(what, tuple) else (what, None)
    try:
        execute(sql, params)
    except Exception as exc:
        if exc.args[0] != 1242:  # a subquery of two rows, which was asked for
            raise


def end_of(how, atomic):
    if how == "rollback" and atomic:
        transaction.set_rollback(True)
    elif how == "exception":
        raise Crash
    elif how == "cancel":
        asyncio.current_task().cancel()
        greentor.sleep(30)


@pytest.mark.parametrize("how", ["commit", "rollback", "exception", "cancel"])
@pytest.mark.parametrize("name", STATE)
def test_state_of_a_session_does_not_reach_the_next_request(run, name, how):
    @green
    def changes():
        if name in OUTSIDE:
            do(STATE[name])
            end_of(how, False)
        else:
            with transaction.atomic():
                Author.objects.create(name="in a transaction")
                do(STATE[name])
                end_of(how, True)

    expected = {
        "exception": pytest.raises(Crash),
        "cancel": pytest.raises(asyncio.CancelledError),
    }

    async def main():
        before = await green(session)()
        with expected.get(how, nullcontext()):
            await changes()
        after = await green(session)()
        assert (before.pop("number") == after.pop("number")) is (name not in REPLACED)
        assert {k: (before[k], v) for k, v in after.items() if before[k] != v} == {}
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 1)

    run(main)


@pytest.mark.parametrize("name", STATE)
def test_a_change_is_seen_by_the_request_that_made_it(run, name):
    """So that the test above compares something."""
    invisible = {  # to `session`, or until a transaction begins
        "timestamp", "isolation level of the next transaction", "distributed transaction",
        "for one statement",
    }  # fmt: skip
    if name in invisible:
        pytest.skip("not told by the server")

    @green
    def request():
        before = session()
        do(STATE[name])
        return before, session()

    before, after = run(request)
    assert before != after


# --- what costs nothing -----------------------------------------------------------------------


ORDINARY = [
    "SELECT 1",
    "SELECT 'a@b.c', '!', 'SET @a := 1', \"GET_LOCK('x')\" /* SET @a = 1 */ -- GET_LOCK(\n",
    "SELECT @nothing, @@sql_mode",
    "SELECT * FROM testapp_author WHERE name = 'a\\'; SET @a := 1' AND id != 0",
    "SELECT IS_FREE_LOCK('mine')",
    "(SELECT 1) UNION (SELECT 2)",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "INSERT INTO testapp_author (name) VALUES ('@a')",
    "UPDATE testapp_author SET name = 'SET sql_mode' WHERE id = 0",
    "DELETE FROM testapp_author WHERE name = '@b := 1'",
    "SHOW TABLES",
    "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
    "EXPLAIN SELECT 1",
    "SAVEPOINT a",
    "DO 1",
]


@pytest.mark.parametrize("sql", ORDINARY)
def test_an_ordinary_statement_costs_no_reset(run, mariadb, sql):
    @green
    def request():
        execute(sql)

    async def main():
        await request()
        [pool] = current_pools()
        before = pool.stats().resets
        first = mariadb.status("Questions")
        for _ in range(10):
            await request()
        assert mariadb.status("Questions") - first == 10 + 1  # with that of the counting
        assert pool.stats().resets == before

    run(main)


def test_what_does_not_parse_leaves_nothing(run):
    @green
    def request():
        with pytest.raises(Exception, match="SQL syntax"):
            execute("SELCT 1")
        return connection.connection.left

    assert run(request) == 0


def test_djangos_own_statements_cost_no_reset(run):
    @green
    def request():
        with transaction.atomic():
            author = Author.objects.create(name="a")
            with transaction.atomic():
                Author.objects.filter(pk=author.pk).update(name="b@c")
            with pytest.raises(Crash), transaction.atomic():
                raise Crash
        transaction.set_autocommit(False)
        Author.objects.count()
        transaction.commit()
        transaction.set_autocommit(True)
        Author.objects.bulk_create([Author(name=f"{n}; SET @a := 1") for n in range(3)])
        assert len(list(Author.objects.order_by("pk").iterator(chunk_size=2))) == 4
        return connection.connection.left

    async def main():
        assert await request() == 0
        [pool] = current_pools()
        assert pool.stats().resets == 0

    run(main)


# --- what sets a session up -------------------------------------------------------------------


def test_what_sets_a_session_up_is_sent_again_after_a_reset(run, options):
    options(
        {
            "init_command": "SET time_zone = '+03:00', @left = 'set up'",
            "sql_mode": "STRICT_ALL_TABLES",
            "isolation_level": "serializable",
            "collation": "utf8mb4_bin",
        }
    )

    @green
    def changes():
        execute("SET time_zone = '+05:00', sql_mode = '', @left = 2")
        execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        execute("SET NAMES latin1")

    async def main():
        before = await green(session)()
        assert before["time_zone"] == "+03:00"
        assert before["tx_isolation"] == "SERIALIZABLE"
        assert before["collation_connection"] == "utf8mb4_bin"
        assert before["sql_mode"] == "STRICT_ALL_TABLES"
        await changes()
        after = await green(session)()
        assert {k: (before[k], v) for k, v in after.items() if before[k] != v} == {}

    run(main)


def test_a_reset_takes_as_few_statements_as_there_are_to_set_it_up(run, mariadb):
    """COM_RESET_CONNECTION, the character set and the isolation level."""

    @green
    def request():
        execute("SET @left = 1")

    async def main():
        await request()
        first = mariadb.status("Questions")
        await request()
        assert mariadb.status("Questions") - first == 1 + 3 + 1  # with that of the counting

    run(main)


def test_with_autocommit_off_in_the_settings_it_is_off_after_a_reset(run, monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"], "AUTOCOMMIT", False)

    @green
    def request():
        execute("SET @left = 1")
        return execute("SELECT @@autocommit, CONNECTION_ID()")[0]

    async def main():
        first, second = await request(), await request()
        assert first == second
        assert first[0] == 0

    run(main)


# --- the option, and what cannot be reset -----------------------------------------------------


@green
def leaves_and_asks(sql):
    execute(sql)


@pytest.mark.parametrize(("reset", "seen"), [("auto", 5), ("always", None)])
def test_what_a_function_does_unseen_is_reset_if_that_is_asked_for_always(
    run, options, reset, seen
):
    options(reset=reset)

    async def main():
        await leaves_and_asks("SELECT hidden()")
        assert await green(lambda: execute("SELECT @left")[0][0])() == seen
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 1)

    run(main)


def test_a_reset_that_is_never_wanted_is_never_sent(run, options):
    options(reset="never")

    async def main():
        await leaves_and_asks("SET @left = 1")
        assert await green(lambda: execute("SELECT @left")[0][0])() == 1
        [pool] = current_pools()
        assert pool.stats().resets == 0

    run(main)


def test_a_server_that_knows_no_reset_has_its_connection_replaced(run, monkeypatch, caplog):
    monkeypatch.setattr(mysql_connection, "_COM_RESET_CONNECTION", 0x7F)

    async def main():
        number = await green(lambda: execute("SELECT CONNECTION_ID()")[0][0])()
        await leaves_and_asks("SET @left = 1")
        answer = await green(lambda: execute("SELECT CONNECTION_ID(), @left")[0])()
        assert answer[0] != number
        assert answer[1] is None
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 1)

    run(main)
    assert "failed its reset" in caplog.text


def test_several_statements_at_once_are_looked_at_one_by_one(run, options):
    options({"client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS | 2})

    @green
    def request(sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            while cursor.nextset():
                pass
        return connection.connection.left

    async def main():
        assert await request("SELECT 1; SELECT ';SET'") == 0
        assert await request("SELECT 1; SET time_zone = '+05:00'") != 0
        assert await green(lambda: execute("SELECT @@time_zone")[0][0])() == "SYSTEM"

    run(main)


@pytest.mark.parametrize("hold", ["request", "transaction"])
def test_state_is_reset_however_long_connections_are_held(run, options, hold):
    options(hold=hold)

    async def main():
        await leaves_and_asks("SET @left = 1, time_zone = '+05:00'")
        assert await green(lambda: execute("SELECT @left, @@time_zone")[0])() == (None, "SYSTEM")

    run(main)


@pytest.mark.parametrize("state", ["unread", "killed", "transaction"])
def test_a_connection_that_is_not_as_it_was_lent_is_not_lent_on(run, mariadb, state):
    @green
    async def spoils():
        number = execute("SELECT CONNECTION_ID()")[0][0]
        wire = connection.connection
        if state == "unread":
            cursor = wire.cursor(pymysql.cursors.SSCursor)
            cursor.execute("SELECT 1 UNION SELECT 2")
            kept.append(cursor)
        elif state == "killed":
            mariadb.execute(f"KILL CONNECTION {number}")
            while wire.alive:
                await asyncio.sleep(0.001)
        else:
            execute("BEGIN")
            execute("INSERT INTO testapp_author (name) VALUES ('never')")
        return number

    kept = []

    async def main():
        number = await spoils()
        following = await green(lambda: execute("SELECT CONNECTION_ID()")[0][0])()
        assert (number == following) is (state == "transaction")
        assert await green(Author.objects.count)() == 0
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 1)

    run(main)
