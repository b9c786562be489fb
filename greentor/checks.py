"""What the settings say about greentor: wrong options, and what will block the event loop."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning
from django.core.exceptions import ImproperlyConfigured

ENGINES = ("greentor.db.mysql", "greentor.db.sqlite3")

_NETWORK_CACHES = ("redis", "memcached", "pymemcache", "pylibmc")


def options() -> dict[str, Any]:
    """Return ``settings.GREENTOR`` with its defaults filled in.

    ``block_warning``: milliseconds after which the watchdog names the code that holds the loop; None for
    never. By default 200 with DEBUG, else None. ``record``: whether queries, requests and the loop's lag are
    always recorded (`greentor.recording`), and not only while somebody watches; by default False. Raise
    ImproperlyConfigured for an unknown option.
    """
    given = getattr(settings, "GREENTOR", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"GREENTOR must be a dict, not {given!r}")
    result: dict[str, Any] = {"block_warning": 200 if settings.DEBUG else None, "record": False}
    if unknown := sorted(set(given) - set(result)):
        raise ImproperlyConfigured(
            f"GREENTOR: unknown option {', '.join(map(repr, unknown))}; known are {sorted(result)}"
        )
    result.update(given)
    limit = result["block_warning"]
    number = isinstance(limit, int | float) and not isinstance(limit, bool)
    if limit is not None and not (number and limit > 0):
        raise ImproperlyConfigured(
            f"GREENTOR: 'block_warning' must be a positive number of ms or None, not {limit!r}"
        )
    if not isinstance(result["record"], bool):
        raise ImproperlyConfigured(
            f"GREENTOR: 'record' must be True or False, not {result['record']!r}"
        )
    return result


def check_databases() -> None:
    """Raise ImproperlyConfigured naming the first option of a database that is unknown or wrong."""
    for alias, database in settings.DATABASES.items():
        if database.get("ENGINE") in ENGINES:
            import_module(f"{database['ENGINE']}.base").check_options(alias, database)


def blocking() -> list[str]:
    """Describe, a sentence each, what in the settings will block the event loop."""
    found = []
    for alias, database in settings.DATABASES.items():
        engine = database.get("ENGINE", "")
        if engine and engine not in ENGINES:
            found.append(
                f"DATABASES[{alias!r}]: ENGINE {engine!r} blocks the event loop for as long as each "
                "query takes; use an engine of greentor's"
            )
    for alias, cache in settings.CACHES.items():
        backend = str(cache.get("BACKEND", ""))
        if any(name in backend.lower() for name in _NETWORK_CACHES):
            found.append(
                f"CACHES[{alias!r}]: {backend!r} blocks the event loop for as long as the cache "
                "takes to answer; call it through greentor.thread()"
            )
    return found


def check_blocking(**kwargs: Any) -> list[CheckMessage]:
    """The same for Django's check framework."""
    return [Warning(sentence, id="greentor.W001") for sentence in blocking()]
