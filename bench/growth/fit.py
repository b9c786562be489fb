"""How a curve grows: a fit of y = a + b * x ** k, and whether that is worse than in proportion to x.

Invariants
- No more is claimed than the points tell: what rises by less than `SMALL` of its mean is constant.
- Worse than linear is judged on the points, not on the fit: on what the last step costs, and what the steps
  before it cost. A fit of six points may have an exponent of 1.05 for many reasons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: a rise that is not told from none, as a share of the mean
SMALL = 0.1
#: the last step may cost this much more for each x than those before it, and the last point lie this much
#: above the line through them
MARGINAL, ABOVE = 1.25, 1.10

_EXPONENTS = [number / 100 for number in range(10, 301)]


@dataclass(frozen=True)
class Fit:
    """y = a + b * x ** exponent."""

    a: float
    b: float
    exponent: float

    def __call__(self, x: float) -> float:
        return self.a + self.b * x**self.exponent


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Return the fit with the least squares, each weighted by the size of its y; neither part is negative."""
    most = max(map(abs, y))
    weights = [1 / (abs(each) + most / 20) ** 2 if most else 1.0 for each in y]
    mean = sum(map(float.__mul__, weights, map(float, y))) / sum(weights)
    constant = Fit(mean, 0.0, 0.0)
    if max(y[len(y) // 2 :]) - min(y) <= SMALL * mean:
        return constant
    best, least = constant, _error(constant, x, y, weights)
    for found in _candidates(x, y, weights):
        error = _error(found, x, y, weights)
        if error < least:
            best, least = found, error
    return best


def _candidates(x: Sequence[float], y: Sequence[float], weights: Sequence[float]) -> Iterator[Fit]:
    top = max(x)
    total = sum(weights)
    for exponent in _EXPONENTS:
        u = [(each / top) ** exponent for each in x]
        su = sum(w * v for w, v in zip(weights, u, strict=True))
        suu = sum(w * v * v for w, v in zip(weights, u, strict=True))
        sy = sum(w * v for w, v in zip(weights, y, strict=True))
        suy = sum(w * v * z for w, v, z in zip(weights, u, y, strict=True))
        divisor = total * suu - su * su
        if divisor <= 0:
            continue
        b = (total * suy - su * sy) / divisor
        a = (sy - b * su) / total
        if a < 0:
            a, b = 0.0, suy / suu
        if b > 0:
            yield Fit(a, b / top**exponent, exponent)


def _error(found: Fit, x: Sequence[float], y: Sequence[float], weights: Sequence[float]) -> float:
    return sum(w * (found(v) - z) ** 2 for v, z, w in zip(x, y, weights, strict=True))


def worse_than_linear(
    x: Sequence[float], low: Sequence[float], y: Sequence[float], high: Sequence[float]
) -> bool:
    """Tell whether the last step costs more for each x than the steps before it, by more than noise.

    ``low`` and ``high`` are what was measured at least and at most, ``y`` the medians. What disturbs a
    measurement makes it dearer, never cheaper: so what is bent must be so in the least values, too.
    Of fewer than three points nothing can be told.
    """
    if len(x) < 3:
        return False
    base, step = x[-2] - x[0], x[-1] - x[-2]
    worst = high[-2] + max(high[-2] - low[0], 0.0) / base * step
    return _bent(x, y) and _bent(x, low) and low[-1] > worst


def _bent(x: Sequence[float], y: Sequence[float]) -> bool:
    step = x[-1] - x[-2]
    before = max(y[-2] - y[0], 0.0) / (x[-2] - x[0])
    last = (y[-1] - y[-2]) / step
    return last > MARGINAL * before and y[-1] > ABOVE * (y[-2] + before * step)
