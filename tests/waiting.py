"""Wait for a condition instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import greentor

INTERVAL = 0.005
#: a statement that waits until the test, which has taken the lock ``gate``, releases it
GATE = "SELECT GET_LOCK('gate', 30), RELEASE_LOCK('gate')"


def wait_until(predicate: Callable[[], Any], timeout: float = 10) -> Any:
    """Block until `predicate()` is true and return what it said; AssertionError after `timeout`."""
    end = time.monotonic() + timeout
    over = False
    while not (result := predicate()):
        if over:
            raise AssertionError(f"not within {timeout} s: {predicate!r}")
        time.sleep(INTERVAL)
        over = time.monotonic() > end  # looks once more: the whole machine may have stood still
    return result


async def await_until(predicate: Callable[[], Any], timeout: float = 10) -> Any:
    """Do the same without holding the event loop."""
    end = time.monotonic() + timeout
    over = False
    while not (result := predicate()):
        if over:
            raise AssertionError(f"not within {timeout} s: {predicate!r}")
        await asyncio.sleep(INTERVAL)
        over = time.monotonic() > end  # looks once more: the whole machine may have stood still
    return result


def until(predicate: Callable[[], Any], timeout: float = 10) -> Any:
    """Do the same in sync code of a greenlet."""
    return greentor.await_(await_until(predicate, timeout))
