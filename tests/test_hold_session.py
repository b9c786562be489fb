"""``hold="transaction"``: session state keeps its connection until it is gone."""

import pytest
from django.conf import settings
from django.db import Error, connection, transaction

import greentor
from greentor import green
from greentor.db.mysql.session import MySQLSession
from greentor.db.pools import current_pools
from greentor.db.sqlite3.session import SQLiteSession
from tests.test_hold import in_use, lent_while_waiting
from tests.test_web import server_id
from tests.testapp.models import Author

pytestmark = pytest.mark.usefixtures("clean_tables", "per_transaction")


@pytest.fixture
def per_transaction(monkeypatch):
    options = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 2, "hold": "transaction"}
    monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"], "pool", options)


def execute(sql, params=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else None


#: what makes state, and what ends it
STATE = {
    "variable": ("SET sql_mode = ''", "SET SESSION sql_mode = @@GLOBAL.sql_mode"),
    "variable with a parameter": ("SET @@session.lock_wait_timeout = %s", None),
    "several": ("SET sort_buffer_size = 65536, @a = 1", None),
    "isolation level": (
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ),
    "names": ("SET NAMES latin1", "SET NAMES utf8mb4"),
    "after a comment": ("/* a\ncomment */ -- and\n SET sql_mode = ''", None),
    "user variable": ("SET @seen = 1", "SET @seen = NULL"),
    "user variable in a query": ("SELECT @n := 5", "SET @n = NULL"),
    "into": ("SELECT 7 INTO @m", "SELECT NULL INTO @m"),
    "lock": ("SELECT GET_LOCK('mine', 1)", "DO RELEASE_LOCK('mine')"),
    "lock with a parameter": ("SELECT GET_LOCK(%s, 1)", "SELECT RELEASE_ALL_LOCKS()"),
    "lock of a computed name": (
        "SELECT GET_LOCK(CONCAT('a', 'b'), 1)",
        "SELECT RELEASE_ALL_LOCKS()",
    ),
    "temporary table": (
        "CREATE TEMPORARY TABLE IF NOT EXISTS `t 1` (a INT)",
        "DROP TEMPORARY TABLE other, `t 1`",
    ),
    "temporary table with its schema": (
        "create or replace temporary table greentor.t2 select 1",
        "DROP TABLE IF EXISTS t2",
    ),
    "table lock": ("LOCK TABLES testapp_author WRITE", "UNLOCK TABLES"),
    "prepared statement": ("PREPARE p FROM 'SELECT 1'", "DEALLOCATE PREPARE p"),
    "next transaction": ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT 1"),
    "schema": ("USE information_schema", None),
    "procedure": ("CALL leaves_something()", None),
    "handler": ("HANDLER testapp_author OPEN", None),
    "block": ("BEGIN NOT ATOMIC SET @x = 1; END", None),
    "immediate": ("EXECUTE IMMEDIATE 'SELECT 1'", None),
}


@pytest.fixture
def procedure(mariadb):
    mariadb.execute("CREATE OR REPLACE PROCEDURE greentor.leaves_something() SET @left = 1")
    yield
    mariadb.execute("DROP PROCEDURE greentor.leaves_something")


@pytest.mark.usefixtures("procedure")
@pytest.mark.parametrize(("make", "end"), STATE.values(), ids=STATE)
def test_state_keeps_the_connection_until_it_is_gone(run, make, end):
    @green
    def request():
        Author.objects.count()
        before = lent_while_waiting()
        number = server_id()
        execute(make, [7 if "SET" in make else "seven"] if "%s" in make else None)
        held = lent_while_waiting()
        assert server_id() == number
        if end is not None:
            if "other" in end:
                execute("CREATE TEMPORARY TABLE other (a INT)")
            execute(end)
        return before, held, lent_while_waiting()

    assert run(request) == (0, 1, 0 if end else 1)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE testapp_author SET name = 'SET sql_mode' WHERE id = 0",
        "SELECT '@a := 1 GET_LOCK'",
        "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
        "SET sql_mode = @@session.sql_mode",
        "SET @nothing = NULL",
        "SELECT @undefined",
        "SELECT IS_FREE_LOCK('mine')",
        "DO RELEASE_LOCK('mine')",
        "DROP TABLE IF EXISTS nowhere",
        "CREATE TABLE IF NOT EXISTS testapp_author (id INT)",
        "DO 1",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_leaves_nothing_keeps_nothing(run, sql):
    @green
    def request():
        execute(sql)
        return lent_while_waiting()

    assert run(request) == 0


def test_a_lock_taken_twice_has_to_be_released_twice(run):
    @green
    def request():
        found = []
        for sql in ["GET_LOCK('twice', 1)", "GET_LOCK('twice', 1)"] + ["RELEASE_LOCK('twice')"] * 2:
            execute(f"SELECT {sql}")
            found.append(lent_while_waiting())
        return found

    assert run(request) == [1, 1, 1, 0]


def test_a_lock_that_was_not_given_keeps_nothing(run):
    @green
    async def request():
        def other():
            execute("SELECT GET_LOCK('contended', 0)")
            greentor.sleep(0)
            return execute("SELECT IS_USED_LOCK('contended') <=> CONNECTION_ID()")[0][0]

        execute("SELECT GET_LOCK('contended', 0)")
        taken = await greentor.spawn(other)
        return taken, in_use()

    assert run(request) == (0, 1)


def test_two_variables_are_gone_when_both_are(run):
    @green
    def request():
        execute("SET sql_mode = '', @a = 1")
        found = [lent_while_waiting()]
        execute("SET @a = NULL")
        found.append(lent_while_waiting())
        execute("SET sql_mode = @@GLOBAL.sql_mode")
        return [*found, lent_while_waiting()]

    assert run(request) == [1, 1, 0]


def test_the_next_transaction_is_the_one_that_it_was_set_for(run):
    @green
    def request():
        execute("SET TRANSACTION READ ONLY")
        assert lent_while_waiting() == 1
        with pytest.raises(Error, match="READ ONLY"), transaction.atomic():
            greentor.sleep(0)
            Author.objects.create(name="refused")
        Author.objects.create(name="written")
        return lent_while_waiting()

    assert run(request) == 0


def test_a_statement_that_fails_half_way_keeps_the_connection(run):
    """The lock is taken although the statement is an error."""

    @green
    def request():
        with pytest.raises(Error):
            execute("SELECT GET_LOCK('half', 1), (SELECT 1 UNION SELECT 2)")
        held = lent_while_waiting()
        return held, execute("SELECT IS_USED_LOCK('half') <=> CONNECTION_ID()")[0][0]

    held, _ = run(request)
    assert held == 1


def test_a_set_that_fails_keeps_nothing(run):
    @green
    def request():
        with pytest.raises(Error):
            execute("SET sql_mode = 'NO_SUCH_MODE'")
        return lent_while_waiting()

    assert run(request) == 0


def test_state_left_at_the_end_of_a_scope_reaches_nobody(run):
    @green
    def leaves():
        execute("SET @left_behind = 1, sql_mode = ''")
        return server_id()

    @green
    def looks():
        return server_id(), execute("SELECT @left_behind, @@sql_mode <> ''")[0]

    async def main():
        number = await leaves()
        other, values = await looks()
        assert other == number  # it was reset
        assert values == (None, 1)
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 1)

    run(main)


