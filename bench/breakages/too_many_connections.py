"""Too many connections: under ASGI every request opens its own.

Sixty requests at once meet a database server that admits twelve connections; under uvicorn each request of
Django has a thread and so a connection of its own, and whoever comes too late gets error 1040. With
`CONN_MAX_AGE` nothing closes a connection when its thread ends, and it is left to the garbage collector:
requests that come one after the other pile up connections until it runs.
Documented: Django's docs/ref/databases ("When using ASGI, persistent connections should be disabled") and
ticket 33497, where the pool is named as the answer, which Django has for PostgreSQL and Oracle only;
gunicorn #996 for gevent.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.asgi import get_asgi_application
from django.db.models import FloatField, Func, Value
from django.http import HttpResponse
from django.urls import path
from tornado.web import Application

from bench.breakages.case import Case, Child, Seen
from bench.breakages.serving import ask, errors, serve_tornado, serve_uvicorn
from tests.mariadb import MariaDB

#: seconds that a query takes in the server
SECONDS = 0.3
MOST = "most connections at once, refused ones included"


def slow_query() -> Any:
    """Return a queryset that needs the server for a while."""
    slept = Func(Value(SECONDS), function="SLEEP", output_field=FloatField())
    return ContentType.objects.annotate(slept=slept)


def quick_query() -> Any:
    """Return a queryset that does not."""
    return ContentType.objects.all()


def peer(query: Any, server: Any) -> None:
    """Serve an async view that awaits Django's async ORM."""

    async def view(request: Any) -> HttpResponse:
        found = await query().afirst()
        return HttpResponse(f"{found.pk}\n")

    settings.ROOT_URLCONF = (path("", view),)
    serve_uvicorn(get_asgi_application())


def greentor(query: Any, server: Any) -> None:
    """Serve a Tornado handler that awaits the same."""
    asyncio.run(serve_tornado(Application([("/", make_handler(query))])))


def make_handler(query: Any) -> Any:
    """Return greentor's side of the view."""
    from greentor.web import BaseRequestHandler

    class Handler(BaseRequestHandler):
        async def get(self) -> None:
            found = await query().afirst()
            self.write(f"{found.pk}\n")

    return Handler


def watch(requests: int, at_once: int, child: Child, mariadb: MariaDB) -> Seen:
    """Send the requests, and count on the server."""
    mariadb.execute("FLUSH STATUS")
    answers = ask(child.said["port"], requests, at_once)
    seen = {"requests": requests, "at once": at_once, **answers}
    seen[MOST] = mariadb.status("Max_used_connections") - 1  # our own
    seen["open afterwards"] = len(mariadb.processlist())
    return seen | errors(child)


def broken(enough: int, seen: Seen) -> bool:
    """Tell whether a request was not served, or more connections were opened than are needed."""
    return seen.get("answered 200") != seen["requests"] or seen[MOST] > enough


def refused(seen: Seen) -> bool:
    """Tell whether the server refused connections, and some requests for that reason."""
    return "(1040," in seen.get("logged", "") and {"answered 200", "answered 500"} <= seen.keys()


def piled_up(seen: Seen) -> bool:
    """Tell whether requests were served, on more connections than ever were at work."""
    return seen.get("answered 200", 0) > 0 and seen[MOST] > 2


CASES = [
    Case(
        "60 requests at once, each with a query of 0.3 s; the server admits 12 connections",
        peer_name="a Django async view under uvicorn",
        packages=("uvicorn", "Django"),
        peer=partial(peer, slow_query),
        greentor=partial(greentor, slow_query),
        watch=partial(watch, 60, 60),
        documented=refused,
        broken=partial(broken, 8),  # the pool
    ),
    Case(
        "100 requests one after the other, with CONN_MAX_AGE = 60",
        peer_name="a Django async view under uvicorn",
        packages=("uvicorn", "Django"),
        peer=partial(peer, quick_query),
        greentor=partial(greentor, quick_query),
        watch=partial(watch, 100, 1),
        documented=piled_up,
        broken=partial(broken, 2),
        conn_max_age=60,
    ),
]
