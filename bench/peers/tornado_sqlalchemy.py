"""Tornado with SQLAlchemy's asyncio extension on asyncmy: a session per request, see `sqlalchemy_work`."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers import options, sqlalchemy_work, tornado_async


class Work(sqlalchemy_work.Database):
    """What the routes need, each in a session of its own."""

    async def world(self) -> dict[str, int]:
        async with self.reading() as session:
            return await sqlalchemy_work.read_world(session)

    async def worlds(self, number: int) -> list[dict[str, int]]:
        async with self.reading() as session:
            return await sqlalchemy_work.read_worlds(session, number)

    async def updated_worlds(self, number: int) -> list[dict[str, int]]:
        async with self.writing() as session:
            return await sqlalchemy_work.update_worlds(session, number)

    async def fortunes(self) -> Sequence[sqlalchemy_work.Fortune]:
        async with self.reading() as session:
            return await sqlalchemy_work.read_fortunes(session)

    async def sleep(self, ms: int) -> None:
        async with self.reading() as session:
            await sqlalchemy_work.sleep(session, ms)

    async def books(self) -> tuple[Sequence[sqlalchemy_work.Book], int]:
        async with self.reading() as session:
            return await sqlalchemy_work.read_books(session)


def main() -> None:
    given = options.parser(__doc__).parse_args()
    tornado_async.serve(given, lambda: Work(options.database(), given.pool))


if __name__ == "__main__":
    main()
