"""What a trial has found: verdicts, figures, and series for the plots."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Result:
    """What one trial has found."""

    name: str
    #: in the order of the table
    figures: dict[str, Any] = field(default_factory=dict)
    #: whether it holds, and what
    verdicts: list[tuple[bool, str]] = field(default_factory=list)
    #: for the plots
    series: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(kept for kept, _ in self.verdicts)

    def demand(self, kept: bool, what: str) -> None:
        """Add a verdict, and print it."""
        self.verdicts.append((bool(kept), what))
        print(f"{'kept  ' if kept else 'MISSED'} {self.name}: {what}", flush=True)

    def none(self, found: Iterable[Any], what: str) -> None:
        """Demand that there is none of these, and show the first ones otherwise."""
        found = list(found)
        shown = "".join(f"\n         {each}" for each in found[:8])
        self.demand(not found, f"{what}: {len(found) or 'none'}{shown}")


def table(result: Result) -> str:
    """Return the figures and the verdicts in Markdown."""
    lines = [f"### {result.name}", "", "| figure | |", "|---|--:|"]
    lines += [f"| {name} | {show(value)} |" for name, value in result.figures.items()]
    lines += ["", *(f"- {'kept' if kept else 'MISSED'}: {what}" for kept, what in result.verdicts)]
    return "\n".join(lines)


def show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(result: Result, directory: Path) -> None:
    """Write results.json, with those of earlier trials, and the plots if matplotlib is installed."""
    path = directory / "results.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[result.name] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "passed": result.passed,
        "figures": result.figures,
        "verdicts": result.verdicts,
        "series": result.series,
    }
    path.write_text(json.dumps(known, indent=1))
    try:
        from bench.fire import plots
    except ImportError:
        print("no plot: matplotlib is not installed (pip install matplotlib)")
        return
    if draw := plots.PLOTS.get(result.name):
        draw(result.series, directory / f"{result.name}.png")


def slope(values: list[float], at: list[float]) -> tuple[float, float]:
    """Return the slope of a least-squares line and the half width of its 95% interval.

    Student's t of 10 degrees of freedom is taken: a little wide for more samples, narrow for fewer.
    """
    count = len(values)
    mean_x, mean_y = sum(at) / count, sum(values) / count
    spread = sum((x - mean_x) ** 2 for x in at)
    found = sum((x - mean_x) * (y - mean_y) for x, y in zip(at, values, strict=True)) / spread
    rest = sum((y - mean_y - found * (x - mean_x)) ** 2 for x, y in zip(at, values, strict=True))
    error = (rest / max(count - 2, 1) / spread) ** 0.5
    return found, 2.23 * error
