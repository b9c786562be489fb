"""SQLAlchemy's models of the tables, its sessions, and what is asked for each route.

There are two engines, each with a pool of the size that is given. No connection is opened before one is
needed.

- `Database.reading`: in AUTOCOMMIT. A session sends its queries and nothing else: no BEGIN, which is
  implicit, and no ROLLBACK when the connection goes back, because of ``skip_autocommit_rollback``.
- `Database.writing`: in transactions, READ COMMITTED as Django's are. An update of 20 rows is 20 SELECT,
  20 UPDATE (the unit of work hands them to the driver's ``executemany``, which sends one after the other)
  and a COMMIT. The pool sends no ROLLBACK after it: a session ends its transaction itself, whatever
  happens, and nothing here takes a connection without a session.

Who finds no connection free waits for one, however long: nobody is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import URL, ForeignKey, Numeric, String, func, select, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship

from bench.peers import pages

ASYNCMY, AIOMYSQL = "asyncmy", "aiomysql"
DRIVERS = (ASYNCMY, AIOMYSQL)


class Base(DeclarativeBase):
    pass


class World(Base):
    __tablename__ = "world"

    id: Mapped[int] = mapped_column(primary_key=True)
    randomnumber: Mapped[int]

    def as_dict(self) -> dict[str, int]:
        return {"id": self.id, "randomNumber": self.randomnumber}


class Fortune(Base):
    __tablename__ = "fortune"

    id: Mapped[int] = mapped_column(primary_key=True)
    message: Mapped[str] = mapped_column(String(2048))


class Author(Base):
    __tablename__ = "app_author"

    pk: Mapped[int] = mapped_column("id", primary_key=True)
    name: Mapped[str] = mapped_column(String(100))


class Book(Base):
    __tablename__ = "app_book"

    pk: Mapped[int] = mapped_column("id", primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    author_id: Mapped[int] = mapped_column(ForeignKey("app_author.id"))
    published: Mapped[int]
    price: Mapped[Decimal] = mapped_column(Numeric(8, 2))
    author: Mapped[Author] = relationship()


class Database:
    """The engines of a process, and what makes their sessions."""

    def __init__(self, parameters: dict[str, Any], pool: int, driver: str = ASYNCMY) -> None:
        url = URL.create(
            f"mysql+{driver}",
            parameters["user"],
            parameters["password"],
            parameters["host"],
            parameters["port"],
            parameters["database"],
            {"charset": "utf8mb4"},
        )
        common = {"pool_size": pool, "max_overflow": 0, "pool_timeout": None}
        autocommit = create_async_engine(
            url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **common
        )
        transactions = create_async_engine(
            url, isolation_level="READ COMMITTED", pool_reset_on_return=None, **common
        )
        self._engines: tuple[AsyncEngine, ...] = (autocommit, transactions)
        self.reading = async_sessionmaker(autocommit, expire_on_commit=False)
        self.writing = async_sessionmaker(transactions, expire_on_commit=False)

    async def close(self) -> None:
        """Close the connections."""
        for engine in self._engines:
            await engine.dispose()


async def get_world(session: AsyncSession, id: int) -> World:
    """Read a row by a query, even if the session has it already: the same id may come twice."""
    return await session.get_one(World, id, populate_existing=True)


async def read_world(session: AsyncSession) -> dict[str, int]:
    world = await get_world(session, pages.random_id())
    return world.as_dict()


async def read_worlds(session: AsyncSession, number: int) -> list[dict[str, int]]:
    worlds = [await get_world(session, id) for id in pages.random_ids(number)]
    return [world.as_dict() for world in worlds]


async def update_worlds(session: AsyncSession, number: int) -> list[dict[str, int]]:
    """Read the rows, change and commit them; the session is one of `Database.writing`."""
    worlds = [await get_world(session, id) for id in pages.ids_to_update(number)]
    for world in worlds:
        world.randomnumber = pages.random_id()
    await session.commit()
    return [world.as_dict() for world in worlds]


async def read_fortunes(session: AsyncSession) -> Sequence[Fortune]:
    return (await session.scalars(select(Fortune))).all()


async def sleep(session: AsyncSession, ms: int) -> None:
    await session.execute(text("SELECT SLEEP(:s)"), {"s": ms / 1000})


async def read_books(session: AsyncSession) -> tuple[Sequence[Book], int]:
    """Return the books of the first page, and how many there are in all."""
    total = await session.scalar(select(func.count()).select_from(Book))
    books = (
        select(Book)
        .options(joinedload(Book.author, innerjoin=True))
        .order_by(Book.name)
        .limit(pages.PAGE_SIZE)
    )
    return (await session.scalars(books)).all(), total or 0
