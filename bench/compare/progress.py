"""How far the comparison is, and how long it will take: a bar on a terminal, plain lines elsewhere.

The length of what is to come is told beforehand, in seconds as they are expected; how it went until now says
how far such expectations are off.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Self, TextIO


class Progress:
    """Lines, on anything that is not a terminal; also where `rich` is not installed."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stderr
        self._begun = time.monotonic()
        self._total = self._done = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def expect(self, seconds: float) -> None:
        """Say that there is so much more to do, or less."""
        self._total += seconds

    def doing(self, what: str) -> None:
        """Say what is going on."""

    def done(self, seconds: float) -> None:
        """Say that as much of what was expected is done, however long it took."""
        self._done += seconds

    def finished(self, what: str) -> None:
        """Say that a part is finished that deserves a line."""
        self.say(f"{what}; {clock(self.left())} left")

    def say(self, line: str) -> None:
        print(line, file=self._output, flush=True)

    def left(self) -> float:
        """Return the seconds that the rest will take."""
        rest = max(self._total - self._done, 0)
        if not self._done:
            return rest
        return rest * (time.monotonic() - self._begun) / self._done


class Bar(Progress):
    """A bar, by `rich`."""

    def __init__(self, output: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        super().__init__(output)
        self._rich: Any = RichProgress(
            TextColumn("{task.description:<60}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]} left", markup=False),
            console=Console(file=self._output),
        )
        self._task = self._rich.add_task("", total=None, left="?")

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._rich.stop()

    def expect(self, seconds: float) -> None:
        super().expect(seconds)
        self._show()

    def doing(self, what: str) -> None:
        self._rich.update(self._task, description=what[:60])

    def done(self, seconds: float) -> None:
        super().done(seconds)
        self._show()

    def finished(self, what: str) -> None:
        pass  # the bar shows it

    def say(self, line: str) -> None:
        self._rich.console.print(line, markup=False, highlight=False)

    def _show(self) -> None:
        self._rich.update(
            self._task, total=self._total, completed=self._done, left=clock(self.left())
        )


def open_progress(output: TextIO | None = None) -> Progress:
    """Return what shows the progress best on this output, which is the standard error."""
    output = output or sys.stderr
    if output.isatty():
        try:
            return Bar(output)
        except ImportError:
            pass
    return Progress(output)


def clock(seconds: float) -> str:
    """Return a duration as a person says it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"
