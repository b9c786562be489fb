"""`Pace`: whether the cores run as fast as they usually do, by how long a loop takes.

On a machine that is shared a core may run at half its speed for a second, and no clock of the system says
so. A sample beside which a core was slow says more of the neighbours than of the server: it is taken again.

Usual is what the faster looks of the last minute had in common, and not the best that ever was: beside one
lucky moment a core would be slow for ever after. So a machine that has become slower is so for some samples.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from bench.compare import machine

#: turns of the loop: some milliseconds
TURNS = 100_000
#: a core is slow if the loop takes so many times as long as usual
SLOW = 1.15
#: how many looks are remembered, two to each time that a sample is taken; and the part of them that is faster
#: than what is usual: half of the looks may fall into moments of half the speed
WINDOW, FASTER = 40, 0.25
#: seconds to wait for full speed before a sample, and how often a sample is taken at most
WAIT, TIMES = 1.0, 3


class Pace:
    """The speed of some cores, against what is usual of each."""

    def __init__(self, cores: Sequence[int] = ()) -> None:
        self._cores: list[tuple[int, ...]] = [(core,) for core in cores] or [()]
        self._looks = [deque[float](maxlen=WINDOW) for _ in self._cores]

    def look(self) -> float:
        """Return how many times as long as usual the loop takes on the core that is slowest."""
        return self._slowest(remember=True)

    def wait(self) -> None:
        """Wait until no core is slow, at most `WAIT` seconds.

        Only the first look is remembered: many of one moment would make that moment the usual one.
        """
        end = time.monotonic() + WAIT
        slowest = self.look()
        while slowest > SLOW and time.monotonic() < end:
            time.sleep(0.05)
            slowest = self._slowest(remember=False)

    def _slowest(self, remember: bool) -> float:
        slowest = 1.0
        for cores, looks in zip(self._cores, self._looks, strict=True):
            with machine.pinned(cores):
                took = min(_loop(), _loop())
            if remember:
                looks.append(took)
            slowest = max(slowest, took / _usual(looks))
        return slowest


def _usual(looks: Sequence[float]) -> float:
    return sorted(looks)[int(FASTER * len(looks))]


def _loop() -> float:
    before = time.perf_counter()
    for _ in range(TURNS):
        pass
    return time.perf_counter() - before
