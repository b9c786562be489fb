"""The server under fire: the reference application, and beside it handlers that fail in every way.

    python -m bench.fire.program [--loop uvloop] [--periodic] [--trace]

Invariants
- It logs nothing but what nobody has planned: planned exceptions and the access log are left out.
- It says what it holds at ``/-/probe``, which uses neither a greenlet nor a database.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys
import tracemalloc
from functools import partial
from typing import Any

from tornado.ioloop import PeriodicCallback
from tornado.web import Application, RequestHandler

import greentor
from app.server import flush, loop_factory, prepare, say_where
from greentor import stacks
from greentor.bridge import Green
from greentor.serving import serve

PROBE = r"/-/probe"
PERIOD = 200  # milliseconds
#: lines of a difference that are told
TOP = 12

callbacks: list[PeriodicCallback] = []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fire.program")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--periodic", action="store_true", help="query in a PeriodicCallback, too")
    parser.add_argument("--trace", action="store_true", help="have tracemalloc at work")
    options = parser.parse_args()
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("tornado.access").setLevel("CRITICAL")
    logging.captureWarnings(True)
    status = serve(
        partial(make_app, options.periodic),
        0,
        "127.0.0.1",
        loop_factory=loop_factory(options.loop),
        prepare=prepare,
        ready=say_where,
        at_stop=stop,
    )
    sys.exit(status)


def make_app(periodic: bool) -> Application:
    """Return the reference application with the routes of the faults."""
    from app import application
    from bench.fire import faults

    if tracing():
        tracemalloc.start()
    app = application.make_app(autoreload=False)
    app.add_handlers(r".*", [(PROBE, Probe), *faults.ROUTES])
    if periodic:
        callback = PeriodicCallback(greentor.green(faults.look), PERIOD)
        callback.start()
        callbacks.append(callback)
    return app


async def stop(seconds: float) -> None:
    """End what runs beside the requests."""
    for callback in callbacks:
        callback.stop()
    while greentor.stats().greenlets:
        await asyncio.sleep(0.01)
    await flush(seconds)


def tracing() -> bool:
    return "--trace" in sys.argv


class Probe(RequestHandler):
    """Tell what the process holds; with ``collect=1`` after a garbage collection."""

    _last: tracemalloc.Snapshot | None = None

    def get(self) -> None:
        collect = self.get_query_argument("collect", "") == "1"
        if collect:
            gc.collect()
        self.write(held(count=collect))

    def delete(self) -> None:
        """Tell where each greenlet stands: for one who looks for what hangs."""
        loop = asyncio.get_running_loop()
        found = [(task.get_name(), stacks.locate(g)) for task, g in stacks.greenlets(loop)]
        self.write({"greenlets": [f"{name}: {position}" for name, position in found]})

    def put(self) -> None:
        """Tell how much memory is traced."""
        gc.collect()
        self.write({"total": tracemalloc.get_traced_memory()[0]})

    def post(self) -> None:
        """Tell by which lines the traced memory has grown since the last time."""
        gc.collect()
        now = tracemalloc.take_snapshot().filter_traces(
            (
                tracemalloc.Filter(False, tracemalloc.__file__),
                tracemalloc.Filter(False, __file__),
                tracemalloc.Filter(False, "*/linecache.py"),
            )
        )
        before, Probe._last = Probe._last, now
        total = tracemalloc.get_traced_memory()[0]
        grown = [] if before is None else now.compare_to(before, "lineno")[:TOP]
        self.write({"total": total, "grown": [line(each) for each in grown if each.size_diff > 0]})


def line(difference: tracemalloc.StatisticDiff) -> dict[str, Any]:
    frame = difference.traceback[-1]
    where = "/".join(frame.filename.split("/")[-2:])
    return {
        "where": f"{where}:{frame.lineno}",
        "bytes": difference.size_diff,
        "blocks": difference.count_diff,
    }


def held(count: bool) -> dict[str, Any]:
    """Return what the process holds; ``count`` counts all greenlets that exist, which takes a while."""
    from bench.fire import faults

    loop = asyncio.get_running_loop()
    scheduled = getattr(loop, "_scheduled", None)  # uvloop has none
    stats = greentor.stats()
    pool = stats.pools.get("default")
    return {
        "rss": resident(),
        "fds": len(os.listdir("/proc/self/fd")) - 1,
        "threads": len(os.listdir("/proc/self/task")),
        "tasks": len(asyncio.all_tasks()),
        "timers": None
        if scheduled is None
        else sum(1 for each in scheduled if not each.cancelled()),
        "cancelled timers": None
        if scheduled is None
        else sum(1 for each in scheduled if each.cancelled()),
        "greenlets": stats.greenlets,
        "all greenlets": sum(
            1 for each in gc.get_objects() if type(each) is Green and not each.ended
        )
        if count
        else None,
        "requests": stats.requests,
        "on_commit": dict(faults.on_commit),
        "pool": None
        if pool is None
        else {
            "in_use": pool.in_use,
            "idle": pool.idle,
            "waiting": pool.waiting,
            "opened": pool.opened,
            "failed": pool.failed,
            "closed": pool.closed,
            "timeouts": pool.timeouts,
            "resets": pool.resets,
            "kills": pool.kills,
            "wait p99": pool.wait.p99,
            "longest_hold": pool.longest_hold,
        },
    }


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
