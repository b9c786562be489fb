"""A histogram of seconds: constant memory, and percentiles that are right to within a bucket.

The buckets are the same for all, ten for each power of ten, from 10 µs to 100 s. So two histograms can be
added, and subtracted: what came in between two moments is the difference.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from greentor.pool.stats import Timing

_STEPS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)

#: the upper bound of each bucket but the last, in seconds
BOUNDS: tuple[float, ...] = (
    *(float(f"{step}e{power}") for power in range(-5, 2) for step in _STEPS),
    100.0,
)


class Histogram:
    """Count durations by bucket."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: Sequence[int] | None = None, total: float = 0.0) -> None:
        #: how many fell into each bucket; one bucket more than there are `BOUNDS`
        self.counts = list(counts) if counts is not None else [0] * (len(BOUNDS) + 1)
        self.total = total

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram([a + b for a, b in pairs], self.total + other.total)

    def __sub__(self, earlier: Histogram) -> Histogram:
        """Return what has been added since a copy was made."""
        pairs = zip(self.counts, earlier.counts, strict=True)
        return Histogram([a - b for a, b in pairs], self.total - earlier.total)

    def copy(self) -> Histogram:
        return Histogram(self.counts, self.total)

    def percentile(self, fraction: float) -> float:
        """Return the duration that ``fraction`` of all did not exceed; 0 if there are none."""
        wanted = fraction * self.count
        if not wanted:
            return 0.0
        below = 0
        for index, count in enumerate(self.counts):
            if count and below + count >= wanted:
                low = BOUNDS[index - 1] if index else 0.0
                high = BOUNDS[min(index, len(BOUNDS) - 1)]
                return low + (high - low) * (wanted - below) / count
            below += count
        return BOUNDS[-1]

    def timing(self) -> Timing:
        """Return what there is to tell; ``max`` is the upper bound of the last bucket that is not empty."""
        last = max((index for index, count in enumerate(self.counts) if count), default=None)
        return Timing(
            count=self.count,
            total=self.total,
            p50=self.percentile(0.5),
            p90=self.percentile(0.9),
            p99=self.percentile(0.99),
            max=0.0 if last is None else BOUNDS[min(last, len(BOUNDS) - 1)],
        )
