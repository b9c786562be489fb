"""What the drivers are asked: the tables, the statements, and how often each is sent in a sample.

SELECTs have no arguments, so that the drivers are compared and not the escaping of arguments, which
`argument` and `insert` contain.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.mariadb import MariaDB

DATABASE = "bench_driver"

TABLES = [
    "CREATE TABLE world (id INT PRIMARY KEY, number INT NOT NULL)",
    "CREATE TABLE fortune (id INT PRIMARY KEY, message VARCHAR(200) NOT NULL)",
    """CREATE TABLE mixed (
        id INT PRIMARY KEY, total BIGINT NULL, price DECIMAL(12, 2) NOT NULL, name VARCHAR(60) NOT NULL,
        body TEXT NULL, born DATE NOT NULL, made DATETIME(6) NOT NULL, span TIME NOT NULL,
        weight FLOAT NOT NULL, score DOUBLE NULL)""",
    """CREATE TABLE entry (
        id INT PRIMARY KEY AUTO_INCREMENT, number INT NOT NULL, name VARCHAR(60) NOT NULL,
        price DECIMAL(12, 2) NOT NULL, made DATETIME(6) NOT NULL)""",
]
WORDS = [
    "loop",
    "greenlet",
    "kärnan",
    "query",
    "δρόμος",
    "row",
    "packet",
    "漢字",
    "cursor",
    "naïve",
]


@dataclass(frozen=True)
class Workload:
    """A statement, and how often a sample sends it."""

    title: str
    sql: str
    rows: int
    count: int
    args: tuple[Any, ...] | None = None
    #: what tells that a statement without rows did what it should
    proof: str | None = None


WORKLOADS = {
    "one": Workload(
        title="1 row of 2 columns",
        sql="SELECT id, number FROM world WHERE id = 7",
        rows=1,
        count=1600,
    ),
    "argument": Workload(
        title="1 row of 2 columns, its id an argument",
        sql="SELECT id, number FROM world WHERE id = %s",
        args=(7,),
        rows=1,
        count=1600,
    ),
    "twelve": Workload(
        title="12 rows with text",
        sql="SELECT id, message FROM fortune ORDER BY id",
        rows=12,
        count=960,
    ),
    "thousand": Workload(
        title="1,000 rows of 10 mixed columns",
        sql="SELECT id, total, price, name, body, born, made, span, weight, score FROM mixed ORDER BY id",
        rows=1000,
        count=32,
    ),
    "insert": Workload(
        title="an INSERT of 4 values",
        sql="INSERT INTO entry (number, name, price, made) VALUES (%s, %s, %s, %s)",
        args=(42, "naïve 漢字 'q'", Decimal("12.50"), datetime.datetime(2026, 2, 3, 4, 5, 6, 789)),
        rows=0,
        count=960,
        proof="SELECT number, name, price, made FROM entry ORDER BY id DESC LIMIT 1",
    ),
}


def create_tables(server: MariaDB, database: str = DATABASE) -> None:
    """Create the database and fill its tables, the same in each run."""
    server.create_database(database)
    for table in TABLES:
        server.execute(table, database=database)
    chance = random.Random(1)
    rows: dict[str, list[tuple[Any, ...]]] = {
        "world": [(number, chance.randint(1, 10_000)) for number in range(1, 101)],
        "fortune": [(number, _text(chance, 8)) for number in range(1, 13)],
        "mixed": [_mixed(chance, number) for number in range(1, 1001)],
    }
    for table, values in rows.items():
        marks = ", ".join(["(" + ", ".join(["%s"] * len(values[0])) + ")"] * len(values))
        flat = [value for row in values for value in row]
        server.execute(f"INSERT INTO {table} VALUES {marks}", *flat, database=database)


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def _mixed(chance: random.Random, number: int) -> tuple[Any, ...]:
    day = datetime.date(1970, 1, 1) + datetime.timedelta(days=chance.randrange(25_000))
    moment = datetime.datetime(2000, 1, 1) + datetime.timedelta(
        seconds=chance.randrange(10**9), microseconds=chance.randrange(10**6)
    )
    return (
        number,
        None if number % 3 == 0 else chance.randrange(-(10**15), 10**15),
        Decimal(chance.randrange(10**9)) / 100,
        _text(chance, 3),
        None if number % 7 == 0 else _text(chance, 12),
        day,
        moment,
        datetime.timedelta(seconds=chance.randrange(-100_000, 1_000_000)),
        chance.randrange(10_000) / 8,  # exact in a FLOAT
        None if number % 5 == 0 else chance.random(),
    )
