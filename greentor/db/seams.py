"""The seams into others' code: every place at which greentor changes what it did not write.

Each is probed before it is touched; a test for each fails when upstream moves.

- ``django.db.connections``: its store and its factory, on the instance that everybody has imported.
- ``django.utils.asyncio.get_running_loop``: lets the ORM run in our greenlets, and there only.
- ``asgiref.sync.SyncToAsync.__call__``: thread-sensitive functions run in the greenlet that awaits
  them, or in a helper on the scope that the task inherited.
- ``asgiref.sync.AsyncToSync.__call__``: in a greenlet the coroutine is stepped right there.
- ``django.contrib.auth.hashers.get_hasher``: in a greenlet passwords are hashed in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import linecache
import os
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.utils import asyncio as django_asyncio

from greentor import bridge, waits
from greentor.db.handler import ConnectionStore, close_thread_connections, create_connection

_installed = False

_sync_to_async_call = SyncToAsync.__call__
_async_to_sync_call = AsyncToSync.__call__


class SeamError(RuntimeError):
    """Django or asgiref no longer has a name that greentor has to replace."""


def install() -> None:
    """Install all seams, once."""
    global _installed
    if _installed:
        return
    probe()
    _installed = True
    store = ConnectionStore()
    handler: Any = connections
    for alias in handler:
        if hasattr(handler._connections, alias):
            setattr(store, alias, getattr(handler._connections, alias))
    handler._connections = store
    handler.create_connection = create_connection
    django_asyncio.get_running_loop = get_running_loop  # type: ignore[attr-defined]
    SyncToAsync.__call__ = sync_to_async_call  # type: ignore[method-assign]
    AsyncToSync.__call__ = async_to_sync_call  # type: ignore[method-assign]
    waits.thread_exit_hooks.append(close_thread_connections)
    _install_hashers()


def probe() -> None:
    """Raise `SeamError` naming what upstream no longer has."""
    seams: list[tuple[Any, tuple[str, ...]]] = [
        (connections, ("_connections", "create_connection", "settings")),
        (django_asyncio, ("get_running_loop", "async_unsafe")),
        (SyncToAsync, ("__call__",)),
        (AsyncToSync, ("__call__",)),
    ]
    for owner, names in seams:
        for name in names:
            if not hasattr(owner, name):
                raise SeamError(f"{owner!r} has no {name!r}: this version is not supported")


# --- the ORM in greenlets ---------------------------------------------------------------------


def get_running_loop() -> asyncio.AbstractEventLoop:
    """Hide the loop from Django's ``async_unsafe`` in a greenlet; elsewhere say what to do."""
    if bridge.in_green():
        raise RuntimeError("no running event loop: greentor parks the greenlet")
    loop = asyncio.get_running_loop()
    if not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise SynchronousOnlyOperation(
            f"{_culprit()} would query the database from {_coroutine()}, outside any greenlet: "
            "it would block the event loop. Use a BaseRequestHandler, decorate the function with "
            "greentor.green, start it with greentor.spawn(), or use the ORM's async methods"
        )
    return loop


def _culprit() -> str:
    """Name the first line on the stack that is neither Django's nor ours."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in ("django", "greentor", "contextlib", "asgiref"):
            path, line = frame.f_code.co_filename, frame.f_lineno
            source = linecache.getline(path, line).strip()
            return f"{source or frame.f_code.co_qualname} ({path}:{line})"
        frame = frame.f_back
    return "this call"


def _coroutine() -> str:
    task = asyncio.current_task()
    if task is None:
        return "a callback of the event loop"
    return f"the coroutine {getattr(task.get_coro(), '__qualname__', task.get_name())!r}"


# --- asgiref ----------------------------------------------------------------------------------


async def sync_to_async_call(self: SyncToAsync[Any, Any], *args: Any, **kwargs: Any) -> Any:
    if not self._thread_sensitive or (not bridge.in_green() and bridge.current_scope() is None):
        return await _sync_to_async_call(self, *args, **kwargs)
    call = functools.partial(self.func, *args, **kwargs)
    context = getattr(self, "context", None)
    if context is not None:
        call = functools.partial(_run_in, context, call)
    # In a tuple: a coroutine that the function returns is its result, and not awaited.
    (result,) = await bridge.run_green(lambda: (call(),))
    return result


def _run_in(context: Context, call: Callable[[], Any]) -> Any:
    """As ``context.run(call)``, which a second greenlet cannot enter while one is parked in it."""
    before = context.copy()
    inner = before.copy()
    try:
        return inner.run(call)
    finally:
        for variable, value in inner.items():
            if variable not in before or before[variable] is not value:
                context.run(variable.set, value)


def async_to_sync_call(self: AsyncToSync[Any, Any], *args: Any, **kwargs: Any) -> Any:
    if not bridge.in_green():
        return _async_to_sync_call(self, *args, **kwargs)
    if self.force_new_loop:
        return waits.thread(_async_to_sync_call, self, *args, **kwargs)
    return bridge.await_(self.awaitable(*args, **kwargs))


# --- passwords --------------------------------------------------------------------------------


class ThreadedHasher:
    """A password hasher whose slow methods run in a thread."""

    def __init__(self, hasher: Any) -> None:
        self.__dict__["_hasher"] = hasher

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._hasher, name)
        # What was put on the instance, by a test, is returned as it is.
        if name in ("encode", "verify", "harden_runtime") and name not in vars(self._hasher):
            return functools.partial(waits.thread, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._hasher, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._hasher, name)


def _install_hashers() -> None:
    from django.contrib.auth import hashers

    original = hashers.get_hasher

    @functools.wraps(original)
    def get_hasher(algorithm: str = "default") -> Any:
        hasher = original(algorithm)
        if bridge.in_green() and not isinstance(hasher, ThreadedHasher):
            return ThreadedHasher(hasher)
        return hasher

    hashers.get_hasher = get_hasher  # type: ignore[assignment]
