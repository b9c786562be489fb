"""Technical indicators: pure arithmetic over a series of closing prices.

Each function returns a list as long as the series, aligned with it; where too few values have gone before,
there is None. Periods are at least 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import fsum, sqrt
from typing import NamedTuple

Values = Sequence[float]
Indicator = list[float | None]


class MACD(NamedTuple):
    """Moving average convergence/divergence: the line, its own average, and their difference."""

    macd: Indicator
    signal: Indicator
    histogram: Indicator


class Bands(NamedTuple):
    """Bollinger bands: the moving average, and so many standard deviations above and below it."""

    upper: Indicator
    middle: Indicator
    lower: Indicator


def sma(values: Values, period: int) -> Indicator:
    """Return the simple moving average: the mean of the last ``period`` values."""
    return [
        fsum(values[end - period : end]) / period if end >= period else None
        for end in range(1, len(values) + 1)
    ]


def ema(values: Values, period: int) -> Indicator:
    """Return the exponential moving average; the mean of the first ``period`` values is its first."""
    return _smoothed(values, period, 2 / (period + 1))


def rsi(values: Values, period: int = 14) -> Indicator:
    """Return the relative strength index, from 0 to 100, with Wilder's smoothing.

    The first one needs ``period`` changes, hence a value more. A series that stands still has none of either
    gain or loss: it is 50.
    """
    changes = [after - before for before, after in itertools.pairwise(values)]
    gains = _smoothed([max(change, 0.0) for change in changes], period, 1 / period)
    losses = _smoothed([max(-change, 0.0) for change in changes], period, 1 / period)
    found: Indicator = [
        None if gain is None or loss is None else _strength(gain, loss)
        for gain, loss in zip(gains, losses, strict=True)
    ]
    return [None, *found][: len(values)]


def macd(values: Values, fast: int = 12, slow: int = 26, signal: int = 9) -> MACD:
    """Return the fast average less the slow one, the ``signal`` average of that, and what is between."""
    pairs = zip(ema(values, fast), ema(values, slow), strict=True)
    line: Indicator = [None if f is None or s is None else f - s for f, s in pairs]
    known = [value for value in line if value is not None]
    padding: Indicator = [None] * (len(line) - len(known))
    average = padding + ema(known, signal)
    histogram: Indicator = [
        None if a is None or m is None else m - a for m, a in zip(line, average, strict=True)
    ]
    return MACD(line, average, histogram)


def bollinger(values: Values, period: int = 20, width: float = 2) -> Bands:
    """Return the bands ``width`` standard deviations, of the population, around the moving average."""
    middle = sma(values, period)
    upper: Indicator = []
    lower: Indicator = []
    for end, mean in enumerate(middle, 1):
        if mean is None:
            upper.append(None)
            lower.append(None)
        else:
            window = values[end - period : end]
            deviation = sqrt(fsum((value - mean) ** 2 for value in window) / period)
            upper.append(mean + width * deviation)
            lower.append(mean - width * deviation)
    return Bands(upper, middle, lower)


def _smoothed(values: Values, period: int, weight: float) -> Indicator:
    """Start from the mean of the first ``period`` values and move by ``weight`` to each further one."""
    if len(values) < period:
        return [None] * len(values)
    average = fsum(values[:period]) / period
    found: Indicator = [None] * (period - 1) + [average]
    for value in values[period:]:
        average += weight * (value - average)
        found.append(average)
    return found


def _strength(gain: float, loss: float) -> float:
    return 100 * gain / (gain + loss) if gain + loss else 50.0
