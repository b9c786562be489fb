"""What the plots share: colours, panels, and how they are saved; needs matplotlib.

They are made to be read at a width of 1000 pixels, and by the colour-blind: the colours are those of Okabe
and Ito.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from PIL import Image

from bench.compare import ratios

BLUE, SKY, GREEN, ORANGE, RED, PURPLE, YELLOW = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#F0E442",
)
GREY, DARK = "#B8B8B8", "#555555"
PLAIN, DPI = 9, 150

STYLE = {
    "font.size": PLAIN,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": PLAIN,
    "xtick.labelsize": PLAIN,
    "ytick.labelsize": PLAIN,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def new(count: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    """Return a figure 10 inches wide and so many panels in rows, each of this height in inches."""
    rows = -(-count // columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(10, height * rows + 0.3), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[count:]:
        panel.set_axis_off()
    return figure, list(panels.flat[:count])


def same_limits(panels: list[Any]) -> None:
    low = min(panel.get_ylim()[0] for panel in panels)
    high = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(low, high)


def colour_of(name: str) -> str:
    if ratios.is_ours(name):
        return BLUE if name == ratios.OURS else SKY
    if ratios.is_ceiling(name):
        return "white"
    return "#7A7A7A" if name == "floor" else "#C4C4C4"


def edge_of(name: str) -> str:
    """Return the colour of a bar's edge; a ceiling has one, and nothing inside."""
    return DARK if ratios.is_ceiling(name) else "white"


def embolden(panel: Any) -> None:
    for label in panel.get_yticklabels():
        if ratios.is_ours(label.get_text()):
            label.set_fontweight("bold")


def plain(value: float, _: Any = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def percent(share: float) -> str:
    text = f"{100 * share:.1f}%"
    return text.replace(".0%", "%")


def wrapped(text: str, width: int = 34) -> str:
    return "\n".join(textwrap.wrap(text, width))


def save(figure: Any, path: Path, title: str = "") -> None:
    if title:
        figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
    # They are committed: a palette takes a third of the space, and nothing that is seen.
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128)
    small.save(path, optimize=True)
