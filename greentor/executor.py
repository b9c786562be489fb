"""`GreenExecutor`: what a code base built on a thread pool puts in the pool's place.

Invariants
- Each call runs in a greenlet of an event loop, with a scope of its own and in an empty context, as it would
  in a thread: what it borrows is given back when it ends, and it sees neither the transaction nor the
  context variables of its caller.
- On each loop at most ``max_workers`` calls are at work; the others wait, and begin in the order in which
  they came.
- A call that has begun runs to its end, as in a thread: cancelling its future drops the result. One that
  waits is cancelled.
- Every future gets an end, also if its loop ends before.
- The books are kept from any thread, behind a lock; greenlets are started on their loop only.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent import futures
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

from greentor import bridge
from greentor.bridge.running import name_of

P = ParamSpec("P")
T = TypeVar("T")


class GreenFuture(futures.Future[T]):
    """A concurrent future whose `result` parks a greenlet, where it would block its event loop."""

    def result(self, timeout: float | None = None) -> T:
        """As `concurrent.futures.Future.result`; in a coroutine outside greenlets raise `NotGreen`."""
        self._park(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `concurrent.futures.Future.exception`, and as `result`."""
        self._park(timeout)
        return super().exception(timeout)

    def _park(self, timeout: float | None) -> None:
        if self.done() or asyncio._get_running_loop() is None:
            return
        bridge.current_green("the result() of a future (await asyncio.wrap_future() of it)")
        bridge.await_(asyncio.wait([_when_done([self])], timeout=timeout))
        if not self.done():
            raise TimeoutError


def _when_done(pending: Collection[futures.Future[Any]]) -> asyncio.Future[None]:
    """Return a future of the running loop that is done when all of these are."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    left = set(pending)

    def note(future: futures.Future[Any]) -> None:
        left.discard(future)
        if not left and not waiter.done():
            waiter.set_result(None)

    def tell(future: futures.Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(note, future)

    for future in pending:
        future.add_done_callback(tell)
    return waiter


class _Call:
    """A function to call, and what becomes of it."""

    def __init__(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.future: GreenFuture[Any] = GreenFuture()
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        name = name_of(self.fn)
        try:
            result = await bridge.run_in_scope(name, self.fn, *self.args, **self.kwargs)
        except (Exception, SystemExit) as exc:  # a thread pool leaves SystemExit to the caller, too
            self.future.set_exception(exc)
        else:
            self.future.set_result(result)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give the future an end if it has none: its task was cancelled, as at the end of a loop."""
        if not self.future.done():
            self.future.set_exception(futures.CancelledError("the call was cancelled"))


class _Lane:
    """The calls on one loop: those that wait, and those at work."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: deque[_Call] = deque()
        self.running: set[_Call] = set()

    def end_if_closed(self) -> bool:
        """Give every future an end if the loop is closed; return whether it is."""
        closed = self.loop.is_closed()
        if closed:
            self.cancel_waiting()
            for call in list(self.running):
                call.abandon()
        return closed

    def cancel_waiting(self) -> None:
        for call in list(self.waiting):
            call.future.cancel()


class GreenExecutor(futures.Executor):
    """Run functions, sync or async, in greenlets of the event loop that they are submitted on.

    For ``loop.run_in_executor(executor, orm_function, *args)``, Tornado's ``run_on_executor`` and
    whatever else takes a `concurrent.futures.Executor`. ``max_workers`` bounds the calls at work on each
    loop. What comes from a thread without a running loop goes to ``loop``; if that is not given, to the
    loop that the executor was used on first.
    """

    def __init__(
        self, max_workers: int = 32, *, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, not {max_workers!r}")
        self._max_workers = max_workers
        self._loop = loop
        self._lock = threading.RLock()  # done callbacks of a future may come back here
        self._shut = False
        self._lanes: list[_Lane] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Have ``fn(*args, **kwargs)`` called; return its future.

        Raise RuntimeError after `shutdown`, and from a thread without a running loop if the loop to use
        is closed or not known.
        """
        call = _Call(fn, args, kwargs)
        running = asyncio._get_running_loop()
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            lane = self._find_lane(running)
            lane.waiting.append(call)
        if running is lane.loop:
            self._start(lane)
        else:
            lane.loop.call_soon_threadsafe(self._start, lane)
        return call.future

    def _find_lane(self, running: asyncio.AbstractEventLoop | None) -> _Lane:
        self._lanes = [lane for lane in self._lanes if not lane.end_if_closed()]
        loop = running or self._loop
        if loop is None:
            raise RuntimeError(
                "a GreenExecutor needs an event loop: submit from code that runs on one, or name it, "
                "GreenExecutor(loop=...)"
            )
        if loop.is_closed():
            raise RuntimeError("the event loop of this GreenExecutor is closed")
        if self._loop is None or self._loop.is_closed():
            self._loop = loop
        for lane in self._lanes:
            if lane.loop is loop:
                return lane
        self._lanes.append(_Lane(loop))
        return self._lanes[-1]

    def _start(self, lane: _Lane) -> None:
        """Start what waits, as far as the bound allows; on the lane's loop."""
        while True:
            with self._lock:
                if not lane.waiting or len(lane.running) >= self._max_workers:
                    return
                call = lane.waiting.popleft()
                if not call.future.set_running_or_notify_cancel():
                    continue
                lane.running.add(call)
            call.task = lane.loop.create_task(call.run(), context=Context())
            call.task.add_done_callback(functools.partial(self._end, lane, call))

    def _end(self, lane: _Lane, call: _Call, task: asyncio.Task[None]) -> None:
        with self._lock:
            lane.running.discard(call)
        call.abandon()  # if it was cancelled before it began
        if task.cancelled() and task.cancelling():  # from outside: the loop ends
            lane.cancel_waiting()
        self._start(lane)

    # --- the end ------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further calls; with ``cancel_futures`` cancel those that have not begun.

        With ``wait``, wait for the others: a greenlet parks, a thread blocks. In a coroutine outside
        greenlets that is impossible: raise RuntimeError if any are left, and use ``async with``.
        """
        with self._lock:
            self._shut = True
            lanes = list(self._lanes)
        if cancel_futures:
            for lane in lanes:
                lane.cancel_waiting()
        if wait:
            self._wait()

    def _wait(self) -> None:
        for lane in self._lanes:
            lane.end_if_closed()
        pending = self._pending()
        if not pending:
            return
        if asyncio._get_running_loop() is None:
            if not all(
                lane.loop.is_running() for lane in self._lanes if lane.running or lane.waiting
            ):
                raise RuntimeError(
                    f"{len(pending)} calls are left on an event loop that does not run"
                )
            futures.wait(pending)
        elif not bridge.in_green():
            raise RuntimeError(
                f"{len(pending)} calls are left, and waiting for them would block the event loop that "
                "they need: use `async with` the GreenExecutor, or shutdown(wait=False)"
            )
        else:
            task = asyncio.current_task()
            if any(call.task is task for lane in self._lanes for call in lane.running):
                raise RuntimeError("a call cannot wait for the end of its own GreenExecutor")
            bridge.await_(_when_done(pending))

    def _pending(self) -> list[futures.Future[Any]]:
        with self._lock:
            calls = [call for lane in self._lanes for call in (*lane.running, *lane.waiting)]
        return [call.future for call in calls if not call.future.done()]

    async def __aenter__(self) -> GreenExecutor:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Shut down, and wait for what is left without holding the loop."""
        self.shutdown(wait=False)
        if pending := self._pending():
            await _when_done(pending)
