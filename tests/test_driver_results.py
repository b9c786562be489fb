"""`greentor.drivers.results`: what was kept of an earlier result set never shapes a later one wrongly."""

from decimal import Decimal
from typing import Any

import pymysql
import pytest
from pymysql import converters
from pymysql.constants import FIELD_TYPE
from pymysql.cursors import SSCursor

import greentor
from greentor.drivers import layouts
from greentor.drivers import pymysql as driver
from tests.mariadb import MariaDB


@pytest.fixture
def params(mariadb: MariaDB) -> dict[str, Any]:
    return mariadb.params("greentor")


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    layouts.clear()


def ask(connection: Any, sql: str, cursor: Any = None) -> Any:
    with connection.cursor(cursor) as cur:
        cur.execute(sql)
        return cur.fetchall()


def test_changed_converters_are_honoured_for_a_known_result(run: Any, params: Any) -> None:
    sql = "SELECT 1.50 AS price, 'x' AS name"
    plain = {str: converters.escape_str, bool: converters.escape_bool}

    @greentor.green
    def main() -> None:
        first, second = driver.connect(**params), driver.connect(**params, conv=plain)
        assert ask(first, sql) == ask(first, sql) == ((Decimal("1.50"), "x"),)
        assert ask(second, sql) == (("1.50", "x"),)
        second.decoders[FIELD_TYPE.NEWDECIMAL] = lambda text: f"<{text}>"
        assert ask(second, sql) == (("<1.50>", "x"),)
        del second.decoders[FIELD_TYPE.NEWDECIMAL]
        assert ask(second, sql) == (("1.50", "x"),)
        assert ask(first, sql) == ((Decimal("1.50"), "x"),)
        first.close()
        second.close()

    run(main)


def test_changed_encoding_is_honoured_for_a_known_result(run: Any, params: Any) -> None:
    sql = "SELECT CONVERT(X'C3A9' USING utf8mb4) AS name"

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        assert ask(connection, sql) == (("é",),)
        connection.encoding = "latin1"
        assert ask(connection, sql) == (("Ã©",),)
        connection.encoding = "utf8"
        connection.use_unicode = False
        assert ask(connection, sql) == (("é".encode(),),)
        connection.close()

    run(main)


def test_results_that_begin_alike_are_told_apart(run: Any, params: Any) -> None:
    same = ", ".join(f"{n} AS column_{n}" for n in range(5))
    last = ("1 AS z", "1 AS y", "'1' AS z", "1.0 AS z", "NULL AS z")
    expected = (1, 1, "1", Decimal("1.0"), None)

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for _ in range(3):
            for column, value in zip(last, expected, strict=True):
                with connection.cursor() as cursor:
                    cursor.execute(f"SELECT {same}, {column}")
                    assert cursor.fetchall() == ((0, 1, 2, 3, 4, value),)
                    assert cursor.description[-1][0] == column[-1]
        connection.close()

    run(main)


