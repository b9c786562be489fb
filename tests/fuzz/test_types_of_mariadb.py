"""Every type of column that MariaDB has, with its edges, read by blocking PyMySQL and in a greenlet."""

from typing import Any

import pymysql
import pytest
from pymysql import converters

import greentor
from greentor.drivers import pymysql as driver
from tests.fuzz.application import CURSORS, exact
from tests.mariadb import MariaDB

TABLE = "fuzz_types"

#: the definition of each column, and values for it in SQL
COLUMNS = {
    "TINYINT": ("-128", "0", "127"),
    "TINYINT UNSIGNED": ("0", "255"),
    "BOOLEAN": ("FALSE", "TRUE"),
    "SMALLINT": ("-32768", "32767"),
    "SMALLINT UNSIGNED ZEROFILL": ("7", "65535"),
    "MEDIUMINT": ("-8388608", "8388607"),
    "INT": ("-2147483648", "2147483647"),
    "INT UNSIGNED": ("0", "4294967295"),
    "BIGINT": ("-9223372036854775808", "9223372036854775807"),
    "BIGINT UNSIGNED": ("0", "18446744073709551615"),
    "FLOAT": ("0", "-0.5", "3.40282e38", "1.17549e-38"),
    "DOUBLE": ("0.1", "-1.7976931348623157e308", "2.2250738585072014e-308", "1e15", "1e16"),
    "DECIMAL(10, 2)": ("0", "-0.01", "12345678.90"),
    "DECIMAL(65, 30)": ("99999999999999999999999999999999999.999999999999999999999999999999", "-1"),
    "BIT(1)": ("b'0'", "b'1'"),
    "BIT(64)": ("b'0'", "~0"),
    "DATE": ("'0000-00-00'", "'1000-01-01'", "'9999-12-31'", "'2024-02-30'", "'2024-00-05'"),
    "DATETIME": ("'0000-00-00'", "'1000-01-01 00:00:00'", "'9999-12-31 23:59:59'"),
    "TIMESTAMP NULL": ("'0000-00-00'", "'1970-01-02 00:00:01'", "'2037-12-31 23:59:59'"),
    "TIME": (
        "'-838:59:59'",
        "'838:59:59'",
        "'00:00:00'",
        "'-00:00:01'",
        "'23:59:59'",
        "'24:00:00'",
    ),
    "YEAR": ("1901", "2155", "0"),
    "CHAR(10)": ("''", "'abc'", "'é'", "'  '"),
    "VARCHAR(500)": ("''", "'Zoë'", "REPEAT('é', 125)", "REPEAT('x', 251)"),
    "VARCHAR(50) CHARACTER SET latin1": ("'café'", "''"),
    "VARCHAR(50) CHARACTER SET cp1251": ("'a'", "''"),
    "VARCHAR(50) CHARACTER SET ucs2": ("'é'", "''"),
    "VARCHAR(50) COLLATE utf8mb4_bin": ("'é'", "'A'"),
    "TINYTEXT": ("''", "REPEAT('a', 250)", "REPEAT('a', 255)"),
    "TEXT": ("''", "REPEAT('a', 252)", "REPEAT('a', 65535)"),
    "MEDIUMTEXT": ("REPEAT('a', 65536)",),
    "LONGTEXT": ("REPEAT('é', 70000)", "''"),
    "BINARY(5)": ("x'00FF'", "''"),
    "VARBINARY(300)": ("x'80FE'", "''", "REPEAT(x'FF', 300)"),
    "TINYBLOB": ("x'FB'", "''"),
    "BLOB": ("x'FE'", "REPEAT(x'00', 65535)"),
    "MEDIUMBLOB": ("REPEAT(x'FF', 65536)",),
    "LONGBLOB": ("REPEAT(x'FE', 100000)",),
    "ENUM('a', 'é', '')": ("'a'", "'é'", "''"),
    "SET('a', 'b', 'é')": ("''", "'a,b'", "'a,é'"),
    "JSON": ("'{}'", "'[1, 2.5, null]'", """'{"a": "é"}'"""),
    "GEOMETRY": ("POINT(1, -2)",),
    "POINT": ("POINT(0, 0)",),
    "INET6": ("'::1'",),
    "UUID": ("'123e4567-e89b-12d3-a456-426655440000'",),
}
for _digits in range(1, 7):
    _fraction = "123456"[:_digits]
    COLUMNS[f"DATETIME({_digits})"] = (f"'2024-02-29 23:59:59.{_fraction}'", "'2024-01-01'", "0")
    COLUMNS[f"TIMESTAMP({_digits}) NULL"] = (f"'2024-02-29 23:59:59.{_fraction}'",)
    COLUMNS[f"TIME({_digits})"] = (
        f"'-838:59:58.{_fraction}'",
        f"'12:34:56.{_fraction}'",
        f"'-00:00:00.{_fraction}'",
        "'-12:00:00'",
    )

