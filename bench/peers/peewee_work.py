"""peewee's models of the tables, and what is asked for each route.

These are plain functions, to be called by ``database.run`` of peewee's asyncio extension. A query is all that
is sent for it, as the connections are in autocommit. An update of 20 rows is 20 SELECT, and then BEGIN,
20 UPDATE and COMMIT.
"""

from __future__ import annotations

from peewee import CharField, DatabaseProxy, DecimalField, ForeignKeyField, IntegerField
from playhouse.pwasyncio import AsyncModel

from bench.peers import pages

#: to be initialized with the database; `AsyncMySQLDatabase.init` does not take the pool's size
proxy = DatabaseProxy()


class Base(AsyncModel):
    class Meta:
        database = proxy


class World(Base):
    id = IntegerField(primary_key=True)
    randomnumber = IntegerField()

    class Meta:
        table_name = "world"

    def as_dict(self) -> dict[str, int]:
        return {"id": self.id, "randomNumber": self.randomnumber}


class Fortune(Base):
    id = IntegerField(primary_key=True)
    message = CharField(2048)

    class Meta:
        table_name = "fortune"


class Author(Base):
    name = CharField(100)

    class Meta:
        table_name = "app_author"


class Book(Base):
    name = CharField(200)
    author = ForeignKeyField(Author)
    published = IntegerField()
    price = DecimalField(8, 2)

    class Meta:
        table_name = "app_book"

    @property
    def pk(self) -> int:
        """Return the key by the name that the template knows."""
        return self.id


def read_world() -> dict[str, int]:
    return World.get_by_id(pages.random_id()).as_dict()


def read_worlds(number: int) -> list[dict[str, int]]:
    return [World.get_by_id(id).as_dict() for id in pages.random_ids(number)]


def update_worlds(number: int) -> list[dict[str, int]]:
    worlds = [World.get_by_id(id) for id in pages.ids_to_update(number)]
    with proxy.atomic():
        for world in worlds:
            world.randomnumber = pages.random_id()
            world.save(only=[World.randomnumber])
    return [world.as_dict() for world in worlds]


def read_fortunes() -> list[Fortune]:
    return list(Fortune.select())


def sleep(ms: int) -> None:
    proxy.execute_sql("SELECT SLEEP(%s)", (ms / 1000,)).fetchall()


def read_books() -> tuple[list[Book], int]:
    """Return the books of the first page, and how many there are in all."""
    total = Book.select().count()
    books = Book.select(Book, Author).join(Author).order_by(Book.name).limit(pages.PAGE_SIZE)
    return list(books), total
