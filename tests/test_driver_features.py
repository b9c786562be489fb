"""Everything that PyMySQL's connections and cursors do, blocking and in a greenlet: the same comes of it.

Each case is a function of ``connect``, which takes further arguments; what it returns, raises and warns
about is compared.
"""

import datetime
import decimal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT, FIELD_TYPE
from pymysql.cursors import Cursor, DictCursor, SSCursor, SSDictCursor

import greentor
from greentor.drivers import pymysql as driver
from tests.mariadb import MariaDB
from tests.scripted_server import Peer, ScriptedServer
from tests.waiting import wait_until

CASES: dict[str, Callable[..., Any]] = {}
CURSORS = {cls.__name__: cls for cls in (Cursor, DictCursor, SSCursor, SSDictCursor)}


def case(fn: Callable[..., Any]) -> Callable[..., Any]:
    CASES[fn.__name__] = fn
    return fn


def for_each_cursor(fn: Callable[..., Any]) -> Callable[..., Any]:
    for name, cls in CURSORS.items():
        CASES[f"{fn.__name__}_{name}"] = lambda connect, cls=cls: fn(connect, cls)
    return fn


def query(connection: Any, sql: str, *args: Any) -> Any:
    with connection.cursor(Cursor) as cursor:
        cursor.execute(sql, args or None)
        return cursor.fetchall()


