"""`show`: what a measurement is at, on one line of a terminal."""

from __future__ import annotations

import sys


def show(line: str) -> None:
    """Write ``line`` over the one before, if standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)
