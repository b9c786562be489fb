"""The plots of the trials; needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

Series = dict[str, list[Any]]


def bound(series: Series, path: Path) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.2), sharey=True)
    for each, name, title in zip(
        axes, ("clean", "faults"), ("without faults", "35% of the requests fail"), strict=True
    ):
        each.step(series[f"{name}_times"], series[f"{name}_connected"], where="post", lw=1)
        each.axhline(8, color="tab:red", lw=1, ls="--", label="bound")
        each.set(title=title, xlabel="seconds", ylim=(0, None))
    axes[0].set_ylabel("connections to the server")
    axes[0].legend(loc="lower right")
    save(figure, path)


def fair(series: Series, path: Path) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.2))
    served = series["served"]
    left.plot(served, lw=1)
    left.axhline(
        sum(served) / len(served) / 2, color="tab:red", lw=1, ls="--", label="half the mean"
    )
    left.set(xlabel="client, the slowest first", ylabel="requests served", ylim=(0, None))
    left.legend(loc="lower right")
    cuts = series["latency"]
    right.plot(range(1, 100), cuts, lw=1)
    right.axhline(2 * cuts[49], color="tab:red", lw=1, ls="--", label="2 x p50")
    right.set(xlabel="percentile", ylabel="latency, ms", ylim=(0, None))
    right.legend(loc="lower right")
    save(figure, path)


def level(series: Series, path: Path) -> None:
    names = ("rss", "fds", "tasks", "timers", "all greenlets", "cancelled timers")
    titles = ("memory, MiB", "files", "tasks", "timers", "greenlets", "cancelled timers")
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5), sharex=True)
    at = [number / 1000 for number in series["requests"]]
    for each, name, title in zip(axes.flat, names, titles, strict=True):
        values = series[name]
        if values[0] is None:
            each.set_visible(False)
            continue
        if name == "rss":
            values = [value / 2**20 for value in values]
        each.plot(at, values, lw=1, marker=".", ms=3)
        each.set(title=title, ylim=(0, max(1, *values) * 1.15))
    for each in axes[1]:
        each.set_xlabel("thousand requests")
    save(figure, path)


def dev(series: Series, path: Path) -> None:
    if not series.get("traced"):
        return
    figure, axes = pyplot.subplots(figsize=(5, 3.2))
    at = [number / 1000 for number in series["requests"]]
    axes.plot(at, [value / 2**20 for value in series["traced"]], lw=1, marker=".")
    axes.set(xlabel="thousand requests", ylabel="traced memory, MiB", ylim=(0, None))
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


PLOTS: dict[str, Callable[[Series, Path], None]] = {
    "bound": bound,
    "fair": fair,
    "level": level,
    "dev": dev,
}
