"""Wait for a condition instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import greentor

INTERVAL = 0.005


def wait_until(predicate: Callable[[], Any], timeout: float = 5) -> Any:
    """Block until `predicate()` is true and return what it said; AssertionError after `timeout`."""
    end = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {predicate!r}")
        time.sleep(INTERVAL)
    return result


async def await_until(predicate: Callable[[], Any], timeout: float = 5) -> Any:
    """Do the same without holding the event loop."""
    end = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {predicate!r}")
        await asyncio.sleep(INTERVAL)
    return result


def until(predicate: Callable[[], Any], timeout: float = 5) -> Any:
    """Do the same in sync code of a greenlet."""
    return greentor.await_(await_until(predicate, timeout))
