"""Tornado with peewee's asyncio extension on aiomysql, whose pool it uses.

As its documentation advises: ``async with database`` takes a connection for the request, which is a task of
its own, and gives it back; ``database.run`` runs plain peewee in a greenlet, one a request. Who finds no
connection free waits for one, however long; by peewee's default it would be an error after 10 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from playhouse.pwasyncio import AsyncMySQLDatabase

from bench.peers import options, peewee_work, tornado_async

T = TypeVar("T")


class Work:
    """What the routes need, each with a connection of its own."""

    def __init__(self, parameters: dict[str, Any], pool: int) -> None:
        self._database = AsyncMySQLDatabase(
            parameters["database"],
            host=parameters["host"],
            port=parameters["port"],
            user=parameters["user"],
            password=parameters["password"],
            charset="utf8mb4",
            pool_size=pool,
            acquire_timeout=None,
        )
        peewee_work.proxy.initialize(self._database)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        async with self._database:
            return await self._database.run(function, *args)

    async def world(self) -> dict[str, int]:
        return await self._run(peewee_work.read_world)

    async def worlds(self, number: int) -> list[dict[str, int]]:
        return await self._run(peewee_work.read_worlds, number)

    async def updated_worlds(self, number: int) -> list[dict[str, int]]:
        return await self._run(peewee_work.update_worlds, number)

    async def fortunes(self) -> list[peewee_work.Fortune]:
        return await self._run(peewee_work.read_fortunes)

    async def sleep(self, ms: int) -> None:
        await self._run(peewee_work.sleep, ms)

    async def books(self) -> tuple[list[peewee_work.Book], int]:
        return await self._run(peewee_work.read_books)


def main() -> None:
    given = options.parser(__doc__).parse_args()
    tornado_async.serve(given, lambda: Work(options.database(), given.pool))


if __name__ == "__main__":
    main()
