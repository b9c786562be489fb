"""`bench.split`: its parts add up, and the driver that answers from memory says what the real one says."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from bench.split.canned import Answers
from bench.split.parts import FLOOR, PARTS, divide, rows, table
from bench.split.process import started
from bench.split.server import VARIANTS, WAYS, WORKLOADS
from bench.split.tables import DATABASE, create_tables
from greentor.bridge import green
from greentor.drivers import pymysql as ours
from tests.mariadb import MariaDB

SELECTS = (
    "SELECT `world`.`id`, `world`.`randomnumber` FROM `world` WHERE `world`.`id` = 7 LIMIT 21",
    "SELECT `fortune`.`id`, `fortune`.`message` FROM `fortune` ORDER BY `fortune`.`id`",
)
UPDATE = "UPDATE world SET `randomnumber` = 4242 WHERE `world`.`id` = 9"


@pytest.fixture
def cost_server(mariadb: MariaDB) -> MariaDB:
    create_tables(mariadb)
    return mariadb


# --- the arithmetic -----------------------------------------------------------------------------


def test_the_parts_add_up_to_the_real_thing() -> None:
    floor = dict(zip(VARIANTS, (100.0, 106.0, 106.0, 250.0, 345.0), strict=True))
    own = dict(zip(VARIANTS, (107.0, 113.0, 155.0, 329.0, 430.0), strict=True))
    found = divide(own, floor)
    assert found == {"HTTP": 107, "application": 6, "bridge": 72, "ORM": 144, "driver": 101}
    assert sum(found.values()) == own["real"]
    assert divide(floor, floor)["bridge"] == 0


def test_medians_of_the_parts_add_up_too_and_a_negative_part_is_shown() -> None:
    samples = {
        (way, "db", variant): [base + way_extra + step * number for number in range(3)]
        for way, way_extra in ((FLOOR, 0.0), ("greentor", -30.0))
        for variant, base, step in zip(
            VARIANTS, (100.0, 106, 110, 250, 350), (1.0, -2, 3, -5, 7), strict=True
        )
    }
    # what the way adds is negative: its handler is cheaper than what it stands in for
    samples["greentor", "db", "canned"] = [100.0, 110, 90]
    found = rows(samples, VARIANTS)
    assert [row["name"] for row in found] == [FLOOR, "greentor"]
    for row in found:
        assert tuple(row["parts"]) == PARTS
        assert sum(row["parts"].values()) == pytest.approx(row["total"])
    assert found[1]["parts"]["bridge"] < 0
    assert found[0]["parts"]["ORM"] == found[1]["parts"]["ORM"]
    assert " -" in table(found)


# --- the driver that answers from memory --------------------------------------------------------


def ask(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        count = cursor.execute(sql)
        return count, cursor.rowcount, cursor.lastrowid, cursor.description, cursor.fetchall()


def change(connection: Any) -> Any:
    """Do what Django's ``atomic`` does with an UPDATE; return what the driver said meanwhile."""
    connection.autocommit(False)
    said = [connection.get_autocommit(), ask(connection, UPDATE)[:2]]
    connection.commit()
    connection.autocommit(True)
    return [*said, connection.get_autocommit()]


@pytest.fixture(params=["PyMySQL", "greentor"])
def answers(request: pytest.FixtureRequest) -> Iterator[tuple[Answers, Any]]:
    module: Any = pymysql if request.param == "PyMySQL" else ours
    cls = pymysql.connections.Connection if request.param == "PyMySQL" else ours.Connection
    before = dict(vars(cls))
    made = Answers(cls)
    yield made, module.connect
    made.stop()
    assert dict(vars(cls)) == before


def test_canned_answers_are_those_of_the_server(
    answers: tuple[Answers, Any], cost_server: MariaDB, run: Callable[..., Any]
) -> None:
    made, connect = answers

    def program() -> None:
        connection = connect(**cost_server.params(DATABASE), ssl_disabled=True, autocommit=True)
        real = [ask(connection, sql) for sql in SELECTS]
        changed = change(connection)
        made.learn()
        assert [ask(connection, sql) for sql in SELECTS] == real
        before = cost_server.status("Questions")
        made.give()
        assert [ask(connection, sql) for sql in SELECTS] == real
        assert change(connection) == changed
        assert made.given == 2 + 4
        assert cost_server.status("Questions") - before == 1  # the counting
        assert ask(connection, "SELECT 5")[4] == ((5,),)  # not known: it is sent
        made.stop()
        assert [ask(connection, sql) for sql in SELECTS] == real
        connection.close()

    run(green(program))


def test_a_statement_is_sent_while_no_answers_are_given(
    answers: tuple[Answers, Any], cost_server: MariaDB
) -> None:
    """The counting sees what is sent."""
    made, connect = answers
    connection = connect(**cost_server.params(DATABASE), ssl_disabled=True, autocommit=True)
    try:
        before = cost_server.status("Questions")
        ask(connection, SELECTS[0])
        assert cost_server.status("Questions") - before == 2
    finally:
        made.stop()
        connection.close()


# --- for real -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_each_way_serves_each_variant_and_the_canned_ones_without_the_server(
    way: str, cost_server: MariaDB
) -> None:
    database = cost_server.params(DATABASE)
    arguments = ("--way", way, "--pool", "1")  # which is open from the first request on
    with started("bench.split.server", *arguments, database=database, core=None) as server:
        server.get("/-/canned?mode=learn")
        real = {name: server.get(f"/real/{name}") for name in WORKLOADS}
        server.get("/-/canned?mode=give")
        given = int(server.get("/-/canned?mode=give"))
        before = cost_server.status("Questions")
        for name in WORKLOADS:
            canned = server.get(f"/canned/{name}")
            if name == "fortunes":
                assert canned == real[name]
            else:
                assert abs(len(canned) - len(real[name])) < 10 * len(canned.split(b"},"))
        assert cost_server.status("Questions") - before == 1
        # a row, 20 rows, all fortunes, and 20 rows that are changed in a transaction
        assert int(server.get("/-/canned?mode=stop")) - given == 1 + 20 + 1 + 20 + 20 + 3
        for name in WORKLOADS:
            ready = server.get(f"/http/{name}")
            assert len(ready) == len(server.get(f"/application/{name}"))
            assert len(ready) == len(server.get(f"/handler/{name}"))
            assert len(ready) == pytest.approx(len(real[name]), rel=0.2)


def test_a_tiny_run_writes_what_it_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.split", "--quick", "--rounds", "1", "--scale", "0.01"),
            *("--ways", "greentor", "--workloads", "db", "--out", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert not done.returncode, done.stdout + done.stderr
    assert not done.stderr
    found = json.loads((tmp_path / "split.json").read_text())
    assert [(row["name"], row["workload"]) for row in found["rows"]] == [
        ("greentor", "db"),
        ("floor", "db"),
    ]
    for row in found["rows"]:
        assert sum(row["parts"].values()) == pytest.approx(row["total"])
        assert row["parts"]["HTTP"] > 10
    assert "| db | greentor |" in done.stdout
