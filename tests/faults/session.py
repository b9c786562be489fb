"""The session on `greentor.drivers.pymysql` that is struck: from the login to the farewell.

Each answer is compared with what it must be, so that one which belongs to another query is noticed.
"""

from pathlib import Path
from typing import Any

from pymysql.cursors import SSCursor

import greentor
from greentor.drivers import pymysql as driver
from tests.faults.strikes import Target
from tests.mariadb import MariaDB

#: seconds; the deadline is let to strike by hand
LONG = 600
TABLE = "faults"
#: rows, of which so many come from the INSERT and from the file
INSERTED, LOADED = 3, 40
BLOB = b"\x00b" * 15_000
BIG = "SELECT seq, REPEAT('x', %s + seq) FROM seq_1_to_8"
UNBUFFERED = "SELECT seq, @token FROM seq_1_to_6"


def prepare(server: MariaDB, database: str, directory: Path) -> str:
    """Create the table of the session, and return the path of the file that it loads."""
    server.execute(f"DROP TABLE IF EXISTS {TABLE}", database=database)
    server.execute(
        f"CREATE TABLE {TABLE} (id INT AUTO_INCREMENT PRIMARY KEY, kind VARCHAR(20) NOT NULL,"
        " body LONGBLOB) ENGINE=InnoDB",
        database=database,
    )
    path = directory / "rows.tsv"
    path.write_text("".join(f"loaded\t{'y' * 2000}\n" for _ in range(LOADED)))
    return str(path)


def query(connection: Any, sql: str, *args: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, args or None)
        return cursor.fetchall()


def check(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"another query's answer: {str(found)[:200]}")


def session(params: dict[str, Any], path: str, target: Target) -> None:
    """Do it all, once. Runs in a greenlet."""
    with greentor.timeout(LONG) as target.limit:
        connection = target.connection = driver.connect(local_infile=True, **params)
        query(connection, "SET @token = %s, time_zone = '+00:00'", target.token)
        connection.begin()
        rows = [("inserted", BLOB)] * INSERTED
        insert = f"INSERT INTO {TABLE} (kind, body) VALUES (%s, %s), (%s, %s), (%s, %s)"
        query(connection, insert, *(value for row in rows for value in row))
        big = tuple((n, "x" * (target.width + n)) for n in range(1, 9))
        check(query(connection, BIG, target.width), big)
        unbuffered(connection, target)
        load = f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {TABLE} (kind, body)"
        query(connection, load)
        target.phase = "committing"
        connection.commit()
        target.phase = "after"
        connection.begin()
        query(connection, f"INSERT INTO {TABLE} (kind) VALUES ('rolled back')")
        connection.rollback()
        check(query(connection, "SELECT @token"), ((target.token,),))
        connection.close()


def unbuffered(connection: Any, target: Target) -> None:
    with connection.cursor(SSCursor) as cursor:
        cursor.execute(UNBUFFERED)
        for n in range(1, 7):
            check(cursor.fetchone(), (n, target.token))
            if n in (2, 4):
                greentor.sleep(0)  # struck here, the connection is left with rows unread
        check(cursor.fetchone(), None)


def wrong_rows(server: MariaDB, database: str, target: Target, completed: bool) -> list[str]:
    """Say what is wrong with the rows in the table, and empty it."""
    counts = {
        row["kind"]: row["n"]
        for row in server.execute(
            f"SELECT kind, COUNT(*) AS n FROM {TABLE} GROUP BY kind", database=database
        )
    }
    if counts:
        server.execute(f"DELETE FROM {TABLE}", database=database)
    whole = {"inserted": INSERTED, "loaded": LOADED}
    allowed = {"before": [{}], "committing": [{}, whole], "after": [whole]}[target.phase]
    wrong = [] if counts in allowed else [f"{counts} in phase {target.phase!r}"]
    if completed and target.phase != "after":
        wrong.append(f"no error, though it ended in phase {target.phase!r}")
    return wrong
