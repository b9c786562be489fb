"""Cancelled wherever it may be parked, a request leaves all or nothing, and nothing of itself.

Each of these runs again and again and is cancelled at its first park, at its second, and so on, until
it gets through: in the pool's queue, in the handshake, in each statement, in COMMIT.
"""

import asyncio
import types

import pytest
from django.contrib.auth import alogin, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.db.models import F
from django.http import HttpRequest

import greentor
from greentor import green
from greentor.db.pools import current_pools
from tests.orm.support import returned, server_id
from tests.testapp.models import Author, Book, Counter, Placing, Shelf, Tag, Volume
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")

#: no request here parks as often as that
MANY = 500


async def cancelled_at(number, coroutine):
    """Await `coroutine`, its task cancelled when it parks for the so-many-th time."""
    return await _stepped(number, coroutine)


@types.coroutine
def _stepped(number, coroutine):
    task = asyncio.current_task()
    parks = 0
    step, value = coroutine.send, None
    while True:
        try:
            item = step(value)
        except StopIteration as stop:
            return stop.value
        parks += 1
        if parks == number:
            task.cancel()
        try:
            step, value = coroutine.send, (yield item)
        except BaseException as exc:
            step, value = coroutine.throw, exc


def relations():
    with transaction.atomic():
        shelf = Shelf.objects.create(name="s")
        volume = Volume.objects.create(title="v")
        volume.tags.set([Tag.objects.create(word=word) for word in "ab"])
        shelf.volumes.add(volume, through_defaults={"position": 1})
    for found in Volume.objects.prefetch_related("tags", "shelves"):
        assert [tag.word for tag in found.tags.all()] == ["a", "b"]
        assert found.placing_set.get().shelf.name == "s"


def in_bulk():
    Tag.objects.bulk_create([Tag(word=str(n)) for n in range(6)], batch_size=2)


def savepoints():
    with transaction.atomic():
        Counter.objects.create(name="outer")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Counter.objects.create(name="lost")
            raise ZeroDivisionError
        with transaction.atomic():
            Counter.objects.select_for_update().filter(name="outer").update(n=F("n") + 1)


async def helpers():
    with transaction.atomic():
        await asyncio.gather(*(Tag.objects.acreate(word=word) for word in "abc"))
        async with asyncio.TaskGroup() as group:
            group.create_task(Author.objects.acreate(name="a"))
            group.create_task(Author.objects.acount())
        async for tag in Tag.objects.aiterator(chunk_size=2):
            await tag.asave()


async def login():
    user = await get_user_model().objects.aget(username="ann")
    http = HttpRequest()
    http.session = SessionStore()
    with transaction.atomic():
        await alogin(http, user)
        await http.session.asave()


def with_a_timeout():
    with greentor.timeout(30), transaction.atomic():
        Author.objects.create(name="a")
        with greentor.timeout(20):
            Book.objects.create(name="b", author=Author.objects.get(name="a"))


# What it does, and how many rows there are in the end.
REQUESTS = [
    (relations, 1 + 1 + 2 + 2 + 1),
    (in_bulk, 6),
    (savepoints, 1),
    (helpers, 3 + 1),
    (login, 1),
    (with_a_timeout, 2),
]

MODELS = [Author, Book, Counter, Placing, Session, Shelf, Tag, Volume, Volume.tags.through]


def rows():
    return sum(model.objects.count() for model in MODELS)


def empty():
    for model in MODELS:
        model.objects.all().delete()


def connections_of_clients(mariadb):
    return sum(row["USER"] == mariadb.user for row in mariadb.processlist())


@pytest.mark.parametrize("pool", [True, False], ids=["pool", "no pool"])
@pytest.mark.parametrize(("work", "complete"), REQUESTS, ids=lambda x: getattr(x, "__name__", ""))
def test_all_or_nothing_is_there_and_nothing_is_left(
    run, mariadb, pool_options, monkeypatch, work, complete, pool
):
    from django.conf import settings

    if not pool:
        monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"], "pool", False)
    get_user_model().objects.create_user("ann")
    connection.close()

    async def main():
        outcomes = set()
        for number in range(1, MANY):
            try:
                await asyncio.create_task(cancelled_at(number, green(work)()))
                done = True
            except asyncio.CancelledError:
                done = False
            await returned()
            # The server has noticed, and rolled back, when the connection is gone.
            kept = sum(p.idle for p in current_pools())
            await await_until(lambda kept=kept: connections_of_clients(mariadb) <= kept)
            there = await green(rows)()
            assert there in (0, complete), f"cancelled at {number}"
            assert await green(lambda: (server_id(), server_id()))()
            outcomes.add((done, there == complete))
            if done:
                break
            await green(empty)()
        assert (True, True) in outcomes
        assert (False, False) in outcomes
        assert number > 5

    run(main)
