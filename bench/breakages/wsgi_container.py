"""Django in Tornado's WSGIContainer: no query by default, and connections that nobody closes with threads.

By default the container calls the WSGI application on the event loop's thread, where Django refuses the ORM:
every view that queries is an HTTP 500, SynchronousOnlyOperation. With a ThreadPoolExecutor it answers, but
calls the response's `close()` on the loop's thread; the `request_finished` that this sends closes that
thread's connections, and those of the worker threads stay open, in spite of `CONN_MAX_AGE = 0`.
Documented: tornado/wsgi.py (`handle_request`, and the note that its default will change in Tornado 7.0),
Django's docs/topics/async ("Async safety"), jumpserver #57 for the leak of Tornado with Django.
greentor's side is a Tornado handler with the same query.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from tornado.web import Application
from tornado.wsgi import WSGIContainer

from bench.breakages.case import Case, Child, Seen
from bench.breakages.serving import ask, errors, serve_tornado
from bench.breakages.too_many_connections import make_handler, slow_query
from tests.mariadb import MariaDB
from tests.waiting import wait_until

REQUESTS = 8
OPEN = "open 2 s after the last answer"


def peer(make_executor: Any, server: Any) -> None:
    """Serve Django, with a plain view that queries, in Tornado's WSGIContainer."""

    def view(request: Any) -> HttpResponse:
        return HttpResponse(f"{slow_query().first().pk}\n")

    settings.ROOT_URLCONF = (path("", view),)
    executor: Executor | None = make_executor()
    asyncio.run(serve_tornado(WSGIContainer(get_wsgi_application(), executor=executor)))


def greentor(server: Any) -> None:
    """Serve the same query."""
    asyncio.run(serve_tornado(Application([("/", make_handler(slow_query))])))


def watch(child: Child, mariadb: MariaDB) -> Seen:
    """Send the requests, all at once, and give the connections time to be closed."""
    seen: Seen = {"requests": REQUESTS, **ask(child.said["port"], REQUESTS, REQUESTS)}
    try:
        wait_until(lambda: not mariadb.processlist(), timeout=2)
    except AssertionError:
        pass
    seen[OPEN] = len(mariadb.processlist())
    return seen | errors(child)


def broken(seen: Seen) -> bool:
    """Tell whether a request was not served, or a connection is still open."""
    return seen.get("answered 200") != seen["requests"] or seen[OPEN] > 0


def refused(seen: Seen) -> bool:
    """Tell whether every view that queries was an error, for that reason."""
    found = "SynchronousOnlyOperation" in seen.get("logged", "")
    return found and seen.get("answered 500") == seen["requests"]


def leaked(seen: Seen) -> bool:
    """Tell whether every request was served, and left its connection open."""
    return seen.get("answered 200") == seen["requests"] == seen[OPEN]


def case(what: str, make_executor: Any, documented: Any) -> Case:
    return Case(
        what,
        peer_name="a Django view in tornado.wsgi.WSGIContainer",
        packages=("tornado", "Django"),
        peer=partial(peer, make_executor),
        greentor=greentor,
        watch=watch,
        documented=documented,
        broken=broken,
        pool=False,  # what CONN_MAX_AGE = 0 says: a connection for each request
    )


CASES = [
    case("8 requests; the container as it is by default", lambda: None, refused),
    case("8 requests; the container with 8 threads", partial(ThreadPoolExecutor, REQUESTS), leaked),
]
