"""The tables of TechEmpower's workloads, in a database of their own."""

from __future__ import annotations

from random import Random

from tests.app.techempower import FORTUNES
from tests.mariadb import MariaDB

DATABASE = "bench_cost"
WORLDS = 10_000


def create_tables(server: MariaDB) -> None:
    """Create the database anew and fill it, the same in each run."""
    server.create_database(DATABASE)
    server.execute(
        "CREATE TABLE world (id INT UNSIGNED PRIMARY KEY, randomnumber INT NOT NULL)",
        database=DATABASE,
    )
    server.execute(
        "CREATE TABLE fortune (id INT UNSIGNED PRIMARY KEY, message VARCHAR(2048) NOT NULL)",
        database=DATABASE,
    )
    chance = Random(1)
    worlds = ", ".join(f"({id}, {chance.randint(1, WORLDS)})" for id in range(1, WORLDS + 1))
    server.execute(f"INSERT INTO world VALUES {worlds}", database=DATABASE)
    for id, message in FORTUNES:
        if id:
            server.execute("INSERT INTO fortune VALUES (%s, %s)", id, message, database=DATABASE)
