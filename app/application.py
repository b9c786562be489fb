"""The Tornado application: which address is served by which handler.

Django must be set up before this is imported, as for anything that imports models.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from tornado.web import Application, RedirectHandler

from handlers import books, home, sleep, techempower
from handlers.base import NotFound

ROUTES: list[Any] = [
    (r"/", home.Home),
    (r"/books", RedirectHandler, {"url": "/books/"}),
    (r"/books/", books.BookList),
    (r"/books/detail/([0-9]{1,18})", books.BookDetail),
    (r"/json", techempower.JSON),
    (r"/plaintext", techempower.Plaintext),
    (r"/db", techempower.SingleQuery),
    (r"/queries", techempower.MultipleQueries),
    (r"/fortunes", techempower.Fortunes),
    (r"/updates", techempower.Updates),
    (r"/sleep", sleep.Sleep),
    (r"/echo", sleep.Echo),
]


def make_app(**overrides: Any) -> Application:
    """Return the application; keyword arguments override its Tornado settings."""
    options: dict[str, Any] = {
        "debug": settings.DEBUG,
        "default_handler_class": NotFound,
        "static_path": str(settings.STATIC_ROOT),
        "static_url_prefix": settings.STATIC_URL,
    }
    return Application(ROUTES, **options | overrides)
