"""What greentor itself costs: CPU microseconds of each of its parts, without the query.

    python -m bench.overhead

Each figure is the best of five rounds on this machine, the loop's own work included. They show where a
request's time goes, and whether a change made a part dearer; they are no benchmark against others.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import django

from tests.mariadb import MariaDB

ROUNDS = 5
CALLS = 3000


async def cost(function: Callable[[], Awaitable[object]]) -> float:
    """Return the CPU microseconds of one call."""
    await function()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            await function()
        best = min(best, (time.process_time() - start) / CALLS)
    return best * 1e6


async def measure() -> None:
    from django.core.signals import request_finished, request_started
    from django.db import connections

    from greentor import await_, green

    def nothing() -> None:
        pass

    def checkout() -> None:
        connections["default"].ensure_connection()

    def signals() -> None:
        request_started.send(sender=None)
        request_finished.send(sender=None)

    def parks() -> None:
        for _ in range(10):
            await_(asyncio.sleep(0))

    empty = await cost(green(nothing))
    print(f"a greenlet and its scope        {empty:6.1f} µs")
    print(f"a connection, out and in        {await cost(green(checkout)) - empty:6.1f} µs")
    print(f"Django's two request signals    {await cost(green(signals)) - empty:6.1f} µs")
    print(f"parking once                    {(await cost(green(parks)) - empty) / 10:6.1f} µs")


def main() -> None:
    with MariaDB() as mariadb:
        mariadb.create_database("bench")
        os.environ["DATABASE_URL"] = f"{mariadb.url('bench')}?ssl_disabled=1"
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "app.settings")
        django.setup()
        asyncio.run(measure())


if __name__ == "__main__":
    main()
