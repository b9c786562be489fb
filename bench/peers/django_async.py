"""Django's URLs and async views, for ASGI: Django's async ORM where there is one.

By Django's documentation (Asynchronous support): queries are ``aget``, ``acount`` and ``async for``.
Transactions do not work in async mode; code that needs one is to be a single sync function called by
``sync_to_async``, and so is what uses a cursor: here the changes of ``updates``, and ``sleep``. Below all of
them Django runs each query in a thread, one for each request.
"""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.urls import path

from app.models import Book, Fortune, World
from bench.peers import pages, work
from bench.peers.django_sync import answer, milliseconds, number_of_queries


async def json(request: HttpRequest) -> HttpResponse:
    return answer(pages.dumps({"message": pages.HELLO}))


async def plaintext(request: HttpRequest) -> HttpResponse:
    return answer(pages.HELLO.encode(), pages.PLAIN)


async def db(request: HttpRequest) -> HttpResponse:
    world = await World.objects.aget(pk=pages.random_id())
    return answer(pages.dumps(world.as_dict()))


async def queries(request: HttpRequest) -> HttpResponse:
    ids = pages.random_ids(number_of_queries(request))
    worlds = [await World.objects.aget(pk=id) for id in ids]
    return answer(pages.dumps([world.as_dict() for world in worlds]))


async def fortunes(request: HttpRequest) -> HttpResponse:
    found = [fortune async for fortune in Fortune.objects.all()]
    return answer(pages.render_fortunes(found), pages.HTML)


async def updates(request: HttpRequest) -> HttpResponse:
    ids = pages.ids_to_update(number_of_queries(request))
    worlds = [await World.objects.aget(pk=id) for id in ids]
    return answer(await sync_to_async(work.change)(worlds))


async def sleep(request: HttpRequest) -> HttpResponse:
    return answer(await sync_to_async(work.sleep)(milliseconds(request)))


async def page(request: HttpRequest) -> HttpResponse:
    books = Book.objects.select_related("author")
    total = await books.acount()
    found = [book async for book in books[: pages.PAGE_SIZE]]
    return answer(pages.render_page(pages.first_page(found, total)), pages.HTML)


urlpatterns = [
    path(view.__name__, view)
    for view in (json, plaintext, db, queries, fortunes, updates, sleep, page)
]
