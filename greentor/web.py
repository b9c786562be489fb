"""`BaseRequestHandler`: a Tornado request that runs as a whole in one greenlet.

Invariants
- ``_execute`` runs in one greenlet with a scope of its own: ``initialize``, ``prepare``, the verb,
  ``write_error``, templates. Its connections are released when the greenlet ends, whatever ended it, not in
  ``on_finish``, which Tornado calls before the handler's method has returned.
- Django's ``request_started`` and ``request_finished`` are sent in that greenlet.
- Whatever ends a request, its client gets an answer, or a closed connection if half of one was sent.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.signals import request_finished, request_started
from django.http import Http404
from greenlet import GreenletExit
from tornado import gen
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError

from greentor import bridge, holding
from greentor.atomic_requests import AtomicRequests
from greentor.pool import PoolTimeout

logger = logging.getLogger("greentor.web")

#: the status that an exception becomes
STATUS: dict[type[Exception], int] = {
    Http404: 404,
    PermissionDenied: 403,
    BadRequest: 400,
    SuspiciousOperation: 400,
    PoolTimeout: 503,
}

#: seconds after which a client that was refused a connection should try again
RETRY_AFTER = 1

_running: set[BaseRequestHandler] = set()
_idle: list[asyncio.Future[None]] = []


class BaseRequestHandler(AtomicRequests):
    """A RequestHandler whose methods, sync or async, may use the Django ORM as they stand.

    The ORM works in everything from ``initialize`` on, ``data_received`` included. It is refused in
    ``__init__``, which Tornado calls before the request has a greenlet, and in
    ``on_connection_close``, which it calls from the connection's task: use `greentor.spawn` there.
    Django's Http404, PermissionDenied and BadRequest become 404, 403 and 400; an empty pool becomes
    503 with ``Retry-After``.
    """

    #: how long the request keeps its connections: see `greentor.holding`; None leaves it to each database
    hold: str | None = None

    _retry_after: int | None = None
    _context: Context  # of the request, while its body is streamed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.hold is not None:
            holding.check(cls.hold, f"{cls.__qualname__}.hold")
        for name in ("prepare", *(method.lower() for method in cls.SUPPORTED_METHODS)):
            method = getattr(cls, name, None)
            if method is not None and getattr(method, "__tornado_coroutine__", False):
                generator = getattr(method, "__wrapped__", None)
                if inspect.isgeneratorfunction(generator):
                    setattr(cls, name, _stepped(method, generator))
        if "data_received" in vars(cls):
            cls.data_received = _in_scope(cls.data_received)  # type: ignore[method-assign]

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        # Tornado's __init__ ends with initialize(**kwargs), too early to have a greenlet.
        self._initialize_kwargs = kwargs
        self.initialize = _not_yet
        super().__init__(application, request)
        del self.initialize

    async def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> None:
        self._transforms = transforms
        _running.add(self)
        try:
            name = f"{self.request.method} {self.request.path}"
            await bridge.run_in_scope(name, self._execute_green, args, kwargs)
        finally:
            _running.discard(self)
            if not _running:
                _wake_drains()

    def _execute_green(self, args: tuple[bytes, ...], kwargs: dict[str, bytes]) -> None:
        transforms = self._transforms or []
        verb = None
        if self.hold is not None:
            bridge.current_green("a request").frame.scope.hold = self.hold
        if self._prepared_future is not None:  # a body that is streamed to data_received
            self._context = copy_context()
        try:
            try:
                request_started.send(sender=type(self))
                self.initialize(**self._initialize_kwargs)
                verb = self._wrap_verb()
            except Exception as exc:
                self._handle_request_exception(exc)
                return
            bridge.await_(super()._execute(transforms, *args, **kwargs))
        except (GreenletExit, asyncio.CancelledError):
            self._answer_killed()
            raise
        finally:
            self._unwrap_verb(verb)
            if self._prepared_future is not None and not self._prepared_future.done():
                self._prepared_future.set_result(None)
            try:
                request_finished.send(sender=type(self))
            except Exception:
                logger.exception("a receiver of request_finished failed")

    def _answer_killed(self) -> None:
        """Give the client of an interrupted request an end, without waiting for anything."""
        if self._finished:
            return
        try:
            if self._headers_written:
                self._break_off()
            else:
                self.clear()
                self.set_status(500)
                self.finish("500: the request was interrupted\n")
        except Exception:
            logger.exception("no answer could be sent for %r", self.request)

    def _break_off(self) -> None:
        """Close the connection under half an answer: an orderly end would pass for the whole."""
        logger.error("%s %s: broken off in its answer", self.request.method, self.request.path)
        self.detach().close()
        self._log()
        self.on_finish()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._headers_written and not self._finished:
            self._break_off()
        else:
            super().send_error(status_code, **kwargs)

    def _handle_request_exception(self, e: BaseException) -> None:
        while isinstance(e, BaseExceptionGroup) and len(e.exceptions) == 1:
            e = e.exceptions[0]  # out of a TaskGroup
        status = next((code for cls, code in STATUS.items() if isinstance(e, cls)), None)
        if status is None:
            super()._handle_request_exception(e)
            return
        if isinstance(e, PoolTimeout):
            self._retry_after = RETRY_AFTER
        try:
            raise HTTPError(status, str(e) or None) from e
        except HTTPError as error:
            super()._handle_request_exception(error)

    def clear(self) -> None:
        # send_error() begins with this, so that write_error() finds the header in place.
        super().clear()
        if self._retry_after is not None:
            self.set_header("Retry-After", str(self._retry_after))


def _not_yet(**kwargs: Any) -> None:
    """Stand in for ``initialize`` until the request has its greenlet."""


def _in_scope(data_received: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``data_received``, which Tornado calls from the connection's task, for the request's.

    In a helper greenlet on its scope: the request's own is parked until the body is there.
    """

    @functools.wraps(data_received)
    def method(self: BaseRequestHandler, chunk: bytes) -> asyncio.Task[Any]:
        call = bridge.run_green(data_received, self, chunk)
        return asyncio.get_running_loop().create_task(call, context=self._context.copy())

    return method


