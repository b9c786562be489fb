"""Querysets of every kind, evaluated in a greenlet: parked, on its connection, with Django's results."""

import asyncio
from datetime import UTC
from itertools import islice

import pytest
from django.db import DatabaseError, ProgrammingError, connection, models, transaction
from django.db.models import (
    Avg,
    Case,
    Count,
    Exists,
    F,
    OuterRef,
    Q,
    Subquery,
    Sum,
    Value,
    When,
    Window,
)
from django.db.models.functions import Lag, Length, Rank, Upper

from greentor import green, spawn
from tests.orm.support import executing, kill, parked, server_id, the_pool
from tests.testapp.models import Author, Book, Counter, Tag, Volume

pytestmark = pytest.mark.usefixtures("clean_tables")


@pytest.fixture(autouse=True)
def _filled(clean_tables):
    ann, bob = (Author.objects.create(name=name) for name in ("ann", "bob"))
    Book.objects.bulk_create(
        Book(name=f"book {n}", author=(ann, bob)[n % 2], price=n) for n in range(6)
    )
    connection.close()


def names(rows):
    return [book.name[-1] for book in rows]


def books():
    return Book.objects.order_by("name")


DEAREST = Book.objects.filter(author=OuterRef("pk")).order_by("-price")
SECOND = Author.objects.filter(name="bob")

QUERYSETS = {
    "values": (
        lambda: books().values("author__name", "price")[0],
        {"author__name": "ann", "price": 0},
    ),
    "values_list": (lambda: list(books().values_list("price", flat=True)), list(range(6))),
    "slice": (lambda: names(books()[1:4:2]), ["1", "3"]),
    "exists, count, contains": (
        lambda: (books().exists(), books().count(), books().filter(price=9).exists()),
        (True, 6, False),
    ),
    "first, last, latest": (
        lambda: names([books().first(), books().last(), Book.objects.latest("price")]),
        ["0", "5", "5"],
    ),
    "distinct": (lambda: books().order_by("author").values("author").distinct().count(), 2),
    "dates": (lambda: len(books().datetimes("created", "hour", tzinfo=UTC)) in (1, 2), True),
    "aggregate": (
        lambda: books().aggregate(s=Sum("price"), a=Avg("price"), n=Count("author", distinct=True)),
        {"s": 15, "a": 2.5, "n": 2},
    ),
    "annotate": (
        lambda: list(
            Author.objects.annotate(n=Count("books"), dear=Count("books", Q(books__price__gt=2)))
            .order_by("name")
            .values_list(Upper("name"), "n", "dear")
        ),
        [("ANN", 3, 1), ("BOB", 3, 2)],
    ),
    "case": (
        lambda: (
            books()
            .annotate(dear=Case(When(price__gt=4, then=Value(1)), default=Value(0)))
            .filter(dear=1)
            .count()
        ),
        1,
    ),
    "subquery": (
        lambda: list(
            Author.objects.annotate(best=Subquery(DEAREST.values("name")[:1]))
            .order_by("name")
            .values_list("best", flat=True)
        ),
        ["book 4", "book 5"],
    ),
    "exists as a condition": (
        lambda: Author.objects.filter(Exists(DEAREST.filter(price__gt=4))).get().name,
        "bob",
    ),
    "a queryset within another": (
        lambda: names(books().filter(author__in=SECOND)),
        ["1", "3", "5"],
    ),
    "window": (
        lambda: list(
            books()
            .annotate(
                rank=Window(Rank(), partition_by="author", order_by="-price"),
                before=Window(Lag("price"), partition_by="author", order_by="price"),
            )
            .filter(rank__lte=2)
            .values_list("name", "rank", "before")
        ),
        [("book 2", 2, 0), ("book 3", 2, 1), ("book 4", 1, 2), ("book 5", 1, 3)],
    ),
    "union": (
        lambda: names(books().filter(price=1).union(books().filter(price=4)).order_by("name")),
        ["1", "4"],
    ),
    "intersection": (
        lambda: names(books().filter(price__gt=1).intersection(books().filter(price__lt=3))),
        ["2"],
    ),
    "difference": (lambda: names(books().difference(books().filter(price__gt=0))), ["0"]),
    "in_bulk": (lambda: sorted(Book.objects.in_bulk(["book 1"], field_name="name")), ["book 1"]),
    "raw": (
        lambda: [
            (book.name, book.length, book.price)  # the price is deferred
            for book in Book.objects.raw(
                "SELECT id, name, LENGTH(name) AS length FROM testapp_book WHERE price > %s", [4]
            )
        ],
        [("book 5", 6, 5)],
    ),
    "explain": (lambda: "testapp_book" in books().explain(format="json"), True),
    "update": (lambda: books().filter(price__lt=F("author__pk") * 0 + 2).update(price=0), 2),
    "update through an annotation": (
        lambda: Book.objects.annotate(n=Length("name")).update(price=F("n")),
        6,
    ),
    "delete": (lambda: Author.objects.filter(name="bob").delete()[0], 4),
    "bulk_create, ignoring conflicts": (
        lambda: (
            Tag.objects.bulk_create([Tag(word="a"), Tag(word="a")], ignore_conflicts=True)
            and Tag.objects.count()
        ),
        1,
    ),
    "bulk_create, updating on conflict": (
        lambda: (
            Counter.objects.bulk_create(
                [Counter(name="c", n=n) for n in (1, 2)],
                update_conflicts=True,
                update_fields=["n"],
            )
            and Counter.objects.get().n
        ),
        2,
    ),
    "bulk_create, in batches": (
        lambda: len(Volume.objects.bulk_create([Volume() for _ in range(5)], batch_size=2)),
        5,
    ),
    "bulk_update": (
        lambda: Book.objects.bulk_update(
            [Book(pk=book.pk, price=7) for book in books()], ["price"], batch_size=4
        ),
        6,
    ),
    "none": (lambda: list(Book.objects.none()), []),
}


