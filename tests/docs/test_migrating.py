"""The guides in docs/migrating: what stands under "After" does what stood under "Before"."""

import asyncio
import contextlib
from decimal import Decimal

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.test import AsyncRequestFactory
from tornado.escape import json_decode
from tornado.web import Application, RequestHandler

from greentor import green
from greentor.bridge import running
from greentor.web import drain
from tests.docs.blocks import load
from tests.test_web import Served
from tests.testapp.models import Author, Book, Counter
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


class Shop(RequestHandler):
    """A service on the network that knows prices."""

    def get(self):
        self.write({"price": "7.50"})


@green
def make_book():
    """Return the pk, as text, of a book at 20.00; its searches are counted."""
    author = Author.objects.create(name="Anna")
    book = Book.objects.create(name="Green", author=author, price=Decimal("20.00"))
    Counter.objects.create(name=f"search {book.pk}")
    return str(book.pk)


@contextlib.asynccontextmanager
async def serving(handler):
    """Serve ``handler`` at ``/<number>``, and the shop at ``/Shop``."""
    served = Served(Application([(r"/(\d+)", handler), ("/Shop", Shop)]))
    try:
        yield served
        assert await drain(10) == 0
    finally:
        served.client.close()
        served.server.stop()
        await served.server.close_all_connections()


@pytest.mark.parametrize("name", ["before", "executor", "after"])
def test_thread_pool(run, monkeypatch, name):
    module = load("migrating/threads.md", name, monkeypatch)
    if name == "executor":  # what stood before, but for this one line
        before = load("migrating/threads.md", "before", monkeypatch)
        before.executor = module.executor
        module = before

    async def main():
        pk = await make_book()
        async with serving(module.BookHandler) as served:
            monkeypatch.setattr(
                settings, "PRICES", f"http://127.0.0.1:{served.port}/Shop?", raising=False
            )
            before = json_decode(await served.get(f"/{pk}"))
            answer = await served.fetch(f"/{pk}", method="PUT", body="")
            after = json_decode(await served.get(f"/{pk}"))
        assert before == {"name": "Green", "author": "Anna", "price": "20.00"}
        assert answer.code == 200
        assert after == {**before, "price": "7.50"}

    try:
        run(main)
    finally:
        if name == "before":
            for _ in module.executor._threads:
                module.executor.submit(connections.close_all)
            module.executor.shutdown()


def test_thread_pool_missing_book_is_404(run, monkeypatch):
    module = load("migrating/threads.md", "after", monkeypatch)

    async def main():
        async with serving(module.BookHandler) as served:
            assert (await served.fetch("/0")).code == 404

    run(main)


DISCOUNTED = {"author": "Anna", "price": "18.00"}


def test_sync_to_async_before(run, monkeypatch):
    module = load("migrating/sync-to-async.md", "before", monkeypatch)

    async def main():
        pk = await make_book()
        answer = await module.book_view(AsyncRequestFactory().post("/"), pk)
        await sync_to_async(connections.close_all)()
        assert json_decode(answer.content) == DISCOUNTED

    run(main)


def test_sync_to_async_after(run, monkeypatch):
    module = load("migrating/sync-to-async.md", "after", monkeypatch)

    async def main():
        pk = await make_book()
        async with serving(module.BookHandler) as served:
            answer = await served.fetch(f"/{pk}", method="POST", body="")
        assert json_decode(answer.body) == DISCOUNTED

    run(main)


def test_gevent_after(run, monkeypatch):
    """What stands before needs a patched process: it was run by hand."""
    module = load("migrating/gevent.md", "after", monkeypatch)

    async def main():
        pk = await make_book()
        async with serving(module.Prices) as served:
            monkeypatch.setattr(
                settings,
                "SHOPS",
                [f"http://127.0.0.1:{served.port}/Shop?{n}" for n in range(3)],
                raising=False,
            )
            answer = json_decode(await served.get(f"/{pk}"))
        assert answer == {"name": "Green", "prices": ["7.50"] * 3}
        loop = asyncio.get_running_loop()
        await await_until(lambda: not [t for t in running.spawned if t.get_loop() is loop])
        assert (await green(Counter.objects.get)(name=f"search {pk}")).n == 1

    run(main)
