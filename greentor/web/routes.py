"""The route that led to a handler, as the application has it, and the time that a request took.

A route is a pattern, not a path: there are as many as the application has, whatever clients ask for.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

from tornado.routing import PathMatches
from tornado.web import Application, RequestHandler

from greentor import recording

_Patterns = dict[type, list[re.Pattern[str]]]

_known: WeakKeyDictionary[Application, _Patterns] = WeakKeyDictionary()


def record(handler: RequestHandler) -> None:
    """Record the request that ``handler`` has just answered."""
    request = handler.request
    method = request.method or ""
    if method not in handler.SUPPORTED_METHODS:
        method = recording.OTHER
    recording.record_request(
        route_of(handler), method, handler.get_status(), request.request_time()
    )


def route_of(handler: RequestHandler) -> str:
    """Return the pattern of the route to ``handler``; the name of its class if it has none."""
    cls = type(handler)
    known = _known.get(handler.application)
    if known is None or cls not in known:
        known = _known[handler.application] = _patterns(handler.application)
        known.setdefault(cls, [])
    for pattern in (patterns := known[cls]):
        if len(patterns) == 1 or pattern.match(handler.request.path):
            return pattern.pattern.removesuffix("$")
    return f"{cls.__module__}.{cls.__qualname__}"


def _patterns(application: Application) -> _Patterns:
    found: _Patterns = {}
    routers: list[Any] = [application.default_router]
    while routers:
        for rule in routers.pop().rules:
            if hasattr(rule.target, "rules"):
                routers.append(rule.target)
            elif isinstance(rule.target, type) and isinstance(rule.matcher, PathMatches):
                found.setdefault(rule.target, []).append(rule.matcher.regex)
    return found
