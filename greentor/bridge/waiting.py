"""Waiting: how a greenlet parks until a future is done, or a coroutine that it steps has ended.

Invariants
- A coroutine is stepped in the greenlet that awaits it, never by the loop's greenlet: the whole of an
  async function, and all that it awaits, sees the same greenlet and the same connections.
- `wait` is for I/O of the scope's own resources and keeps the turn; every other wait lets the helpers
  of the scope run (see `greentor.scope`).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, cast

from greenlet import GreenletExit, getcurrent

from greentor.bridge.greens import Green, NotGreen, check_alive, current_green, in_green

T = TypeVar("T")


def wait(future: asyncio.Future[T], what: str = "this") -> T:
    """Park the greenlet until ``future`` is done, keeping the scope's turn; return its result."""
    g = check_alive(what)
    if not future.done():
        future._asyncio_future_blocking = True
        frame = g.frame
        frame.busy = True
        try:
            g.parent.switch(future)  # type: ignore[union-attr]
        except GreenletExit:
            _note_kill(g)
            raise
        except asyncio.CancelledError as exc:
            _check_timeouts(g, exc)
            raise
        finally:
            frame.busy = False
    return future.result()


def take_turn() -> None:
    """Wait until no helper uses the scope of the running greenlet (at once outside greenlets)."""
    g = getcurrent()
    if type(g) is Green:
        frame = g.frame
        while frame.child and in_green():
            waiter = frame.owner_waiter = frame.loop.create_future()
            wait(waiter)


def await_(awaitable: Awaitable[T]) -> T:
    """Wait, from sync code in a greenlet, for any awaitable and return its result.

    A coroutine is stepped in the greenlet itself. Outside a greenlet close the coroutine and raise
    `NotGreen`.
    """
    try:
        g = current_green("await_()")
    except NotGreen:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise
    coroutine = awaitable if inspect.iscoroutine(awaitable) else _await(awaitable)
    return cast(T, step(g, coroutine))


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def step_detached(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the greenlet, keeping the turn, in an empty context.

    For the I/O of resources that outlive the request: callbacks registered by it (a transport's) would
    otherwise keep the request's context alive.
    """
    try:
        g = check_alive("I/O")
    except BaseException:
        coroutine.close()
        raise
    return cast(T, step(g, coroutine, Context()))


def step(g: Green, coroutine: Coroutine[Any, Any, Any], context: Context | None = None) -> Any:
    """Run a coroutine to its end in the greenlet, parking on every future that it yields."""
    send: Callable[..., Any] = coroutine.send
    throw: Callable[..., Any] = coroutine.throw
    if context is not None:
        send = functools.partial(context.run, send)
        throw = functools.partial(context.run, throw)
    frame = g.frame
    try:
        item = send(None)
        while True:
            try:
                if g.dying:
                    raise GreenletExit
                if context is not None:
                    frame.busy = True
                else:
                    if frame.scope.parked and not frame.child:
                        frame.scope.park()
                    if frame.has_queue:
                        frame.grant()
                value = g.parent.switch(item)  # type: ignore[union-attr]
            except GreenletExit:
                _note_kill(g)
                coroutine.close()
                raise
            except BaseException as exc:
                item = throw(exc)
            else:
                item = send(value)
            finally:
                if context is not None:
                    frame.busy = False
    except StopIteration as stop:
        return stop.value
    except asyncio.CancelledError as exc:
        _check_timeouts(g, exc)
        raise


def _note_kill(g: Green) -> None:
    """Have the task end, too, if its greenlet was killed by ``greenlet.throw``, which it has not seen."""
    if not g.dying:
        g.dying = True
        g.task.cancel()


def _check_timeouts(g: Green, exc: asyncio.CancelledError) -> None:
    for deadline in reversed(g.timeouts):
        deadline.check(exc)
