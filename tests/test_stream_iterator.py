"""``OPTIONS["stream_iterator"]``: rows as they come, and no way to lose some of them unnoticed."""

import gc

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import ProgrammingError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext

import greentor
from greentor import green
from greentor.db.mysql.base import check_options
from greentor.db.mysql.streaming import StreamCursor
from greentor.db.pools import current_pools
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.usefixtures("clean_tables", "streaming")

MANY = 3000


@pytest.fixture(autouse=True)
def streaming(monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"], "stream_iterator", True)


@pytest.fixture
def authors(mariadb, clean_tables):
    mariadb.execute(
        "INSERT INTO greentor.testapp_author (name)"
        f" SELECT CONCAT(REPEAT('x', 90), seq) FROM greentor.seq_1_to_{MANY}"
    )


def in_use():
    return [pool.in_use for pool in current_pools()]


def test_rows_are_read_as_they_are_asked_for(run, authors):
    @green
    def request():
        rows = Author.objects.order_by("id").iterator(chunk_size=10)
        first = next(rows)
        stream = connection._stream
        assert isinstance(stream, StreamCursor)
        assert stream.unread
        assert stream.rownumber == 10
        count = 1 + sum(1 for _ in rows)
        assert not stream.unread
        return first.name[90:], count, Author.objects.count()

    assert run(request) == ("1", MANY, MANY)


def test_the_async_iterator_streams_too(run, authors):
    @green
    async def request():
        count = 0
        async for _ in Author.objects.order_by("id").aiterator(chunk_size=500):
            count += 1
            assert connection._stream is not None
        return count

    assert run(request) == MANY


def test_without_the_option_the_result_is_read_at_once(run, monkeypatch):
    monkeypatch.delitem(settings.DATABASES["default"]["OPTIONS"], "stream_iterator")

    @green
    def request():
        Author.objects.create(name="a")
        for author in Author.objects.iterator():
            assert author.books.count() == 0
            assert connection._stream is None

    run(request)


@pytest.mark.parametrize(
    "query",
    [
        Author.objects.count,
        lambda: Author.objects.create(name="nested"),
        lambda: next(Author.objects.iterator()),
        lambda: connection.cursor().execute("SELECT 1"),
        lambda: transaction.atomic().__enter__(),
    ],
    ids=["count", "create", "iterator", "cursor", "atomic"],
)
def test_a_query_between_the_rows_is_refused_by_name_and_costs_no_row(run, authors, query):
    @green
    def request():
        rows = Author.objects.iterator(chunk_size=10)
        next(rows)
        with pytest.raises(ProgrammingError, match="'default' is still reading .* iterator"):
            query()
        return 1 + sum(1 for _ in rows)

    assert run(request) == MANY


def test_a_lazy_relation_in_the_loop_is_refused_and_select_related_is_not(run):
    @green
    def request():
        author = Author.objects.create(name="a")
        for n in range(30):
            Book.objects.create(name=f"b{n}", author=author)
        with pytest.raises(ProgrammingError, match="select_related"):
            for book in Book.objects.iterator(chunk_size=10):
                str(book.author)
        names = [b.author.name for b in Book.objects.select_related("author").iterator()]
        return len(names), Book.objects.count()

    assert run(request) == (30, 30)


def test_within_a_transaction_a_savepoint_between_the_rows_is_refused(run, authors):
    @green
    def request():
        with transaction.atomic():
            rows = Author.objects.iterator(chunk_size=10)
            next(rows)
            with pytest.raises(ProgrammingError, match="still reading"), transaction.atomic():
                pass
            # Django marks the transaction as broken: its savepoint could not be made.
            transaction.set_rollback(False)
            return 1 + sum(1 for _ in rows)

    assert run(request) == MANY


def test_the_other_alias_is_free(run, authors):
    @green
    def request():
        rows = Author.objects.iterator(chunk_size=10)
        next(rows)
        assert Author.objects.using("other").count() == 0
        return 1 + sum(1 for _ in rows)

    assert run(request) == MANY


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_rows_left_at_the_end_of_a_transaction_are_an_error_for_who_reads_on(run, authors, end):
    @green
    def request():
        with transaction.atomic():
            rows = Author.objects.iterator(chunk_size=10)
            next(rows)
            transaction.set_rollback(end == "rollback")
        with pytest.raises(ProgrammingError, match="not all read when its transaction ended"):
            list(rows)
        return Author.objects.count()

    assert run(request) == MANY


def test_breaking_off_frees_the_connection(run, authors):
    @green
    def request():
        for _ in Author.objects.iterator(chunk_size=10):
            break
        return Author.objects.count()

    assert run(request) == MANY


def test_an_iterator_that_outlives_its_request_takes_its_connection_with_it(run, authors):
    kept = []

    @green
    def request():
        rows = Author.objects.iterator(chunk_size=10)
        next(rows)
        kept.append(rows)

    async def main():
        kept.clear()
        await request()
        [pool] = current_pools()
        assert (pool.in_use, pool.idle) == (0, 0)
        with pytest.raises(ProgrammingError):
            await green(list)(kept[0])
        kept.clear()
        gc.collect()
        assert await green(Author.objects.count)() == MANY

    run(main)


def test_waiting_between_the_rows_keeps_the_connection(run, authors):
    @greentor.hold("transaction")
    def request():
        total = 0
        for _ in Author.objects.iterator(chunk_size=500):
            total += 1
            if total % 500 == 0:
                greentor.sleep(0)
                assert in_use() == [1]
        greentor.sleep(0)
        assert in_use() == [0]
        return total

    assert run(green(request)) == MANY


def test_outside_greenlets_it_streams_as_well(authors):
    connection = connections["default"]
    try:
        rows = Author.objects.iterator(chunk_size=10)
        next(rows)
        with pytest.raises(ProgrammingError, match="still reading"):
            Author.objects.count()
        assert 1 + sum(1 for _ in rows) == MANY
        assert Author.objects.count() == MANY
    finally:
        connection.close()


def test_the_queries_are_logged(run, authors):
    @green
    def request():
        with CaptureQueriesContext(connection) as queries:
            assert sum(1 for _ in Author.objects.iterator()) == MANY
        return len(queries)

    assert run(request) == 1


def test_a_wrong_value_is_refused_at_start_up():
    database = {"OPTIONS": {"stream_iterator": 1}}
    with pytest.raises(ImproperlyConfigured, match="'stream_iterator'\\] must be True or False"):
        check_options("default", database)
