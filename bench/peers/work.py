"""The workloads in Django's ORM, in sync code: what runs in threads, in greenlets, and in our handlers.

Each returns the body of its answer. The semantics are those of `handlers.techempower`, by TechEmpower's
rules: a query for each row, all in autocommit; only the changes of ``updates`` are one transaction.

Django must be set up before this is imported, as for anything that imports models.
"""

from __future__ import annotations

from django.core.paginator import Paginator
from django.db import connection, transaction

from app.models import Book, Fortune, World
from bench.peers import pages


def db() -> bytes:
    """Read a row."""
    return pages.dumps(World.objects.get(pk=pages.random_id()).as_dict())


def queries(number: int) -> bytes:
    """Read so many rows, one after the other."""
    worlds = [World.objects.get(pk=id) for id in pages.random_ids(number)]
    return pages.dumps([world.as_dict() for world in worlds])


def updates(number: int) -> bytes:
    """Read so many rows, and change them."""
    return change([World.objects.get(pk=id) for id in pages.ids_to_update(number)])


def change(worlds: list[World]) -> bytes:
    """Change rows that were read, with a statement each.

    By ``executemany``, as in TechEmpower's own entry for Django: SQLAlchemy's unit of work does the same.
    ``save()`` would send the same statements, and compile each anew.
    """
    for world in worlds:
        world.randomnumber = pages.random_id()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE world SET randomnumber = %s WHERE id = %s",
            [(world.randomnumber, world.id) for world in worlds],
        )
    return pages.dumps([world.as_dict() for world in worlds])


def fortunes() -> bytes:
    """Read all fortunes, and render the page."""
    return pages.render_fortunes(Fortune.objects.all())


def sleep(ms: int) -> bytes:
    """Have the database sleep."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s)", [ms / 1000])
        cursor.fetchone()
    return pages.dumps({"ms": ms})


def page() -> bytes:
    """Count the books, read the first page of them, and render it."""
    books = Book.objects.select_related("author")
    return pages.render_page(Paginator(books, pages.PAGE_SIZE).get_page(1))
