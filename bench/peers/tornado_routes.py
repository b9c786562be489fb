"""What Tornado's peers on Django's ORM, and that without any, share: the routes, and how they answer.

They differ in how they run `bench.peers.work`: that is the ``get`` of the handler that each brings along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tornado.web import Application, RequestHandler

from bench.peers import pages


class Answering(RequestHandler):
    """A handler that has a function, and what that is called with."""

    def initialize(
        self,
        work: Callable[..., bytes],
        content_type: str = pages.JSON,
        argument: str | None = None,
        read: Callable[[str | None], int] = pages.number_of_queries,
    ) -> None:
        self.work = work
        self.content_type = content_type
        self.argument = argument
        self.read = read

    def compute_etag(self) -> None:
        return None

    def arguments(self) -> tuple[int, ...]:
        """Return what the function is to be called with."""
        if self.argument is None:
            return ()
        return (self.read(self.get_query_argument(self.argument, None)),)

    def answer(self, body: bytes) -> None:
        self.set_header("Content-Type", self.content_type)
        self.write(body)


class Blocking(Answering):
    """Does its work in the loop: right for what needs no database."""

    def get(self) -> None:
        self.answer(self.work(*self.arguments()))


#: what reads the arguments of ``/sleep``
SLEEP: dict[str, Any] = {"argument": "ms", "read": pages.milliseconds}


def plain_routes(plain: type[Answering] = Blocking) -> list[Any]:
    """Return the routes without a database."""
    return [
        ("/json", plain, {"work": lambda: pages.dumps({"message": pages.HELLO})}),
        ("/plaintext", plain, {"work": pages.HELLO.encode, "content_type": pages.PLAIN}),
    ]


def make_app(
    handler: type[Answering], plain: type[Answering] = Blocking, **settings: Any
) -> Application:
    """Return the application: ``handler`` for what needs the database, ``plain`` for the rest."""
    from bench.peers import work

    number = {"argument": "queries"}
    html = {"content_type": pages.HTML}
    routes: list[Any] = [
        *plain_routes(plain),
        ("/db", handler, {"work": work.db}),
        ("/queries", handler, {"work": work.queries, **number}),
        ("/fortunes", handler, {"work": work.fortunes, **html}),
        ("/updates", handler, {"work": work.updates, **number}),
        ("/sleep", handler, {"work": work.sleep, **SLEEP}),
        ("/page", handler, {"work": work.page, **html}),
    ]
    return Application(routes, **settings)
