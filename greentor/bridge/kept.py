"""Greenlets whose function has returned, and that run the next one: a new one costs two system calls.

Python 3.11 and later map memory for the Python stack of each greenlet, and give it back at its end.

Invariants
- They are kept by thread, at most `KEPT` of each, and refer to nothing of what they did.
"""

from __future__ import annotations

import atexit
import threading

from greentor.bridge.greens import Green

#: how many are kept, by thread: as many as a large pool has at work at once. With fewer than are at work,
#: each request that is one too many pays for a new one; each that is kept has some 10 KiB
KEPT = 512


class _Kept(threading.local):
    def __init__(self) -> None:
        self.greens: list[Green] = []


#: ``idle.greens``: those of the running thread
idle = _Kept()


@atexit.register
def _end_kept() -> None:
    """End them while they can still run: later, the interpreter takes their code apart."""
    idle.greens.clear()
