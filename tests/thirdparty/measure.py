"""Try a function in a greenlet while a ticker runs on the same loop, and say what became of both."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import greentor

#: what a slow service takes to answer, and from when on the loop counts as blocked, in seconds
DELAY = 1.0
BLOCKED = 0.6

THREAD = "`greentor.thread(fn, ...)`"

WORKS, BLOCKS, WONT = "works", "blocks the loop", "won't"


class Skip(Exception):
    """What the trial needs is not installed here."""


@dataclass
class Probe:
    """One row of the tables: a thing, what is said of it, and the function that tries it."""

    group: str
    thing: str
    packages: tuple[str, ...]
    expected: str
    advice: str
    try_: Callable[[], Any]
    setup: Callable[[], Any] | None = None
    #: also try it through greentor.thread(), which must not block
    thread: bool = False

    @property
    def versions(self) -> str:
        return ", ".join(metadata.version(package) for package in self.packages)


@dataclass
class Outcome:
    verdict: str
    detail: str = ""
    gap: float = 0
    notes: list[str] = field(default_factory=list)


probes: list[Probe] = []


def probe(
    group: str,
    thing: str,
    *packages: str,
    expect: str = WORKS,
    advice: str = "",
    setup: Callable[[], Any] | None = None,
    thread: bool = False,
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function, sync or async, that runs in a greenlet and raises if it does not work."""

    def register(try_: Callable[[], Any]) -> Callable[[], Any]:
        probes.append(Probe(group, thing, packages, expect, advice, try_, setup, thread))
        return try_

    return register


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Tick every few milliseconds; the list's one item becomes the longest silence in seconds."""
    longest = [0.0]

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest[0] = max(longest[0], now - last)
            last = now

    task = asyncio.create_task(tick())
    try:
        yield longest
    finally:
        await asyncio.sleep(0.01)
        task.cancel()


async def attempt(fn: Callable[[], Any]) -> Outcome:
    """Run ``fn`` in a greenlet of its own and judge it."""
    async with ticking() as longest:
        error = None
        try:
            async with asyncio.timeout(30):
                await greentor.spawn(fn)
        except Skip:
            raise
        except Exception as exc:
            error = exc
    if error is not None:
        return Outcome(WONT, f"{type(error).__name__}: {error}", longest[0])
    return Outcome(BLOCKS if longest[0] > BLOCKED else WORKS, gap=longest[0])


async def try_probe(one: Probe) -> Outcome:
    """Try a probe, and its remedy if it names `greentor.thread`."""
    if one.setup is not None:
        await asyncio.to_thread(one.setup)
    outcome = await attempt(one.try_)
    if one.thread:
        remedy = await attempt(lambda: greentor.thread(one.try_))
        if remedy.verdict != WORKS:
            outcome.notes.append(f"through greentor.thread(): {remedy.verdict} {remedy.detail}")
    if outcome.verdict != one.expected:
        outcome.notes.append(f"expected: {one.expected}")
    return outcome


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions as concurrent requests would be, each in a scope of its own."""

    async def run() -> list[Any]:
        return await asyncio.gather(*(greentor.spawn(fn) for fn in functions))

    return greentor.await_(run())


def crossing(set_: Callable[[str], Any], get: Callable[[], Any]) -> list[Any]:
    """Let two greenlets set a value, the second while the first is parked; return what each reads."""

    def request(value: str, pause: float) -> Any:
        greentor.sleep(pause)
        set_(value)
        greentor.sleep(0.05)
        return get()

    return together(lambda: request("first", 0), lambda: request("second", 0.02))
