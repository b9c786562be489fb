"""Running green functions: each in a greenlet, driven by the task that awaits it, until it ends or is killed.

Invariants
- A greenlet's parent is set before every switch into it: a coroutine may be driven, or closed by the
  garbage collector, from any other greenlet, and the answer belongs to whoever switched last.
- Greenlets are switched from the steps of tasks. In a callback of a loop that is not written in Python they
  are not: greenlet puts another stack in the place of the loop's, to which libuv holds pointers.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from collections.abc import Callable, Coroutine, Generator
from threading import get_ident
from typing import Any, ParamSpec, TypeVar, cast, overload

from greenlet import GreenletExit, getcurrent

from greentor.bridge.greens import EAGER, Green, NotGreen, frame_var, in_green
from greentor.bridge.kept import KEPT, idle
from greentor.bridge.waiting import step, take_turn
from greentor.scope import Frame, Scope

P = ParamSpec("P")
T = TypeVar("T")

#: called with the event loop when the outermost scope of a task is opened
scope_hooks: list[Callable[[asyncio.AbstractEventLoop], None]] = []

#: makes a scope of its name, and is told of each greenlet: `greentor.testing` puts its own here
open_scope: Callable[[str], Scope] = Scope
watch: Callable[[Green], None] | None = None

#: tasks that `spawn` has started, and that are not done
spawned: set[asyncio.Task[Any]] = set()


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
    frame = frame_var.get()
    if frame is None or frame.loop is not asyncio.get_running_loop():
        return await run_in_scope(name_of(fn), fn, *args, **kwargs)
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
    name = name_of(fn)
    task = asyncio.get_running_loop().create_task(
        run_in_scope(name, fn, *args, **kwargs), name=f"greentor.spawn {name}"
    )
    spawned.add(task)
    task.add_done_callback(spawned.discard)
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


@types.coroutine
def _run_frame(
    frame: Frame, fn: Callable[..., Any], args: Any, kwargs: Any
) -> Generator[Any, Any, Any]:
    """Switch into a greenlet, yield to the task what it waits for, and switch back."""
    kept = idle.greens
    # A task that starts eagerly may do so in a callback of the loop: no old stack is to be put there.
    reuse = kept and watch is None and (not EAGER or frame.loop.get_task_factory() is None)
    g = kept.pop() if reuse else Green(_main)
    # The task gets no name here: the traceback of its own error would keep it alive.
    g.begin(_running_task(frame.loop), frame)
    if watch is not None:
        watch(g)
    token = frame_var.set(frame)
    try:
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
                kill(g)
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
            idle.greens.append(g)
        return result
    finally:
        try:
            frame_var.reset(token)
        except ValueError:  # closed by the garbage collector, in another context
            pass


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
    return watch is None and not g.dying and len(idle.greens) < KEPT


def _run(g: Green) -> Any:
    assert g.work is not None
    fn, args, kwargs = g.work
    g.work = None
    try:
        # Without arguments Python calls it in the same C function; of another's frame each greenlet that is
        # parked would keep a copy.
        result = fn(*args, **kwargs) if args or kwargs else fn()
        return step(g, result) if inspect.iscoroutine(result) else result
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


def kill(g: Green) -> None:
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


def name_of(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__
