"""The parts of a request outside the verb: what has the greenlet, and what is refused by name."""

import asyncio
import gc
import re

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, connection, transaction
from tornado.web import HTTPError, stream_request_body

import greentor
from greentor import bridge
from greentor.db.pools import current_pools
from greentor.scope import ScopeClosed
from greentor.web import BaseRequestHandler
from tests.test_web import server_id, serving
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


# --- initialize -------------------------------------------------------------------------------


def test_initialize_uses_the_orm_on_the_connection_of_its_request(run):
    class Base(BaseRequestHandler):
        def initialize(self, greeting="none"):
            self.seen = (greeting, Author.objects.count(), server_id())

        def get(self):
            greeting, count, number = self.seen
            self.write(f"{greeting} {count} {number == server_id()}")

    class Child(Base):
        def initialize(self, **kwargs):
            super().initialize(greeting="hello", **kwargs)

    async def main():
        async with serving(Base, Child) as served:
            assert await served.get() == "none 0 True"
            assert await served.get("/Child") == "hello 0 True"

    run(main)


def test_initialize_takes_the_arguments_of_its_route(run):
    class Routed(BaseRequestHandler):
        def initialize(self, prefix):
            self.prefix = prefix

        def get(self, name):
            self.write(self.prefix + name)

    async def main():
        async with serving(Routed) as served:
            served.server.request_callback.add_handlers(
                ".*", [(r"/named/(\w+)", Routed, {"prefix": "to "})]
            )
            assert await served.get("/named/ann") == "to ann"
            # without the argument it is an error of the program, which Tornado alone never answers
            assert (await served.fetch("/")).code == 500

    run(main)


@pytest.mark.parametrize(("error", "code"), [(HTTPError(403), 403), (ZeroDivisionError(), 500)])
@pytest.mark.parametrize("streamed", [False, True])
def test_initialize_that_fails_is_answered(run, error, code, streamed):
    class Fails(BaseRequestHandler):
        def initialize(self):
            Author.objects.count()
            raise error

        def post(self):
            raise AssertionError("reached")

        def data_received(self, chunk):
            raise AssertionError("reached")

    if streamed:
        Fails = stream_request_body(Fails)

    async def main():
        async with serving(Fails) as served:
            assert (await served.fetch(method="POST", body=b"x" * 100)).code == code

    run(main)


