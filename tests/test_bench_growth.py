"""`bench.growth`: its fits and its judgement on curves that are known, and a short run of each kind."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.growth.__main__ import judge, weights
from bench.growth.curves import Curve, make_curve, table
from bench.growth.fit import fit, worse_than_linear
from bench.growth.plan import QUICK, measure
from bench.split.crowd import Crowd, Failure, is_whole
from bench.split.process import started
from bench.split.tables import DATABASE, create_tables
from tests.mariadb import MariaDB

X = [1, 10, 100, 1000, 3000, 10_000]


def noisy(y: list[float], share: float = 0.03) -> list[float]:
    chance = random.Random(7)
    return [value * (1 + chance.uniform(-share, share)) for value in y]


def worse(y: list[float], noise: float = 0.0, x: list[int] = X) -> bool:
    low = [value * (1 - noise) for value in y]
    high = [value * (1 + noise) for value in y]
    return worse_than_linear(x, low, y, high)


# --- fits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_fit_finds_the_exponent_and_both_parts(exponent: float) -> None:
    found = fit(X, [200 + 3 * x**exponent for x in X])
    assert found.exponent == pytest.approx(exponent, abs=0.011)
    assert found.a == pytest.approx(200, rel=0.05)
    assert found.b == pytest.approx(3, rel=0.1)


def test_fit_of_a_noisy_line_is_nearly_one() -> None:
    found = fit(X, noisy([200 + 3 * x for x in X]))
    assert found.exponent == pytest.approx(1, abs=0.08)


def test_fit_of_noise_around_a_constant_claims_no_growth() -> None:
    found = fit(X, noisy([120.0] * len(X)))
    assert (found.b, found.exponent) == (0, 0)
    assert found.a == pytest.approx(120, rel=0.03)


def test_fit_of_what_falls_claims_no_growth() -> None:
    assert fit(X, [250.0, 180, 130, 125, 124, 126]).b == 0


def test_fit_of_nothing_is_nothing() -> None:
    assert fit(X, [0.0] * len(X))(5) == 0


# --- worse than linear --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cost",
    [
        lambda x: 120.0,
        lambda x: 200 + 3.0 * x,
        lambda x: 200 + 30 * x**0.5,
        lambda x: 5000 + 3.0 * x,
    ],
)
def test_linear_and_less_is_not_worse(cost: Callable[[int], float]) -> None:
    assert not worse([cost(x) for x in X])
    assert not worse(noisy([cost(x) for x in X]), 0.03)


@pytest.mark.parametrize(
    "cost",
    [
        lambda x: 200 + 3.0 * x**2,
        lambda x: 200 + 3.0 * x**1.5,
        lambda x: 0.5 * x + 0.001 * x**2,
        lambda x: 120.0 if x < 10_000 else 400.0,
    ],
)
def test_quadratic_growth_and_a_late_jump_are_worse(cost: Callable[[int], float]) -> None:
    assert worse([cost(x) for x in X])
    assert worse(noisy([cost(x) for x in X]), 0.03)


def test_a_rise_within_the_noise_is_not_worse() -> None:
    y = [100.0, 100, 100, 100, 100, 130]
    assert worse(y, 0.01)
    assert not worse(y, 0.2)


def test_a_machine_that_was_busy_for_some_of_the_rounds_is_no_growth() -> None:
    quiet, busy = [120.0 + x for x in X], [120.0 + x for x in X]
    busy[-1] *= 2
    quiet[-1] *= 1.05
    assert not worse_than_linear(X, quiet, busy, busy)
    assert worse_than_linear(X, busy, busy, busy)


def test_a_step_that_costs_a_little_more_is_not_worse_where_there_is_little_of_it() -> None:
    """The last step costs half as much again for each x, and that is 4% of the whole."""
    y = [10_000.0, 10_000, 10_000, 10_000, 10_000, 10_400]
    assert not worse(y)


def test_a_last_step_that_costs_a_fifth_more_for_each_is_not_worse() -> None:
    """Caches do that; what the step costs is nearly all there is."""
    assert not worse([0.0, 30.0, 30 + 990 * 4.0], x=[1, 10, 1000])
    assert worse([0.0, 30.0, 30 + 990 * 4.5], x=[1, 10, 1000])


def test_a_cost_for_each_that_grows_is_worse_in_total() -> None:
    """120 µs for each of few, 2 ms for each of many: linear for one, and quadratic for all."""
    samples = {x: [120 + 0.2 * x] * 3 for x in X}
    assert not make_curve("a", samples, x_label="x", y_label="y").worse_than_linear
    assert make_curve("a", samples, x_label="x", y_label="y", each=True).worse_than_linear


def test_judge_names_what_bends_unless_that_is_explained_and_what_weighs_too_much() -> None:
    bent = make_curve("cost", {x: [x**2] for x in X}, x_label="x", y_label="CPU µs a request")
    heavy = make_curve("memory of greenlets", {1: [0.0], 1024: [25.0]}, x_label="x", y_label="MiB")
    light = replace(heavy, y=[0.0, 15.0])
    assert judge([bent, heavy]) == [
        "cost grows worse than linear",
        "memory of greenlets: 25.0 KiB each, and not 20 KiB or less",
    ]
    assert judge([replace(bent, explained="as it must"), light]) == []
    assert weights([bent, light]) == {"memory of greenlets": pytest.approx(15, rel=0.01)}
    assert "YES" in table([bent])
    assert "YES" not in table([replace(bent, explained="as it must"), light])


# --- for real -----------------------------------------------------------------------------------


@pytest.fixture
def cost_server(mariadb: MariaDB) -> MariaDB:
    create_tables(mariadb)
    return mariadb


def test_a_tiny_run_of_what_needs_no_http(cost_server: MariaDB) -> None:
    plan = replace(
        QUICK,
        rows=[1, 50, 200],
        queries=[1, 5, 10],
        greenlets=[1, 200, 400],
        rounds=1,
        length=0.002,
        database=cost_server.params(DATABASE),
    )
    curves = {curve.name: curve for curve in measure(plan, ["rows", "queries", "greenlets"])}
    assert curves["result size, model instances"].x == [1, 50, 200]
    assert all(min(curve.y) >= 0 for curve in curves.values() if "memory" not in curve.name)
    assert curves["queries"].y[-1] > curves["queries"].y[0] > 0
    assert 2 < weights(list(curves.values()))["memory of greenlets asleep"] < 40


def test_a_tiny_run_over_http(cost_server: MariaDB) -> None:
    plan = replace(
        QUICK, connections=[1, 5, 80], rounds=1, requests=160, database=cost_server.params(DATABASE)
    )
    curves: list[Curve] = list(measure(plan, ["connections"]))
    assert [curve.x for curve in curves] == [[1, 5, 80]] * 6
    alone, _, db, *_ = curves
    assert 10 < min(alone.y) < min(db.y)


def test_the_program_writes_what_it_found(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.growth", "--quick", "--rounds", "1"),
            *("--parts", "queries", "--out", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert not done.returncode, done.stdout + done.stderr
    assert not done.stderr
    found = json.loads((tmp_path / "growth.json").read_text())
    assert [curve["name"] for curve in found["curves"]] == ["queries", "memory, queries"]
    assert {"x", "y", "x_label", "y_label", "fit", "worse_than_linear"} <= set(found["curves"][0])
    assert set(found["curves"][0]["fit"]) == {"a", "b", "exponent"}
    assert "| queries, CPU µs a request |" in done.stdout


def test_the_crowd_uses_each_connection_and_refuses_an_answer_that_is_no_200(
    cost_server: MariaDB,
) -> None:
    arguments = ("--way", "greentor", "--pool", "2")
    database = cost_server.params(DATABASE)
    with (
        started("bench.split.server", *arguments, database=database, core=None) as server,
        Crowd(server.port, 70, "/handler/db") as crowd,
    ):
        before = [each.fileno() for each in crowd._idle]
        assert len(crowd) == 70
        crowd.send("/handler/db", 35, 7)
        used = [each.fileno() for each in crowd._idle][-35:]
        assert sorted(used) == sorted(before[:35])
        with pytest.raises(Failure, match="404"):
            crowd.send("/nothing", 1, 1)


def test_an_answer_is_whole_when_its_body_is() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert [is_whole(part, "/") for part in (head[:20], head, head + b"1234", head + b"12345")] == [
        False,
        False,
        False,
        True,
    ]
    with pytest.raises(Failure, match="closed"):
        is_whole(b"", "/")
