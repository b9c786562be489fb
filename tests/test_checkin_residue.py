"""What a statement leaves in its session, told from its text; the server's view is in test_checkin.py."""

import pytest

from greentor.db.mysql.connection import PooledConnection
from greentor.db.mysql.residue import LASTS, ORDINARY, RESETS, SCHEMA, is_ordinary, residue
from greentor.db.sqlite3.session import leaves_something


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT `a`.`id` FROM `a` WHERE `a`.`email` = 'x@y' LIMIT 21",
        "SELECT 'it''s' AS `a``b`, \"@x := 1\" FROM a",
        "SELECT 1 -- SET @a = 1",
        "SELECT 1 -- SET\n, 2",
        "SELECT 5--1",
        "SELECT '\\'', 'INTO @a'",
        "SELECT /* a ' */ 1 /* GET_LOCK() */",
        "INSERT INTO a (b) VALUES ('x', '@y')",
        "INSERT INTO `@a` (b) SELECT @c",
        "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
        "SAVEPOINT `s1_x1`",
        "RELEASE SAVEPOINT `s1_x1`",
        "ROLLBACK TO SAVEPOINT `s1_x1`",
        "CREATE TABLE temporary_things (a INT)",
        "CREATE TABLE a (b INT) COMMENT 'TEMPORARY'",
        "DROP TEMPORARY TABLE IF EXISTS a",
        "ALTER TABLE a ADD COLUMN `set` INT",
        "GRANT SELECT ON a.* TO 'b'@'%'",
        "START TRANSACTION READ ONLY",
        "begin",
        "UNLOCK TABLES",
        "FLUSH STATUS",
        "",
        "/* nothing */",
    ],
)
def test_what_leaves_nothing(sql):
    assert residue(sql) == 0


@pytest.mark.parametrize(
    ("sql", "left"),
    [
        ("SET a = 1", RESETS),
        ("\n\t set\nnames utf8", RESETS),
        ("SELECT 1 INTO@a", RESETS),
        ("SELECT 1 into # c\n @a", RESETS),
        ("SELECT (@`a b` := 1)", RESETS),
        ("SELECT 'a' /*!, @a := 1 */", RESETS),
        ("/*M!100200 SET a = 1*/", RESETS),
        ("WITH a AS (SELECT @b := 1) SELECT * FROM a", RESETS),
        ("LOAD DATA LOCAL INFILE 'x' INTO TABLE t (@a)", RESETS),
        ("select get_lock('a', 1)", RESETS),
        ("SELECT GET_LOCK/* a */('a', 1)", RESETS),
        ("CREATE OR REPLACE /* x */ TEMPORARY TABLE a (b INT)", RESETS),
        ("LOCK TABLES a READ", RESETS),
        ("HANDLER a OPEN", RESETS),
        ("XA START 'a'", RESETS),
        ("PREPARE p FROM 'SET ROLE a'", RESETS),
        ("SET STATEMENT max_statement_time = 1 FOR SET @a = 1", RESETS),
        ("USE b", RESETS | SCHEMA),
        ("CALL p()", RESETS | SCHEMA),
        ("SET ROLE a", RESETS | LASTS),
        ("SET STATEMENT sql_mode = '' FOR SET ROLE a", RESETS | LASTS),
        ("EXECUTE p", LASTS),
        ("EXECUTE IMMEDIATE 'SELECT 1'", LASTS),
        ("BEGIN NOT ATOMIC SELECT 1; END", LASTS),
        ("IF 1 THEN SET @a = 1; END IF", LASTS),
        ("FLUSH TABLES WITH READ LOCK", LASTS),
        ("BACKUP STAGE START", LASTS),
        ("WHATEVER comes NEXT", LASTS),
    ],
)
def test_what_leaves_something(sql, left):
    assert residue(sql) == left


def test_of_several_statements_each_is_looked_at():
    assert residue("SELECT ';'; SELECT 1;", several=True) == 0
    assert residue("SELECT 1; USE b; SET ROLE c", several=True) == RESETS | SCHEMA | LASTS
    assert residue("SELECT 1 ;\n/* a; */ SET a = 1", several=True) == RESETS


