"""What the machine takes: how long the whole process stood still while a test measured a time.

A test that bounds a time cannot tell a fault from a machine that had other work, unless it knows of that.
`Noise` is a thread that does nothing but sleep: what holds the event loop, in a system call or in Python,
does not hold it, and what stops the process does. So a bound may be "0.2 s, and the noise".
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Self

TICK = 0.005


class Noise:
    """While entered, note by how much a thread's naps were too long: the `longest`, and the `total`."""

    def __init__(self) -> None:
        self.longest = self.total = 0.0

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._nap, name="noise", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _nap(self) -> None:
        over = False
        while not over:
            before = time.monotonic()
            over = self._over.wait(TICK)
            late = time.monotonic() - before - TICK
            self.longest = max(self.longest, late)
            self.total += max(late, 0.0)


def undisturbed(measure: Callable[[], Any], noise: float, times: int = 5) -> Any:
    """Call `measure` and return its result; if it fails, and was held up for `noise` s, call it again.

    For a hazard of milliseconds, which a stall of the machine brings about as well. A failure without a
    stall stands, and so does the one of the last call.
    """
    for left in reversed(range(times)):
        try:
            with Noise() as heard:
                return measure()
        except Exception:
            if not left or heard.longest < noise:
                raise
    raise AssertionError("times must be at least 1")