def _stepped(
    coroutine: Callable[..., Any], generator_function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Any]:
    """Run the body of a ``@gen.coroutine`` as an async function.

    Tornado's own runner resumes it from the loop after the first ``yield``, outside the greenlet.
    """

    @functools.wraps(coroutine)  # with what other decorators have marked it with
    async def method(*args: Any, **kwargs: Any) -> Any:
        generator = generator_function(*args, **kwargs)
        try:
            item = next(generator)
            while True:
                try:
                    value = await _wait_for(item)
                except (Exception, asyncio.CancelledError) as exc:
                    item = generator.throw(exc)
                else:
                    item = generator.send(value)
        except (StopIteration, gen.Return) as stop:
            return stop.value
        finally:
            generator.close()

    return method


async def _wait_for(item: Any) -> Any:
    """Wait for whatever a ``@gen.coroutine`` may yield."""
    if inspect.iscoroutine(item):
        return await item
    future = gen.convert_yielded(item)
    if isinstance(future, Awaitable):
        return await future
    await asyncio.sleep(0)  # gen.moment, None: just let the loop run
    return None


async def drain(timeout: float) -> int:
    """Wait until no `BaseRequestHandler` is at work, at most ``timeout`` seconds.

    Return how many still are: call it between stopping the server and closing its connections.
    """
    if _running:
        idle = asyncio.get_running_loop().create_future()
        _idle.append(idle)
        try:
            await asyncio.wait_for(idle, timeout)
        except TimeoutError:
            pass
        finally:
            if idle in _idle:
                _idle.remove(idle)
    return len(_running)


def _wake_drains() -> None:
    while _idle:
        idle = _idle.pop()
        if not idle.done():
            idle.set_result(None)
