"""Who may see what goes on inside: the rule that the status page and the metrics share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from tornado.web import HTTPError, RequestHandler

from greentor import bridge

Permission = Callable[[RequestHandler], bool | Awaitable[bool]]


class ProtectedHandler(RequestHandler):
    """A handler that shows itself to whom ``permission`` lets, or to everybody with ``DEBUG``.

    No `BaseRequestHandler`: it opens no scope, borrows no connection, and no shutdown waits for it.
    """

    def initialize(self, permission: Permission | None = None) -> None:
        """Take what decides: called with the handler, sync or async, in a greenlet.

        Without it the handler answers while ``settings.DEBUG`` is true, and is 404 otherwise.
        """
        self._permission = permission

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> None:
        """Make none: the answer is stored nowhere."""

    async def prepare(self) -> None:
        if self._permission is None:
            if not settings.DEBUG:
                raise HTTPError(404)
            return
        try:
            permitted: Any = await bridge.green(self._permission)(self)
        except PermissionDenied:
            permitted = False
        if not permitted:
            raise HTTPError(403)
