"""The bridge between synchronous code and asyncio: the only module that switches greenlets.

A *green* function runs in a greenlet that is a child of the asyncio task that awaits it. When it has to
wait, it hands a future to its driver, `_drive`, a coroutine in that task, which yields it to the event
loop and switches back with the outcome. So ``current_task()``, cancellation, ``asyncio.timeout``,
``TaskGroup`` and context variables mean in the greenlet what they mean in the task.

Invariants
- A greenlet's parent is set before every switch into it: a coroutine may be driven, or closed by the
  garbage collector, from any other greenlet, and the answer belongs to whoever switched last.
- A coroutine is stepped in the greenlet that awaits it, never by the loop's greenlet: the whole of an
  async function, and all that it awaits, sees the same greenlet and the same connections.
- The greenlet shares the context of its task; nothing is copied, so ``ContextVar.reset`` works.
- A greenlet whose function has returned may be kept and run another one, of another task: it is *ended*, not
  dead, meanwhile, and refers to nothing of what it did.
- A *dying* greenlet (collected, closed or killed) may not wait any more: each attempt raises
  GreenletExit, and what it holds is force-closed.
- Greenlets are switched from the steps of tasks. In a callback of a loop that is not written in Python they
  are not: greenlet puts another stack in the place of the loop's, to which libuv holds pointers.
- `wait` is for I/O of the scope's own resources and keeps the turn; every other wait lets the helpers
  of the scope run (see `greentor.scope`).
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import logging
import threading
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from threading import get_ident
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from greenlet import GreenletExit, getcurrent, greenlet

from greentor.scope import Frame, Scope

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("greentor")

#: called with the event loop when the outermost scope of a task is opened
scope_hooks: list[Callable[[asyncio.AbstractEventLoop], None]] = []

#: makes a scope of its name, and is told of each greenlet: `greentor.testing` puts its own here
open_scope: Callable[[str], Scope] = Scope
watch: Callable[[Green], None] | None = None

_EAGER = hasattr(asyncio, "eager_task_factory")

#: greenlets that are kept, by thread: a new one costs two system calls, for a stack of Python's own
KEPT = 64


class _Kept(threading.local):
    def __init__(self) -> None:
        self.greens: list[Green] = []


_kept = _Kept()


@atexit.register
def _end_kept() -> None:
    """End them while they can still run: later, the interpreter takes their code apart."""
    _kept.greens.clear()


_frame: ContextVar[Frame | None] = ContextVar("greentor_frame", default=None)
_spawned: set[asyncio.Task[Any]] = set()


class NotGreen(RuntimeError):
    """Something that has to wait was called outside a greenlet of ours."""


class DeadlineExceeded(TimeoutError):
    """The `greentor.timeout` around a parked call has run out."""


class Deadline(Protocol):
    """What a greenlet keeps of a `greentor.timeout` that it is in."""

    def check(self, exc: BaseException | None) -> None:
        """Raise DeadlineExceeded instead of a cancel that is the deadline's own, and nobody else's."""


class Green(greenlet):
    """A greenlet that runs a green function for an asyncio task, and then perhaps another for another."""

    def __init__(self) -> None:
        super().__init__(_main)
        self.thread_id = get_ident()
        self.dying = False
        self.ended = True  # no function runs in it
        #: what it is to run, and what came of it; as arguments of a switch they would stay on its stack
        self.work: tuple[Callable[..., Any], Any, Any] | None = None
        self.result: Any = None

    def begin(self, task: asyncio.Task[Any], frame: Frame) -> None:
        """Belong to ``task``, and to the place in a scope that it has."""
        # Weak: the garbage collector does not see into a suspended greenlet.
        self._task = weakref.ref(task)
        self.loop = frame.loop
        self.frame = frame
        self.ended = False
        self.timeouts: list[Deadline] = []

    @property
    def task(self) -> asyncio.Task[Any]:
        return cast(asyncio.Task[Any], self._task())


def in_green() -> bool:
    """Tell whether the caller runs in one of our greenlets, and so may wait.

    A task that starts eagerly (Python 3.12) runs its first step on the greenlet of its creator
    without being that greenlet's task: it is not in the greenlet.
    """
    g = getcurrent()
    return type(g) is Green and (not _EAGER or asyncio.current_task(g.loop) is g._task() or g.dying)


def current_scope() -> Scope | None:
    """Return the scope of the running greenlet, or the one that the running task inherited.

    None in plain threads, in greenlets that are not ours, and in tasks that have none. Raise
    `ScopeClosed` if the inherited scope has ended.
    """
    g = getcurrent()
    if type(g) is Green:
        return g.frame.scope
    frame = _frame.get()
    if frame is None or g.parent is not None or asyncio._get_running_loop() is not frame.loop:
        return None
    frame.scope.check_open()
    return frame.scope


# --- running green functions ------------------------------------------------------------------


@overload
def green(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]: ...
@overload
def green(fn: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]: ...
def green(fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Make a sync or async function a coroutine function whose body runs in a greenlet.

    Inside one of our greenlets the body runs in that same greenlet, so that it sees the same
    connections and transaction. In a task that inherited a scope (``gather``, ``create_task``) it runs
    in a helper greenlet on that scope, one helper at a time, and raises `ScopeClosed` once the scope
    has ended. Elsewhere a new greenlet and a new scope are opened, and closed with it.
    """

    @functools.wraps(fn)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return await run_green(fn, *args, **kwargs)

    return run


