"""What the status page shows, computed once a second for all who watch it.

Invariants
- One timer for each loop, and only while somebody watches.
- Nothing waits for a slow client: while it has not taken one event, it is sent no other.
- It neither uses nor waits for a database.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

from greentor import recording, stacks, statistics
from greentor.bridge import Green
from greentor.histogram import Histogram
from greentor.web import admission
from greentor.web.draining import _at_work

#: seconds between two events, and between two looks at whether the server is stopping
INTERVAL = 1.0
LOOK = 0.1

#: seconds that the latencies are taken over
WINDOW = 5

#: running requests whose stacks are looked at, the longest running ones; queries and routes that are listed
STACKS = 50
LISTED = 20


class Watcher(Protocol):
    """Who is sent the events."""

    def send(self, event: str) -> None:
        """Send an event, or leave it out, without waiting."""

    def end(self) -> None:
        """Stop watching: the server is about to stop."""


class _Moment:
    """The sums of all that was recorded up to now, to subtract from later ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.at = time.monotonic()
        self.queries = dict(recording.query_counts)
        self.query_times = sum(recording.query_times.values(), Histogram())
        self.request_times = sum(list(recording.request_times.values()), Histogram())
        self.lag = (recording.loop_lag(loop) or Histogram()).copy()


class Feed:
    """Sends an event a second to the watchers on one loop."""

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self._timer_set = False  # the timer itself is not kept: it would keep the loop
        self._due = 0.0
        self._moments: deque[_Moment] = deque(maxlen=WINDOW + 1)

    def add(self, watcher: Watcher) -> None:
        """Send ``watcher`` each event from the next one on."""
        self.watchers.add(watcher)
        recording.start()
        if not self._timer_set:
            self._timer_set = True
            loop = asyncio.get_running_loop()
            self._moments.append(_Moment(loop))
            self._due = loop.time() + INTERVAL
            loop.call_later(LOOK, self._tick, loop)

    def remove(self, watcher: Watcher) -> None:
        """Send it nothing more; after the last one the timer ends."""
        self.watchers.remove(watcher)
        recording.stop()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.watchers:
            self._timer_set = False
            self._moments.clear()
            return
        loop.call_later(LOOK, self._tick, loop)
        if _stopping():
            for watcher in list(self.watchers):
                watcher.end()
        if (now := loop.time()) < self._due:
            return
        self._due = max(self._due + INTERVAL, now)
        self._moments.append(_Moment(loop))
        event = json.dumps(describe(loop, self._moments))
        for watcher in list(self.watchers):
            watcher.send(event)


def _stopping() -> bool:
    """Tell whether a server of `greentor.serving` is stopping, if there is one in this process."""
    serving = sys.modules.get("greentor.serving")
    return serving is not None and serving.stopping()


_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, Feed] = WeakKeyDictionary()


def current_feed() -> Feed:
    """Return the feed of the running loop."""
    loop = asyncio.get_running_loop()
    feed = _feeds.get(loop)
    if feed is None:
        feed = _feeds[loop] = Feed()
    return feed


def describe(loop: asyncio.AbstractEventLoop, moments: deque[_Moment]) -> dict[str, Any]:
    """Return one event: all numbers of `greentor.stats`, and what has changed since."""
    now, last, first = moments[-1], moments[-2], moments[0]
    seconds = max(now.at - last.at, 1e-3)
    result = statistics.stats().as_dict()
    del result["loop_lag"]
    result["slowest"] = result["slowest"][:LISTED]
    result["routes"] = result["routes"][:LISTED]
    result["rates"] = {
        "queries": {
            alias: (count - last.queries.get(alias, 0)) / seconds
            for alias, count in now.queries.items()
        },
        "requests": (now.request_times - last.request_times).count / seconds,
    }
    result["latency"] = asdict((now.request_times - first.request_times).timing())
    result["query_latency"] = asdict((now.query_times - first.query_times).timing())
    result["lag"] = asdict((now.lag - last.lag).timing())
    result["running"] = running(loop)
    return result


# --- running requests -------------------------------------------------------------------------


def running(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """Describe the requests that run on ``loop``: those that stand at the same place together.

    The longest running ones first. Of very many only the oldest are looked at.
    """
    found = [
        (_age(handler), handler, g)
        for task, g in stacks.greenlets(loop)
        if (handler := _handler(task, g)) is not None
    ]
    found.sort(key=lambda each: each[0] or 0.0, reverse=True)
    groups: dict[object, dict[str, Any]] = {}
    for seconds, handler, g in found[:STACKS]:
        position = stacks.locate(g)
        name = g.frame.scope.name
        key = (name, position.waits_for, position.sql, *position.stack)
        if key in groups:
            groups[key]["count"] += 1
            continue
        groups[key] = {
            "name": name,
            "handler": f"{type(handler).__module__}.{type(handler).__qualname__}",
            "count": 1,
            "seconds": seconds,
            "waits_for": position.waits_for,
            "sql": position.sql,
            "stack": [asdict(line) for line in position.stack],
        }
    return list(groups.values())


def _handler(task: asyncio.Task[Any], g: Green) -> RequestHandler | None:
    """Return the handler that ``g`` works for: one of its methods awaits the greenlet."""
    awaitable = task.get_coro() if g.frame.parent is None else None
    while awaitable is not None:
        frame = stacks.frame_of(awaitable)
        owner = frame.f_locals.get("self") if frame is not None else None
        if issubclass(
            type(owner), RequestHandler
        ):  # its type: to ask a lazy object would wake it up
            return owner
        awaitable = stacks.awaited(awaitable)
    return None


def _age(handler: RequestHandler) -> float | None:
    """Return for how long a request has been running; of a websocket's message nobody knows."""
    return None if isinstance(handler, WebSocketHandler) else handler.request.request_time()


def _requests() -> tuple[int, int]:
    """Return how many requests are running, and how many wait for their turn."""
    waiting = admission.waiting
    return sum(isinstance(each, RequestHandler) for each in _at_work) - waiting, waiting


statistics.count_requests = _requests
