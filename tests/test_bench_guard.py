"""The guard fails when a ratio fell by more than a tenth, twice, and when it cannot tell."""

from collections.abc import Collection
from pathlib import Path

import pytest

from bench import guard
from bench.compare import ratios
from bench.compare.ratios import Column, ratio
from bench.compare.results import Results
from tests.bench_results import plausible

DB = guard.Pair("db", "floor")
PAGE = guard.Pair("fortunes", "threads-pymysql")


class Measured:
    """Answers with the ratios of the first run, then with those of the second."""

    def __init__(self, *runs: dict[guard.Pair, float | None]) -> None:
        self.runs, self.asked = list(runs), list[tuple[list[guard.Pair], int]]()

    def __call__(self, pairs: Collection[guard.Pair], rounds: int) -> guard.Found:
        self.asked.append((list(pairs), rounds))
        values = self.runs.pop(0)
        return {
            pair: None if value is None else ratios.Ratio(value, value, value, rounds)
            for pair, value in values.items()
        }


def test_a_ratio_may_fall_by_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    measure = Measured({DB: 0.9001, PAGE: 3.0})
    verdicts = guard.judge({DB: 1.0, PAGE: 2.0}, measure, rounds=3)
    assert guard.tell(verdicts) == 0
    assert measure.asked == [([DB, PAGE], 3)]
    assert "FELL" not in capsys.readouterr().out


def test_a_ratio_that_fell_farther_twice_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    measure = Measured({DB: 0.899, PAGE: 2.0}, {DB: 0.89})
    assert guard.tell(guard.judge({DB: 1.0, PAGE: 2.0}, measure, rounds=3)) == 1
    assert measure.asked == [([DB, PAGE], 3), ([DB], 6)]
    _, db, page = capsys.readouterr().out.splitlines()
    assert db.split() == ["db,", "floor", "1.00", "0.89", "FELL,", "measured", "twice"]
    assert page.endswith("kept")


def test_a_ratio_that_fell_once_was_noise() -> None:
    measure = Measured({DB: 0.5, PAGE: 2.0}, {DB: 0.95})
    assert guard.tell(guard.judge({DB: 1.0, PAGE: 2.0}, measure, rounds=3)) == 0


def test_a_pair_that_cannot_be_measured_is_a_failure() -> None:
    measure = Measured({DB: None}, {DB: None})
    assert guard.tell(guard.judge({DB: 1.0}, measure, rounds=1)) == 1


def test_the_guard_reads_the_ratios_of_the_report(tmp_path: Path) -> None:
    plausible().save(tmp_path / "results.json")
    _, before = guard.committed(tmp_path)
    found = ratios.cells(plausible().samples)
    column = Column("db", 64)
    expected = ratio(found["greentor", column], found["floor", column])
    assert expected is not None
    assert before[DB] == expected.median
    assert set(before) == set(guard.PAIRS)


def test_what_the_guard_has_saved_is_compared_with_in_place_of_the_report(tmp_path: Path) -> None:
    plausible(1).save(tmp_path / "results.json")
    plausible(2).save(tmp_path / guard.SAVED)

    def medians(results: Results) -> dict[guard.Pair, float]:
        found = guard.ratios_of(results, guard.PAIRS)
        return {pair: each.median for pair, each in found.items() if each is not None}

    assert guard.committed(tmp_path)[1] == medians(plausible(2))
    assert guard.committed(tmp_path, saved=False)[1] == medians(plausible(1))
    assert medians(plausible(1)) != medians(plausible(2))


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "run `make bench`"), ("[]", "is not a report"), ("lacking", "lacks fortunes, floor")],
)
def test_the_guard_says_what_is_wrong_with_the_report(
    content: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    if content == "lacking":
        results = plausible(1)
        results.samples = [each for each in results.samples if each.workload != "fortunes"]
        results.save(path)
    elif content:
        path.write_text(content)
    assert guard.main(["--report", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
