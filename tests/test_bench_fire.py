"""`bench.fire` decides rightly: a trial that is not stood is missed. See `test_fire` for the trials."""

import json
from pathlib import Path

import pytest

from bench.fire import __main__ as command
from bench.fire import bound, level, load
from bench.fire.kill import NOTICE, Kill, Reply, due
from bench.fire.report import Result, slope, table, write

# --- whether a failure was due ----------------------------------------------------------------


def failed(held: list[tuple[int, float]], connecting: float | None = None) -> Reply:
    return Reply("t", 10.0, 11.0, 500, {"held": held, "connecting": connecting})


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (failed([(7, 10.1)]), "held when it was killed"),
        (failed([(3, 10.0), (7, 10.1)]), "held when it was killed"),
        (failed([(7, 10.52 + NOTICE / 2)]), "taken within 50 ms of the kill"),
        (failed([(7, 10.52 + NOTICE * 2)]), None),
        (failed([(3, 10.1)]), None),
        (failed([]), None),
        (failed([], connecting=10.4), "killed while being opened"),
        (failed([], connecting=10.9), None),
    ],
)
def test_a_failure_is_due_to_a_kill_of_a_connection_that_it_had(
    reply: Reply, cause: str | None
) -> None:
    kills = {7: Kill(10.5, 10.52), 8: Kill(10.5, 10.52)}
    assert due(reply, kills, ever_held={3, 7}) == cause


def test_a_kill_after_the_answer_excuses_nothing() -> None:
    assert due(failed([(7, 10.1)], 10.2), {7: Kill(11.1, 11.2), 8: Kill(11.1, 11.2)}, {7}) is None


def test_a_connection_that_somebody_else_held_was_not_killed_while_being_opened() -> None:
    assert due(failed([], connecting=10.4), {7: Kill(10.5, 10.52)}, ever_held={7}) is None


def test_a_token_of_somebody_else_is_a_wrong_answer_and_a_failure_is_none() -> None:
    assert Reply("t", 0, 1, 200, {"token": "u"}).wrong
    assert Reply("t", 0, 1, 0, {"error": "the connection was closed"}).wrong
    assert Reply("t", 0, 1, 404, {}).wrong
    assert not Reply("t", 0, 1, 503, {}).wrong
    assert Reply("t", 0, 1, 200, {"token": "t"}).right


# --- whether something levels off -------------------------------------------------------------


def series(rss: list[float], fds: list[int]) -> Result:
    result = Result("level")
    count = len(rss)
    result.series = {name: [3] * count for name in level.COUNTS}
    result.series.update(rss=rss, fds=fds, requests=[1000 * (n + 1) for n in range(count)])
    return result


def test_what_fills_its_caches_and_then_stays_is_level() -> None:
    result = series([1e6, 2e6, 3e6, 3.1e6, 3.1e6, 3.1e6], [8, 9, 10, 10, 9, 10])
    level.judge(result, level.GROWTH)
    assert result.passed


@pytest.mark.parametrize(
    ("rss", "fds"),
    [
        ([1e6, 2e6, 3e6, 4e6, 5e6, 6e6], [8] * 6),
        ([1e6] * 6, [8, 9, 10, 11, 12, 13]),
    ],
    ids=["memory", "files"],
)
def test_what_grows_is_missed(rss: list[float], fds: list[int]) -> None:
    result = series(rss, fds)
    level.judge(result, level.GROWTH)
    assert [kept for kept, _ in result.verdicts].count(False) == 1


def test_a_slope_comes_with_its_uncertainty() -> None:
    steady, none = slope([10.0, 20.0, 30.0, 40.0], [0, 1, 2, 3])
    assert (steady, none) == (pytest.approx(10), pytest.approx(0, abs=1e-9))
    found, error = slope([10.0, 11.0, 10.0, 11.0, 10.0, 11.0], [0, 1, 2, 3, 4, 5])
    assert abs(found) < error


# --- what is sent, and what is told -----------------------------------------------------------


def test_the_mix_has_every_kind_and_no_more_than_all() -> None:
    assert set(load.even(0.05)) == set(load.KINDS) - {"sleep"}
    assert sum(load.even(0.05).values()) == pytest.approx(1)
    assert sum(bound.FAULTS.values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="more than all"):
        load.even(0.5)


class Missing:
    """A trial that is not stood."""

    __doc__ = "Missed."

    @staticmethod
    def arguments(parser: object) -> None:
        pass

    @staticmethod
    def trial(options: object, out: Path) -> Result:
        result = Result("missing", {"a figure": 1.5})
        result.demand(True, "something")
        result.none(["a leak"], "leaks")
        return result


def test_a_trial_that_is_missed_ends_with_1_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "TRIALS", {"missing": Missing})
    assert command.main(["missing", "--out", str(tmp_path)]) == 1
    assert "MISSED missing: leaks: 1\n         a leak" in capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())["missing"]
    assert not found["passed"]
    assert found["figures"] == {"a figure": 1.5}
    assert "| a figure | 1.50 |" in (tmp_path / "missing.md").read_text()


def test_results_of_other_trials_are_kept(tmp_path: Path) -> None:
    write(Result("one"), tmp_path)
    write(Result("two"), tmp_path)
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"one", "two"}


def test_the_table_has_figures_and_verdicts() -> None:
    result = Result("name", {"whole": 1234, "part": 0.5, "text": "8 to 9"})
    result.demand(True, "it holds")
    assert table(result).splitlines()[4:] == [
        "| whole | 1,234 |",
        "| part | 0.50 |",
        "| text | 8 to 9 |",
        "",
        "- kept: it holds",
    ]
