"""Where Django's ConnectionHandler keeps and makes its wrappers: bound to the greenlet's scope.

Invariants
- ``connections[alias]`` gives each scope a wrapper of its own, in plain threads each thread.
- Looking a wrapper up waits until no helper of the scope is at work: ``atomic()`` decides by the state
  that it reads there.
- A wrapper made in a scope is released with it, of whichever engine it is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from greenlet import getcurrent

from greentor import bridge
from greentor.bridge import Green
from greentor.db.pools import find_pool
from greentor.db.wrapper import GreenWrapper
from greentor.glocal import local
from greentor.scope import Scope

_own = object.__getattribute__


class ConnectionStore(local):
    """The attributes are the wrappers of the running scope, by alias.

    What `local` does for its subclasses and for instances that come and go is left out in a greenlet:
    each query comes by here.
    """

    def __getattribute__(self, name: str) -> Any:
        g = getcurrent()
        if type(g) is Green:
            frame = g.frame
            if frame.child:
                bridge.take_turn()
            space = frame.scope.locals.get(_own(self, "_local__state").key)
            value = None if space is None else space.get(name)
            if value is not None:
                return value
            if not name.startswith("_"):
                raise AttributeError(name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        g = getcurrent()
        if type(g) is Green:
            g.frame.scope.locals.setdefault(_own(self, "_local__state").key, {})[name] = value
        else:
            super().__setattr__(name, value)


def errors_occurred(scope: Scope) -> bool:
    """Tell whether the scope has a connection that Django is to look at: an error may have spoiled it."""
    store: Any = connections._connections  # type: ignore[attr-defined]
    wrappers = scope.locals.get(_own(store, "_local__state").key)
    return wrappers is not None and any(each.errors_occurred for each in wrappers.values())


def create_connection(alias: str) -> Any:
    """Return a wrapper for ``alias``: one kept from an earlier scope, or a new one."""
    scope = bridge.current_scope()
    if scope is None:
        return type(connections).create_connection(connections, alias)
    wrapper: BaseDatabaseWrapper | None = _kept_wrapper(alias)
    if wrapper is None:
        wrapper = type(connections).create_connection(connections, alias)
    if isinstance(wrapper, GreenWrapper):
        wrapper._kept = True
        wrapper.enter_scope(scope)
    else:
        scope.add_resource(wrapper, partial(_close_foreign, wrapper))
    return wrapper


def _kept_wrapper(alias: str) -> GreenWrapper | None:
    g = getcurrent()
    if type(g) is not Green or not bridge.in_green():
        return None
    settings = connections.settings[alias]
    engine = _engines.get(settings["ENGINE"])
    if engine is None:
        return None
    pool = find_pool(g.loop, alias, settings, engine.make_driver)
    while pool is not None and pool.wrappers:
        wrapper = pool.wrappers.pop()
        if wrapper.settings_dict is settings:
            return wrapper
    return None


#: greentor's engines that were loaded, by the name that stands in ENGINE
_engines: dict[str, type[GreenWrapper]] = {}


def register_engine(name: str, wrapper: type[GreenWrapper]) -> None:
    """Make wrappers of this engine kept and reused."""
    _engines[name] = wrapper


def _close_foreign(wrapper: Any, scope_force: bool) -> None:
    """Close the connection of another engine; ``force`` means nothing to it."""
    if wrapper.in_atomic_block and wrapper.connection is not None:
        wrapper.connection.close()
        wrapper.connection = None
    else:
        wrapper.close()


def close_thread_connections() -> None:
    """Close what a worker thread opened."""
    connections.close_all()
