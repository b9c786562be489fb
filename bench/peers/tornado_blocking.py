"""Tornado with Django's ORM called right in the handlers: every query blocks the event loop.

What Tornado's guide warns of (Asynchronous and non-blocking I/O), and the floor of the comparison: one
connection, one request at a time. Django refuses that, unless it is told otherwise by
``DJANGO_ALLOW_ASYNC_UNSAFE``; and then it opens a connection for each task, and closes none of them, as its
connections are kept in the context. Here all requests do their work in one context, so that there is one.
"""

from __future__ import annotations

import os
from contextvars import copy_context

import django

from bench.peers import options


def main() -> None:
    given = options.parser(__doc__).parse_args()
    options.choose(options.DJANGOS_ENGINE, driver=options.PYMYSQL)
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    django.setup()

    from bench.peers.tornado_routes import Answering, make_app
    from bench.peers.tornado_serving import serve

    context = copy_context()

    class Held(Answering):
        def get(self) -> None:
            self.answer(context.run(self.work, *self.arguments()))

    serve(lambda: make_app(Held), given.port, given.processes)


if __name__ == "__main__":
    main()
