"""`bench.compare` treats all peers alike, names every failure, and leaves nothing running.

How it measures one of them: `test_bench_compare_servers`. How fast anything is, is no matter here.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import __main__ as command
from bench.compare import load, machine, progress, rounds, verify
from bench.compare.results import Fairness, Results, Sample
from bench.compare.servers import ServerFailed
from bench.compare.workloads import WORKLOADS, Cell, select
from bench.peers import PEERS, Peer
from tests.waiting import wait_until


def sample(peer: str = "a", pool: int = 8, rate: float = 100, failed: int = 0) -> Sample:
    served = round(rate * 2)
    return Sample(
        *(peer, pool, "db", 64, 0, 2.0, served + failed, served, {"status": failed}),
        *(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7, 8.0),
    )


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "greentor,nobody"], "no peer 'nobody'; known: greentor, "),
        (["--workloads", "db,nothing"], "no workload 'nothing'; known: json, "),
        (["--load", "siege"], "invalid choice: 'siege'"),
        (["--rounds", "-1"], "--rounds is 1 at least"),
        (["--judged-rounds", "-1"], "--judged-rounds is 0 at least"),
        (["--seconds", "0.01"], "--seconds is 0.1 at least"),
        (["--connections", "0"], "--connections is 1 at least"),
        (["--processes", "0"], "--processes is 1 at least"),
        (["--pool", "0"], "--pool is 1 at least"),
    ],
)
def test_an_option_that_is_none_is_an_error_that_says_what_is_known(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        command.main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_left_out_and_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = Peer("missing", "", "missing", ("Django", "no-such-package-as-this"))
    monkeypatch.setitem(PEERS, "missing", peer)
    results = Results()
    assert list(command.present(["missing", "floor"], results)) == ["floor"]
    assert "no-such-package-as-this; `make bench`" in results.left_out["missing"]
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "rounds"),
    [([], 8), (["--quick"], 2), (["--judged-rounds", "0"], 0), (["--judged-rounds", "3"], 3)],
)
def test_what_is_judged_has_further_rounds_unless_there_are_to_be_none(
    arguments: list[str], rounds: int
) -> None:
    assert command.parse(arguments).judged_rounds == rounds


def test_a_peer_that_serves_nothing_of_what_is_measured_is_left_out_and_said_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    peers = {name: PEERS[name] for name in ("floor", "tornado-alone")}
    results = Results()
    assert list(command.useful(peers, select(["db"], 64), results)) == ["floor"]
    assert results.left_out == {"tornado-alone": "it serves json, plaintext, sleep-50 only"}
    assert capsys.readouterr().err.count("\n") == 1
    assert command.useful(peers, select(["db", "json"], 64), Results()) == peers


def test_a_workload_that_ab_cannot_send_is_left_out_and_said_so() -> None:
    results = Results()
    cells = command.sendable(load.Ab(), select(None, 64), results)
    assert {"mixed", "plaintext"} == set(results.left_out)
    assert {cell.workload.name for cell in cells} == set(WORKLOADS) - set(results.left_out)


def test_workloads_are_taken_by_their_names_or_by_that_of_several() -> None:
    assert [str(each) for each in select(["queries", "db"], 40, quick=True)] == [
        *(f"queries-{n}, 40 connections" for n in (1, 5, 10, 15, 20)),
        "db, 40 connections",
    ]
    assert [each.connections for each in select(["sleep-50"], 40)] == [64, 256, 1000]
    assert [each.connections for each in select(["db"], 40)] == [16, 32, 40, 64, 128, 256, 512]
    assert len(select(["db"], 64)) == 6


# --- the order, and the best pool -------------------------------------------------------------


def test_the_best_pool_is_that_with_the_best_median_and_without_failures() -> None:
    cell = Cell(WORKLOADS["db"], 64)
    sweep = [
        *(sample("a", 8, rate) for rate in (100, 110, 900)),
        *(sample("a", 32, rate) for rate in (120, 130, 125)),
        *(sample("a", 256, 500, failed) for failed in (0, 1, 0)),
        sample("b", 8, 5000),
    ]
    assert rounds.choose(sweep, "a", cell) == 32
    assert rounds.choose([each for each in sweep if each.pool == 256], "a", cell) == 256
    some = [sample("a", 8, 100, failed=9), sample("a", 32, 90, failed=2)]
    assert rounds.choose(some, "a", cell) == 32


def test_a_peer_whose_pool_sizes_could_not_be_tried_takes_the_usual_one_and_ends_no_run() -> None:
    recorder = Recorder()
    one = comparison(recorder)
    one._shut["threads"] = {"/db": "it does not keep the rules"}
    one.sweep()
    assert one.results.chosen["threads"] == {"cpu": 32, "updates": 256, "sleep": 256}
    assert not [peer for peer, _, cell, _ in recorder.taken if peer == "threads" and "db" in cell]


class Recorder:
    """In place of a fleet and a gauge: nothing is started, all that is asked for is noted."""

    def __init__(self, broken: Mapping[str, str] = {}, dying: tuple[str, int] = ("", 0)) -> None:
        self.broken, self.dying = broken, dying
        self.fleet = self
        self.up: dict[str, int] = {}
        self.taken: list[tuple[str, int, str, int]] = []

    def need(self, wanted: Mapping[str, int]) -> dict[str, str]:
        self.up = dict(wanted)
        return {name: why for name, why in self.broken.items() if name in wanted}

    def sample(self, peer: str, pool: int, cell: Cell, number: int, seconds: float) -> Sample:
        assert self.up[peer] == pool
        if peer == self.dying[0] and len(self.taken) >= self.dying[1]:
            raise ServerFailed("it has ended with 3")
        self.taken.append((peer, pool, str(cell), number))
        rate = {8: 10, 32: 30 if cell.workload.group == "cpu" else 5, 256: 20}.get(pool, 1)
        return Sample(
            *(peer, pool, cell.workload.name, cell.connections, number, 1.0, rate, rate, {}),
            *(0.0,) * 4,
            *(0.0, 0.0, 0, 0.0),
        )


FOUR = ("greentor", "floor", "threads", "gevent")


def comparison(
    recorder: Recorder, seed: int = 1, names: Sequence[str] = FOUR, **plan: Any
) -> rounds.Comparison:
    cells = select(["db", "fortunes", "updates-20", "sleep-50"], 64, quick=True)
    peers = {name: PEERS[name] for name in names}
    with open(os.devnull, "w") as nowhere:
        silent = progress.Progress(nowhere)
        silent.say = lambda line: None  # type: ignore[method-assign]
    return rounds.Comparison(
        rounds.Plan(cells, **({"rounds": 4, "seconds": 1.0, "connections": 64} | plan)),
        peers,
        recorder,  # type: ignore[arg-type]
        Results(),
        silent,
        "",
        random.Random(seed),
    )


def test_all_peers_are_measured_equally_often_and_next_to_each_other() -> None:
    recorder = Recorder()
    one = comparison(recorder)
    one.sweep()
    recorder.taken.clear()
    one.measure()
    times = Counter((peer, cell) for peer, _, cell, _ in recorder.taken)
    assert set(times.values()) == {4}
    assert len(times) == 4 * 4
    runs = [recorder.taken[at : at + 4] for at in range(0, len(recorder.taken), 4)]
    for run in runs:
        assert len({peer for peer, *_ in run}) == 4
        assert len({(cell, number) for _, _, cell, number in run}) == 1


def test_the_order_is_drawn_anew_for_each_round_and_is_the_same_for_a_seed() -> None:
    def orders(seed: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        recorder = Recorder()
        one = comparison(recorder, seed, sweep_rounds=0, rounds=6)
        one.sweep()
        one.measure()
        runs = [recorder.taken[at : at + 4] for at in range(0, len(recorder.taken), 4)]
        cells = [tuple(run[0][2] for run in runs[at : at + 4]) for at in range(0, len(runs), 4)]
        return [tuple(peer for peer, *_ in run) for run in runs], cells

    peers, cells = orders(5)
    assert len(set(peers)) > 5
    assert len(set(cells)) > 1
    assert orders(5) == (peers, cells)
    assert orders(6) != (peers, cells)


def test_each_pool_size_is_tried_and_the_best_is_taken_for_each_group() -> None:
    recorder = Recorder()
    one = comparison(recorder)
    one.sweep()
    tried = Counter((peer, pool) for peer, pool, *_ in recorder.taken)
    groups = 3
    assert tried == {
        (peer, pool): 2 * groups for peer in ("greentor", "threads") for pool in (8, 32, 256)
    }
    assert one.results.chosen == {
        "greentor": {"cpu": 32, "updates": 256, "sleep": 256},
        "threads": {"cpu": 32, "updates": 256, "sleep": 256},
        "floor": {"cpu": 1, "updates": 1, "sleep": 1},
        "gevent": {"cpu": 0, "updates": 0, "sleep": 0},
    }
    recorder.taken.clear()
    one.measure()
    assert {
        (pool, cell.partition(",")[0])
        for peer, pool, cell, _ in recorder.taken
        if peer == "threads"
    } == {(32, "db"), (32, "fortunes"), (256, "updates-20"), (256, "sleep-50")}


def test_a_given_pool_size_is_that_of_all_who_have_a_choice() -> None:
    one = comparison(Recorder(), pool=20)
    one.sweep()
    assert not one.results.sweep
    assert one.results.chosen["threads"] == {"cpu": 20, "updates": 20, "sleep": 20}
    assert set(one.results.chosen["floor"].values()) == {1}


def test_a_peer_that_dies_is_left_out_and_what_it_had_is_kept() -> None:
    recorder = Recorder(dying=("threads", 30))
    one = comparison(recorder, sweep_rounds=0)
    one.sweep()
    one.measure()
    assert "it has ended with 3" in one.results.left_out["threads"]
    had = [each for each in one.results.samples if each.peer == "threads"]
    assert 0 < len(had) < 16
    assert Counter(each.peer for each in one.results.samples)["floor"] == 16


def test_a_peer_that_does_not_start_is_left_out() -> None:
    one = comparison(Recorder({"gevent": "no answer within 60 s"}), sweep_rounds=0)
    one.sweep()
    one.measure()
    assert one.results.left_out == {"gevent": "no answer within 60 s"}
    assert {each.peer for each in one.results.samples} == {"greentor", "floor", "threads"}


def test_what_fails_a_rule_is_not_measured_and_a_warning_does_not_count() -> None:
    shut = verify.closed(
        [
            {"rule": "/db, 512 at once, 0.5 s, 9 queries", "verdict": "FAIL", "problems": ["9"]},
            {"rule": "/fortunes", "verdict": "WARN", "problems": ["more"]},
        ]
    )
    assert shut == {"/db": "/db, 512 at once, 0.5 s, 9 queries: 9"}
    one = comparison(Recorder(), sweep_rounds=0)
    one._judge("threads", shut)
    one._judge("gevent", {"all": "broken"})
    assert set(one.results.left_out) == {"threads, db", "gevent"}
    one.sweep()
    one.measure()
    measured = {(each.peer, each.workload) for each in one.results.samples}
    assert ("threads", "db") not in measured
    assert {("threads", "fortunes"), ("floor", "db")} <= measured
    assert "gevent" not in {peer for peer, _ in measured}
    assert verify.why_not(WORKLOADS["mixed"].routes, shut)
    assert not verify.why_not(WORKLOADS["page"].routes, shut)


# --- what is judged -----------------------------------------------------------------------------


def judged(recorder: Recorder, names: Sequence[str] = FOUR, **plan: Any) -> rounds.Comparison:
    """Return a comparison whose further rounds have been measured, and are all that is recorded."""
    one = comparison(recorder, names=names, **({"sweep_rounds": 0, "judged_rounds": 3} | plan))
    one.sweep()
    one.measure()
    recorder.taken.clear()
    one.judged()
    return one


def test_what_is_judged_is_measured_in_further_rounds_by_those_whom_the_limits_name() -> None:
    recorder = Recorder()
    judged(recorder)
    times = Counter((cell.partition(",")[0], peer) for peer, _, cell, _ in recorder.taken)
    small = {(name, peer) for name in ("db", "fortunes", "updates-20") for peer in FOUR[:2]}
    # The best is not known beforehand: asleep all are measured.
    assert times == dict.fromkeys(small | {("sleep-50", peer) for peer in FOUR}, 3)


def test_the_samples_of_a_further_round_are_close_together_and_it_has_a_number_of_its_own() -> None:
    recorder = Recorder()
    one = judged(recorder)
    runs = [list(run) for _, run in itertools.groupby(recorder.taken, key=lambda each: each[2:])]
    assert len(runs) == 3 * 4
    assert [number for [(*_, number), *_] in runs] == [4] * 4 + [5] * 4 + [6] * 4
    assert len({tuple(peer for peer, *_ in run) for run in runs if len(run) == 4}) > 1
    by_round = Counter((each.peer, each.workload, each.round) for each in one.results.samples)
    assert set(by_round.values()) == {1}


def test_what_is_not_judged_is_measured_as_often_as_without_further_rounds() -> None:
    for further in (0, 3):
        recorder = Recorder()
        one = judged(recorder, judged_rounds=further)
        had = Counter((each.peer, each.workload) for each in one.results.samples)
        assert had["threads", "db"] == had["gevent", "fortunes"] == 4
        assert had["greentor", "db"] == had["gevent", "sleep-50"] == 4 + further


def test_a_further_round_starts_no_server_that_is_not_measured_in_it() -> None:
    recorder = Recorder()
    ups = []
    need = recorder.need
    recorder.need = lambda wanted: ups.append(set(wanted)) or need(wanted)  # type: ignore[method-assign]
    one = judged(recorder)
    assert ups[-9:].count({"greentor", "floor"}) == 6
    assert ups[-9:].count(set(FOUR)) == 3
    assert one.results.left_out == {}


def test_a_further_round_is_without_whom_was_left_out_and_there_is_none_without_ours() -> None:
    recorder = Recorder()
    one = comparison(recorder, sweep_rounds=0, judged_rounds=2)
    one.sweep()
    one.results.left_out["gevent"] = "broken"
    one.judged()
    assert {peer for peer, *_ in recorder.taken} == {"greentor", "floor", "threads"}
    recorder.taken.clear()
    up = recorder.up
    one.results.left_out["greentor"] = "broken"
    one.judged()
    assert recorder.taken == []
    assert recorder.up is up  # nothing was started or ended for it


def test_further_rounds_take_the_time_that_is_expected_of_them() -> None:
    without, one = comparison(Recorder()), comparison(Recorder(), judged_rounds=3)
    samples = 3 * (3 * 2 + 4)
    a_sample = 1.0 + rounds.WARM_UP + rounds.OF_A_SAMPLE
    assert one.duration() - without.duration() == pytest.approx(samples * a_sample)
    done: list[float] = []
    one.sweep()
    one.progress.done = done.append  # type: ignore[method-assign]
    one.judged()
    assert sum(done) == pytest.approx(samples * a_sample)


# --- a ceiling ----------------------------------------------------------------------------------


def test_a_ceiling_is_measured_at_what_it_serves_and_no_crowd_is_sent_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowds: list[str] = []
    monkeypatch.setattr(
        rounds.Comparison,
        "_crowd",
        lambda self, name, *args: crowds.append(name) or crowded(name, 0),
    )
    recorder = Recorder()
    one = judged(recorder, ("greentor", "floor", "tornado-alone"))
    had = Counter(each.workload for each in one.results.samples if each.peer == "tornado-alone")
    assert had == {"sleep-50": 4 + 3}
    assert one.results.left_out == {}
    one.crowds()
    assert set(crowds) == {"greentor", "floor"}


def test_of_a_peer_that_does_not_serve_all_only_its_routes_are_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ports(Recorder):
        def __getitem__(self, name: str) -> Any:
            return SimpleNamespace(port=name)

    asked: dict[str, list[str]] = {}

    def look(port: Any, url: str, doing: Any, only: list[str]) -> list[verify.Rule]:
        asked[port] = only
        return []

    monkeypatch.setattr(rounds, "verify", look)
    comparison(Ports(), names=("floor", "tornado-alone")).verify()
    assert asked == {"floor": [], "tornado-alone": ["/json", "/plaintext", "/sleep"]}


def test_a_ceiling_takes_no_time_where_it_is_not_measured() -> None:
    names = ("greentor", "floor")
    without = comparison(Recorder(), names=names)
    one = comparison(Recorder(), names=(*names, "tornado-alone"))
    a_sample = 1.0 + rounds.WARM_UP + rounds.OF_A_SAMPLE
    rules = rounds.OF_THE_RULES + rounds.OF_A_START
    assert one.duration() - without.duration() == pytest.approx(rules + 4 * a_sample)


# --- progress and the end ---------------------------------------------------------------------


def test_the_time_left_follows_how_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with open(os.devnull, "w") as nowhere:
        one = progress.Progress(nowhere)
        one.expect(100)
        assert one.left() == 100
        now += 20
        one.done(10)
        assert one.left() == 180
        one.expect(-40)
        assert one.left() == 100
    assert [progress.clock(n) for n in (59, 61, 3720)] == ["59 s", "1 min 01 s", "1 h 02 min"]


def crowded(peer: str, failed: int) -> Fairness:
    return Fairness(peer, 8, "db", 512, 0, 1.0, 512, 512, 5.0, 4, 1.0, 2.0, failed, 7)


def test_every_failed_request_is_named_and_ours_make_the_command_fail() -> None:
    peers = {name: PEERS[name] for name in ("greentor", "floor")}
    results = Results(samples=[sample("greentor"), sample("floor", failed=3)])
    [line] = command.troubles(results)
    assert line == "failed requests: floor, pool 8: db, 64 connections: status 3"
    assert command.status(results, peers) == 0
    for field, value in (
        ("samples", sample("greentor", failed=1)),
        ("sweep", sample("greentor", failed=1)),
        ("fairness", crowded("greentor", 1)),
    ):
        failing = Results(**{field: [value]})  # type: ignore[arg-type]
        assert "greentor" in next(command.troubles(failing))
        assert command.status(failing, peers) == 1
    assert command.status(Results(left_out={"floor": "x"}), peers) == 0
    assert command.status(Results(left_out={"greentor, db": "x"}), peers) == 1


# --- the whole --------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]
MARK = "BENCH_COMPARE_TEST"


@contextmanager
def bench(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a directory of its own; have it end what it started."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), MARK: str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "--load", "ab", "--out", "out", *arguments],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    process.communicate(timeout=60)
    finally:
        process.kill()


def test_an_interrupt_waits_until_what_is_started_is_known() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), machine.uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done


def left_running(tmp_path: Path) -> list[str]:
    """Return the processes that were started by the command, and by what it started."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and machine.alive(int(entry.name)):
                environ = (entry / "environ").read_bytes().split(b"\0")
                if f"{MARK}={tmp_path}".encode() in environ:
                    found.append((entry / "cmdline").read_text())
    return found


