"""`bench.driver`: it runs, it refuses to compare drivers that do not agree, and its limits are checked.

How fast anything is, is no matter here.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.driver import clients
from bench.driver.report import LIMITS, check, table
from bench.driver.rounds import NO_LOOP, REFERENCE, Different, Key, compare, verify
from bench.driver.worker import Worker
from bench.driver.workloads import DATABASE, WORKLOADS, create_tables
from tests.mariadb import MariaDB

OTHER = "bench_driver_other"


def command_line(*arguments: str) -> str:
    """Run the benchmark with tiny samples and our driver and PyMySQL; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.driver", "--drivers", "greentor,PyMySQL", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert not done.returncode, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def test_a_tiny_run_measures_each_workload_and_writes_its_results(tmp_path: Path) -> None:
    printed = command_line(
        *("--quick", "--rounds", "2", "--scale", "0.001", "--loops", "asyncio"),
        *("--flight", "1,3", "--out", str(tmp_path)),
    )
    assert (tmp_path / "table.md").read_text() in printed + "\n"
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert {
        (one["workload"], one["in_flight"], one["driver"], len(one["samples_us"]))
        for one in results
    } == {
        (workload, flight, driver, 2)
        for workload in WORKLOADS
        for flight in (1, 3)
        for driver in ("greentor", "PyMySQL")
    }
    assert all(min(one["samples_us"]) > 0 for one in results)


def test_the_profile_names_the_functions_of_our_driver() -> None:
    printed = command_line(
        *("--profile", "twelve", "--seconds", "0.5", "--loops", "asyncio", "--flight", "3")
    )
    assert "12 rows with text, 3 in flight, asyncio" in printed
    assert "greentor/" in printed


# --- drivers that do not agree ----------------------------------------------------------------


@pytest.fixture
def tables(mariadb: MariaDB) -> Iterator[None]:
    for database in (DATABASE, OTHER):
        create_tables(mariadb, database)
    yield
    for database in (DATABASE, OTHER):
        mariadb.execute(f"DROP DATABASE {database}")


@pytest.fixture
def worker(mariadb: MariaDB, tables: None) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts a worker, with parameters of its own."""
    started = []

    def start(driver: str, loop: str, database: str = DATABASE, **params: Any) -> Worker:
        started.append(Worker(driver, loop, {**mariadb.params(database), **params}, None))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_drivers_with_the_same_rows_are_compared(worker: Callable[..., Worker]) -> None:
    workers = [worker("greentor", "asyncio"), worker("PyMySQL", NO_LOOP)]
    verify(workers, list(WORKLOADS))


@pytest.mark.parametrize(
    ("workload", "change"),
    [
        ("one", "UPDATE world SET number = number + 1 WHERE id = 7"),
        ("twelve", "UPDATE fortune SET message = CONCAT(message, ' ') WHERE id = 12"),
        ("twelve", "DELETE FROM fortune WHERE id = 12"),
        ("thousand", "ALTER TABLE mixed MODIFY score DECIMAL(20, 17)"),  # another type
        ("insert", "ALTER TABLE entry MODIFY made DATETIME(3)"),
    ],
)
def test_another_row_of_one_driver_stops_the_comparison(
    mariadb: MariaDB, worker: Callable[..., Worker], workload: str, change: str
) -> None:
    workers = [worker("greentor", "asyncio", OTHER), worker("PyMySQL", NO_LOOP)]
    mariadb.execute(change, database=OTHER)
    with pytest.raises(Different, match=f"greentor on asyncio: {workload}"):
        verify(workers, [workload])


@pytest.mark.parametrize("command", ["SET NAMES latin1", "SET character_set_results = NULL"])
def test_another_session_of_one_driver_stops_the_comparison(
    worker: Callable[..., Worker], command: str
) -> None:
    workers = [
        worker("greentor", "asyncio", init_command=command),
        worker("PyMySQL", NO_LOOP),
    ]
    with pytest.raises(Different, match="greentor on asyncio: the session"):
        verify(workers, ["one"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1 rows", "(1,)"], None),
        (["1 rows", "('1',)"], "line 1"),
        (["1 rows", "[1]"], "line 1"),
        (["1 rows"], "1 lines, and 2"),
        (["1 rows", "(1,)", "(1,)"], "3 lines, and 2"),
    ],
)
def test_rows_are_compared_with_their_types(rows: list[str], message: str | None) -> None:
    if message is None:
        compare("a driver", ["1 rows", "(1,)"], rows)
    else:
        with pytest.raises(Different, match=message):
            compare("a driver", ["1 rows", "(1,)"], rows)


def test_a_driver_that_is_not_installed_is_skipped_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(clients.MODULES, "asyncmy", ("no_such_driver", {}))
    assert clients.available(["asyncmy", REFERENCE, "asyncio"]) == [REFERENCE, "asyncio"]
    assert capsys.readouterr().out == "asyncmy is skipped: No module named 'no_such_driver'\n"


# --- what is made of the figures --------------------------------------------------------------


def samples(ours: float, flights: tuple[int, ...] = (1, 64)) -> dict[Key, list[float]]:
    """Return figures of two rounds, the second twice as slow, in which PyMySQL costs 100 and 200."""
    found = {}
    for name in WORKLOADS:
        for flight in flights:
            found[Key(name, flight, "PyMySQL", NO_LOOP)] = [100.0, 200.0]
            found[Key(name, flight, "aiomysql", "asyncio")] = [110.0, 220.0]
            found[Key(name, flight, "greentor", "asyncio")] = [100 * ours, 200 * ours]
    return found


def test_limits_are_kept_missed_or_not_measured() -> None:
    assert all(kept for kept, _ in check(samples(0.54), ["asyncio"]))
    missed = [line for kept, line in check(samples(0.56), ["asyncio"]) if not kept]
    assert missed == [
        "one, 64 in flight, asyncio: of PyMySQL at most 0.55: 0.560",
        "thousand, 64 in flight, asyncio: of PyMySQL at most 0.55: 0.560",
        "one, 64 in flight, asyncio: of aiomysql at most 0.5: 0.509",
        "thousand, 64 in flight, asyncio: of aiomysql at most 0.5: 0.509",
    ]
    unknown = [line for kept, line in check(samples(0.5, (1,)), ["asyncio"]) if not kept]
    assert len(unknown) == sum(len(limit.workloads) for limit in LIMITS if limit.flight == 64)
    assert all(line.endswith("not measured") for line in unknown)


def test_the_table_has_medians_and_ratios() -> None:
    text = table(samples(0.5))
    assert "| **greentor** | asyncio | 64 | 75.0 | 62.5 to 87.5 | 0.50 | 0.45 |" in text
    assert "| PyMySQL | blocking | 64, one by one | 150 | 125 to 175 | 1.00 |  |" in text
