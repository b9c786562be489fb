"""What greentor itself costs: CPU microseconds of each of its parts, without the query.

    python -m bench.overhead

Each figure is the best of several rounds on this machine, the loop's own work included. They show where a
request's time goes, and whether a change made a part dearer; they are no benchmark against others. The
last line counts on the server: what a request sends besides its own statement.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import django

from tests.mariadb import MariaDB

ROUNDS = 7
CALLS = 2000


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


async def measure(mariadb: MariaDB) -> None:
    from django.db import connections

    from greentor import await_, bridge, green
    from greentor.web.signals import send_finished, send_started

    def nothing() -> None:
        pass

    def checkout() -> None:
        connections["default"].ensure_connection()

    def cursors(number: int) -> Callable[[], None]:
        def open_and_close() -> None:
            for _ in range(number):
                with connections["default"].cursor():
                    pass

        return open_and_close

    def query() -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1")

    def signals() -> None:
        send_started(object)
        send_finished(object, bridge.current_green("this").frame.scope)

    def parks() -> None:
        for _ in range(10):
            await_(asyncio.sleep(0))

    empty = await cost(green(nothing))
    ten = await cost(green(cursors(11))) - await cost(green(cursors(1)))
    print(f"a greenlet and its scope        {empty:6.1f} µs")
    print(f"a connection, out and in        {await cost(green(checkout)) - empty:6.1f} µs")
    print(f"a cursor, opened and closed     {ten / 10:6.1f} µs")
    print(f"Django's two request signals    {await cost(green(signals)) - empty:6.1f} µs")
    print(f"parking once                    {(await cost(green(parks)) - empty) / 10:6.1f} µs")

    before = mariadb.status("Questions")
    for _ in range(1000):
        await green(query)()
    sent = mariadb.status("Questions") - before - 1  # that of the counting
    print(f"statements a request            {sent / 1000:6.2f}")


def main() -> None:
    with MariaDB() as mariadb:
        mariadb.create_database("bench")
        os.environ["DATABASE_URL"] = f"{mariadb.url('bench')}?ssl_disabled=1"
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "app.settings")
        django.setup()
        asyncio.run(measure(mariadb))


if __name__ == "__main__":
    main()
