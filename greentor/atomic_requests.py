"""ATOMIC_REQUESTS: the verb of a request in a transaction, its answer held back until the commit.

Invariants
- The transaction begins before the verb and ends with it: ``prepare`` is outside, as middleware is in
  Django. An exception rolls back, an ``HTTPError`` too; ``Finish`` commits, as does a plain return,
  whatever the status.
- Nothing of the answer is on the wire before the commit: a redirect would otherwise arrive before the
  row that it leads to. ``finish`` and ``flush`` are kept for later and return a future that is done.
- After a rollback, or a commit that failed, nothing of the held answer is left: the client gets the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from django.db import connections, transaction
from tornado.web import Finish, RequestHandler


class AtomicRequests(RequestHandler):
    """A RequestHandler that honours ``DATABASES[alias]["ATOMIC_REQUESTS"]``."""

    #: False: this handler manages its transactions itself, whatever the settings say
    atomic_requests = True

    _holding = False  # inside the transaction
    _held_finish = False
    _held_flush = False

    def _wrap_verb(self) -> str | None:
        """Shadow the verb's method by an atomic one; return its name, for `_unwrap_verb`."""
        verb = (self.request.method or "").lower()
        if verb.upper() not in self.SUPPORTED_METHODS or _is_unimplemented(type(self), verb):
            return None
        method = getattr(self, verb)
        aliases = self._atomic_aliases(method)
        if not aliases:
            return None
        self.__dict__[verb] = partial(self._run_atomic, method, aliases)
        return verb

    def _unwrap_verb(self, verb: str | None) -> None:
        if verb is not None:
            self.__dict__.pop(verb, None)

    def _atomic_aliases(self, method: Any) -> list[str]:
        if not self.atomic_requests:
            return []
        aliases = [a for a, settings in connections.settings.items() if settings["ATOMIC_REQUESTS"]]
        if aliases:  # else there is nothing to look up
            exempt: set[str] = set()
            for marked in (method, type(self)):  # by transaction.non_atomic_requests
                exempt |= getattr(marked, "_non_atomic_requests", set())
            aliases = [alias for alias in aliases if alias not in exempt]
        return aliases

    async def _run_atomic(
        self, method: Callable[..., Any], aliases: list[str], /, *args: str, **kwargs: str
    ) -> None:
        finish = None
        try:
            with ExitStack() as transactions:
                for alias in aliases:
                    transactions.enter_context(transaction.atomic(using=alias))
                self._holding = True
                try:
                    result = method(*args, **kwargs)
                    if result is not None:
                        await result
                except Finish as exc:
                    finish = exc
        except BaseException:
            self._drop_held()
            raise
        self._send_held()
        if finish is not None:
            raise finish

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> asyncio.Future[None]:
        """Finish the response; within an atomic request, once its transaction is committed.

        Awaiting the result there waits for nothing: the end of the verb is what sends.
        """
        if not self._holding:
            return super().finish(chunk)
        if self._finished:
            raise RuntimeError("finish() called twice")
        if chunk is not None:
            self.write(chunk)
        self._held_finish = self._finished = True
        return _done()

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Send what was written; within an atomic request, once its transaction is committed."""
        if not self._holding:
            return super().flush(include_footers)
        self._held_flush = True
        return _done()

    def _send_held(self) -> None:
        held_finish, held_flush = self._held_finish, self._held_flush
        self._drop_held()
        if held_finish:
            super().finish()
        elif held_flush and not self._finished:
            super().flush()

    def _drop_held(self) -> None:
        if self._held_finish:
            self._finished = False
        self._holding = self._held_finish = self._held_flush = False


def _is_unimplemented(cls: type[RequestHandler], verb: str) -> bool:
    """Tell whether the verb will only be refused, which needs no transaction."""
    return getattr(cls, verb, None) is getattr(RequestHandler, verb, None)


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
