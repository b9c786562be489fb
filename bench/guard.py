"""Whether ours has become slower, next to others: ``python -m bench.guard``, `make bench-check`.

Measures greentor against the blocking floor and against threads, in a few short rounds, and compares the
ratios with those that are committed: they say the same on another machine, as rates do not. A pair that
fell is measured once more, with twice the rounds, before it is called a failure.

What is committed is `SAVED`, beside the report, or the report itself where there is none: ``--save`` writes
it, from more rounds of these few pairs than a whole comparison has time for.

Exits with 0; with 1 if a ratio fell by more than a tenth; with 2 if there is nothing to compare with, or
nothing could be measured.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.__main__ import DATABASE, LOGS, fill
from bench.compare import machine, ratios
from bench.compare.load import LOADS, Ab, Wrk, missing
from bench.compare.measure import Gauge
from bench.compare.pace import Pace
from bench.compare.progress import open_progress
from bench.compare.ratios import OURS, Column, Ratio
from bench.compare.results import Results
from bench.compare.rounds import OF_THE_RULES, Comparison, Plan
from bench.compare.servers import Fleet
from bench.compare.workloads import WORKLOADS, Cell
from bench.peers import PEERS
from tests.mariadb import MariaDB

AGAINST = ("floor", "threads-pymysql")
WATCHED = ("db", "queries-20", "fortunes", "updates-20")
#: what ``--save`` writes, and in how many times the usual rounds
SAVED, MORE = "guard.json", 3
#: how much of a committed ratio must be left
LEAST = 0.9


class NothingToCompare(Exception):
    """The committed report is not there, or lacks what is watched."""


@dataclass(frozen=True)
class Pair:
    """A workload, and the peer that ours is compared with on it."""

    workload: str
    against: str

    def __str__(self) -> str:
        return f"{self.workload}, {self.against}"


Found = dict[Pair, Ratio | None]
#: measures pairs in so many rounds
Measure = Callable[[Collection[Pair], int], Found]

PAIRS = [Pair(workload, against) for workload in WATCHED for against in AGAINST]


@dataclass(frozen=True)
class Verdict:
    """What a pair's ratio was in the committed report, and what it is."""

    pair: Pair
    committed: float
    now: float | None
    again: bool = False

    @property
    def kept(self) -> bool:
        return self.now is not None and self.now >= LEAST * self.committed

    def __str__(self) -> str:
        now = "-" if self.now is None else f"{self.now:.2f}"
        word = "kept" if self.kept else "FELL" if self.now is not None else "NOT MEASURED"
        again = ", measured twice" if self.again else ""
        return f"{self.pair!s:<30}{self.committed:>10.2f}{now:>8}  {word}{again}"


def committed(report: Path, saved: bool = True) -> tuple[Results, dict[Pair, float]]:
    """Read what is committed, the report itself if not ``saved``.

    Raise `NothingToCompare` if it is not there or lacks a pair.
    """
    path = report / SAVED
    if not (saved and path.is_file()):
        path = report / "results.json"
    try:
        results = Results.load(path)
    except FileNotFoundError:
        raise NothingToCompare(f"there is no {path}: run `make bench`, and commit it") from None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise NothingToCompare(f"{path} is not a report: {exc!r}") from None
    found = {
        pair: value.median
        for pair, value in ratios_of(results, PAIRS).items()
        if value is not None and math.isfinite(value.median)
    }
    if lacking := [str(pair) for pair in PAIRS if pair not in found]:
        raise NothingToCompare(f"{path} lacks {'; '.join(lacking)}: run `make bench` in full")
    return results, found


def ratios_of(results: Results, pairs: Iterable[Pair]) -> Found:
    """Return the ratios of ours, at the usual number of connections."""
    found = ratios.cells(results.samples)
    usually = ratios.usual(found)

    def of(pair: Pair) -> Ratio | None:
        column = Column(pair.workload, usually)
        return ratios.ratio(found.get((OURS, column)), found.get((pair.against, column)))

    return {pair: of(pair) for pair in pairs}


def judge(before: dict[Pair, float], measure: Measure, rounds: int) -> list[Verdict]:
    """Measure all pairs, and those that fell once more with twice the rounds."""

    def verdict(pair: Pair, value: Ratio | None, again: bool = False) -> Verdict:
        return Verdict(pair, before[pair], value and value.median, again)

    now = {pair: verdict(pair, value) for pair, value in measure(list(before), rounds).items()}
    fell = [pair for pair, each in now.items() if not each.kept]
    if fell:
        for pair, value in measure(fell, 2 * rounds).items():
            now[pair] = verdict(pair, value, again=True)
    return list(now.values())


def measure_pairs(
    pairs: Collection[Pair], rounds: int, seconds: float, report: Results, load: Wrk | Ab
) -> Results:
    """Measure as the report was: with its pool sizes and its number of connections."""
    connections = ratios.usual(ratios.cells(report.samples))
    names = dict.fromkeys([OURS, *(pair.against for pair in pairs)])
    workloads = dict.fromkeys(pair.workload for pair in pairs)
    plan = Plan(
        cells=[Cell(WORKLOADS[name], connections) for name in workloads],
        rounds=rounds,
        seconds=seconds,
        connections=connections,
        sweep_rounds=0,
        crowd_rounds=0,
    )
    peers = {name: PEERS[name] for name in names}
    results = Results(about=dict(report.about), chosen=report.chosen)
    cores = machine.Cores.split()
    with (
        machine.pinned(cores.others),
        open_progress() as progress,
        MariaDB(max_connections=plan.places(peers.values())) as mariadb,
    ):
        mariadb.create_database(DATABASE)
        params = mariadb.params(DATABASE)
        fill(params)
        with Fleet(peers, params, LOGS, cores=cores.server) as fleet:
            gauge = Gauge(fleet, load, mariadb, Pace((*cores.server, *cores.others)))
            run = Comparison(plan, peers, gauge, results, progress, mariadb.url(DATABASE))
            # The rules are not looked at: that is what the tests and the report are for.
            progress.expect(run.duration() - len(peers) * OF_THE_RULES)
            run.measure()
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each pair, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.guard", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--report", type=Path, default=Path("bench/report"), help="bench/report")
    parser.add_argument("--rounds", type=int, default=5, help="5")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run of the load: 1")
    parser.add_argument("--save", action="store_true", help=f"write {SAVED}: to be committed")
    options = parser.parse_args(arguments)
    try:
        report, before = committed(options.report, not options.save)
    except NothingToCompare as exc:
        print(exc, file=sys.stderr)
        return 2
    name = report.about.get("options", {}).get("load", "wrk")
    load = LOADS[name]()
    if lack := missing(load):
        print(f"{lack}; the report was measured with it", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # or else the servers would be left behind
        signal.signal(number, signal.default_int_handler)

    def measure(pairs: Collection[Pair], rounds: int) -> Found:
        return ratios_of(measure_pairs(pairs, rounds, options.seconds, report, load), pairs)

    if options.save:
        found = measure_pairs(PAIRS, MORE * options.rounds, options.seconds, report, load)
        found.about |= machine.describe(machine.Cores.split())
        found.save(options.report / SAVED)
        for pair, value in ratios_of(found, PAIRS).items():
            print(f"{pair!s:<30}{value or '-'}")
        return 0
    return tell(judge(before, measure, options.rounds))


def tell(verdicts: Iterable[Verdict]) -> int:
    """Print the verdicts; return the exit status."""
    verdicts = list(verdicts)
    print(f"{OURS + ' against':<30}{'committed':>10}{'now':>8}")
    for each in verdicts:
        print(each)
    return 0 if all(each.kept for each in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
