"""The plots that are lines: latency and memory against connections, and how cost grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.compare import drawing, ratios, tables
from bench.compare.drawing import BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from bench.compare.ratios import SLEEP
from bench.compare.results import Sample

#: the peers that get a line, and how it looks
LINES: dict[str, dict[str, Any]] = {
    "greentor": {"color": BLUE, "lw": 2.6, "marker": "o", "zorder": 5},
    "greentor-uvloop": {"color": SKY, "lw": 2.2, "marker": "o", "zorder": 4},
    "floor": {"color": "black", "ls": "--", "marker": "s"},
    "threads": {"color": ORANGE, "marker": "^"},
    "granian": {"color": GREEN, "marker": "v"},
    "gevent-persistent": {"color": PURPLE, "marker": "D"},
    "uvicorn": {"color": RED, "marker": "P"},
    "tornado-sqlalchemy": {"color": DARK, "marker": "X"},
}


def latency(found: ratios.Cells, path: Path) -> None:
    """Draw p50 and p99 on db."""
    figure, panels = drawing.new(2, 2, 4.6)
    for panel, of, title in zip(panels, (tables.p50, tables.p99), ("p50", "p99"), strict=True):
        _against_connections(panel, found, "db", of)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(drawing.plain))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set(title=f"{title}, db", ylabel="latency, ms")
    drawing.same_limits(panels)
    _name_lines(panels)
    drawing.save(figure, path)


def memory(found: ratios.Cells, path: Path) -> None:
    """Draw the memory of the server's processes, on db and asleep."""
    figure, panels = drawing.new(2, 2, 4.6)
    for panel, workload in zip(panels, ("db", SLEEP), strict=True):
        _against_connections(panel, found, workload, tables.memory)
        panel.set(title=workload, ylabel="memory, MiB")
        panel.set_ylim(0, None)
    drawing.same_limits(panels)
    _name_lines(panels)
    drawing.save(figure, path)


def _against_connections(
    panel: Any, found: ratios.Cells, workload: str, of: Callable[[list[Sample]], float]
) -> None:
    sizes: set[int] = set()
    for name, look in LINES.items():
        points = sorted(
            (column.connections, of(samples))
            for (peer, column), samples in found.items()
            if peer == name and column.workload == workload
        )
        points = [(size, value) for size, value in points if value > 0]
        if points:
            sizes.update(size for size, _ in points)
            panel.plot(*zip(*points, strict=True), label=name, **{"ms": 4, "lw": 1.4, **look})
    panel.set_xscale("log", base=2)
    panel.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
    panel.minorticks_off()
    panel.set_xlabel("connections")
    panel.grid()


def _name_lines(panels: Iterable[Any]) -> None:
    """Write each line's name at its right end, moved apart where they would overlap."""
    for panel in panels:
        panel.figure.canvas.draw()  # the transformations are known from now on
        to_pixels, back = panel.transData, panel.transAxes.inverted()
        # A line that ends before the others would have its name among them.
        ends = [(line, line.get_xdata()[-1], line.get_ydata()[-1]) for line in panel.lines]
        if not ends:
            continue
        heights = [back.transform(to_pixels.transform((x, y)))[1] for _, x, y in ends]
        room = 0.045
        placed = _apart(heights, room)
        for (line, x, y), height in zip(ends, placed, strict=True):
            at = back.transform(to_pixels.transform((x, y)))
            panel.annotate(
                line.get_label(),
                at,
                xytext=(1.05, height),
                xycoords="axes fraction",
                textcoords="axes fraction",
                va="center",
                fontsize=9,
                color=line.get_color() if line.get_color() != SKY else "#2E8BC0",
                fontweight="bold" if ratios.is_ours(line.get_label()) else "normal",
                arrowprops={
                    "arrowstyle": "-",
                    "color": line.get_color(),
                    "lw": 0.6,
                    "relpos": (0, 0.5),
                    "shrinkA": 0,
                    "shrinkB": 3,
                },
                annotation_clip=False,
            )


def _apart(heights: list[float], room: float) -> list[float]:
    """Return the heights, between 0 and 1, moved until neighbours are `room` apart."""
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    placed = [heights[at] for at in order]
    for _ in range(500):
        for at in range(len(placed) - 1):
            missing = room - (placed[at + 1] - placed[at])
            if missing > 0:
                placed[at] -= missing / 2
                placed[at + 1] += missing / 2
        above = max(0.0, placed[-1] - 1)
        below = max(0.0, -placed[0])
        placed = [height - above + below for height in placed]
    return [placed[order.index(at)] for at in range(len(heights))]


def growth(value: dict[str, Any], path: Path) -> None:
    """Draw each curve on logarithmic axes, with what was fitted: y = a + b * x ** exponent."""
    curves = value["curves"]
    if not curves:
        return
    figure, panels = drawing.new(len(curves), min(3, len(curves)), 2.9 if len(curves) <= 9 else 2.4)
    for panel, curve in zip(panels, curves, strict=True):
        fit, x = curve.get("fit") or {}, curve["x"]
        worse = curve.get("worse_than_linear")
        if fit:
            steps = [x[0] * (x[-1] / x[0]) ** (at / 100) for at in range(101)]
            line = [(at, fit["a"] + fit["b"] * at ** fit["exponent"]) for at in steps]
            line = [(at, height) for at, height in line if height > 0]
            if line:
                panel.plot(*zip(*line, strict=True), color=GREY, lw=2.2)
        colour = RED if worse else BLUE
        if "low" in curve and "high" in curve:
            panel.vlines(x, curve["low"], curve["high"], color=colour, lw=1)
        panel.plot(x, curve["y"], color=colour, ls="none", marker="o", ms=4.5)
        panel.set(xscale="log", yscale="log", xlabel=curve["x_label"], ylabel=curve["y_label"])
        positive = [height for height in curve["y"] if height > 0]
        if positive and max(positive) < 10 * min(positive):
            # A flat curve on a narrow axis would look like a steep one.
            middle = (max(positive) * min(positive)) ** 0.5
            panel.set_ylim(middle / 5, middle * 5)
        low, high = panel.get_ylim()
        if high < 100 * low:
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(drawing.plain))
        panel.yaxis.set_major_formatter(FuncFormatter(drawing.plain))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(drawing.wrapped(curve["name"]))
        panel.text(0.04, 0.95, _growth(fit), transform=panel.transAxes, va="top", color=DARK)
        if worse:
            panel.text(
                0.04, 0.86, "worse than linear", transform=panel.transAxes, va="top", color=RED
            )
        panel.grid()
    drawing.save(figure, path, "Points: medians; line: y = a + b · x^k, fitted")


def _growth(fit: dict[str, float]) -> str:
    if not fit:
        return ""
    return f"a + b · x^{fit['exponent']:.2f}" if fit["b"] else "constant"
