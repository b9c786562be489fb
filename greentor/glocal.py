"""`local`: attributes bound to the running greenlet, as those of ``threading.local`` are to a thread.

Invariants
- In one of our greenlets the attributes belong to its scope: helper greenlets of the scope, and tasks
  that inherited it, see the same ones. They are freed when the scope ends.
- In a plain thread, and in greenlets of other libraries, they belong to the thread.
- Each instance has attributes of its own. A subclass's ``__init__`` runs again, with the same
  arguments, on the first access in each scope or thread, as with ``threading.local``.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any

from greenlet import getcurrent

from greentor.bridge import Green, current_scope
from greentor.scope import Scope

_keys = itertools.count()
_MISSING = object()


class _State:
    """What an instance of `local` keeps for itself."""

    __slots__ = ("args", "key", "kwargs", "scopes", "thread")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs
        self.key = next(_keys)
        self.thread = threading.local()
        self.scopes: weakref.WeakSet[Scope] = weakref.WeakSet()

    def __del__(self) -> None:
        for scope in self.scopes:
            scope.locals.pop(self.key, None)

    def spaces(self) -> dict[int, dict[str, Any]]:
        """Return where the running greenlet's scope, or else the thread, keeps its namespaces."""
        scope = current_scope()
        if scope is None:
            return self.thread.__dict__  # type: ignore[return-value]
        if self.key not in scope.locals:
            self.scopes.add(scope)
        return scope.locals

    def namespace(self, owner: local) -> dict[str, Any]:
        spaces = self.spaces()
        space = spaces.get(self.key)
        if space is None:
            space = spaces[self.key] = {}
            try:
                type(owner).__init__(owner, *self.args, **self.kwargs)
            except BaseException:
                spaces.pop(self.key, None)  # the next access tries again
                raise
        return space


class local:
    """Attributes bound to the running greenlet's scope, or else to the thread."""

    __slots__ = ("__weakref__", "_local__state")

    _local__state: _State
    _local__has_descriptors = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        members = (value for base in cls.__mro__[:-2] for value in vars(base).values())
        cls._local__has_descriptors = any(hasattr(type(value), "__set__") for value in members)

    def __new__(cls, /, *args: Any, **kwargs: Any) -> local:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError("Initialization arguments are not supported")
        self = object.__new__(cls)
        state = _State(args, kwargs)
        object.__setattr__(self, "_local__state", state)
        # The caller of the class runs __init__ for the creating scope.
        state.spaces()[state.key] = {}
        return self

    def __getattribute__(self, name: str) -> Any:
        state = object.__getattribute__(self, "_local__state")
        g = getcurrent()
        # The short way, to a namespace that is there: each request comes by several times.
        space = g.frame.scope.locals.get(state.key) if type(g) is Green else None
        if space is None:
            space = state.namespace(self)
        if name == "__dict__":
            return space
        value = space.get(name, _MISSING)
        if value is _MISSING or _is_data_descriptor(type(self), name):
            return object.__getattribute__(self, name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__dict__":
            raise _read_only(self)
        if _is_data_descriptor(type(self), name):
            object.__setattr__(self, name, value)
        else:
            object.__getattribute__(self, "_local__state").namespace(self)[name] = value

    def __delattr__(self, name: str) -> None:
        if name == "__dict__":
            raise _read_only(self)
        if _is_data_descriptor(type(self), name):
            object.__delattr__(self, name)
            return
        space = object.__getattribute__(self, "_local__state").namespace(self)
        if name not in space:
            raise AttributeError(name)
        del space[name]


def _read_only(owner: local) -> AttributeError:
    return AttributeError(f"{type(owner).__name__!r} object attribute '__dict__' is read-only")


def _is_data_descriptor(cls: type[local], name: str) -> bool:
    if not cls._local__has_descriptors:
        return False
    for base in cls.__mro__:
        if name in base.__dict__:
            return hasattr(type(base.__dict__[name]), "__set__")
    return False
