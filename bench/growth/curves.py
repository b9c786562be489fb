"""A curve: what was measured, how it grows, and how that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.growth.fit import Fit, fit, worse_than_linear

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Curve:
    """The medians of several rounds, with the least and the most of them."""

    name: str
    x: list[int]
    y: list[float]
    low: list[float]
    high: list[float]
    x_label: str
    y_label: str
    #: whether y is of one of the x: then what all of them cost together must not be worse than linear
    each: bool
    fit: Fit
    worse_than_linear: bool
    #: why it is no defect if it is
    explained: str = ""

    @property
    def slope(self) -> float:
        """What one more x costs, in y, over the whole range."""
        return (self.y[-1] - self.y[0]) / (self.x[-1] - self.x[0])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def make_curve(
    name: str,
    samples: Mapping[int, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
    each: bool = False,
    explained: str = "",
) -> Curve:
    """Return the curve of the samples of each x."""
    x = sorted(samples)
    y = [median(samples[at]) for at in x]
    low = [min(samples[at]) for at in x]
    high = [max(samples[at]) for at in x]
    judged = [
        [at * value for at, value in zip(x, values, strict=True)] if each else values
        for values in (low, y, high)
    ]
    return Curve(
        name=name,
        x=x,
        y=y,
        low=low,
        high=high,
        x_label=x_label,
        y_label=y_label,
        each=each,
        fit=fit(x, y),
        worse_than_linear=worse_than_linear(x, *judged),
        explained=explained,
    )


def table(curves: Iterable[Curve]) -> str:
    """Return the curves as a Markdown table: a few points of each, and how it grows."""
    lines = ["| what | against | points | a + b·xᵏ | worse than linear |", "|---|---|---|---|---|"]
    for curve in curves:
        points = ", ".join(f"{x:,}: {show(y)}" for x, y in zip(curve.x, curve.y, strict=True))
        found = curve.fit
        if found.exponent:
            formula = f"{show(found.a)} + {show(found.b)}·x^{found.exponent:.2f}"
        else:
            formula = f"{show(found.a)}, constant"
        verdict = "no"
        if curve.worse_than_linear:
            verdict = "yes, see below" if curve.explained else "YES"
        cells = [f"{curve.name}, {curve.y_label}", curve.x_label, points, formula, verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show(value: float) -> str:
    """Return a number with three digits that tell something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}"
