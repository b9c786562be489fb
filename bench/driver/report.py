"""The samples as ratios, a table and a plot, and the limits that our own driver keeps.

A ratio is taken within a round, and the median of these is shown: what slowed a round down cancels out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench.driver.clients import BLOCKING, OURS
from bench.driver.rounds import NO_LOOP, REFERENCE, Key, Samples
from bench.driver.workloads import WORKLOADS

ASYNC_REFERENCE = "aiomysql"


@dataclass(frozen=True)
class Limit:
    """The most that our driver may cost, as a part of another's cost."""

    workloads: tuple[str, ...]
    flight: int
    against: str
    ratio: float


LIMITS = [
    Limit(("one", "thousand"), 64, REFERENCE, 0.55),
    Limit(("one", "thousand"), 64, ASYNC_REFERENCE, 0.5),
    Limit(tuple(WORKLOADS), 1, REFERENCE, 1.0),
]


def peer(key: Key, driver: str) -> Key:
    """Return another driver's figure of the same workload: on the same loop, if it has one."""
    if driver in BLOCKING:
        return Key(key.workload, key.flight, driver, NO_LOOP)
    return Key(key.workload, key.flight, driver, key.loop)


def ratio(samples: Samples, key: Key, driver: str) -> float | None:
    """Return what a figure is of another driver's, round by round; None if that was not measured."""
    other = samples.get(peer(key, driver))
    if other is None:
        return None
    return median(one / two for one, two in zip(samples[key], other, strict=True))


def check(samples: Samples, loops: list[str]) -> Iterator[tuple[bool, str]]:
    """Yield of each limit whether it is kept, and what to say about it."""
    for limit in LIMITS:
        for name in limit.workloads:
            for loop in loops:
                key = Key(name, limit.flight, OURS, loop)
                found = ratio(samples, key, limit.against) if key in samples else None
                what = f"{name}, {limit.flight} in flight, {loop}: of {limit.against} at most {limit.ratio}"
                shown = "not measured" if found is None else f"{found:.3f}"
                yield found is not None and found <= limit.ratio, f"{what}: {shown}"


def table(samples: Samples) -> str:
    """Return the figures in Markdown, a table for each workload."""
    return "\n\n".join(
        f"### {WORKLOADS[name].title}\n\n" + _table(samples, name)
        for name in WORKLOADS
        if any(key.workload == name for key in samples)
    )


def _table(samples: Samples, name: str) -> str:
    lines = [
        f"| driver | loop | in flight | CPU µs a query | middle half | of {REFERENCE}'s"
        f" | of {ASYNC_REFERENCE}'s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    keys = [key for key in samples if key.workload == name]
    for key in sorted(keys, key=lambda key: (key.flight, median(samples[key]))):
        blocking = key.driver in BLOCKING
        low, high = spread(samples[key])
        cells = [
            f"**{key.driver}**" if key.driver == OURS else key.driver,
            "blocking" if blocking else key.loop,
            in_flight(key),
            figure(median(samples[key])),
            f"{figure(low)} to {figure(high)}",
            _ratio(ratio(samples, key, REFERENCE)),
            "" if blocking else _ratio(ratio(samples, key, ASYNC_REFERENCE)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_flight(key: Key) -> str:
    """Tell how many queries are under way, in truth."""
    one_by_one = key.driver in BLOCKING and key.flight > 1
    return f"{key.flight}, one by one" if one_by_one else str(key.flight)


def spread(values: list[float]) -> tuple[float, float]:
    """Return the first and the third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def as_json(samples: Samples) -> list[dict[str, Any]]:
    """Return all samples, with their medians and ratios."""
    return [
        {
            "workload": key.workload,
            "in_flight": key.flight,
            "driver": key.driver,
            "loop": key.loop,
            "median_us": median(values),
            "of_pymysql": ratio(samples, key, REFERENCE),
            "of_aiomysql": ratio(samples, key, ASYNC_REFERENCE) if key.loop != NO_LOOP else None,
            "samples_us": values,
        }
        for key, values in sorted(samples.items())
    ]


def plot(samples: Samples, path: Path) -> None:
    """Draw the ratios to blocking PyMySQL. Raise ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in WORKLOADS if any(key.workload == name for key in samples)]
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figures, panels = pyplot.subplots(
        lines, columns, figsize=(5 * columns, 5 * lines), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(panels.flat, names, strict=False):
        _bars(panel, name, samples)
    figures.savefig(path, dpi=110)
    pyplot.close(figures)


def _bars(panel: Any, name: str, samples: Samples) -> None:
    values = {key: ratio(samples, key, REFERENCE) or 0.0 for key in samples if key.workload == name}
    keys = sorted(values, key=lambda key: (-key.flight, -values[key]))
    labels = [
        f"{key.driver}, {key.loop if key.driver not in BLOCKING else 'blocking'}, {in_flight(key)}"
        for key in keys
    ]
    colours = [
        "tab:green" if key.driver == OURS else "0.45" if key.driver in BLOCKING else "0.75"
        for key in keys
    ]
    bars = panel.barh(labels, [values[key] for key in keys], color=colours)
    panel.bar_label(bars, [f"{values[key]:.2f}" for key in keys], padding=2, fontsize=7)
    panel.tick_params(labelsize=7)
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set_title(WORKLOADS[name].title, fontsize=9)
    panel.set_xlabel(f"CPU a query, blocking {REFERENCE} = 1", fontsize=8)
    panel.margins(x=0.15)
