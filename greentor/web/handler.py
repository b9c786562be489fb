"""`BaseRequestHandler`: a Tornado request that runs as a whole in one greenlet.

Invariants
- ``_execute`` runs in one greenlet with a scope of its own: ``initialize``, ``prepare``, the verb,
  ``write_error``, templates. Its connections are released when the greenlet ends, whatever ended it, not in
  ``on_finish``, which Tornado calls before the handler's method has returned.
- Django's ``request_started`` and ``request_finished`` are sent in that greenlet: `greentor.web.signals`.
- Whatever ends a request, its client gets an answer, or a closed connection if half of one was sent.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextvars import Context, copy_context
from typing import Any, cast

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404
from greenlet import GreenletExit
from pymysql.constants import CR, ER
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError, RequestHandler

from greentor import bridge, holding, recording
from greentor.bridge import DeadlineExceeded
from greentor.pool import PoolTimeout
from greentor.web import admission, draining, routes, signals
from greentor.web.coroutines import stepped
from greentor.web.interrupting import CLIENT_GONE, Interruptible
from greentor.web.streaming import in_scope

logger = logging.getLogger("greentor.web")

#: the status that an exception becomes
STATUS: dict[type[Exception], int] = {
    Http404: 404,
    PermissionDenied: 403,
    BadRequest: 400,
    SuspiciousOperation: 400,
    PoolTimeout: 503,
    DeadlineExceeded: 504,
}

#: what an OperationalError says if nobody can have a connection: that is 503, too
UNAVAILABLE = frozenset(
    {
        CR.CR_CONNECTION_ERROR,
        CR.CR_CONN_HOST_ERROR,
        ER.CON_COUNT_ERROR,
        ER.SERVER_SHUTDOWN,
        ER.TOO_MANY_USER_CONNECTIONS,
    }
)

#: seconds after which a client that was refused a connection should try again
RETRY_AFTER = 1


class BaseRequestHandler(Interruptible):
    """A RequestHandler whose methods, sync or async, may use the Django ORM as they stand.

    The ORM works in everything from ``initialize`` on, ``data_received`` included. It is refused in
    ``__init__``, which Tornado calls before the request has a greenlet, and in
    ``on_connection_close``, which it calls from the connection's task: use `greentor.spawn` there.
    Django's Http404, PermissionDenied and BadRequest become 404, 403 and 400; an empty pool, or a
    database that cannot be reached, becomes 503 with ``Retry-After``, and a deadline that nobody has
    caught 504.
    """

    #: how long the request keeps its connections: see `greentor.holding`; None leaves it to each database
    hold: str | None = None

    #: how many requests to the class run at once, in a process; more wait in order, before `initialize`.
    #: 0 for any; None shares the application's setting of this name, 0 by default, with other handlers
    max_concurrency: int | None = None

    _in_greenlet: tuple[str, ...] = ("prepare",)  # methods that run there, besides the verbs
    _retry_after: int | None = None
    _refusal: BaseException | None = None  # what kept it from having its turn
    _matched: tuple[tuple[bytes, ...], dict[str, bytes]]  # in its path, by the route
    _context: Context  # of the request, while its body is streamed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.hold is not None:
            holding.check(cls.hold, f"{cls.__qualname__}.hold")
        if cls.max_concurrency is not None:
            admission.check(cls.max_concurrency, f"{cls.__qualname__}.max_concurrency")
        for name in (*cls._in_greenlet, *(method.lower() for method in cls.SUPPORTED_METHODS)):
            method = getattr(cls, name, None)
            if method is not None and getattr(method, "__tornado_coroutine__", False):
                generator = getattr(method, "__wrapped__", None)
                if inspect.isgeneratorfunction(generator):
                    setattr(cls, name, stepped(method, generator))
        received: Any = cls.data_received
        if received is not RequestHandler.data_received and not hasattr(
            received, "_greentor_wrapped"
        ):
            cls.data_received = in_scope(received)  # type: ignore[method-assign]

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        # Tornado's __init__ ends with initialize(**kwargs), too early to have a greenlet.
        self._initialize_kwargs = kwargs
        self.initialize = _not_yet
        super().__init__(application, request)
        del self.initialize

    async def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> None:
        self._transforms = transforms
        draining.enter(self)
        turn = None
        try:
            loop = self._begin()
            try:
                queue = admission.queue_for(self, self.max_concurrency, loop)
                if queue is not None:
                    if not queue.enter():
                        await queue.wait(loop)
                    turn = queue
            except (ValueError, asyncio.CancelledError) as exc:
                self._refusal = exc  # to be answered in the greenlet
            name = f"{self.request.method} {self.request.path}"
            self._matched = args, kwargs
            await bridge.run_in_scope(name, self._execute_green)
        finally:
            if turn is not None:
                turn.leave(loop)
            self._end()
            draining.leave(self)

    def _execute_green(self) -> None:
        transforms = self._transforms or []
        args, kwargs = self._matched
        verb = None
        green = bridge.current_green("a request")
        scope = green.frame.scope
        if self.hold is not None:
            scope.hold = self.hold
        if self._prepared_future is not None:  # a body that is streamed to data_received
            self._context = copy_context()
        try:
            try:
                signals.send_started(type(self))
                self.initialize(**self._initialize_kwargs)
                if self._refusal is not None:
                    refusal, self._refusal = self._refusal, None
                    raise refusal
                verb = self._wrap_verb()
            except Exception as exc:
                self._handle_request_exception(exc)
                return
            bridge.step(green, super()._execute(transforms, *args, **kwargs))
        except (GreenletExit, asyncio.CancelledError):
            self._answer_killed()
            if self._receiving is not None and not bridge.is_dying():
                self._receiving.cancel()  # else its scope would wait for it
            raise
        finally:
            self._unwrap_verb(verb)
            if self._prepared_future is not None and not self._prepared_future.done():
                self._prepared_future.set_result(None)
            try:
                signals.send_finished(type(self), scope)
            except Exception:
                logger.exception("a receiver of request_finished failed")

    def _answer_killed(self) -> None:
        """Give the client of an interrupted request an end, without waiting for anything."""
        if self._finished:
            return
        status = self._interruption or 500
        try:
            if self._headers_written:
                self._break_off()
            elif status == CLIENT_GONE:
                self._finish_unheard()
            else:
                self.clear()
                self.set_status(status)
                self.finish(f"{status}: the request was interrupted\n")
        except Exception:
            logger.exception("no answer could be sent for %r", self.request)

    def _break_off(self) -> None:
        """Close the connection under half an answer: an orderly end would pass for the whole."""
        if self._interruption == CLIENT_GONE:
            self.set_status(CLIENT_GONE, "Client Closed Request")  # for the log
        else:
            logger.error("%s %s: broken off in its answer", self.request.method, self.request.path)
        # Not detach(): what waits to be sent goes with the connection.
        self._finished = True
        cast(Any, self.request.connection).close()
        self._log()
        self.on_finish()

    def _finish_unheard(self) -> None:
        """End a request whose client has gone, without asking for an error page."""
        self.clear()
        self.set_status(CLIENT_GONE, "Client Closed Request")
        self.finish()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if status_code == 500 and self._interruption is not None:
            status_code = self._interruption  # Tornado knows of the cancel alone
        if self._headers_written and not self._finished:
            self._break_off()
        elif status_code == CLIENT_GONE:
            self._finish_unheard()
        else:
            super().send_error(status_code, **kwargs)

    def _handle_request_exception(self, e: BaseException) -> None:
        while isinstance(e, BaseExceptionGroup) and len(e.exceptions) == 1:
            e = e.exceptions[0]  # out of a TaskGroup
        status = next((code for cls, code in STATUS.items() if isinstance(e, cls)), None)
        if isinstance(e, OperationalError) and e.args and e.args[0] in UNAVAILABLE:
            status = 503
        if status is None:
            super()._handle_request_exception(e)
            return
        if isinstance(e, PoolTimeout | OperationalError):
            self._retry_after = RETRY_AFTER
        try:
            raise HTTPError(status, str(e) or None) from e
        except HTTPError as error:
            super()._handle_request_exception(error)

    def _log(self) -> None:
        super()._log()
        if recording.active:
            routes.record(self)

    def clear(self) -> None:
        # send_error() begins with this, so that write_error() finds the header in place.
        super().clear()
        if self._retry_after is not None:
            self.set_header("Retry-After", str(self._retry_after))


def _not_yet(**kwargs: Any) -> None:
    """Stand in for ``initialize`` until the request has its greenlet."""
