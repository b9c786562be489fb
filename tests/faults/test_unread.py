"""What ends an answer before its last byte is read, at the two places where PyMySQL goes on all the same."""

import asyncio
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import FIELD_TYPE
from pymysql.cursors import SSCursor

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from tests.faults.session import query
from tests.mariadb import MariaDB
from tests.proxy import Proxy
from tests.waiting import await_until, wait_until


@pytest.fixture
def params(mariadb: MariaDB) -> dict[str, Any]:
    return {**mariadb.params("greentor"), "ssl_disabled": True}


# --- a converter that fails -------------------------------------------------------------------

#: a row of this is what the server sends after a statement without rows: 0, and numbers
LIKE_AN_ANSWER = "SELECT '', IF(seq = 252, '!', CONCAT(seq, REPEAT('x', 20))) FROM seq_1_to_300"


def refuse(value: str) -> str:
    if value == "!":
        raise ValueError("not in this converter")
    return value


@pytest.mark.parametrize("cls", [pymysql.cursors.Cursor, SSCursor])
def test_rows_after_a_converter_failed_answer_no_other_query(
    run: Any, params: Any, cls: Any
) -> None:
    # The sequence number of the row after it has come round to that of an answer, so nothing else tells.
    params["conv"] = {**pymysql.converters.conversions, FIELD_TYPE.VAR_STRING: refuse}

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        cursor = connection.cursor(cls)
        with pytest.raises(ValueError, match="not in this converter"):
            cursor.execute(LIKE_AN_ANSWER)
            list(cursor.fetchall())
        cursor.close()
        if connection.alive:
            assert query(connection, "SELECT 'mine'") == (("mine",),)
            connection.close()
        else:
            with pytest.raises(pymysql.err.InterfaceError):
                query(connection, "DO 'mine'")

    run(main)


def test_an_error_of_the_server_among_the_rows_leaves_the_connection(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        with pytest.raises(pymysql.err.OperationalError, match="more than 1 row"):
            query(
                connection, "SELECT IF(seq < 50, seq, (SELECT 1 UNION SELECT 2)) FROM seq_1_to_99"
            )
        assert query(connection, "SELECT 'mine'") == (("mine",),)
        connection.close()

    run(main)


# --- LOAD DATA LOCAL --------------------------------------------------------------------------


@pytest.fixture
def table(mariadb: MariaDB) -> str:
    mariadb.execute("DROP TABLE IF EXISTS loaded", database="greentor")
    mariadb.execute("CREATE TABLE loaded (a TEXT) ENGINE=InnoDB", database="greentor")
    return "loaded"


def rows(mariadb: MariaDB) -> int:
    return int(mariadb.execute("SELECT COUNT(*) AS n FROM loaded", database="greentor")[0]["n"])


def load(path: Path, params: Any, seconds: float | None = None, local_infile: bool = True) -> None:
    with greentor.timeout(seconds):
        connection = driver.connect(local_infile=local_infile, **params)
        try:
            query(connection, f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE loaded")
            connection.commit()
        finally:
            if connection.open:
                connection.close()


@pytest.mark.parametrize("how", ["cancel", "deadline", "write_timeout", "cut"])
def test_what_interrupts_the_sending_of_a_file_is_raised_and_nothing_is_loaded(
    run: Any, params: Any, mariadb: MariaDB, table: str, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "rows"
    path.write_text(f"{'x' * 1000}\n" * 16_000)

    async def main() -> None:
        proxy.up.stall_after = 2_000_000
        seconds = 1.0 if how == "deadline" else None
        if how == "write_timeout":
            params["write_timeout"] = 0.5
        params["autocommit"] = True
        task = asyncio.create_task(bridge.run_in_scope("load", load, path, params, seconds))
        await await_until(lambda: proxy.up.carried >= 2_000_000 or task.done())
        if how == "cancel":
            task.cancel()
        elif how == "cut":
            proxy.reset = True
            proxy.cut()
        await asyncio.wait([task])
        if how == "cancel":
            assert task.cancelled()
        elif how == "deadline":
            assert type(task.exception()) is bridge.DeadlineExceeded
        else:
            error = task.exception()
            assert isinstance(error, pymysql.err.OperationalError)
            assert error.args[0] in (2006, 2013)  # as it was writing or waiting for the file

    with Proxy(mariadb.host, mariadb.port) as proxy:
        params["port"] = proxy.port
        run(main)
    wait_until(lambda: "LOAD" not in str(mariadb.processlist()))
    assert rows(mariadb) == 0


def test_a_file_that_is_not_there_is_the_error_that_pymysql_raises(
    run: Any, params: Any, table: str, tmp_path: Path
) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(local_infile=True, **params)
        with pytest.raises(pymysql.err.OperationalError, match="Can't open file") as info:
            query(connection, f"LOAD DATA LOCAL INFILE '{tmp_path / 'no'}' INTO TABLE loaded")
        assert info.value.args[0] == 1017
        assert query(connection, "SELECT 'mine'") == (("mine",),)
        connection.close()

    run(main)


def test_an_error_of_the_server_is_raised_and_leaves_the_connection(
    run: Any, params: Any, mariadb: MariaDB, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    path.write_text("1\n2\n1\n")
    mariadb.execute("DROP TABLE IF EXISTS loaded", database="greentor")
    mariadb.execute(
        "CREATE TABLE loaded (a INT UNIQUE, b INT AS (1 / (a - 2)) STORED)", database="greentor"
    )

    @greentor.green
    def main() -> None:
        connection = driver.connect(
            local_infile=True, sql_mode="STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO", **params
        )
        with pytest.raises(pymysql.err.MySQLError) as info:
            query(connection, f"LOAD DATA LOCAL INFILE '{path}' REPLACE INTO TABLE loaded (a)")
        assert info.value.args[0] == 1365
        assert query(connection, "SELECT 'mine'") == (("mine",),)
        connection.close()

    run(main)