# Three peers under all rules: half a minute, but longer on a machine that has other things to do.
@pytest.mark.timeout(500)
def test_a_run_verifies_measures_and_writes_what_can_be_read_again(tmp_path: Path) -> None:
    if lack := load.missing(load.Ab()):
        pytest.skip(lack)
    with bench(
        tmp_path,
        *("--peers", "greentor,floor,threads-pymysql", "--workloads", "db,sleep-50", "--quick"),
        *("--seconds", "0.5", "--rounds", "1", "--judged-rounds", "1", "--connections", "8"),
        *("--seed", "3"),
    ) as process:
        printed, errors = process.communicate(timeout=400)
    assert process.returncode == 0, printed + errors
    results = Results.load(tmp_path / "out" / "results.json")
    times = Counter((each.peer, each.workload, each.connections) for each in results.samples)
    assert times == {
        (peer, *cell): 2
        for peer in ("greentor", "floor", "threads-pymysql")
        for cell in (("db", 8), ("sleep-50", 256))
    }
    assert all(each.served and not each.failed for each in results.samples)
    assert all(each.cpu > 0 and each.database_cpu > 0 for each in results.samples)
    for each in results.samples:
        if each.workload == "db":
            assert 1 <= each.statements < 1.5
    assert len(results.verified) == 3
    assert len(results.fairness) == 2 * 3
    assert results.about["seed"] == 3
    assert results.about["options"]["judged_rounds"] == 1
    assert {each.round for each in results.samples} == {0, 1}
    assert "Django" in results.peers["floor"]["packages"]
    assert not left_running(tmp_path)


def test_ctrl_c_ends_what_was_started_and_keeps_what_there_is(tmp_path: Path) -> None:
    if lack := load.missing(load.Ab()):
        pytest.skip(lack)
    with bench(tmp_path, "--peers", "floor", "--workloads", "db", "--quick") as process:
        log = tmp_path / ".cache" / "bench" / "floor.log"
        wait_until(log.exists, timeout=60)
        assert len(left_running(tmp_path)) > 2
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == command.INTERRUPTED, printed + errors
    assert Results.load(tmp_path / "out" / "results.json").about["interrupted"] is True
    wait_until(lambda: not left_running(tmp_path), timeout=10)