@pytest.mark.parametrize("name", QUERYSETS)
def test_a_queryset_in_a_greenlet_parks_and_answers_as_ever(run, pool_of_one, name):
    evaluate, expected = QUERYSETS[name]

    @green
    def request():
        with transaction.atomic():
            with parked() as sent:
                result = evaluate()
            transaction.set_rollback(True)
        assert sent or name == "none"
        return result

    result = run(request)
    assert result == expected
    connection.close()


def test_raw_cursors_park_and_return_what_was_sent(run, pool_of_one):
    @green
    def request():
        with parked(5), connection.cursor() as cursor:
            cursor.execute("SELECT name, price FROM testapp_book ORDER BY name")
            assert cursor.fetchone() == ("book 0", 0)
            assert [row[0] for row in cursor.fetchmany(2)] == ["book 1", "book 2"]
            assert len(cursor.fetchall()) == 3
            assert [column[0] for column in cursor.description] == ["name", "price"]
            rows = [(f"counter {n}", n) for n in range(3)]
            cursor.executemany("INSERT INTO testapp_counter (name, n) VALUES (%s, %s)", rows)
            assert cursor.rowcount == 3
            cursor.execute("SELECT SUM(n) FROM testapp_counter WHERE name LIKE 'c%%'")
            assert [row for (row,) in cursor] == [3]
            cursor.execute("SELECT NULL, '%%', %s", ["%"])
            assert cursor.fetchall() == ((None, "%", "%"),)
            with pytest.raises(DatabaseError, match="nothing"):
                cursor.execute("SELECT * FROM nothing")

    async def main():
        await request()
        await request_after_an_error()

    @green
    def request_after_an_error():
        assert Counter.objects.count() == 3

    run(main)


@pytest.mark.parametrize("prefetch", [False, True])
def test_an_iterator_leaves_the_connection_to_others_between_its_rows(run, pool_of_one, prefetch):
    """Its result is read as a whole: queries and helper tasks may come in between."""

    @green
    async def request():
        chunks = (
            books().prefetch_related("author") if prefetch else books().select_related("author")
        )
        seen = []
        with parked(1 + 6 + (3 if prefetch else 0)):
            for book in chunks.iterator(chunk_size=2):
                seen.append((book.name, book.author.name, Book.objects.filter(pk=book.pk).count()))
        [counted, *_] = await asyncio.gather(*(books().acount() for _ in range(2)))
        assert counted == len(seen) == 6
        return seen[-1]

    assert run(request) == ("book 5", "bob", 1)


def test_an_iterator_left_half_way_leaves_nothing(run, pool_of_one):
    async def main():
        @green
        def request():
            rows = Book.objects.iterator(chunk_size=1)
            return next(rows), server_id()  # the rest is never asked for

        _, first = await request()
        assert (the_pool().in_use, the_pool().idle) == (0, 1)
        _, second = await request()
        assert first == second

    run(main)


def test_a_queryset_made_in_one_greenlet_and_iterated_in_another_has_its_connection(run):
    """It carries no connection before it is evaluated, and none afterwards."""
    gate = []

    def make():
        lazy = books().filter(author__name="ann")
        evaluated = books().all()
        assert len(evaluated) == 6
        started = books().iterator(chunk_size=2)
        gate.append(names(islice(started, 2)))
        return lazy, evaluated, started, server_id()

    def use(lazy, evaluated, started, _):
        with parked(1):
            assert names(lazy) == ["0", "2", "4"]
            assert names(evaluated) == list("012345")  # cached
            assert gate == [["0", "1"]]
        with pytest.raises(ProgrammingError, match=r"opened by .*first and used by .*use"):
            names(started)  # a result that is half read is its own greenlet's
        with parked(3):
            assert [book.author.name for book in lazy] == ["ann"] * 3
        return server_id()

    async def main():
        @green
        async def first():
            handed = make()
            # Another scope, while this one still holds its connection.
            assert await spawn(use, *handed) != handed[-1] == server_id()

        await first()
        assert the_pool().in_use == 0

    run(main)


def test_one_queryset_evaluated_by_two_greenlets_at_once_is_whole_for_both(run):
    """Each sends the query on its own connection; as with threads the cache is the last one's."""

    async def main():
        shared = books().select_related("author")

        def evaluate():
            return [(book.name, book.author.name) for book in shared]

        results = await asyncio.gather(*(spawn(evaluate) for _ in range(5)))
        assert [len(result) for result in results] == [6] * 5
        assert all(result == results[0] for result in results)

    run(main)


def test_cancelled_between_two_batches_the_first_is_not_there(run, mariadb):
    """`bulk_create` is a transaction: all or nothing."""

    @green
    def request():
        Volume.objects.bulk_create([Volume(title="first"), Volume(title=SlowTitle())], batch_size=1)

    async def main():
        task = asyncio.create_task(request())
        await executing(mariadb, "half way")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kill(mariadb, "half way")
        assert await green(Volume.objects.count)() == 0

    run(main)


class SlowTitle(models.Func):
    """A title that takes the server its time."""

    template = "CONCAT('half way', SLEEP(30))"
    output_field = models.CharField()
