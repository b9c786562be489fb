"""`StatusHandler`: a page that shows live what the process is doing, its plots, queries and stacks.

Invariants
- It needs nothing that runs out under load: no connection of a database, no thread, no other address. One
  route serves the page, with its style and script in it, and the events.
- What it shows is sensitive (stacks, SQL): see `greentor.web.permission` for who sees it. It is stored
  nowhere, shown in no frame and to no other site, and the browser runs no script but the page's own.
- A client that is gone leaves nothing behind. No shutdown waits for one that is not.
"""

from __future__ import annotations

import asyncio
import platform
import secrets
from functools import cache
from pathlib import Path

from tornado.template import Template

from greentor import process, statistics
from greentor.web.feed import current_feed
from greentor.web.permission import ProtectedHandler

#: milliseconds after which a browser that lost the events asks for them again
RETRY = 2000

_DIRECTORY = Path(__file__).parent


class StatusHandler(ProtectedHandler):
    """Serve the status page: ``(r"/-/greentor", StatusHandler, {"permission": ...})``.

    ``permission`` is called with the handler, sync or async, in a greenlet; who it is false for gets 403.
    Without it the page is there while ``settings.DEBUG`` is true, and 404 otherwise. The same address
    answers with events to ``Accept: text/event-stream``, with `greentor.stats` to ``application/json``.
    """

    _pending: asyncio.Future[None] | None = None
    _gone: asyncio.Future[None] | None = None

    async def get(self) -> None:
        accepted = self.request.headers.get("Accept", "")
        self.set_header("Vary", "Accept")
        if "text/event-stream" in accepted:
            await self._stream()
        elif "application/json" in accepted and "text/html" not in accepted:
            self.set_header("Content-Type", "application/json; charset=UTF-8")
            self.write(statistics.stats().as_json())
        else:
            self._page()

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
        )
        loop = type(asyncio.get_running_loop())
        self.write(
            _template().generate(
                nonce=nonce,
                style=_asset("status.css"),
                script=_asset("status.js"),
                pid=process.pid,
                host=platform.node(),
                python=platform.python_version(),
                loop=loop.__module__.partition(".")[0],
            )
        )

    # --- events -------------------------------------------------------------------------------

    async def _stream(self) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=UTF-8")
        self.set_header("X-Accel-Buffering", "no")  # for a proxy: pass each event on at once
        self.write(f"retry: {RETRY}\n\n")
        self._gone = asyncio.get_running_loop().create_future()
        feed = current_feed()
        feed.add(self)
        try:
            self._pending = self.flush()
            await self._gone
        finally:
            feed.remove(self)

    def send(self, event: str) -> None:
        """Send an event, unless the client has not taken the last one yet."""
        if self._pending is None or self._pending.done():
            self.write(f"data: {event}\n\n")
            self._pending = self.flush()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.end()

    def end(self) -> None:
        """End the events, in good order if the client is still there: it will ask for them again."""
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)


@cache
def _template() -> Template:
    return Template((_DIRECTORY / "status.html").read_text("utf-8"), whitespace="all")


@cache
def _asset(name: str) -> str:
    return (_DIRECTORY / name).read_text("utf-8")