def test_short_definitions_do_not_fill_the_memory(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for number in range(layouts.KEPT * 2):
            assert ask(connection, f"SELECT {number} AS a") == ((number,),)
        assert len(layouts._known) < 20
        assert len(layouts._latest) < 20
        connection.close()

    run(main)


def test_kept_definitions_are_bounded(run: Any, params: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(layouts, "KEPT", 8)

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for number in range(50):
            assert ask(connection, f"SELECT 1 AS column_number_{number}") == ((1,),)
            assert len(layouts._known) <= 8
            assert len(layouts._latest) <= 8
        wide = ", ".join(f"{n} AS a_rather_long_name_for_column_{n}" for n in range(1000))
        layouts.clear()
        assert ask(connection, f"SELECT {wide}") == (tuple(range(1000)),)
        assert not layouts._known
        connection.close()

    run(main)


@pytest.mark.parametrize("cursor", [None, SSCursor])
def test_transaction_begun_by_a_select_is_seen(run: Any, params: Any, cursor: Any) -> None:
    # PyMySQL keeps the status of OK packets alone, and this one comes at the end of rows.
    @greentor.green
    def main() -> None:
        connection = driver.connect(**{**params, "autocommit": False})
        assert not connection.in_transaction
        assert len(ask(connection, "SELECT * FROM information_schema.engines", cursor)) > 1
        connection.rollback()
        ask(connection, "CREATE TEMPORARY TABLE numbers (n INT) ENGINE=InnoDB")
        connection.commit()
        assert not connection.in_transaction
        assert len(ask(connection, "SELECT * FROM numbers", cursor)) == 0
        assert connection.in_transaction
        connection.close()

    run(main)


def test_kept_definitions_are_bounded_in_bytes(run: Any, params: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(layouts, "TOTAL", 20_000)

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for number in range(50):
            columns = ", ".join(f"{n} AS column_{n}_of_{number}" for n in range(20))
            assert ask(connection, f"SELECT {columns}") == (tuple(range(20)),)
            assert sum(len(layout.data) for layout in layouts._known.values()) < 22_000
        connection.close()

    run(main)


def test_packet_without_end_is_an_error_before_it_fills_the_memory(
    run: Any, params: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(driver, "LARGEST_PACKET", 17_000_000)

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for cursor in (None, SSCursor):
            with pytest.raises(pymysql.err.OperationalError, match="17000000") as caught:
                ask(connection, "SELECT REPEAT('x', 9000000), REPEAT('y', 9000000)", cursor)
            assert caught.value.args[0] == 2020
            assert not connection.open
            connection.connect()
        connection.close()

    run(main)


def test_columns_of_every_count_are_read(run: Any, params: Any) -> None:
    # 250 and more are told in several bytes, which are read in PyMySQL's way.
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for count in (1, 2, 249, 250, 251, 252, 1000):
            sql = "SELECT " + ", ".join(map(str, range(count)))
            for cursor in (None, None, SSCursor, SSCursor):
                assert tuple(ask(connection, sql, cursor)) == (tuple(range(count)),)
        connection.close()

    run(main)


def test_values_of_every_length_are_read(run: Any, params: Any) -> None:
    lengths = (0, 1, 250, 251, 252, 255, 256, 65_535, 65_536, 70_000, 1 << 23)
    sql = "SELECT REPEAT('x', {0}) AS text, {0} AS number UNION ALL SELECT NULL, NULL"

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for length in lengths:
            expected = (("x" * length, length), (None, None))
            assert ask(connection, sql.format(length)) == expected
            assert tuple(ask(connection, sql.format(length), SSCursor)) == expected
        connection.close()

    run(main)


@pytest.mark.parametrize("cursor", [None, SSCursor])
def test_row_of_several_packets_is_read_among_plain_ones(
    run: Any, params: Any, cursor: Any
) -> None:
    size = "IF(seq = 3, 9000000, 5)"
    sql = f"SELECT seq, REPEAT('x', {size}) AS a, REPEAT('y', {size}) AS b FROM seq_1_to_5"

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        rows = ask(connection, sql, cursor)
        assert [(n, len(a), len(b)) for n, a, b in rows] == [
            (n, *(2 * (9_000_000 if n == 3 else 5,))) for n in range(1, 6)
        ]
        assert all(set(a) == {"x"} and set(b) == {"y"} for _, a, b in rows)
        connection.close()

    run(main)


def test_error_in_mid_result_leaves_the_connection_usable(run: Any, params: Any) -> None:
    sql = "SELECT (SELECT seq FROM seq_1_to_2 WHERE seq <= 1 + (s.seq = 3000)) FROM seq_1_to_4000 s"

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for cursor in (None, SSCursor):
            with pytest.raises(pymysql.err.Error, match="more than 1 row") as caught:
                ask(connection, sql, cursor)
            assert caught.value.args[0] == 1242
            assert connection.open
            assert ask(connection, "SELECT 7") == ((7,),)
        connection.close()

    run(main)


def test_ok_packet_with_large_numbers_is_read(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        ask(connection, "CREATE TEMPORARY TABLE ids (id BIGINT PRIMARY KEY AUTO_INCREMENT, n INT)")
        with connection.cursor() as cursor:
            for start in (250, 251, 65_535, 65_536, 1 << 24, 1 << 40):
                cursor.execute("INSERT INTO ids (id, n) VALUES (%s, 1)", (start,))
                cursor.execute("INSERT INTO ids (n) VALUES (1)")
                assert cursor.lastrowid == connection.insert_id() == start + 1
                cursor.execute("DELETE FROM ids")
            assert cursor.execute("INSERT INTO ids (n) SELECT seq FROM seq_1_to_70000") == 70_000
            assert cursor.execute("UPDATE ids SET n = n + 1 LIMIT 300") == 300
        connection.close()

    run(main)
