"""What is measured without HTTP, in a process of its own: rows, queries, and greenlets that are parked.

    echo '{"what": "queries", "x": [1, 10], "core": 1}' | BENCH_DATABASE=... python -m bench.growth.inside

prints what was measured, as JSON. A *request* is a green function with a scope, a connection from the pool,
and its way back.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import django

from bench.driver.clients import loop_factory
from bench.driver.worker import pin
from bench.memory import resident
from bench.peers import options

#: CPU seconds that a sample lasts, or a little more
LENGTH = 0.05
WARM_UP = 30
NEVER = 3600.0


def main() -> None:
    ask = json.loads(sys.stdin.readline())
    pin(ask.get("core"))
    options.choose(options.GREEN_ENGINE, pool=1 if "parked" in ask["what"] else 8)
    django.setup()
    from django.conf import settings

    pool = settings.DATABASES["default"]["OPTIONS"]["pool"]
    pool.update(pool_timeout=NEVER, max_waiting=-1)
    with asyncio.Runner(loop_factory=loop_factory(ask.get("loop", "asyncio"))) as runner:
        print(json.dumps(runner.run(WHAT[ask["what"]](ask))))


# --- requests of a size -------------------------------------------------------------------------


async def requests(ask: dict[str, Any]) -> dict[str, Any]:
    """Return, for each x, the CPU microseconds of a request in each round, and the bytes at its peak."""
    from app.models import World
    from greentor.bridge import run_green

    def models(number: int) -> int:
        return len(list(World.objects.filter(pk__lte=number)))

    def values(number: int) -> int:
        return len(list(World.objects.filter(pk__lte=number).values_list("id", "randomnumber")))

    def queries(number: int) -> int:
        return len([World.objects.get(pk=id) for id in range(1, number + 1)])

    work = {"models": models, "values": values, "queries": queries}[ask["what"]]
    cpu: dict[int, list[float]] = {x: [] for x in ask["x"]}
    for x in ask["x"]:
        if await run_green(work, x) != x:
            raise AssertionError(f"{ask['what']}: not {x} rows")
    for _ in range(ask["rounds"]):
        for x in ask["x"]:
            cpu[x].append(await _cpu(work, x, ask.get("length", LENGTH)))
    peak = {}
    for x in ask["x"]:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await run_green(work, x)
        peak[x] = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    return {"cpu": cpu, "peak": peak}


async def _cpu(work: Callable[[int], int], x: int, length: float) -> float:
    from greentor.bridge import run_green

    gc.collect()
    start, count = time.process_time(), 0
    while (used := time.process_time() - start) < length:
        await run_green(work, x)
        count += 1
    return used * 1e6 / count


# --- greenlets that are parked ------------------------------------------------------------------


async def parked_asleep(ask: dict[str, Any]) -> dict[str, Any]:
    """Park greenlets in `greentor.sleep`, and cancel them."""
    import greentor

    begun = 0

    def asleep() -> None:
        nonlocal begun
        begun += 1
        greentor.sleep(NEVER)

    async def end(tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    return await _parked(ask["x"], asleep, lambda: begun, end)


async def parked_in_the_pool(ask: dict[str, Any]) -> dict[str, Any]:
    """Park greenlets that want the only connection; then let one after the other have it."""
    from django.db import connection

    from app.models import World
    from greentor import await_, spawn

    begun = 0
    free, held = asyncio.Event(), asyncio.Event()

    def hold() -> None:
        connection.ensure_connection()
        held.set()
        await_(free.wait())

    def connect() -> None:
        nonlocal begun
        begun += 1
        connection.ensure_connection()

    def query() -> None:
        nonlocal begun
        begun += 1
        World.objects.get(pk=7)

    async def begin() -> None:
        nonlocal holder
        free.clear()
        held.clear()
        holder = spawn(hold)
        await held.wait()

    async def end(tasks: list[asyncio.Task[Any]]) -> None:
        free.set()
        await holder
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    holder: asyncio.Task[Any]
    await begin()
    work = query if ask["what"] == "parked in a query" else connect
    return await _parked(ask["x"], work, lambda: begun, end, begin)


async def _nothing() -> None:
    pass


class Collector:
    """The CPU seconds of the garbage collector."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.process_time()
        else:
            self.seconds += time.process_time() - self._began


async def _parked(
    number: int,
    function: Callable[[], None],
    begun: Callable[[], int],
    end: Callable[[list[asyncio.Task[Any]]], Any],
    begin: Callable[[], Any] = _nothing,
) -> dict[str, Any]:
    """Return the bytes of so many greenlets, and the CPU microseconds to start and to end each.

    Without those of the garbage collector, which come extra.
    """
    from greentor import spawn

    async def start(count: int) -> list[asyncio.Task[Any]]:
        goal = begun() + count
        tasks = [spawn(function) for _ in range(count)]
        while begun() < goal:
            await asyncio.sleep(0)
        return tasks

    await end(await start(WARM_UP))
    await begin()
    gc.collect()
    before = resident()
    collector, at = Collector(), time.process_time()
    tasks = await start(number)
    started, collected = time.process_time() - at, collector.seconds
    gc.collect()
    weight, again = resident() - before, collector.seconds
    at = time.process_time()
    await end(tasks)
    ended = time.process_time() - at
    collected_again = collector.seconds - again
    return {
        "bytes": weight,
        "start": (started - collected) * 1e6 / number,
        "end": (ended - collected_again) * 1e6 / number,
        "collector": (collected + collected_again) * 1e6 / number,
    }


WHAT = {
    "models": requests,
    "values": requests,
    "queries": requests,
    "parked asleep": parked_asleep,
    "parked in the pool": parked_in_the_pool,
    "parked in a query": parked_in_the_pool,
}

if __name__ == "__main__":
    main()