def test_a_procedure_that_is_called_keeps_the_connection(run, procedure):
    @green
    def request():
        with connection.cursor() as cursor:
            cursor.callproc("leaves_something")
        return lent_while_waiting()

    assert run(request) == 1


@pytest.mark.parametrize(
    ("sql", "held"),
    [("SET @many = %s", 1), ("INSERT INTO testapp_author (name) VALUES (%s)", 0)],
)
def test_state_set_by_executemany_keeps_the_connection(run, sql, held):
    @green
    def request():
        with connection.cursor() as cursor:
            cursor.executemany(sql, [["a"], ["b"]])
        return lent_while_waiting()

    assert run(request) == held


def test_held_per_request_nothing_is_asked(run, mariadb, monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"]["pool"], "hold", "request")

    def questions():
        [row] = execute("SHOW SESSION STATUS LIKE 'Questions'")
        return int(row[1])

    @green
    def request():
        before = questions()
        execute("SET sql_mode = ''")
        execute("SET sql_mode = @@GLOBAL.sql_mode")
        return questions() - before

    assert run(request) == 3


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("PRAGMA foreign_keys = OFF", True),
        ("pragma cache_size=10", True),
        ("ATTACH DATABASE 'x' AS y", True),
        ("CREATE TEMP TABLE t (a)", True),
        ("PRAGMA table_info(t)", False),
        ("SELECT 1 WHERE 'PRAGMA x = 1'", False),
        ("CREATE TABLE t (a)", False),
    ],
)
def test_sqlite_knows_its_own(sql, found):
    session = SQLiteSession()
    session.execute(None, sql, None, lambda: None)
    assert bool(session) is found


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT `a`.`id` FROM `a` WHERE `a`.`name` = %s ORDER BY `a`.`id`",
        "INSERT INTO a (name) VALUES ('SET x')",
        "  (SELECT 1) UNION (SELECT 2)",
        "SAVEPOINT s1",
    ],
)
def test_ordinary_statements_are_not_looked_into(sql):
    assert MySQLSession.affects.search(sql) is None
