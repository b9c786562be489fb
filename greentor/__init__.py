"""greentor: the Django ORM inside Tornado and asyncio, unchanged, on one thread.

A request runs in one greenlet, as under WSGI it runs in one thread; every query parks the greenlet
and the event loop goes on serving everybody else. See docs/architecture.md for the principle.
"""

from greentor import generators
from greentor.bridge import (
    DeadlineExceeded,
    NotGreen,
    await_,
    green,
    in_green,
    spawn,
)
from greentor.bridge.running import scope_hooks
from greentor.executor import GreenExecutor
from greentor.glocal import local
from greentor.holding import hold
from greentor.scope import ScopeClosed
from greentor.statistics import stats
from greentor.waits import sleep, thread, timeout

scope_hooks.append(generators.watch)

__version__ = "0.1.0"

__all__ = [
    "DeadlineExceeded",
    "GreenExecutor",
    "NotGreen",
    "ScopeClosed",
    "await_",
    "green",
    "hold",
    "in_green",
    "local",
    "sleep",
    "spawn",
    "stats",
    "thread",
    "timeout",
]
