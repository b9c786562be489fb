"""Django's ``request_started`` and ``request_finished``, without the receivers that find nothing to do.

Django connects four of its own: they look for connections and caches of the thread that an earlier request
has left behind. A request's scope begins without any, and gives all back at its end. Looking costs 8 µs.

Invariants
- If anybody else listens, the signal is sent to all, in the usual way; so it is where one of Django's own has
  something to do: a connection that has failed, a cache backend that is to be closed.
"""

from __future__ import annotations

from typing import Any
from weakref import ReferenceType

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.signals import request_finished, request_started
from django.dispatch import Signal
from django.utils.module_loading import import_string

from greentor.db.handler import errors_occurred
from greentor.scope import Scope

#: Django's own, by module and name, for some of them are connected by what need not be imported
_STARTED = frozenset({"django.db.reset_queries", "django.db.close_old_connections"})
_FINISHED = frozenset(
    {
        "django.core.cache.close_caches",
        "django.core.handlers.base.reset_urlconf",  # which each task has for itself
        "django.db.close_old_connections",
    }
)


class Needless:
    """Tells whether all receivers of a signal are of those that have nothing to do."""

    def __init__(self, signal: Signal, names: frozenset[str]) -> None:
        self._signal = signal
        self._names = names
        self._judged: Any = None  # the receivers that were looked at last
        self._verdict = False

    def __call__(self) -> bool:
        receivers = self._signal.receivers
        if receivers != self._judged:
            self._judged = list(receivers)
            self._verdict = all(_name(entry) in self._names for entry in receivers)
        return self._verdict


def _name(entry: Any) -> str:
    """Return the name of the function in an entry of ``Signal.receivers``."""
    receiver = entry[1]
    if isinstance(receiver, ReferenceType):
        receiver = receiver()
    return f"{getattr(receiver, '__module__', '')}.{getattr(receiver, '__qualname__', '')}"


_start_is_needless = Needless(request_started, _STARTED)
_finish_is_needless = Needless(request_finished, _FINISHED)


def send_started(sender: type) -> None:
    """Send ``request_started``, at the beginning of a scope."""
    if not _start_is_needless():
        request_started.send(sender=sender)


def send_finished(sender: type, scope: Scope) -> None:
    """Send ``request_finished``, at the end of a scope."""
    if not (_finish_is_needless() and _caches_stay_open()) or errors_occurred(scope):
        request_finished.send(sender=sender)


_settings: Any = None  # of the caches that were looked at last
_stay_open = False


def _caches_stay_open() -> bool:
    """Tell whether no cache backend does anything when it is closed: Django's local memory, for one."""
    global _settings, _stay_open
    if caches.settings is not _settings:
        try:
            classes = [import_string(each["BACKEND"]) for each in caches.settings.values()]
        except ImportError:  # one that nobody uses, perhaps: whoever does is told so by Django
            classes = [None]
        _stay_open = all(getattr(cls, "close", None) is BaseCache.close for cls in classes)
        _settings = caches.settings
    return _stay_open
