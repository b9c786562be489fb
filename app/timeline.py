"""A timeline: what ran when, and its drawing as SVG.

Across, the drawing measures in percent: it is as wide as its place, and the text is not scaled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import get_native_id
from typing import Self

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

LABELS = 20  # percent of the width
ROW, AXIS = 24, 24  # pixels of the height
MOST_TICKS = 5


@dataclass
class Bar:
    """A piece of work: ``with bar:`` notes when it runs, in ms since the timeline was begun."""

    label: str
    timeline: Timeline = field(repr=False)
    asked: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    thread: int = 0
    error: str = ""

    def __enter__(self) -> Self:
        self.began, self.thread = self.timeline.now(), get_native_id()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ended = self.timeline.now()

    @property
    def waited(self) -> float:
        return self.began - self.asked

    @property
    def took(self) -> float:
        return self.ended - self.began


class Timeline:
    """The bars, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.bars: list[Bar] = []

    def now(self) -> float:
        """Return the ms since the beginning."""
        return (time.perf_counter() - self._start) * 1000

    def ask(self, label: str) -> Bar:
        """Note that a piece of work is wanted from now on, and return its bar."""
        bar = Bar(label, self, asked=self.now())
        self.bars.append(bar)
        return bar

    @property
    def span(self) -> float:
        """Return when the last one had ended."""
        return max(bar.ended for bar in self.bars)

    @property
    def work(self) -> float:
        """Return what all would have taken one after another."""
        return sum(bar.took for bar in self.bars)

    @property
    def threads(self) -> set[int]:
        return {bar.thread for bar in self.bars}

    @property
    def most_at_once(self) -> int:
        """Return how many ran at the same time, at most."""
        steps = [(bar.began, 1) for bar in self.bars] + [(bar.ended, -1) for bar in self.bars]
        running = most = 0
        for _, step in sorted(steps):  # at the same moment, who ends comes first
            running += step
            most = max(most, running)
        return most


def draw(bars: list[Bar], name: str, title: str) -> SafeString:
    """Return the bars as an ``<svg>`` element; ``name`` distinguishes its ids from others of the page."""
    ticks = list(find_ticks(max(bar.ended for bar in bars)))
    end, bottom = ticks[-1], ROW * len(bars)

    def across(ms: float) -> float:
        return round((100 - LABELS) * ms / end, 2)

    grid = format_html_join(
        "",
        '<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="{1}"/>'
        '<text x="{0}%" y="{2}" text-anchor="{3}">{4}</text>',
        [
            (
                round(LABELS + across(ms), 2),
                bottom,
                bottom + AXIS - 6,
                "end" if ms == end else "middle",
                ms,
            )
            for ms in ticks
        ],
    )
    rows = format_html_join(
        "",
        '<g transform="translate(0 {0})"><text x="0" y="16">{1}</text>'
        '<rect class="waited" x="{2}%" y="10" width="{3}%" height="4"/>'
        '<rect class="ran" x="{4}%" y="5" width="{5}%" height="14" rx="2"/></g>',
        [
            (
                ROW * i,
                bar.label,
                round(LABELS + across(bar.asked), 2),
                across(bar.waited),
                round(LABELS + across(bar.began), 2),
                across(bar.took),
            )
            for i, bar in enumerate(bars)
        ],
    )
    return format_html(
        '<svg class="timeline" role="img" aria-labelledby="{0}-title {0}-text" width="100%"'
        ' height="{1}"><title id="{0}-title">{2}</title><desc id="{0}-text">{3}</desc>{4}{5}'
        '<text x="0" y="{6}">ms</text></svg>',
        name,
        bottom + AXIS,
        title,
        "; ".join(f"{bar.label} from {bar.began:.0f} to {bar.ended:.0f} ms" for bar in bars),
        grid,
        rows,
        bottom + AXIS - 6,
    )


def find_ticks(span: float) -> Iterator[int]:
    """Yield round numbers of ms from 0 to at least ``span``, not many."""
    step = 1
    while step * MOST_TICKS < span:
        # 1, 2, 5, 10, 20, 50, ...
        step = step * 5 // 2 if str(step).startswith("2") else step * 2
    at = 0
    while at < span or not at:
        yield at
        at += step
    yield at
