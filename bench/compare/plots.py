"""The plots of a comparison; needs matplotlib."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib import pyplot

from bench.compare import bars, drawing, lines, ratios
from bench.compare.results import Results


def write(results: Results, out: Path) -> None:
    """Draw what there are figures for; ``split.json`` and ``growth.json`` are looked for in `out`."""
    found = ratios.cells(results.samples)
    with pyplot.rc_context(drawing.STYLE):
        if found:
            bars.throughput(found, out / "throughput.png")
            lines.latency(found, out / "latency.png")
            lines.memory(found, out / "memory.png")
        if results.fairness:
            bars.served(results.fairness, out / "served.png")
        for name, draw in (("split", bars.split), ("growth", lines.growth)):
            path = out / f"{name}.json"
            if path.exists():
                draw(json.loads(path.read_text(encoding="utf-8")), out / f"{name}.png")
