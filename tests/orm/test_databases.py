"""Several databases in one request: a connection and a transaction of each, routed as ever."""

import asyncio

import pytest
from django.db import DEFAULT_DB_ALIAS, connections, router, transaction
from django.test import override_settings

from greentor import green, spawn
from greentor.db.pools import current_pools
from greentor.pool import PoolTimeout
from greentor.web import BaseRequestHandler
from tests.orm.support import Turns, executing, kill, parked, returned, server_id, the_pool
from tests.test_web import serving
from tests.testapp.models import Author, Book, Counter, Tag, Volume

pytestmark = pytest.mark.usefixtures("clean_tables")


def names(alias):
    return sorted(Author.objects.using(alias).values_list("name", flat=True))


class ReadFromOther:
    """Authors are written to the default database and read from the other one."""

    def db_for_read(self, model, **hints):
        return "other" if model is Author else None

    def db_for_write(self, model, **hints):
        return "default"

    def allow_relation(self, first, second, **hints):
        return True


class TagsElsewhere:
    """Tags, read and written, are on the other one."""

    def db_for_read(self, model, **hints):
        return "other" if model is Tag else None

    db_for_write = db_for_read


def routed_by(cls):
    return override_settings(DATABASE_ROUTERS=[cls()])


# --- aliases ----------------------------------------------------------------------------------


def test_what_is_written_to_one_database_is_not_in_the_other(run, pool_of_one):
    @green
    def request():
        with parked(using="other"):
            author = Author.objects.using("other").create(name="o")
            Author.objects.db_manager("other").create(name="p")
            book = Book(name="b", author=author)
            book.save(using="other")
            assert book._state.db == "other"
            assert author.books.get() == book  # the relation stays where it is
            assert Book.objects.using("other").select_related("author").get().author == author
        Author.objects.create(name="d")
        with pytest.raises(ValueError, match="same database|current database router"):
            Book(name="c", author=Author.objects.get()).author = author
        with pytest.raises(Author.DoesNotExist):
            Author.objects.get(name="o")
        return names("default"), names("other")

    assert run(request) == (["d"], ["o", "p"])


def test_a_copy_to_another_database_by_saving_there(run, pool_of_one):
    @green
    def request():
        author = Author.objects.create(name="copied")
        author.save(using="other", force_insert=True)
        assert author._state.db == "other"
        author.delete()
        return names("default"), names("other")

    assert run(request) == (["copied"], [])


def test_each_alias_has_one_connection_for_a_request_and_its_helpers(run, pool_of_one):
    @green
    async def request():
        async def child(alias):
            return await Author.objects.using(alias).acount(), the_pool(alias).in_use

        ids = {alias: server_id(alias) for alias in connections}
        assert len(set(ids.values())) == 2
        counts = await asyncio.gather(*(child(alias) for alias in [*connections, *connections]))
        assert counts == [(0, 1)] * 4
        assert {alias: server_id(alias) for alias in connections} == ids

    run(request)


# --- routers ----------------------------------------------------------------------------------


def test_a_router_decides_inside_a_greenlet(run, pool_of_one):
    @green
    async def request():
        with routed_by(ReadFromOther):
            assert router.db_for_read(Author) == "other"
            author = await Author.objects.acreate(name="written")
            assert author._state.db == "default"
            assert await Author.objects.acount() == 0
            await Author.objects.using("other").acreate(name="read")
            assert [author.name async for author in Author.objects.all()] == ["read"]
            await author.arefresh_from_db(using="default")
            # get_or_create writes, so it reads there as well.
            _, created = await Author.objects.aget_or_create(name="written")
            assert not created
            # A lock is taken where one writes.
            with transaction.atomic():
                locked = Author.objects.using("default").select_for_update()
                assert (await locked.aget()).name == "written"

    run(request)


def test_many_to_many_across_databases_is_refused_by_django_as_ever(run, pool_of_one):
    @green
    def request():
        with routed_by(TagsElsewhere):
            tag = Tag.objects.create(word="t")
            volume = Volume.objects.create(title="v")
            assert (tag._state.db, volume._state.db) == ("other", "default")
            with pytest.raises(ValueError, match="database"):
                volume.tags.add(tag)
            assert Tag.objects.count() == 1

    run(request)


