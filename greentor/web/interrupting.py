"""What ends a request before its time: its client goes (`cancel_on_disconnect`), or its time is up.

Invariants
- Either is a cancel of the request's task: it strikes where the greenlet is parked, a query included, rolls
  back what is not committed, and passes any ``except Exception``.
- It strikes only until the answer is finished. What a handler does after ``finish()`` runs to its end.
- A client that has gone is logged as 499; one whose time is up is answered 504, or has its connection
  closed under half an answer.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from tornado.web import RequestHandler

from greentor.atomic_requests import AtomicRequests

#: as nginx logs it; nobody is there to read the answer
CLIENT_GONE = 499
TIMED_OUT = 504


class Interruptible(AtomicRequests):
    """A RequestHandler whose task can be cancelled by what becomes of its client, or by the clock."""

    #: cancel the request when its client closes the connection; None leaves it to the application's
    #: setting of this name, and that is False by default
    cancel_on_disconnect: bool | None = None

    #: seconds that an answer may take, from the first method to ``finish()``; 0 for any; None leaves it to
    #: the application's setting of this name, and that is 0 by default
    request_timeout: float | None = None

    _task: asyncio.Task[Any] | None = None
    _timer: asyncio.TimerHandle | None = None
    _receiving: asyncio.Task[Any] | None = None  # at work in data_received
    _interruption: int | None = None  # the status that it becomes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        method: Any = cls.on_connection_close
        if not hasattr(method, "_greentor_wrapped"):
            cls.on_connection_close = _noticed(method)  # type: ignore[method-assign]

    def _begin(self) -> asyncio.AbstractEventLoop:
        """Note the task of the request, and start its clock; return the running loop."""
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task(loop)
        seconds = self._option("request_timeout")
        if seconds:
            self._timer = loop.call_later(seconds, self._interrupt, TIMED_OUT)
        if self._interruption is not None and task is not None:  # it was gone before this
            task.cancel()
        if self._prepared_future is not None and self._option("cancel_on_disconnect"):
            # While a body is streamed, Tornado sees a close only when it reads on.
            stream = getattr(self.request.connection, "stream", None)
            if stream is not None:
                stream.set_close_callback(self._note_close)
        return loop

    def _end(self) -> None:
        self._task = self._receiving = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _option(self, name: str) -> Any:
        value = getattr(self, name)
        return self.settings.get(name) if value is None else value

    def _interrupt(self, status: int) -> None:
        """Cancel the request, unless it is answered or has been interrupted before."""
        answered = self._finished and not self._held_finish
        if answered or self._interruption is not None:
            return
        self._interruption = status
        if self._task is not None:
            self._task.cancel()
        if self._receiving is not None:
            self._receiving.cancel()

    def _note_close(self) -> None:
        """Take note that the client has closed the connection."""
        if self._option("cancel_on_disconnect"):
            self._interrupt(CLIENT_GONE)

    def on_connection_close(self) -> None:
        """Called by Tornado, outside the greenlet, when the client is gone before its answer."""
        self._note_close()
        super().on_connection_close()

    on_connection_close._greentor_wrapped = True  # type: ignore[attr-defined]


def _noticed(on_connection_close: Callable[..., Any]) -> Callable[..., Any]:
    """Have a disconnect noticed whether or not an override of the method calls ``super()``."""

    @functools.wraps(on_connection_close)
    def method(self: Interruptible) -> None:
        self._note_close()
        try:
            on_connection_close(self)
        finally:
            # Without this a request whose body is streamed would wait for the rest of it for ever.
            RequestHandler.on_connection_close(self)

    method._greentor_wrapped = True  # type: ignore[attr-defined]
    return method
