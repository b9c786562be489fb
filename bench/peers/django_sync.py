"""Django's URLs and sync views, for the WSGI servers: plain functions over `bench.peers.work`.

Neither a WSGI server nor Django sets ``Content-Length`` without a middleware: here the view does.
"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path

from bench.peers import pages, work


def answer(body: bytes, content_type: str = pages.JSON) -> HttpResponse:
    """Return the body as the answer."""
    return HttpResponse(
        body, headers={"Content-Type": content_type, "Content-Length": str(len(body))}
    )


def number_of_queries(request: HttpRequest) -> int:
    return pages.number_of_queries(request.GET.get("queries"))


def milliseconds(request: HttpRequest) -> int:
    return pages.milliseconds(request.GET.get("ms"))


def json(request: HttpRequest) -> HttpResponse:
    return answer(pages.dumps({"message": pages.HELLO}))


def plaintext(request: HttpRequest) -> HttpResponse:
    return answer(pages.HELLO.encode(), pages.PLAIN)


def db(request: HttpRequest) -> HttpResponse:
    return answer(work.db())


def queries(request: HttpRequest) -> HttpResponse:
    return answer(work.queries(number_of_queries(request)))


def fortunes(request: HttpRequest) -> HttpResponse:
    return answer(work.fortunes(), pages.HTML)


def updates(request: HttpRequest) -> HttpResponse:
    return answer(work.updates(number_of_queries(request)))


def sleep(request: HttpRequest) -> HttpResponse:
    return answer(work.sleep(milliseconds(request)))


def page(request: HttpRequest) -> HttpResponse:
    return answer(work.page(), pages.HTML)


urlpatterns = [
    path(view.__name__, view)
    for view in (json, plaintext, db, queries, fortunes, updates, sleep, page)
]