#: expressions whose types no column has, or whose charset is that of the connection
EXPRESSIONS = (
    "NULL, 1, -1, 1.5, 1e0, 'é', x'FF', TRUE, NOW(6) > 0, 9223372036854775808, 0.1 + 0.2,"
    " CAST('2024-02-29' AS DATE), CAST('-12:34:56.5' AS TIME(1)), CAST('{}' AS CHAR),"
    " JSON_OBJECT('a', 1), CAST(5 AS SIGNED), CAST(1.5 AS DECIMAL(5, 3)), _binary'é', b'101',"
    " CURDATE() IS NULL, SEC_TO_TIME(-1), MAKETIME(25, 0, 0.5), POINT(1, 1), GROUP_CONCAT('é'),"
    " SUM(1), AVG(1), COUNT(*), COALESCE(NULL, 'a'), DATE_ADD('2024-01-01', INTERVAL 1 SECOND),"
    " REPEAT('é', 300), UUID() IS NULL, VERSION(), CHARSET('é'), DAYNAME('2024-01-01')"
)
WAYS = {
    "as it is": {},
    "bytes": {"use_unicode": False, "conv": converters.encoders},
    "nothing converted": {"conv": converters.encoders},
    "an own conv": {"conv": {**converters.conversions, 12: str, 11: converters.convert_time}},
}


@pytest.fixture(scope="module")
def table(mariadb: MariaDB) -> str:
    columns = ", ".join(f"`c{n}` {definition}" for n, definition in enumerate(COLUMNS))
    longest = max(map(len, COLUMNS.values()))
    connection = pymysql.connect(
        **mariadb.params("greentor"), autocommit=True, sql_mode="ALLOW_INVALID_DATES"
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {TABLE}")
        cursor.execute(f"CREATE TABLE {TABLE} (id INT PRIMARY KEY, {columns})")
        for number in range(longest + 1):  # the last row is of NULLs, or of the defaults
            values = [
                values[number] if number < len(values) else "NULL" for values in COLUMNS.values()
            ]
            cursor.execute(f"INSERT INTO {TABLE} VALUES ({number}, {', '.join(values)})")
    return TABLE


def read(connection: Any, sql: str, cursor: str) -> Any:
    with connection.cursor(CURSORS[cursor]) as opened:
        opened.execute(sql)
        found = opened.fetchall()
        return exact([found, opened.description, opened.rowcount, opened.warning_count])


@pytest.mark.parametrize("charset", ["utf8mb4", "latin1"])
@pytest.mark.parametrize("way", WAYS)
def test_every_type_of_a_column_is_read_as_pymysql_reads_it(
    run: Any, mariadb: MariaDB, table: str, charset: str, way: str
) -> None:
    params = {**mariadb.params("greentor"), "charset": charset, **WAYS[way]}
    statements = [f"SELECT * FROM {table} ORDER BY id", f"SELECT {EXPRESSIONS}"]
    statements += [f"SELECT * FROM {table} WHERE id < 0", "SELECT 1 UNION ALL SELECT NULL"]
    # One column each, as a row that is odd in one is read another way as a whole.
    statements += [f"SELECT c{number} FROM {table} ORDER BY id" for number in range(len(COLUMNS))]
    asked = [(sql, cursor) for sql in statements for cursor in CURSORS]
    with pymysql.connect(**params) as connection:
        expected = [read(connection, sql, cursor) for sql, cursor in asked]

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        for _ in range(2):  # the second time it knows the columns
            for (sql, cursor), rows in zip(asked, expected, strict=True):
                assert read(connection, sql, cursor) == rows, sql
        connection.close()

    run(main)
