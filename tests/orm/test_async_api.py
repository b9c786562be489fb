"""Django's async API: in a greenlet without a thread, on its connection; elsewhere as Django has it."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
from asgiref.sync import sync_to_async
from django.contrib.contenttypes.models import ContentType
from django.core.paginator import Paginator
from django.db import connection, connections, transaction
from django.db.models import Avg, F, aprefetch_related_objects
from django.shortcuts import aget_list_or_404, aget_object_or_404

from greentor import green, spawn
from greentor.db.pools import current_pools
from greentor.web import BaseRequestHandler
from tests.orm.support import parked, returned, the_pool
from tests.test_web import serving
from tests.testapp.models import Author, Book, Placing, Shelf, Tag, Volume
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")

CALLS = {}


def call(fn):
    CALLS[fn.__name__] = fn
    return fn


# --- what there is to call: each starts with two authors, the first of whom wrote two books -------


@call
async def reading():
    authors = Author.objects.order_by("name")
    ann = await authors.aget(name="ann")
    assert await authors.afirst() == await aget_object_or_404(Author, name="ann") == ann
    assert (await authors.alast()).name == (await authors.alatest("name")).name == "bob"
    assert (await authors.aearliest("name")).name == "ann"
    assert await authors.acount() == len(await aget_list_or_404(Author)) == 2
    assert await authors.aexists()
    assert await authors.acontains(ann)
    assert sorted((await authors.ain_bulk()).values(), key=str) == [a async for a in authors]
    assert await Book.objects.aaggregate(a=Avg("price")) == {"a": 2}
    assert "testapp_author" in await authors.aexplain(format="json")
    with pytest.raises(Author.DoesNotExist):
        await authors.aget(name="nobody")


@call
async def writing():
    author = await Author.objects.acreate(name="new")
    await Author.objects.filter(pk=author.pk).aupdate(name="changed")
    await author.arefresh_from_db()
    assert author.name == "changed"
    author.name = "again"
    await author.asave(update_fields=["name"])
    assert (await author.adelete())[0] == 1
    assert (await Author.objects.filter(name="bob").adelete())[0] == 1
    for created in (True, False):
        tag, is_new = await Tag.objects.aget_or_create(word="t")
        assert is_new is created
    tag, is_new = await Tag.objects.aupdate_or_create(word="t", defaults={"word": "u"})
    assert (tag.word, is_new) == ("u", False)


@call
async def writing_in_bulk():
    volumes = await Volume.objects.abulk_create([Volume(title=str(n)) for n in range(3)])
    volumes = [volume async for volume in Volume.objects.all()]
    for volume in volumes:
        volume.pages = 7
    assert await Volume.objects.abulk_update(volumes, ["pages"], batch_size=2) == 3
    assert await Volume.objects.filter(pages=7).acount() == 3


@call
async def iterating():
    seen = []
    async for book in Book.objects.order_by("name"):
        # In between, on the same connection.
        seen.append((book.name, await Author.objects.filter(books=book).acount()))
    assert seen == [("book 1", 1), ("book 3", 1)]
    books = Book.objects.select_related("author").order_by("name")
    async for book in books.aiterator(chunk_size=1):
        seen.append((book.author.name, await Author.objects.acount()))
    assert seen[2:] == [("ann", 2), ("ann", 2)]
    async for author in Author.objects.prefetch_related("books").aiterator(chunk_size=1):
        seen.append(len(author.books.all()))
    assert sorted(seen[4:]) == [0, 2]
    assert [values async for values in Book.objects.values_list("name", flat=True)]
    raw = Author.objects.raw("SELECT id, name FROM testapp_author")
    assert len([author async for author in raw]) == 2 if hasattr(raw, "__aiter__") else True


@call
async def related_managers():
    ann = await Author.objects.aget(name="ann")
    book = await ann.books.acreate(name="third")
    assert await ann.books.acount() == 3
    assert (await ann.books.aget_or_create(name="third"))[0] == book
    await (await Author.objects.aget(name="bob")).books.aadd(book)
    assert [book.name async for book in ann.books.order_by("name")] == ["book 1", "book 3"]
    volume = await Volume.objects.acreate(title="v")
    tags = [await Tag.objects.acreate(word=word) for word in "ab"]
    await volume.tags.aadd(*tags)
    await volume.tags.aremove(tags[0])
    assert [tag.word async for tag in volume.tags.all()] == ["b"]
    await volume.tags.aset([tags[0]])
    await volume.tags.acreate(word="c")
    await volume.tags.aupdate_or_create(word="c", defaults={"word": "d"})
    assert sorted([tag.word async for tag in volume.tags.all()]) == ["a", "d"]
    await volume.tags.aclear()
    assert not await volume.tags.aexists()
    shelf = await Shelf.objects.acreate(name="s")
    await shelf.volumes.aadd(volume, through_defaults={"position": 1})
    assert await Placing.objects.acount() == 1
    await shelf.children.aadd(await Shelf.objects.acreate(name="t"))
    await shelf.children.aclear()
    # Django looks the content type up in sync code, where it makes the manager.
    await sync_to_async(ContentType.objects.get_for_model)(Shelf)
    note = await shelf.notes.acreate(text="n")
    assert [n.text async for n in shelf.notes.all()] == [note.text]


@call
async def prefetching_and_pages():
    authors = [author async for author in Author.objects.order_by("name")]
    await aprefetch_related_objects(authors, "books")
    assert [len(author.books.all()) for author in authors] == [2, 0]
    if hasattr(Paginator, "aget_page"):
        page = await Paginator(Book.objects.order_by("name"), 1).aget_page(2)
        assert page is not None


@pytest.fixture(autouse=True)
def _filled(clean_tables):
    ann, _ = (Author.objects.create(name=name) for name in ("ann", "bob"))
    for n in (1, 3):
        Book.objects.create(name=f"book {n}", author=ann, price=n)
    connection.close()


# --- in a greenlet ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("atomic", [False, True], ids=["autocommit", "atomic"])
def test_in_an_async_handler_it_parks_on_the_connection_of_the_request(
    run, pool_of_one, name, atomic
):
    class Handler(BaseRequestHandler):
        async def get(self):
            if atomic:
                with transaction.atomic(), parked():
                    await CALLS[name]()
                    assert connection.in_atomic_block
                    transaction.set_rollback(True)
                assert await Author.objects.acount() == await Book.objects.acount() == 2
                assert not await Volume.objects.aexists()
            else:
                with parked():
                    await CALLS[name]()

    async def main():
        async with serving(Handler) as served:
            await served.get()
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


@pytest.mark.parametrize("name", CALLS)
def test_in_a_child_task_it_is_on_the_connection_of_its_owner(run, pool_of_one, name):
    @green
    async def request():
        with transaction.atomic(), parked():
            await asyncio.create_task(CALLS[name]())
            transaction.set_rollback(True)
        assert await Author.objects.acount() == 2

    run(request)


def test_async_for_left_by_a_cancel_gives_everything_back(run, pool_of_one):
    async def main():
        reached = asyncio.Event()

        async def work():
            async for _ in Author.objects.aiterator(chunk_size=1):
                reached.set()
                await asyncio.sleep(3600)

        task = spawn(work)
        await reached.wait()
        assert the_pool().in_use == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await returned()

    run(main)


def test_async_for_left_by_a_break_leaves_the_connection_usable(run, pool_of_one):
    @green
    async def request():
        async for _ in Author.objects.aiterator(chunk_size=1):
            break
        with transaction.atomic():
            await Author.objects.aupdate(name=F("name"))
        return await Author.objects.acount()

    assert run(request) == 2


def test_an_async_generator_of_rows_consumed_by_a_child_task(run, pool_of_one):
    async def rows():
        async for author in Author.objects.order_by("name"):
            yield author.name, await Book.objects.filter(author=author).acount()

    async def consume():
        return [row async for row in rows()]

    @green
    async def request():
        with transaction.atomic():
            await Author.objects.filter(name="bob").aupdate(name="uncommitted")
            results = await asyncio.gather(consume(), consume())
            assert results == [await consume()] * 2 == [[("ann", 2), ("uncommitted", 0)]] * 2

    run(request)


# --- outside of any greenlet ------------------------------------------------------------------


@asynccontextmanager
async def threads_of_django():
    """Close what the threads of `sync_to_async` have opened: nobody else does."""
    try:
        yield
    finally:
        await sync_to_async(connections.close_all)()


@pytest.mark.parametrize("name", CALLS)
def test_in_a_plain_coroutine_it_is_djangos_and_takes_nothing_from_the_pool(run, name):
    async def main():
        async with threads_of_django():
            used = []
            await CALLS[name]()
            used.append([(pool.in_use, pool.idle) for pool in current_pools()])
            assert used == [[]]  # there is not even one

    before = threading.active_count()
    run(main)
    assert threading.active_count() <= before + 1


def test_plain_coroutines_and_greenlets_side_by_side_do_not_meet(run, pool_of_one):
    async def main():
        @green
        async def request():
            with transaction.atomic():
                await Author.objects.acreate(name="uncommitted")
                inside.set()
                await seen.wait()
                transaction.set_rollback(True)

        inside, seen = asyncio.Event(), asyncio.Event()
        async with threads_of_django():
            task = asyncio.create_task(request())
            await inside.wait()
            assert await Author.objects.acount() == 2  # in Django's thread, on its connection
            assert the_pool().in_use == 1
            seen.set()
            await task
            await await_until(lambda: the_pool().in_use == 0)

    run(main)