def test_without_backslashes_strings_end_elsewhere():
    sql = r"SELECT '\' INTO @a -- '"
    assert residue(sql) == 0
    assert residue(sql, backslashes=False) == RESETS


@pytest.mark.parametrize("word", sorted(ORDINARY))
def test_what_is_cleared_by_its_first_word_is_ordinary_as_a_whole(word):
    """The filter may let nothing by that the close look would not."""
    words = ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "SAVEPOINT", "RELEASE", "ROLLBACK"]
    [whole] = [full for full in words if full.startswith(word)]
    assert residue(f"{whole} a") == 0


LEAVING = [
    "SELECT 1 INTO @a", "SELECT 1 INTO@a", "SELECT 1 into\t\n @a", "SELECT 1 INTO" + " " * 50 + "@a",
    "SELECT 1 INTO /* a */@a", "SELECT 1 INTO -- b\n@a", "SELECT 1 INTO # b\n  @a", "SELECT 'x@y' INTO @a",
    "SELECT @a := 1", "SELECT @b, @'a' := 1", "INSERT INTO a VALUES (@b:=1)", "UPDATE a SET b = @c := 1",
    "SELECT /*! SQL_CACHE @a := 1 */ 1", "SELECT 1 /*!50000 INTO @a */", "SELECT 1 /*M! INTO @a */",
    "SELECT GET_LOCK('a', 1)", "SELECT get_lock ('a', 1)", "DELETE FROM a WHERE Get_Lock('a', 1)",
]  # fmt: skip


@pytest.mark.parametrize("sql", LEAVING)
def test_what_leaves_something_is_not_cleared_by_the_filter(sql):
    assert residue(sql) == RESETS
    assert not is_ordinary(sql)


@pytest.mark.parametrize("sql", ["SET a = 1", " SELECT 1", "select 1", "/* a */ SELECT 1", "USE a"])
def test_what_does_not_begin_as_django_writes_it_is_not_cleared_by_the_filter(sql):
    assert not is_ordinary(sql)


def test_several_statements_are_not_cleared_by_the_filter():
    assert is_ordinary("SELECT ';'")
    assert not is_ordinary("SELECT ';'", several=True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT `a`.`b` FROM `a` WHERE `a`.`email` IN ('x@y', 'z@y')",
        "INSERT INTO `a` (`b`) VALUES ('x@y'), ('SELECT 1 INTO @a'), ('Hello!')",
        "UPDATE `a` SET `b` = 'into @a' WHERE `c` <> 5",
        "SELECT COUNT(*) FROM `a` WHERE `b` LIKE BINARY '%!%'",
    ],
)
def test_ordinary_data_is_cleared_by_the_filter(sql):
    assert is_ordinary(sql)
    assert residue(sql) == 0


class Sent(Exception):
    pass


@pytest.mark.parametrize(
    "sql", ["SET a = 1", b"SELECT 1", bytearray(b"SELECT 1"), "SELECT @a := 1"]
)
def test_what_the_filter_does_not_clear_is_looked_at_closely(monkeypatch, sql):
    def looked_at(self, sql, unbuffered):
        raise Sent

    monkeypatch.setattr(PooledConnection, "_query_watched", looked_at)
    with pytest.raises(Sent):
        PooledConnection.query(PooledConnection.__new__(PooledConnection), sql)


@pytest.mark.parametrize(
    ("sql", "left"),
    [
        ("PRAGMA foreign_keys = OFF", True),
        ("pragma main.cache_size=10", True),
        ("PRAGMA foreign_keys(0)", True),
        ("-- a\nPRAGMA foreign_keys(0)", True),
        ("ATTACH DATABASE 'x' AS y", True),
        ("CREATE TEMP TABLE t (a)", True),
        ("create temporary view v as select 1", True),
        ("CREATE TABLE temp.t (a)", True),
        (None, True),
        ("PRAGMA table_info(t)", False),
        ("PRAGMA foreign_key_check('t')", False),
        ("PRAGMA foreign_keys", False),
        ("PRAGMA user_version = 3", False),
        ("SELECT 'PRAGMA x = 1'", False),
        ("CREATE TABLE template (temp INT)", False),
        ("BEGIN IMMEDIATE", False),
    ],
)
def test_sqlite_knows_its_own(sql, left):
    assert leaves_something(sql) is left
