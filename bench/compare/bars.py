"""The plots that are bars: requests a second, clients served, and the parts of the CPU time of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.compare import drawing, ratios, tables
from bench.compare.drawing import BLUE, DARK, GREEN, ORANGE, PURPLE, RED, SKY, YELLOW
from bench.compare.ratios import SLEEP, Column
from bench.compare.results import Fairness


def throughput(found: ratios.Cells, path: Path) -> None:
    """Draw bars of the medians, the best on top; a line from the lowest round to the highest."""
    usually = ratios.usual(found)
    wanted = [
        Column(name, usually)
        for name in ("json", "db", "queries-20", "fortunes", "updates-20", "mixed", "page")
    ]
    wanted.append(Column(SLEEP, 256))
    where = [column for column in wanted if any(column == each for _, each in found)]
    if not where:
        return
    most = max(sum(each == column for _, each in found) for column in where)
    figure, panels = drawing.new(len(where), 2, 0.195 * most + 0.78)
    for panel, column in zip(panels, where, strict=True):
        _rates(panel, found, column)
        panel.set_title(ratios.title_of(column))
    title = "Requests a second; line: lowest and highest round; hatched: requests failed"
    if any(ratios.is_ceiling(name) for name, _ in found):
        title += "; empty: a ceiling"
    drawing.save(figure, path, title)


def _rates(panel: Any, found: ratios.Cells, column: Column) -> None:
    rows = sorted(
        (
            (tables.rate(each), name, each)
            for (name, where), each in found.items()
            if where == column
        ),
        key=lambda row: row[0],
    )
    names = [name for _, name, _ in rows]
    values = [value for value, _, _ in rows]
    rates = [[each.rate for each in samples] for _, _, samples in rows]
    bars = panel.barh(
        [tables.label_of(name) for name in names],
        values,
        height=0.74,
        color=[drawing.colour_of(name) for name in names],
        edgecolor=[drawing.edge_of(name) for name in names],
    )
    for bar, (_, _, samples) in zip(bars, rows, strict=True):
        if not ratios.clean(samples):
            bar.set_hatch("////")
    spread = [
        [value - min(each) for value, each in zip(values, rates, strict=True)],
        [max(each) - value for value, each in zip(values, rates, strict=True)],
    ]
    panel.errorbar(values, range(len(rows)), xerr=spread, fmt="none", ecolor="black", lw=1.1)
    for at, (value, each) in enumerate(zip(values, rates, strict=True)):
        panel.annotate(
            tables.figure(value),
            (max(each), at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            fontweight="bold" if ratios.is_ours(names[at]) else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    limit = column.connections / ratios.SLEEP_SECONDS if column.workload == SLEEP else 0
    if limit:
        panel.axvline(limit, color=DARK, lw=1, ls=":", zorder=1)
        panel.annotate(
            f"possible: {limit:,.0f}",
            (limit, 0),
            xytext=(-3, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8.5,
            color=DARK,
        )
    panel.set_xlim(0, (max(limit, *(max(each) for each in rates)) or 1) * 1.15)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.set_xlabel("requests/s")
    panel.grid(axis="x")
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    drawing.embolden(panel)


def served(fairness: list[Fairness], path: Path) -> None:
    """Draw the share of clients with an answer, and with at least half of the mean: the worst round."""
    wanted = [Column(SLEEP, 1000), Column("db", 512)]
    every = {Column(each.workload, each.connections) for each in fairness}
    where = [column for column in wanted if column in every] or sorted(
        every, key=lambda column: column.order
    )
    most = max(
        len({each.peer for each in fairness if Column(each.workload, each.connections) == column})
        for column in where
    )
    figure, panels = drawing.new(len(where), 2, 0.23 * most + 0.75)
    for panel, column in zip(panels, where, strict=True):
        worst: dict[str, tuple[float, float]] = {}
        for each in fairness:
            if Column(each.workload, each.connections) == column:
                shares = each.fairly / each.connections, each.served / each.connections
                worst[each.peer] = min(shares, worst.get(each.peer, shares))
        known = ratios.peers(worst)
        names = sorted(known, key=lambda name: (worst[name], -known.index(name)))
        light = [SKY if ratios.is_ours(name) else "#DADADA" for name in names]
        panel.barh(names, [100 * worst[name][1] for name in names], height=0.7, color=light)
        dark = [BLUE if ratios.is_ours(name) else "#8C8C8C" for name in names]
        panel.barh(names, [100 * worst[name][0] for name in names], height=0.7, color=dark)
        for at, name in enumerate(names):
            fairly, any_ = worst[name]
            text = (
                drawing.percent(any_)
                if fairly == any_
                else f"{drawing.percent(fairly)} of {drawing.percent(any_)}"
            )
            weight = "bold" if ratios.is_ours(name) else "normal"
            panel.text(101.5, at, text, va="center", fontsize=8.5, fontweight=weight)
        panel.set(xlim=(0, 100), xlabel="% of the clients", title=ratios.title_of(column))
        panel.set_ylim(-0.6, len(names) - 0.4)
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)
        drawing.embolden(panel)
    drawing.save(
        figure,
        path,
        "Clients served: dark, those with at least half of the mean; light, those with any answer",
    )


def split(value: dict[str, Any], path: Path) -> None:
    """Draw the CPU time of a request as a bar of its parts."""
    rows = value["rows"]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    parts = list(dict.fromkeys(part for row in rows for part in row["parts"]))
    palette = [SKY, ORANGE, BLUE, GREEN, PURPLE, YELLOW, RED]
    colours = {part: palette[at % len(palette)] for at, part in enumerate(parts)}
    most = max(sum(row["workload"] == name for row in rows) for name in workloads)
    figure, panels = drawing.new(len(workloads), min(2, len(workloads)), 0.34 * most + 0.75)
    for panel, workload in zip(panels, workloads, strict=True):
        shown = [row for row in rows if row["workload"] == workload][::-1]
        widest = max(_width(row) for row in shown)
        for at, row in enumerate(shown):
            left = 0.0
            for part, width in row["parts"].items():
                # What is cheaper than what it stands in for has no width: its number is at the end.
                panel.barh(
                    at, max(width, 0), left=left, height=0.7, color=colours[part], ec="white"
                )
                text = f"{width:,.0f}"
                if width > (0.02 * len(text) + 0.01) * widest:
                    ink = "white" if colours[part] in (BLUE, GREEN, RED) else "black"
                    panel.text(
                        left + width / 2, at, text, ha="center", va="center", color=ink, fontsize=8
                    )
                left += max(width, 0)
            told = f"{row.get('total', left):,.0f}"
            for part, width in row["parts"].items():
                if width < -0.01 * widest:
                    told += f"\n{part} {width:,.0f}"
            panel.text(left + 0.015 * widest, at, told, va="center", fontsize=8.5, linespacing=0.95)
        panel.set_yticks(range(len(shown)), [row["name"] for row in shown])
        panel.set(title=workload, xlabel="CPU µs a request", xlim=(0, widest * 1.2))
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
        drawing.embolden(panel)
    figure.legend(
        [Patch(color=colours[part]) for part in parts],
        parts,
        loc="outside upper left",
        ncols=len(parts),
        frameon=False,
        fontsize=9,
    )
    drawing.save(figure, path)


def _width(row: dict[str, Any]) -> float:
    return sum(max(width, 0.0) for width in row["parts"].values()) or 1.0