async def run_green(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run ``fn(*args, **kwargs)`` as `green` would, and return its result."""
    if in_green():
        result = fn(*args, **kwargs)
        return await result if inspect.iscoroutine(result) else result
    frame = _frame.get()
    if frame is None or frame.loop is not asyncio.get_running_loop():
        return await run_in_scope(_name(fn), fn, *args, **kwargs)
    _running_task(frame.loop)
    parent = await _ask_turn(frame)
    return await _run_frame(Frame(parent.scope, parent.loop, parent), fn, args, kwargs)


async def run_in_scope(name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run ``fn(*args, **kwargs)`` in a new greenlet with a scope of its own, called ``name``."""
    loop = asyncio.get_running_loop()
    for hook in scope_hooks:
        hook(loop)
    return await _run_frame(Frame(open_scope(name), loop), fn, args, kwargs)


def spawn(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """Start ``fn(*args, **kwargs)`` in a greenlet with a scope of its own; return its task.

    It outlives the request that started it, on connections of its own, which are released however it
    ends. The task is kept referenced until it is done; an exception that nobody retrieves is logged
    by asyncio. Raise RuntimeError without a running event loop.
    """
    name = _name(fn)
    task = asyncio.get_running_loop().create_task(
        run_in_scope(name, fn, *args, **kwargs), name=f"greentor.spawn {name}"
    )
    _spawned.add(task)
    task.add_done_callback(_spawned.discard)
    return task


async def _ask_turn(frame: Frame) -> Frame:
    while True:
        frame = frame.nearest_open()
        waiter = frame.ask()
        if waiter is None:
            return frame
        try:
            if await waiter:
                return frame
        except BaseException:
            frame.withdraw(waiter)
            raise


def _running_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any]:
    task = asyncio.current_task(loop)
    if task is None:
        raise NotGreen("a green function must be awaited by an asyncio task")
    return task


async def _run_frame(frame: Frame, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    kept = _kept.greens
    # A task that starts eagerly may do so in a callback of the loop: no old stack is to be put there.
    reuse = kept and watch is None and (not _EAGER or frame.loop.get_task_factory() is None)
    g = kept.pop() if reuse else Green()
    # The task gets no name here: the traceback of its own error would keep it alive.
    g.begin(_running_task(frame.loop), frame)
    if watch is not None:
        watch(g)
    token = _frame.set(frame)
    try:
        return await _drive(g, fn, args, kwargs)
    finally:
        try:
            _frame.reset(token)
        except ValueError:  # closed by the garbage collector, in another context
            pass


@types.coroutine
def _drive(g: Green, fn: Callable[..., Any], args: Any, kwargs: Any) -> Generator[Any, Any, Any]:
    """Switch into the greenlet, yield to the task what it waits for, and switch back."""
    driver = getcurrent()
    g.gr_context = driver.gr_context
    g.parent = driver
    del driver
    g.work = fn, args, kwargs
    item = g.switch()
    while not g.ended:
        try:
            value = yield item
        except GeneratorExit:
            _kill(g)
            raise
        except BaseException as exc:
            g.parent = getcurrent()
            item = g.throw(exc)
        else:
            g.parent = getcurrent()
            item = g.switch(value)
    if g.dying:
        raise asyncio.CancelledError("the greenlet was killed")
    result, g.result = g.result, None
    if not g.dead:
        g.gr_context = None
        del g.frame, g.loop
        _kept.greens.append(g)
    return result


def _main() -> None:
    """The body of every greenlet: runs one function after the other, as long as it is kept."""
    while _run_next(cast(Green, getcurrent())):
        # Its own stack must not refer to it here: nothing would ever collect it.
        getcurrent().parent.switch()  # type: ignore[union-attr]


def _run_next(g: Green) -> bool:
    """Run a function; return whether the greenlet is to be kept."""
    try:
        g.result = _run(g)
    except GreenletExit as exc:
        # greenlet would hand this one to the parent as a *result*.
        if g.dying:
            return False
        raise asyncio.CancelledError("the greenlet was killed") from exc
    finally:
        g.ended = True
    return watch is None and not g.dying and len(_kept.greens) < KEPT


def _run(g: Green) -> Any:
    assert g.work is not None
    fn, args, kwargs = g.work
    g.work = None
    try:
        result = fn(*args, **kwargs)
        return _step(g, result) if inspect.iscoroutine(result) else result
    finally:
        del fn, args, kwargs
        _end(g)


def _end(g: Green) -> None:
    """End the greenlet's scope, or give back the turn that it had as a helper."""
    frame = g.frame
    try:
        if not g.dying:
            take_turn()  # a helper that is at work finishes first
    finally:
        frame.close()
        if frame.parent is None:
            frame.scope.close(g.dying)
        else:
            if frame.scope.parked and not (g.dying or frame.parent.owner_waiter):
                frame.scope.park()
            frame.parent.give_back()


def _kill(g: Green) -> None:
    """End a parked greenlet whose coroutine was closed or collected: it may not wait any more."""
    if g.ended:  # and perhaps kept
        return
    g.dying = True
    if not g.dead:
        if g.thread_id == get_ident() and not _in_callback(g.loop):
            _end_now(g)
            return
        try:
            # Another thread cannot switch to it.
            g.loop.call_soon_threadsafe(_end_now, g)
            return
        except RuntimeError:  # its loop is closed
            pass
    if not g.frame.closed:  # nobody will ever switch to it, or its thread has ended
        g.frame.scope.close(True)


def _end_now(g: Green) -> None:
    if not g.dead:
        g.parent = getcurrent()
        g.throw(GreenletExit)


def _in_callback(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether this may be a callback of a loop that is not written in Python."""
    return (
        not isinstance(loop, asyncio.BaseEventLoop)
        and asyncio._get_running_loop() is loop
        and asyncio.current_task(loop) is None
    )


# --- waiting ----------------------------------------------------------------------------------


def detached_context() -> Context:
    """Return a copy of the context that has no part in the scope: for what runs elsewhere."""
    context = copy_context()
    context.run(_frame.set, None)
    return context


def current_green(what: str) -> Green:
    """Return the running greenlet; raise `NotGreen` naming ``what`` if it is none of ours."""
    g = getcurrent()
    if not in_green():
        raise NotGreen(
            f"{what} has to wait, and would block the event loop here: call it in a greenlet "
            "(in a BaseRequestHandler, in a function decorated with greentor.green, or through "
            "greentor.spawn)"
        )
    return cast(Green, g)


def is_dying() -> bool:
    """Tell whether the running greenlet is being closed, and so may not wait."""
    g = getcurrent()
    return type(g) is Green and g.dying


def may_wait() -> bool:
    """Tell whether the running greenlet may wait for anything, its scope's own resources included."""
    g = getcurrent()
    return in_green() and type(g) is Green and not (g.dying or g.frame.busy or g.frame.child)


def check_alive(what: str) -> Green:
    """As `current_green`, but also refuse a dying greenlet, before anything is done."""
    g = getcurrent()
    if type(g) is Green and not g.dying and (not _EAGER or in_green()):  # each query comes by here
        return g
    g = current_green(what)
    if g.dying:
        raise GreenletExit(f"{what} refused: the greenlet is being closed")
    return g


def wait(future: asyncio.Future[T], what: str = "this") -> T:
    """Park the greenlet until ``future`` is done, keeping the scope's turn; return its result."""
    g = check_alive(what)
    if not future.done():
        future._asyncio_future_blocking = True
        frame = g.frame
        frame.busy = True
        try:
            _switch(g, future)
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
    return cast(T, _step(g, coroutine))


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
    return cast(T, _step(g, coroutine, Context()))


def _step(g: Green, coroutine: Coroutine[Any, Any, Any], context: Context | None = None) -> Any:
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
                value = _switch(g, item)
            except GreenletExit:
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


def _switch(g: Green, item: Any) -> Any:
    try:
        return g.parent.switch(item)  # type: ignore[union-attr]
    except GreenletExit:
        if not g.dying:  # killed by ``greenlet.throw``, which its task has not seen
            g.dying = True
            g.task.cancel()
        raise


def _check_timeouts(g: Green, exc: asyncio.CancelledError) -> None:
    for deadline in reversed(g.timeouts):
        deadline.check(exc)


def _name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__
