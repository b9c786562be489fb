"""What the peers do alike, and without a database: the rules of TechEmpower, JSON, and Django's templates.

Nothing here knows an ORM: rows come as any objects with the attributes that a template asks for. The books
of ``/page`` are ``SELECT COUNT(*)`` of the books, and their first `PAGE_SIZE`, ``ORDER BY name``, joined
with their authors, in a query of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from operator import attrgetter
from random import randint, sample
from types import SimpleNamespace
from typing import Any

from django.core.paginator import Page, Paginator
from django.template.loader import render_to_string

HTML = "text/html; charset=utf-8"
JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"

HELLO = "Hello, World!"
WORLDS = 10_000
MAX_QUERIES = 500
MAX_MS = 10_000
PAGE_SIZE = 20

_AS_IN_THE_APPLICATION = {
    "root": "/books/",
    "twin": "/async/books/",
    "text": "",
    "max_search": 200,
}


def dumps(value: Any) -> bytes:
    """Return the value as JSON."""
    return json.dumps(value).encode()


def number_of_queries(text: str | None) -> int:
    """Return ``queries``, brought into 1 to 500; what is missing or no number counts as 1."""
    return _number(text, 1, MAX_QUERIES)


def milliseconds(text: str | None) -> int:
    """Return the ``ms`` of ``/sleep``, brought into 0 to 10,000; what is no number counts as 0."""
    return _number(text, 0, MAX_MS)


def random_id() -> int:
    """Return the id of a row, or the number that one is to have."""
    return randint(1, WORLDS)


def random_ids(number: int) -> list[int]:
    """Return the ids of as many rows to read; one may come twice."""
    return [randint(1, WORLDS) for _ in range(number)]


def ids_to_update(number: int) -> list[int]:
    """Return the ids of as many different rows, in order: then no two requests deadlock."""
    return sorted(sample(range(1, WORLDS + 1), number))


def render_fortunes(fortunes: Iterable[Any]) -> bytes:
    """Return the page of the fortunes, which have ``id`` and ``message``; one more is added to them."""
    rows = list(fortunes)
    rows.append(SimpleNamespace(id=0, message="Additional fortune added at request time."))
    rows.sort(key=attrgetter("message"))
    return render_to_string("fortunes.html", {"fortunes": rows}).encode()


def first_page(books: Sequence[Any], total: int) -> Page:
    """Return the first page of a list of which only these books were read."""
    return _Counted(total).page_of(books)


def render_page(page: Page) -> bytes:
    """Return the page of books, which have ``pk``, ``name``, ``published``, ``price``, ``author.name``."""
    return render_to_string("books/list.html", _AS_IN_THE_APPLICATION | {"page": page}).encode()


class _Counted(Paginator):
    """A paginator that is told how many there are."""

    count = 0  # in Paginator it is a query

    def __init__(self, total: int) -> None:
        super().__init__((), PAGE_SIZE)
        self.count = total

    def page_of(self, books: Sequence[Any]) -> Page:
        return Page(books, 1, self)


def _number(text: str | None, least: int, most: int) -> int:
    try:
        number = int(text or "")
    except ValueError:
        return least
    return min(max(number, least), most)