def test_a_router_in_a_handler_serves_requests_at_once(run):
    class Routed(BaseRequestHandler):
        async def get(self):
            name = self.get_argument("name")
            await Tag.objects.acreate(word=name)
            await asyncio.sleep(0)
            with transaction.atomic(), transaction.atomic(using="other"):
                assert Tag.objects.filter(word=name).update(word=f"{name}!") == 1
                Counter.objects.create(name=name)
            self.write(Tag.objects.get(word=f"{name}!")._state.db)

    async def main():
        async with serving(Routed) as served:
            with routed_by(TagsElsewhere):
                answers = await asyncio.gather(*(served.get(f"/?name={n}") for n in range(20)))
        assert answers == ["other"] * 20
        assert await green(lambda: (Counter.objects.count(), Tag.objects.count()))() == (20, 0)
        assert {pool.in_use for pool in current_pools()} == {0}

    run(main)


# --- transactions -----------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [None, "inner", "outer"])
def test_nested_blocks_of_two_aliases_end_each_for_itself(run, pool_of_one, fails):
    @green
    async def request():
        seen = []
        try:
            with transaction.atomic():
                Author.objects.create(name="d")
                transaction.on_commit(lambda: seen.append("default"))
                with transaction.atomic(using="other"):
                    await Author.objects.using("other").acreate(name="o")
                    transaction.on_commit(lambda: seen.append("other"), using="other")
                    if fails == "inner":
                        raise ZeroDivisionError
                if fails == "outer":
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        return names("default"), names("other"), seen

    expected = {
        None: (["d"], ["o"], ["other", "default"]),
        "inner": ([], [], []),
        "outer": ([], ["o"], ["other"]),
    }
    assert run(request) == expected[fails]


def test_durable_is_asked_of_each_alias(run, pool_of_one):
    @green
    def request():
        with transaction.atomic(), transaction.atomic(using="other", durable=True):
            pass
        durable = transaction.atomic(using="other", durable=True)
        with (
            transaction.atomic(using="other"),
            pytest.raises(RuntimeError, match="durable"),
            durable,
        ):
            pass

    run(request)


def test_cancelled_on_one_database_the_transactions_of_both_are_rolled_back(run, mariadb):
    def request():
        with transaction.atomic(), transaction.atomic(using="other"):
            Author.objects.create(name="d")
            Author.objects.using("other").create(name="o")
            with connections["other"].cursor() as cursor:
                cursor.execute("SELECT SLEEP(30) /* on the other */")

    async def main():
        task = spawn(request)
        await executing(mariadb, "on the other")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kill(mariadb, "on the other")
        await returned()
        assert await green(lambda: (names("default"), names("other")))() == ([], [])

    run(main)


# --- pools ------------------------------------------------------------------------------------


def test_each_database_has_a_bound_of_its_own(run, pool_options, mariadb):
    pool_options("default", pool_size=3, max_overflow=0, pool_timeout=5)
    pool_options("other", pool_size=1, max_overflow=0, pool_timeout=5)

    async def main():
        most = dict.fromkeys(connections, 0)

        def work(n):
            for alias in DEFAULT_DB_ALIAS, "other":
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT SLEEP(0.005)")
                most[alias] = max(most[alias], the_pool(alias).in_use)
                connections[alias].close()
            return n

        with Turns() as turns:
            results = await asyncio.gather(*(spawn(work, n) for n in range(12)))
        assert results == list(range(12))
        assert most == {"default": 3, "other": 1}
        assert turns.count > 12

    run(main)


def test_an_exhausted_pool_of_one_database_does_not_touch_the_other(run, pool_options):
    pool_options("default", pool_size=2, max_overflow=0, pool_timeout=2)
    pool_options("other", pool_size=1, max_overflow=0, pool_timeout=0.05)

    async def main():
        held, end = asyncio.Event(), asyncio.Event()

        async def holder():
            server_id("other")
            held.set()
            await end.wait()

        @green
        def request():
            number = server_id()
            with pytest.raises(PoolTimeout, match="other"):
                server_id("other")
            with transaction.atomic():  # goes on with what it has
                Author.objects.create(name="d")
            assert server_id() == number

        task = spawn(holder)
        await held.wait()
        await request()
        end.set()
        await task
        assert await green(names)("default") == ["d"]

    run(main)
