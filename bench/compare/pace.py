"""`Pace`: whether the cores run as fast as they can, by how long a loop takes.

On a machine that is shared a core may run at half its speed for a second, and no clock of the system says
so. A sample beside which a core was slow says more of the neighbours than of the server: it is taken again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.compare import machine

#: turns of the loop: some milliseconds
TURNS = 100_000
#: a core is slow if the loop takes so many times as long as it did at best
SLOW = 1.15
#: seconds to wait for full speed before a sample, and how often a sample is taken at most
WAIT, TIMES = 1.0, 3


class Pace:
    """The speed of some cores, against the best that was seen of each."""

    def __init__(self, cores: Sequence[int] = ()) -> None:
        self._cores: list[tuple[int, ...]] = [(core,) for core in cores] or [()]
        self._best = [float("inf")] * len(self._cores)

    def look(self) -> float:
        """Return how many times as long as at best the loop takes on the core that is slowest."""
        slowest = 1.0
        for index, cores in enumerate(self._cores):
            with machine.pinned(cores):
                took = min(_loop(), _loop())
            self._best[index] = min(self._best[index], took)
            slowest = max(slowest, took / self._best[index])
        return slowest

    def wait(self) -> None:
        """Wait until no core is slow, at most `WAIT` seconds."""
        end = time.monotonic() + WAIT
        while self.look() > SLOW and time.monotonic() < end:
            time.sleep(0.05)


def _loop() -> float:
    before = time.perf_counter()
    for _ in range(TURNS):
        pass
    return time.perf_counter() - before