def test_the_constructor_is_refused_by_name(run):
    refused = []

    class Queries(BaseRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            with pytest.raises(SynchronousOnlyOperation) as info:
                Author.objects.count()
            refused.append(str(info.value))

        def get(self):
            self.write("served")

    async def main():
        refused.clear()
        async with serving(Queries) as served:
            assert await served.get() == "served"

    run(main)
    assert "Author.objects.count()" in refused[0]
    assert "BaseRequestHandler" in refused[0]


# --- on_connection_close ----------------------------------------------------------------------


def test_on_connection_close_is_refused_by_name_and_may_spawn(run):
    refused = []

    class Parks(BaseRequestHandler):
        async def get(self):
            Author.objects.count()
            self.gone = asyncio.Event()
            self.application.parked.set()
            await self.gone.wait()

        def on_connection_close(self):
            with pytest.raises(SynchronousOnlyOperation) as info:
                Author.objects.create(name="refused")
            refused.append(str(info.value))
            greentor.spawn(Author.objects.create, name="left")
            self.gone.set()

    @greentor.green
    def names():
        return [author.name for author in Author.objects.all()]

    async def main():
        refused.clear()
        async with serving(Parks) as served:
            served.server.request_callback.parked = asyncio.Event()
            _, writer = await served.connect()
            await served.server.request_callback.parked.wait()
            writer.close()
            while await names() != ["left"]:
                await asyncio.sleep(0.005)
            await greentor.green(Author.objects.all().delete)()

    run(main)
    assert "greentor.spawn" in refused[0]


# --- abandoned async generators ---------------------------------------------------------------


def test_an_async_generator_that_runs_to_its_end_is_in_the_greenlet(run):
    class Iterates(BaseRequestHandler):
        async def get(self):
            async def rows():
                with transaction.atomic():
                    async for author in Author.objects.all():
                        yield author, bridge.in_green(), server_id()

            Author.objects.create(name="a")
            found = [row async for row in rows()]
            assert found[0][1:] == (True, server_id())
            Author.objects.all().delete()

    async def main():
        async with serving(Iterates) as served:
            await served.get()

    run(main)


async def rows(ended):
    try:
        with transaction.atomic():
            Author.objects.create(name="uncommitted")
            yield 1
            yield 2
    except BaseException as exc:
        ended.append((type(exc), bridge.in_green()))
        raise


class Iterating(BaseRequestHandler):
    """Leaves a generator in the middle, goes on to write, and looks at the transaction."""

    async def get(self):
        self.application.ended = []
        await self.leave(rows(self.application.ended))
        assert self.application.ended == [(GeneratorExit, True)]
        assert not connection.in_atomic_block
        await Author.objects.acreate(name="written after it")

    async def leave(self, generator):
        raise NotImplementedError


class Breaks(Iterating):
    async def leave(self, generator):
        async for _ in generator:
            break


class Closes(Iterating):
    async def leave(self, generator):
        await anext(generator)
        await generator.aclose()


class RaisesOutOfIt(Iterating):
    async def leave(self, generator):
        try:
            async for _ in generator:
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass


class BreaksInAHelper(Iterating):
    async def leave(self, generator):
        await asyncio.create_task(greentor.green(self.help)(generator))

    async def help(self, generator):
        async for _ in generator:
            break


@pytest.mark.parametrize(
    "handler", [Breaks, Closes, RaisesOutOfIt, BreaksInAHelper], ids=lambda h: h.__name__
)
def test_an_async_generator_left_within_atomic_is_rolled_back_on_the_spot(run, mariadb, handler):
    async def main():
        async with serving(handler) as served:
            await served.get()

    run(main)
    rows = mariadb.execute("SELECT name FROM greentor.testapp_author")
    assert [row["name"] for row in rows] == ["written after it"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_async_generator_found_by_the_garbage_collector_ends_with_its_scope(run, mariadb):
    """It may be found in the middle of a query, where nothing can be done for it."""

    class Hides(BaseRequestHandler):
        async def get(self):
            cycle = [rows(ended)]
            cycle.append(cycle)
            await anext(cycle[0])
            del cycle
            gc.collect()
            assert connection.in_atomic_block
            Author.objects.create(name="lost with it")

    ended = []

    async def main():
        ended.clear()
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        async with serving(Hides) as served:
            await served.get()
            [pool] = current_pools()
            await await_until(lambda: ended and reported and pool.in_use == 0)
        gc.collect()
        [error] = reported
        # Refused, before a byte is written, by whichever check comes first.
        assert type(error) in (ScopeClosed, SynchronousOnlyOperation, DatabaseError)
        assert re.search(r"greentor\.spawn\(\)|belong(s|ed) to GET /", str(error))

    run(main)
    assert not mariadb.execute("SELECT * FROM greentor.testapp_author")


def test_a_cancel_while_an_async_generator_is_closed_reaches_its_caller(run):
    async def main():
        closing = asyncio.Event()

        async def parks_at_its_end():
            try:
                yield 1
            finally:
                closing.set()
                await asyncio.sleep(10)

        @greentor.green
        async def leaves():
            async for _ in parks_at_its_end():
                break
            await asyncio.sleep(10)

        task = asyncio.create_task(leaves())
        await closing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert task.cancelling() == 1

    run(main)


def test_an_error_while_an_async_generator_is_closed_is_reported(run):
    async def main():
        async def fails_at_its_end():
            try:
                yield 1
            finally:
                raise ZeroDivisionError

        @greentor.green
        async def leaves():
            async for _ in fails_at_its_end():
                break
            return "went on"

        reported = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context)
        )
        assert await leaves() == "went on"
        [context] = reported
        assert isinstance(context["exception"], ZeroDivisionError)
        assert "fails_at_its_end" in context["message"]

    run(main)


def test_an_async_generator_outside_greenlets_is_closed_as_asyncio_does(run):
    async def main():
        closed = []

        async def numbers():
            try:
                yield 1
            finally:
                closed.append(asyncio.current_task() is not main_task)

        main_task = asyncio.current_task()
        await greentor.green(lambda: None)()  # the hooks are set
        async for _ in numbers():
            break
        assert closed == []
        await await_until(lambda: closed)
        assert closed == [True]

    run(main)
