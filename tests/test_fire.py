"""The trials of `bench.fire`, shortened: the pool and the lives of requests stand them.

A few seconds each; docs/under-fire.md tells how to run them in full, and what was seen then.
"""

from pathlib import Path

import pytest

from bench.fire.__main__ import main
from tests.noise import undisturbed

TRIALS = {
    "bound": ["--requests", "600", "--clients", "100"],
    "kill": ["--clients", "50", "--seconds", "3", "--down", "1", "--rounds", "1"],
    # A stall in 3 s is seen in p99; whoever is passed over is found by its share of the answers.
    "fair": ["--clients", "120", "--pool", "30", "--seconds", "3", "--spread", "12"],
    # How far memory grows until caches are full says nothing.
    "level": ["--requests", "800", "--batches", "4", "--growth", "inf"],
}


@pytest.mark.parametrize("trial", TRIALS)
def test_it_stands_the_trial(trial: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stand() -> None:
        status = main([trial, *TRIALS[trial], "--out", str(tmp_path)])
        said = capfd.readouterr().out.splitlines()
        assert status == 0, [line for line in said if "MISSED" in line]

    # A stall is spread unevenly over the requests, and may last until their time is over.
    undisturbed(stand, 0.05)
