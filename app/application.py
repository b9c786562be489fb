"""The Tornado application: which address is served by which handler.

Django must be set up before this is imported, as for anything that imports models.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from tornado.web import Application, RedirectHandler

from greentor.web import StatusHandler
from greentor.web.metrics import MetricsHandler
from handlers import (
    access,
    async_books,
    books,
    concurrency,
    crypto,
    home,
    openapi,
    sleep,
    techempower,
    users,
)
from handlers.base import JSONNotFound, NotFound
from handlers.inside import permitted

ROUTES: list[Any] = [
    (r"/", home.Home),
    (r"/books", RedirectHandler, {"url": "/books/"}),
    (r"/books/", books.BookList),
    (r"/books/add", books.BookAdd),
    (r"/books/detail/([0-9]{1,18})", books.BookDetail),
    (r"/async/books", RedirectHandler, {"url": "/async/books/"}),
    (r"/async/books/", async_books.BookList),
    (r"/async/books/add", async_books.BookAdd),
    (r"/async/books/detail/([0-9]{1,18})", async_books.BookDetail),
    (r"/demo/concurrency", concurrency.Concurrency),
    (r"/api/openapi.json", openapi.OpenAPI),
    (r"/api/users", users.UserList),
    (r"/api/users/bulk", users.UserBulk),
    (r"/api/users/([0-9]{1,18})", users.UserDetail),
    (r"/api/crypto/technical-indicators/(.+?)/?", crypto.TechnicalIndicators),
    (r"/api/access-records", access.AccessRecords),
    (r"/api/access-records/paths", access.Paths),
    (r"/api/.*", JSONNotFound),
    (r"/json", techempower.JSON),
    (r"/plaintext", techempower.Plaintext),
    (r"/db", techempower.SingleQuery),
    (r"/queries", techempower.MultipleQueries),
    (r"/fortunes", techempower.Fortunes),
    (r"/updates", techempower.Updates),
    (r"/sleep", sleep.Sleep),
    (r"/echo", sleep.Echo),
    (r"/-/greentor", StatusHandler, {"permission": permitted}),
    (r"/-/metrics", MetricsHandler, {"permission": permitted}),
]


def make_app(**overrides: Any) -> Application:
    """Return the application; keyword arguments override its Tornado settings."""
    options: dict[str, Any] = {
        # From Tornado 6.6: a POST that a browser sends for another site is 403; there is no token to carry.
        "cross_origin_protection": True,
        "debug": settings.DEBUG,
        "default_handler_class": NotFound,
        "static_path": str(settings.STATIC_ROOT),
        "static_url_prefix": settings.STATIC_URL,
    }
    return Application(ROUTES, **options | overrides)