def error(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call raises."""
    try:
        result = fn(*args, **kwargs)
    except Exception as exc:
        return type(exc).__name__, exc.args
    return "nothing", result


# --- the connection ---------------------------------------------------------------------------


@case
def information(connect: Any) -> Any:
    with connect() as connection:
        assert connection.thread_id() == query(connection, "SELECT CONNECTION_ID()")[0][0]
        return (
            connection.get_server_info(),
            connection.get_host_info(),
            connection.get_proto_info(),
            connection.character_set_name(),
            connection.open,
            connection.server_language,
            connection.server_charset,
        )


@case
def with_block_closes(connect: Any) -> Any:
    with connect() as connection:
        same = connection.__enter__() is connection
    raised = error(connection.__exit__, None, None, None)
    return same, connection.open, raised, error(query, connection, "SELECT 1")


@case
def with_block_lets_an_exception_out_and_rolls_back(connect: Any) -> Any:
    try:
        with connect() as connection:
            query(connection, "INSERT INTO feature (name) VALUES ('lost')")
            raise KeyError("out")
    except KeyError:
        pass
    with connect() as connection:
        return query(connection, "SELECT name FROM feature")


@case
def after_close(connect: Any) -> Any:
    connection = connect()
    cursor = connection.cursor()
    connection.close()
    calls = (connection.close, connection.ping, connection.commit, connection.begin)
    return [error(call) for call in calls], error(cursor.execute, "SELECT 1"), connection.open


@case
def ping(connect: Any) -> Any:
    with connect() as connection:
        return connection.ping(), connection.ping(reconnect=False), connection.ping(False)


@case
def ping_of_a_connection_that_was_killed(connect: Any) -> Any:
    connection = killed(connect)
    code = error(connection.ping, reconnect=False)
    return code[0], code[1][0] in (2006, 2013), connection.open


@case
def ping_that_reconnects(connect: Any) -> Any:
    connection = killed(connect)
    before = connection.thread_id()
    connection.ping(reconnect=True)
    changed = connection.thread_id() != before
    left = query(connection, "SELECT @mark")
    connection.close()
    connection.ping(reconnect=True)
    again = query(connection, "SELECT 1")
    connection.close()
    return changed, left, again


def killed(connect: Any) -> Any:
    connection = connect()
    query(connection, "SET @mark = 1")
    with connect() as other:
        other.kill(connection.thread_id())
        gone = f"SELECT * FROM information_schema.PROCESSLIST WHERE ID = {connection.thread_id()}"
        while query(other, gone):
            pass
    return connection


@case
def kill(connect: Any) -> Any:
    with connect() as connection:
        itself = error(connection.kill, connection.thread_id())
        nobody = error(connect_and_call, connect, "kill", 4_000_000_000)
        wrong = error(connection.kill, "1")
        return itself[0], itself[1][0], nobody, wrong


def connect_and_call(connect: Any, name: str, *args: Any) -> Any:
    with connect() as connection:
        return getattr(connection, name)(*args)


@case
def select_db(connect: Any) -> Any:
    with connect() as connection:
        before = query(connection, "SELECT DATABASE()")
        connection.select_db("information_schema")
        after = query(connection, "SELECT DATABASE()")
        return before, after, error(connection.select_db, "none"), query(connection, "SELECT 1")


@case
def character_sets(connect: Any) -> Any:
    variables = "SELECT @@character_set_client, @@collation_connection, 'ä', HEX('ä')"
    with connect() as connection:
        seen = [query(connection, variables)]
        connection.set_character_set("latin1")
        seen.append((query(connection, variables), connection.encoding))
        connection.set_character_set("utf8mb4", "utf8mb4_bin")
        seen.append((query(connection, variables), connection.collation))
        connection.set_charset("cp1250")
        seen.append((query(connection, variables), connection.charset))
        wrong = error(connection.set_character_set, "utf8mb4", "latin1_bin")
        return seen, wrong, error(connection.set_character_set, "none"), query(connection, "DO 1")


@case
def character_sets_of_the_arguments(connect: Any) -> Any:
    variables = "SELECT @@character_set_client, @@collation_connection, 'ä'"
    seen = []
    for kwargs in (
        {"charset": "latin1"},
        {"charset": "utf8mb4", "collation": "utf8mb4_swedish_ci"},
        {"use_unicode": False},
        {"charset": "none"},
    ):
        seen.append(error(lambda kwargs=kwargs: query(connect(**kwargs), variables)))
    return seen


@case
def arguments(connect: Any) -> Any:
    arguments: list[dict[str, Any]] = [
        {"connect_timeout": 0},
        {"connect_timeout": -1},
        {"read_timeout": 0},
        {"write_timeout": -1},
        {"port": "3306"},
        {"compress": True},
        {"named_pipe": True},
        {"nonsense": 1},
        {"database": "nowhere"},
    ]
    return [error(connect, **kwargs) for kwargs in arguments]


@case
def deprecated_names(connect: Any) -> Any:
    kwargs = {"db": "greentor", "passwd": "greentor", "database": None, "password": ""}
    with connect(**kwargs) as connection:
        return query(connection, "SELECT DATABASE()")


@case
def init_command(connect: Any) -> Any:
    with connect(init_command="SET @a = 5, @b = 'b'") as connection:
        found = query(connection, "SELECT @a, @b")
    return found, error(connect, init_command="SELECT * FROM none")


@case
def sql_mode(connect: Any) -> Any:
    with connect(sql_mode="ANSI_QUOTES,NO_BACKSLASH_ESCAPES") as connection:
        row = query(connection, "SELECT @@sql_mode, %s, %s, %s", "it's \\", "%s", b"'\\")
    return row, error(connect, sql_mode="NONE_OF_THESE")


@case
def autocommit(connect: Any) -> Any:
    seen: list[Any] = []
    with connect(autocommit=True) as connection, connect() as other:
        for on in (True, False, False, True):
            connection.autocommit(on)
            query(connection, "INSERT INTO feature (name) VALUES ('row')")
            other.rollback()
            seen.append((connection.get_autocommit(), query(other, "SELECT COUNT(*) FROM feature")))
    for mode in (None, 0, 1):
        with connect(autocommit=mode) as connection:
            seen.append((connection.get_autocommit(), query(connection, "SELECT @@autocommit")))
    return seen


@case
def transactions(connect: Any) -> Any:
    count = "SELECT COUNT(*) FROM feature"
    seen = []
    with connect() as connection, connect(autocommit=True) as other:
        for end in (connection.rollback, connection.commit):
            connection.begin()
            query(connection, "INSERT INTO feature (name) VALUES ('row')")
            seen.append((query(connection, count), query(other, count)))
            end()
            seen.append((query(connection, count), query(other, count)))
            connection.rollback()
    return seen


@case
def client_flags(connect: Any) -> Any:
    seen = []
    for flag in (0, CLIENT.FOUND_ROWS, CLIENT.INTERACTIVE, CLIENT.IGNORE_SPACE):
        with connect(client_flag=flag) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO feature (name) VALUES ('same')")
            seen.append(cursor.execute("UPDATE feature SET name = 'same'"))
            cursor.execute("SELECT @@wait_timeout = @@interactive_timeout, @@sql_mode")
            seen.append(cursor.fetchall())
            seen.append(error(cursor.execute, "SELECT 1; SELECT 2"))
    return seen


@case
def converters(connect: Any) -> Any:
    conv: dict[Any, Any] = {
        **pymysql.converters.conversions,
        FIELD_TYPE.LONG: lambda text: ("long", text),
        FIELD_TYPE.VAR_STRING: str.upper,
        complex: lambda value, mapping: f"'{value.real:.0f}+{value.imag:.0f}i'",
    }
    with connect(conv=conv) as connection:
        seen = [query(connection, "SELECT 1, 'text', %s", 3 + 4j)]
    with connect(conv=pymysql.converters.encoders) as connection:
        seen.append(query(connection, "SELECT 1, 'text', NOW() IS NULL, NULL"))
    with connect() as connection:
        connection.decoders[FIELD_TYPE.LONG] = float
        seen.append(query(connection, "SELECT 1"))
        connection.encoders[complex] = lambda value, mapping: "7"
        seen.append(query(connection, "SELECT %s", 1j))
    return seen


VALUES = [
    "it's \\ \" \n \0 \x1a %",
    "ä €",
    b"bytes ' \\ \0 \xff",
    bytearray(b"array"),
    5,
    -(10**18),
    2.5,
    True,
    None,
    decimal.Decimal("12.340"),
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 456789),
    datetime.time(1, 2, 3),
    datetime.timedelta(days=-1, hours=5, microseconds=7),
    time.struct_time((2024, 2, 29, 1, 2, 3, 0, 0, 0)),
]


@case
def escaping(connect: Any) -> Any:
    with connect() as connection:
        escaped = [connection.escape(value) for value in [*VALUES, [1, "a"], ("b",)]]
        rows = [query(connection, "SELECT HEX(%s)", value) for value in VALUES]
        wrong = [
            error(connection.escape, value) for value in (float("nan"), {"a": 1}, object, {1: 2})
        ]
        by_name = connection.cursor().mogrify("%(a)s, %(b)s, %%", {"a": "x'", "b": [1, 2]})
        return escaped, rows, wrong, by_name


@case
def errors_of_the_server(connect: Any) -> Any:
    statements = [
        "SELECT nonsense",
        "no sql",
        "SELECT * FROM nowhere",
        "INSERT INTO feature (id) VALUES (1), (1)",
        "INSERT INTO feature (name) VALUES (REPEAT('x', 200))",
        "INSERT INTO feature (number) VALUES (99999999999)",
        "SELECT (SELECT 1 UNION SELECT 2)",
        "DROP DATABASE none",
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'my own', MYSQL_ERRNO = 3000",
        "SELECT 1; SELECT 2",
        "",
    ]
    with connect() as connection:
        seen = [error(query, connection, statement) for statement in statements]
        return seen, query(connection, "SELECT 'still here'")


@case
def lock_wait_timeout_leaves_the_connection(connect: Any) -> Any:
    with connect() as one, connect() as other:
        query(one, "INSERT INTO feature (id) VALUES (5)")
        query(other, "SET innodb_lock_wait_timeout = 0")
        raised = error(query, other, "INSERT INTO feature (id) VALUES (5)")
        return raised, query(other, "SELECT 1"), query(one, "SELECT id FROM feature")


@case
def show_warnings(connect: Any) -> Any:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT IGNORE INTO feature (id, name) VALUES (1, 'a'), (1, REPEAT('b', 99))"
        )
        count = cursor.warning_count
        found = connection.show_warnings()
        cursor.execute("SELECT 1")
        return count, found, cursor.warning_count, connection.show_warnings()


@case
def default_files(connect: Any) -> Any:
    directory = Path(connect.directory)
    params = connect.params
    path = directory / "my.cnf"
    path.write_text(
        f"[client]\nuser=nobody\n[shop]\nuser={params['user']}\npassword={params['password']}\n"
        f"host={params['host']}\nport={params['port']}\ndatabase=information_schema\n"
        "default-character-set=latin1\nbind-address=127.0.0.5\n"
    )
    empty = dict.fromkeys(("user", "password", "host", "database"))
    kwargs: dict[str, Any] = {**empty, "port": 0, "read_default_file": str(path)}
    with connect(**kwargs, read_default_group="shop") as connection:
        seen = query(connection, "SELECT SUBSTRING_INDEX(USER(), '@', 1), DATABASE()")
        seen += query(connection, "SELECT @@character_set_client")
        seen += query(
            connection,
            "SELECT SUBSTRING_INDEX(HOST, ':', 1) FROM information_schema.PROCESSLIST"
            " WHERE ID = CONNECTION_ID()",
        )
    kwargs.update(host=params["host"], port=params["port"])
    denied = error(connect, **kwargs)
    missing = error(connect, **{**kwargs, "read_default_file": str(path) + ".none", "user": "no"})
    return seen, denied, missing


# --- cursors ----------------------------------------------------------------------------------

ROWS = "SELECT seq AS n, REPEAT('x', seq) AS text FROM seq_1_to_9"


@for_each_cursor
def fetching(connect: Any, cls: Any) -> Any:
    with connect(cursorclass=cls) as connection, connection.cursor() as cursor:
        assert isinstance(cursor, cls)
        seen: list[Any] = [error(cursor.fetchone), error(cursor.fetchall)]
        cursor.execute(ROWS)
        seen += [cursor.rowcount, cursor.rownumber, cursor.description, cursor.arraysize]
        seen += [cursor.fetchone(), cursor.fetchmany(), cursor.fetchmany(2), cursor.rownumber]
        cursor.arraysize = 3
        seen += [cursor.fetchmany(), next(iter(cursor)), cursor.fetchall(), cursor.fetchone()]
        seen += [cursor.fetchmany(5), cursor.fetchall(), list(cursor), cursor.rowcount]
        cursor.execute(ROWS + " WHERE seq > 10")
        return seen, cursor.fetchone(), cursor.fetchall()


@for_each_cursor
def iterating(connect: Any, cls: Any) -> Any:
    with connect() as connection, connection.cursor(cls) as cursor:
        cursor.execute(ROWS)
        seen = [row for row, _ in zip(cursor, range(4), strict=False)]
        if hasattr(cursor, "fetchall_unbuffered"):
            seen += list(cursor.fetchall_unbuffered())
        return seen, cursor.rownumber


@for_each_cursor
def scrolling(connect: Any, cls: Any) -> Any:
    with connect() as connection, connection.cursor(cls) as cursor:
        seen: list[Any] = [error(cursor.scroll, 1)]
        cursor.execute(ROWS)
        for value, mode in ((2, "relative"), (4, "absolute"), (1, "absolute"), (-1, "relative")):
            seen += [error(cursor.scroll, value, mode), cursor.fetchone(), cursor.rownumber]
        seen += [error(cursor.scroll, 1, "sideways"), error(cursor.scroll, 99), cursor.fetchall()]
        return seen


@for_each_cursor
def closing_in_mid_result(connect: Any, cls: Any) -> Any:
    with connect() as connection:
        cursor = connection.cursor(cls)
        cursor.execute("SELECT seq FROM seq_1_to_3000")
        first = cursor.fetchone()
        cursor.close()
        closed = error(cursor.execute, "SELECT 1"), error(cursor.fetchone), cursor.close()
        return first, closed, query(connection, "SELECT 'next'")


@for_each_cursor
def another_query_in_mid_result(connect: Any, cls: Any) -> Any:
    with connect() as connection, connection.cursor(cls) as cursor:
        cursor.execute("SELECT seq FROM seq_1_to_3000")
        first = cursor.fetchone()
        other = query(connection, "SELECT 'other'")
        rest = error(lambda: len(cursor.fetchall()))
        cursor.execute("SELECT 'again'")
        return first, other, rest, cursor.fetchall()


@for_each_cursor
def statements_without_rows(connect: Any, cls: Any) -> Any:
    with connect() as connection, connection.cursor(cls) as cursor:
        insert = "INSERT INTO feature (name) VALUES ('a'), ('b')"
        seen = [cursor.execute(insert), cursor.lastrowid, cursor.rowcount, cursor.description]
        seen += [connection.insert_id(), connection.affected_rows(), error(cursor.fetchall)]
        seen += [cursor.execute("UPDATE feature SET name = 'c'"), cursor.execute("DO 1")]
        return seen, cursor.execute("DELETE FROM feature"), connection.insert_id()


@for_each_cursor
def several_statements(connect: Any, cls: Any) -> Any:
    sql = (
        "SELECT 1 AS a, 2 AS b; INSERT INTO feature (name) VALUES ('x'), ('y'); SELECT 3 WHERE 0;"
        " SELECT seq FROM seq_1_to_3; SELECT nonsense; SELECT 5"
    )
    with (
        connect(client_flag=CLIENT.MULTI_STATEMENTS) as connection,
        connection.cursor(cls) as cursor,
    ):
        seen: list[Any] = [cursor.execute(sql), cursor.fetchall()]
        while True:
            more = error(cursor.nextset)
            seen.append(more)
            if more != ("nothing", True):
                break
            seen += [cursor.rowcount, cursor.lastrowid, cursor.description, error(cursor.fetchall)]
        return seen, query(connection, "SELECT 'next'")


@for_each_cursor
def results_that_nobody_takes(connect: Any, cls: Any) -> Any:
    with connect(client_flag=CLIENT.MULTI_STATEMENTS) as connection:
        cursor = connection.cursor(cls)
        cursor.execute("SELECT 1; SELECT 2; SELECT seq FROM seq_1_to_2000")
        seen = [cursor.fetchone(), cursor.nextset(), query(connection, "SELECT 'next'")]
        cursor.execute("SELECT 4; SELECT 5")
        cursor.close()
        return seen, query(connection, "SELECT 'last'")


@for_each_cursor
def procedures(connect: Any, cls: Any) -> Any:
    with connect() as connection, connection.cursor(cls) as cursor:
        seen: list[Any] = [cursor.callproc("several", (3, "in'", 0)), cursor.fetchall()]
        while cursor.nextset():
            seen.append(cursor.fetchall())
        cursor.execute("SELECT @_several_0, @_several_1, @_several_2")
        seen.append(cursor.fetchall())
        cursor.callproc("several", (-1, "fails", 0))
        seen += [cursor.fetchall(), error(cursor.nextset), error(cursor.callproc, "none")]
        return seen, query(connection, "SELECT 'next'")


@for_each_cursor
def many(connect: Any, cls: Any) -> Any:
    rows = [(number, "x" * number) for number in range(1, 40)]
    insert = "INSERT INTO feature (id, name) VALUES (%s, %s)"
    with connect() as connection, connection.cursor(cls) as cursor:
        seen: list[Any] = [cursor.executemany(insert, []), cursor.executemany(insert, rows)]
        seen += [cursor.rowcount, cursor.lastrowid, cursor._executed]
        query(connection, "DELETE FROM feature")
        cursor.max_stmt_length = 200  # several statements
        seen.append(cursor.executemany(insert + " ON DUPLICATE KEY UPDATE number = 1", rows))
        seen += [
            cursor.rowcount,
            cursor._executed,
            query(connection, "SELECT COUNT(*) FROM feature"),
        ]
        seen.append(cursor.executemany("UPDATE feature SET number = %s WHERE id = %s", rows))
        by_name = "INSERT INTO feature (name) VALUES (%(name)s)"
        seen.append(cursor.executemany(by_name, ({"name": name} for name in "abc")))
        seen.append(error(cursor.executemany, insert, [(1, "twice"), (100, "new")]))
        seen.append(error(cursor.executemany, insert, [(1,)]))
        cursor.execute("SELECT COUNT(*), SUM(number), MAX(name) FROM feature")
        return seen, cursor.fetchall()


@for_each_cursor
def wrong_arguments_send_nothing(connect: Any, cls: Any) -> Any:
    with connect() as connection, connection.cursor(cls) as cursor:
        seen = [
            error(cursor.execute, "SELECT %s, %s", (1,)),
            error(cursor.execute, "SELECT %s", (1, 2)),
            error(cursor.execute, "SELECT %(a)s", {"b": 1}),
            error(cursor.execute, "SELECT %s", (object(),))[0],
        ]
        cursor.execute("SELECT %s", "one")
        return seen, cursor.fetchall()


# --- both -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params(mariadb: MariaDB) -> Iterator[dict[str, Any]]:
    mariadb.execute(
        "CREATE OR REPLACE TABLE feature (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(50),"
        " number INT) ENGINE=InnoDB",
        database="greentor",
    )
    mariadb.execute(
        "CREATE OR REPLACE PROCEDURE several (INOUT a INT, IN b TEXT, OUT c INT) BEGIN"
        " SELECT a, b; IF a < 0 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF;"
        " SELECT seq FROM seq_1_to_3; SET a = a + 1, c = 42; END",
        database="greentor",
    )
    yield mariadb.params("greentor")
    mariadb.execute("DROP PROCEDURE several", database="greentor")
    mariadb.execute("DROP TABLE feature", database="greentor")


class Connect:
    """``connect`` with the arguments that each connection of a case has."""

    def __init__(self, connect: Any, params: dict[str, Any], directory: Path) -> None:
        self._connect = connect
        self.params = params
        self.directory = directory
        self.made: list[Any] = []

    def __call__(self, **kwargs: Any) -> Any:
        connection = self._connect(**{**self.params, **kwargs})
        self.made.append(connection)
        return connection


@pytest.mark.parametrize("name", CASES)
def test_same_outcome_as_pymysql(
    run: Any, mariadb: MariaDB, params: Any, tmp_path: Path, name: str
) -> None:
    def outcome(connect: Any) -> tuple[Any, list[tuple[type, str]]]:
        mariadb.execute("TRUNCATE feature", database="greentor")
        connecting = Connect(connect, params, tmp_path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = CASES[name](connecting)
        for connection in connecting.made:
            if connection.open:
                connection.close()
        said = [(warning.category, str(warning.message)) for warning in caught]
        return result, [each for each in said if each[0] is not ResourceWarning]

    theirs = outcome(pymysql.connect)
    ours = run(greentor.green(outcome), driver.connect)
    assert ours == theirs
    wait_until(lambda: not mariadb.processlist())


def test_program_name_is_told_to_the_server(run: Any) -> None:
    logins: list[bytes] = []

    def script(peer: Peer) -> None:
        logins.append(peer.login.partition(b"mysql_native_password\0")[2])

    def log_in(connect: Any) -> None:
        connect(**server.params(), program_name="inventory", database="db").close()

    with ScriptedServer(script) as server:
        log_in(pymysql.connect)
        run(greentor.green(log_in), driver.connect)
    assert b"\x0cprogram_name\x09inventory" in logins[0]
    assert logins[1] == logins[0]
