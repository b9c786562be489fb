"""The report of the comparison says of known results what is so."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from bench.compare import limits, ratios, report, tables
from bench.compare.limits import AtLeast, LessMemory, NobodyStarves, Reached, judge
from bench.compare.ratios import Column, ratio
from bench.compare.results import Results
from bench.peers import PEERS
from tests.bench_results import crowd, plausible, sample


def row_of(table: str, title: str) -> list[str]:
    """Return the cells of the row with this title."""
    [row] = [line for line in table.split("\n") if line.strip("| ").startswith(f"{title} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def section(text: str, title: str) -> str:
    return next(part for part in text.split("\n## ") if part.startswith(title))


# --- ratios -------------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_a_round() -> None:
    # By the medians of all rounds, 100 / 100, they would be equal.
    ours = [sample(round=number, rate=rate) for number, rate in enumerate((50, 100, 300))]
    theirs = [
        sample("floor", round=number, rate=rate) for number, rate in enumerate((100, 200, 50))
    ]
    found = ratio(ours, theirs)
    assert found == ratios.Ratio(median=0.5, low=0.5, high=6.0, rounds=3)


def test_a_round_that_one_of_both_lacks_is_left_out() -> None:
    ours = [sample(round=0, rate=100), sample(round=1, rate=900)]
    theirs = [sample("floor", round=2, rate=1), sample("floor", round=0, rate=50)]
    assert ratio(ours, theirs) == ratios.Ratio(2.0, 2.0, 2.0, 1)
    assert ratio(ours, [sample("floor", round=7)]) is None
    assert ratio(ours, None) is None


def test_a_peer_that_serves_nothing_is_infinitely_slower() -> None:
    found = ratio([sample(rate=100)], [sample("floor", rate=0)])
    assert found is not None
    assert found.median == float("inf")
    assert ratio([sample(rate=0)], [sample("floor", rate=0)]) is None


def test_failed_requests_are_in_no_rate() -> None:
    bad = dataclasses.replace(sample(rate=1000), served=2000, errors={"status": 2000})
    assert ratio([bad], [sample("floor", rate=1000)]) == ratios.Ratio(0.5, 0.5, 0.5, 1)


def test_of_several_pool_sizes_the_best_is_taken() -> None:
    found = ratios.cells([sample(rate=100, pool=8), sample(rate=300, pool=32), sample(rate=200)])
    assert [each.pool for each in found["greentor", Column("db", 64)]] == [32]


# --- the tables ---------------------------------------------------------------------------------


def test_failures_are_numbered_named_and_never_the_best() -> None:
    results = Results(
        samples=[
            sample(rate=1000),
            sample("floor", rate=900),
            sample("uvicorn", rate=2000, errors={"connect": 0, "timeout": 3, "status": 1204}),
        ]
    )
    text = report.text(results)
    rates = section(text, "Requests a second")
    assert row_of(rates, "uvicorn") == ["2,000 <sup>1</sup>"]
    assert row_of(rates, "**greentor**") == ["▲**1,000**"]
    assert row_of(section(text, "CPU µs a request"), "uvicorn") == ["500 <sup>1</sup>"]
    assert (
        "1. uvicorn, db, 64 connections, pool 0: 1,207 failed (timeout 3, status 1,204), 8,000 served"
        in (section(text, "Failures"))
    )


def test_failures_of_one_round_of_many_are_not_lost() -> None:
    results = plausible()
    bad = sample("floor", "db", 99, 1, errors={"read": 1})
    results.samples.append(bad)
    assert "<sup>" in "".join(row_of(section(report.text(results), "Requests a second"), "floor"))


def test_who_serves_nothing_at_all_is_named() -> None:
    text = report.text(Results(samples=[sample(rate=0), sample("floor", rate=0)]))
    assert row_of(section(text, "Requests a second"), "floor") == ["0 <sup>2</sup>"]
    assert "2. floor, db, 64 connections, pool 1: 0 failed, 0 served" in text


def test_a_missing_peer_or_workload_is_a_dash(tmp_path: Path) -> None:
    results = Results(
        samples=[sample(), sample("floor", "json"), sample("stranger", "unheard-of", pool=1)]
    )
    text = report.text(results)
    rates = section(text, "Requests a second")
    assert row_of(rates, "**greentor**") == ["-", "▲**1,000**", "-"]
    assert row_of(rates, "floor") == ["▲1,000", "-", "-"]
    assert row_of(rates, "stranger") == ["-", "-", "▲1,000"]
    assert row_of(section(text, "Requests a second of greentor"), "floor") == ["-", "-", "-"]


@pytest.mark.parametrize(
    "results", [Results(), Results(samples=[sample("floor")])], ids=["none", "floor"]
)
def test_a_report_of_almost_nothing_is_written(results: Results, tmp_path: Path) -> None:
    report.write(results, tmp_path)
    assert "not measured" in (tmp_path / "table.md").read_text()


def test_the_pool_size_that_was_taken_is_marked() -> None:
    results = Results(
        samples=[sample(pool=32)], sweep=[sample(pool=8, rate=70), sample(pool=32, rate=90)]
    )
    table = section(report.text(results), "Pool sizes")
    assert "| greentor | 8 | connections | 70 |" in table
    assert "| greentor | 32 | connections | **90** |" in table


def test_a_rule_that_is_not_kept_and_a_peer_that_was_left_out_are_named() -> None:
    results = Results(
        verified={
            "peewee": [
                {"rule": "/db", "problems": ["status 500"]},
                {"rule": "/json", "problems": []},
            ]
        },
        left_out={"gevent": "gevent is not installed"},
    )
    told = tables.verified_list(results)
    assert told == "- gevent was left out: gevent is not installed\n- peewee: /db: status 500"


def test_of_the_clients_served_the_worst_round_is_shown() -> None:
    results = Results(
        fairness=[
            crowd("gevent", "db", 512, number, served) for number, served in enumerate((512, 17))
        ]
    )
    assert "| db, 512 connections | gevent | 17 (3.3%) |" in tables.served_table(results)


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "kept"), [(1010, True), (990, False)])
def test_a_limit_against_a_peer(rate: float, kept: bool) -> None:
    results = Results(samples=[sample(rate=rate), sample("floor", rate=1000)])
    assert AtLeast("db", "floor", 1.0).judge(results).kept is kept


def test_a_limit_is_missed_if_requests_of_ours_fail() -> None:
    results = Results(samples=[sample(rate=5000, errors={"status": 1}), sample("floor")])
    judged = AtLeast("db", "floor", 1.0).judge(results)
    assert judged.kept is False
    assert "1 of our requests failed" in judged.found


@pytest.mark.parametrize(("rate", "kept"), [(0.86 * 5120, True), (0.84 * 5120, False)])
def test_a_limit_against_what_is_possible(rate: float, kept: bool) -> None:
    results = Results(samples=[sample("greentor", "sleep-50", 0, rate, 256)])
    judged = AtLeast("sleep-50", limits.PHYSICAL, 0.85, 256).judge(results)
    assert judged.kept is kept
    assert "5,120/s" in judged.limit


@pytest.mark.parametrize(("best", "kept"), [(4300, True), (4500, False)])
def test_a_limit_against_the_best_peer(best: float, kept: bool) -> None:
    rates = {"greentor": 4400, "greentor-uvloop": 9000, "gevent": 300, "granian": best}
    results = Results(
        samples=[sample(name, "sleep-50", 0, rate, 256) for name, rate in rates.items()]
    )
    judged = AtLeast("sleep-50", limits.BEST, 1.0, 256).judge(results)
    assert judged.kept is kept
    assert "against granian" in judged.found


@pytest.mark.parametrize(("served", "kept"), [(1000, True), (999, False)])
def test_everybody_must_be_served_in_every_round(served: int, kept: bool) -> None:
    rounds = [
        crowd("greentor", "sleep-50", 1000, 0),
        crowd("greentor", "sleep-50", 1000, 1, served),
    ]
    assert NobodyStarves("sleep-50", 1000).judge(Results(fairness=rounds)).kept is kept


@pytest.mark.parametrize(("mine", "kept"), [(150, True), (170, False)])
def test_memory_is_compared_with_the_pool_of_that_size(mine: float, kept: bool) -> None:
    results = Results(
        samples=[
            sample("greentor", "sleep-50", 0, 4000, 1000, memory=mine),
            sample("threads", "sleep-50", 0, 4000, 1000, pool=32, memory=90),
        ]
    )
    limit = LessMemory("sleep-50", 1000, "threads", 256)
    assert limit.judge(results).kept is None
    results.samples.append(sample("threads", "sleep-50", 0, 3000, 1000, pool=256, memory=160))
    assert limit.judge(results).kept is kept


def test_what_was_not_measured_is_not_kept() -> None:
    assert {each.kept for each in judge(Results())} == {None}
    assert {each.kept for each in judge(plausible())} == {True, False}


# --- the ceiling --------------------------------------------------------------------------------


def asleep(**rates: float) -> Results:
    """Return results of a round of sleep-50 at 256 connections."""
    return Results(
        samples=[
            sample(name.replace("_", "-"), "sleep-50", 0, rate, 256) for name, rate in rates.items()
        ]
    )


def test_a_ceiling_is_never_the_best_peer_that_ours_is_judged_against() -> None:
    results = asleep(greentor=2900, granian=2800, tornado_alone=3800)
    judged = AtLeast("sleep-50", limits.BEST, 1.0, 256).judge(results)
    assert (judged.kept, judged.found) == (True, "1.04 (1.04 to 1.04), against granian")
    alone = asleep(greentor=2900, tornado_alone=3800)
    assert AtLeast("sleep-50", limits.BEST, 1.0, 256).judge(alone).kept is None


def test_a_ceiling_is_called_one_in_every_table_and_never_marked_as_the_best() -> None:
    text = report.text(asleep(greentor=2900, granian=2800, tornado_alone=3800))
    rates = section(text, "Requests a second, ")
    assert row_of(rates, "tornado-alone (ceiling)") == ["3,800"]
    assert row_of(rates, "**greentor**") == ["▲**2,900**"]
    # As costly as granian, which is marked: it is the least that a peer costs.
    equal = report.text(asleep(granian=3800, tornado_alone=3800))
    costs = section(equal, "CPU µs a request, all")
    assert row_of(costs, "granian")[0].startswith("▲")
    assert not row_of(costs, "tornado-alone (ceiling)")[0].startswith("▲")
    of_each = section(text, "Requests a second of greentor, as a part")
    assert row_of(of_each, "tornado-alone (ceiling)") == ["0.76 (0.76 to 0.76)"]
    assert "| tornado-alone |" not in text


def test_what_ours_reaches_of_the_ceiling_is_shown_below_the_limits_and_is_none() -> None:
    results = asleep(greentor=2850, tornado_alone=3800)
    table = tables.limits_table(results).split("\n")[-4:]
    assert table[:2] == [
        "| sleep-50, 256 connections: what greentor reaches of tornado-alone, the ceiling"
        " | for comparison | 0.75 (0.75 to 0.75) |",
        "| sleep-50, 256 connections: what tornado-alone reaches of the physical limit, 5,120/s"
        " | for comparison | 0.74 (0.74 to 0.74), 3,800/s |",
    ]
    assert all(each.kept is not True for each in judge(results))
    assert all(line.endswith(" | not measured | - |") for line in table[2:])
    table = tables.limits_table(asleep(greentor=2850)).split("\n")[-4:]
    assert all(line.endswith(" | not measured | - |") for line in table)


def test_ours_on_httptools_is_compared_with_what_is_possible_and_with_the_best_and_judged_by_neither() -> (
    None
):
    results = asleep(greentor=1000, greentor_httptools=4096, granian=3200, tornado_alone=4500)
    table = tables.limits_table(results).split("\n")[-2:]
    assert table == [
        "| sleep-50, 256 connections: what greentor-httptools reaches of the physical limit, 5,120/s"
        " | for comparison | 0.80 (0.80 to 0.80), 4,096/s |",
        "| sleep-50, 256 connections: what greentor-httptools reaches of the best peer"
        " | for comparison | 1.28 (1.28 to 1.28), against granian |",
    ]
    assert all(each.kept is not True for each in judge(results))


def test_a_comparison_with_requests_that_failed_says_so() -> None:
    results = asleep(greentor=2850, tornado_alone=3800)
    results.samples.append(
        sample("tornado-alone", "sleep-50", 1, 3800, 256, errors={"timeout": 3, "read": 1})
    )
    shown = Reached("sleep-50", "greentor", "tornado-alone", 256).show(results)
    assert shown.found == "0.75 (0.75 to 0.75); 4 requests to tornado-alone failed"


# --- what is measured more often ----------------------------------------------------------------


def test_a_cell_is_judged_by_ours_and_by_those_whom_its_limits_name() -> None:
    everybody = list(PEERS)
    by = {
        (workload, connections): limits.judged_by(Column(workload, connections), 64, everybody)
        for workload, connections in (("db", 64), ("db", 128), ("json", 64), ("sleep-50", 64))
    }
    named = {"greentor", "floor", "uvicorn", "tornado-sqlalchemy", "threads-pymysql"}
    assert by.pop(("db", 64)) == named
    assert set().union(*by.values()) == set()
    assert limits.judged_by(Column("db", 40), 40, everybody) == named


def test_where_the_best_is_judged_all_who_compete_are_measured_as_nobody_knows_it_before() -> None:
    column = Column("sleep-50", 256)
    others = {name for name, peer in PEERS.items() if not peer.ours}
    assert limits.judged_by(column, 64, list(PEERS)) == {"greentor", "greentor-httptools", *others}
    left = ["greentor", "greentor-uvloop", "gevent"]
    assert limits.judged_by(column, 64, left) == {"greentor", "gevent"}


def test_what_cannot_be_judged_is_not_measured_for_that() -> None:
    column = Column("sleep-50", 256)
    assert limits.judged_by(column, 64, ["greentor"]) == {"greentor"}  # by what is possible
    assert limits.judged_by(column, 64, ["granian", "floor"]) == set()
    assert limits.judged_by(Column("db", 64), 64, ["greentor", "granian"]) == set()
    assert limits.judged_by(Column("db", 64), 64, ["floor", "uvicorn"]) == set()


def test_a_ratio_of_peers_that_are_in_more_rounds_is_of_the_rounds_that_both_are_in() -> None:
    # Further rounds have numbers of their own, and some of the peers only.
    ours = [sample(round=number, rate=rate) for number, rate in enumerate((100, 100, 300, 300))]
    judged = [sample("floor", round=number, rate=100) for number in range(4)]
    other = [sample("granian", round=number, rate=100) for number in range(2)]
    found = ratios.cells([*ours, *judged, *other])
    column = Column("db", 64)

    def of(peer: str) -> ratios.Ratio | None:
        return ratio(found["greentor", column], found[peer, column])

    assert of("floor") == ratios.Ratio(2.0, 1.0, 3.0, 4)
    assert of("granian") == ratios.Ratio(1.0, 1.0, 1.0, 2)


def test_how_many_further_rounds_there_were_is_told_and_so_is_that_there_were_none() -> None:
    options = {"rounds": 3, "judged_rounds": 0, "pool": None, "quick": False}
    assert tables.about_list({"options": options}) == "- options: rounds 3, judged rounds 0"


# --- the page -----------------------------------------------------------------------------------


def marked(*names: str) -> str:
    return "".join(
        f"Before {name}.\n<!-- generated: {name} -->\nold\n<!-- end -->\n" for name in names
    )


NAMES = ("rates", "ratios", "limits", "machine", *report.PLOTS)


def test_the_generated_parts_of_the_page_are_replaced(tmp_path: Path) -> None:
    out, page = tmp_path / "bench" / "report", tmp_path / "docs" / "page.md"
    out.mkdir(parents=True)
    page.parent.mkdir()
    (out / "latency.png").touch()
    page.write_text(marked(*NAMES))
    for _ in range(2):
        report.write_page(plausible(), out, page)
        text = page.read_text()
        assert "old" not in text
        assert text.count("Before") == len(NAMES)
        assert "](../bench/report/latency.png)" in text
        assert "memory.png" not in text
        assert len(row_of(text.split("\n\n")[1], "**greentor**")) == 8


@pytest.mark.parametrize("names", [NAMES[1:], (*NAMES, "more"), (*NAMES, "rates")])
def test_a_page_with_other_parts_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(marked(*names))
    with pytest.raises(ValueError, match="rates|more"):
        report.write_page(plausible(1), tmp_path, page)
    assert page.read_text() == marked(*names)


def test_the_real_page_can_be_filled(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text((Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text())
    report.write_page(plausible(1), tmp_path, page)
    assert "greentor-uvloop" in page.read_text()


# --- the command --------------------------------------------------------------------------------


def test_the_report_is_written_again_from_the_results(tmp_path: Path) -> None:
    results = Results(samples=[sample(), sample("floor")])
    results.save(tmp_path / "results.json")
    assert report.main([str(tmp_path)]) == 0
    assert (tmp_path / "table.md").read_text() == report.text(results)


def test_a_report_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "results.json" in capsys.readouterr().err


def test_two_runs_are_compared_by_ratios_the_farthest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = [sample(rate=1000), sample("floor", rate=1000), sample("uvicorn", rate=500)]
    # A machine that is twice as fast changes nothing; uvicorn has become slower than that.
    two = [sample(rate=2000), sample("floor", rate=2020), sample("uvicorn", rate=800)]
    for name, samples in (("one", one), ("two", two)):
        Results(samples=samples).save(tmp_path / name / "results.json")
    assert report.main([str(tmp_path / "one"), "--compare", str(tmp_path / "two")]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.strip() == "25.0%  db, 64 connections: greentor / uvicorn: 2.000, 2.500"
    assert second.strip() == "1.0%  db, 64 connections: greentor / floor: 1.000, 0.990"
    assert last == "2 ratios; median difference 13.0%; 1 within 5%"
    assert not (tmp_path / "one" / "table.md").exists()


def test_runs_without_a_ratio_in_common_can_be_compared() -> None:
    assert "no ratio" in report.comparison(plausible(1), Results())


# --- the plots ----------------------------------------------------------------------------------

SPLIT = {
    "rows": [
        {"name": name, "workload": "db", "parts": {"HTTP": 120.0, "bridge": bridge}, "total": 130.0}
        for name, bridge in (("greentor", 10.0), ("floor", -0.5))
    ]
}
CURVE = {
    "name": "CPU against the rows of a result",
    "x": [1, 10, 100],
    "y": [5.0, 14.0, 104.0],
    "x_label": "rows",
    "y_label": "µs",
    "fit": {"a": 4.0, "b": 1.0, "exponent": 1.0},
    "worse_than_linear": False,
}


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs matplotlib")
def test_every_plot_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(json.dumps(SPLIT))
    (tmp_path / "growth.json").write_text(json.dumps({"curves": [CURVE]}))
    results = plausible(2)
    results.samples += asleep(tornado_alone=4000).samples
    report.write(results, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(report.PLOTS)
