"""What is recorded while somebody watches: queries, requests, and how late the loop is.

Invariants
- Queries are always counted, which is one addition. All else is recorded only while `active`: between
  `start` and the last `stop`, until `watch_for` has run out, or always, after `scope_hook`.
- No parameters of a query are kept, and no string that stands in its text: they may be secrets.
- The memory is bounded: histograms, `SLOWEST` queries for each of the last `MINUTES`, `MAX_ROUTES` routes.
  Of queries with the same text the slowest is kept, or one of them would drive out all others.
- The figures are those of the process; how late it is, is known of each loop. Nothing here keeps a loop.
"""

from __future__ import annotations

import asyncio
import re
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from greenlet import getcurrent

from greentor import bridge
from greentor.histogram import Histogram

#: for so many minutes, and so many in each, are the slowest queries kept
MINUTES = 5
SLOWEST = 20

#: routes that are told apart; what comes after them is counted as `OTHER`
MAX_ROUTES = 500
OTHER = "other"

#: characters of a query's text
SQL_LENGTH = 300

#: seconds between two looks at how late a loop is
INTERVAL = 0.05

#: whether anything but the number of queries is recorded
active = False

#: how many queries were sent, by alias
query_counts: defaultdict[str, int] = defaultdict(int)
#: how long they took, by alias, those that were recorded
query_times: defaultdict[str, Histogram] = defaultdict(Histogram)
#: how long requests took, by route, method and status
request_times: dict[tuple[str, str, int], Histogram] = {}


@dataclass(frozen=True)
class SlowQuery:
    """One of the slowest queries of the last minutes."""

    #: its text, shortened, without parameters and with ``'…'`` for each string in it
    sql: str
    #: how long its greenlet waited for it, in seconds
    seconds: float
    alias: str
    #: when it ended: seconds since the epoch
    ended: float
    #: the name of the scope that it ran in: of a request, method and path
    scope: str | None


class _Minute:
    """The slowest queries of a minute, by alias and text."""

    __slots__ = ("best", "limit", "number", "queries")

    def __init__(self, number: int) -> None:
        self.number = number
        self.queries: dict[tuple[str, str], SlowQuery] = {}
        # What is not slower than these need not be looked at: than any query kept, than one of this text.
        self.limit = 0.0
        self.best: dict[str, float] = {}

    def add(self, text: str, query: SlowQuery) -> None:
        """Keep the query if it is among the slowest; ``text`` is what stands for it in `best`."""
        if len(self.best) >= 10 * SLOWEST:
            self.best.clear()
        self.best[text] = query.seconds
        key = (query.alias, query.sql)
        before = self.queries.get(key)
        if before is not None and before.seconds >= query.seconds:
            return
        self.queries[key] = query
        if len(self.queries) > SLOWEST:
            del self.queries[min(self.queries, key=lambda key: self.queries[key].seconds)]
        if len(self.queries) == SLOWEST:
            self.limit = min(each.seconds for each in self.queries.values())


_minutes: deque[_Minute] = deque(maxlen=MINUTES)


# --- queries ----------------------------------------------------------------------------------


class QueryTimer:
    """Record the query that is sent within the ``with`` block, however it ends."""

    __slots__ = ("_alias", "_ansi", "_sql", "_start")

    def __init__(self, alias: str, sql: object, ansi: bool) -> None:
        self._alias = alias
        self._sql = sql
        self._ansi = ansi

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        record_query(self._alias, self._sql, time.perf_counter() - self._start, self._ansi)


def record_query(alias: str, sql: object, seconds: float, ansi: bool = False) -> None:
    """Record one query that has ended, well or not. ``ansi`` as for `shorten`."""
    query_times[alias].add(seconds)
    now = time.time()
    number = int(now // 60)
    if not _minutes or _minutes[-1].number != number:
        _minutes.append(_Minute(number))
        _update()  # the loop of the last one who watched may have been closed
    minute = _minutes[-1]
    text = sql if isinstance(sql, str) else str(sql)
    if seconds <= minute.limit or seconds <= minute.best.get(text, 0.0):
        return
    g = getcurrent()
    scope = g.frame.scope.name if type(g) is bridge.Green else None
    minute.add(text, SlowQuery(shorten(text, ansi), seconds, alias, now, scope))


def slowest_queries() -> list[SlowQuery]:
    """Return the slowest queries of the last minutes, of each text one, the slowest first."""
    oldest = int(time.time() // 60) - MINUTES
    found: dict[tuple[str, str], SlowQuery] = {}
    for minute in list(_minutes):
        for key, query in list(minute.queries.items()) if minute.number > oldest else ():
            if key not in found or found[key].seconds < query.seconds:
                found[key] = query
    return sorted(found.values(), key=lambda query: -query.seconds)[:SLOWEST]


_MYSQL_STRING = re.compile(r"""'(?:[^'\\]|\\.|'')*'?|"(?:[^"\\]|\\.|"")*"?""", re.DOTALL)
_ANSI_STRING = re.compile("'[^']*'?")


def shorten(text: str, ansi: bool = False) -> str:
    """Return the text of a query in one line, shortened, with ``'…'`` for each string that stands in it.

    With ``ansi``, double quotes are around names and a backslash means nothing, else it is as in MySQL.
    """
    pattern = _ANSI_STRING if ansi else _MYSQL_STRING
    text = " ".join(pattern.sub("'…'", text[: 4 * SQL_LENGTH]).split())
    return text if len(text) <= SQL_LENGTH else text[: SQL_LENGTH - 1] + "…"


# --- requests ---------------------------------------------------------------------------------


def record_request(route: str, method: str, status: int, seconds: float) -> None:
    """Record one request that was answered."""
    histogram = request_times.get((route, method, status))
    if histogram is None:
        if len(request_times) >= MAX_ROUTES:
            route = method = OTHER
        histogram = request_times.setdefault((route, method, status), Histogram())
    histogram.add(seconds)


# --- the loop ---------------------------------------------------------------------------------


class LoopLag:
    """How late the timers of one loop are: a timer of its own, whose lateness it measures.

    It holds no reference to the loop, only the loop to it, through the timer.
    """

    def __init__(self) -> None:
        self.times = Histogram()
        self._timer_set = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the timer run until nobody watches any more, or the loop is closed."""
        if not self._timer_set:
            self._timer_set = True
            self._set(loop)

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + INTERVAL
        loop.call_at(due, self._look, loop, due)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.times.add(max(0.0, loop.time() - due))
        if active:
            self._set(loop)
        else:
            self._timer_set = False


_lags: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLag] = weakref.WeakKeyDictionary()


def loop_lag(loop: asyncio.AbstractEventLoop) -> Histogram | None:
    """Return how late the timers of ``loop`` were; None if nobody has watched yet."""
    lag = _lags.get(loop)
    return lag.times if lag is not None else None


# --- who watches ------------------------------------------------------------------------------

_watchers = 0
_until = 0.0
_ends: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def start() -> None:
    """Record from now on, and how late the running loop is, until `stop` was called as often."""
    global _watchers
    _watchers += 1
    _update()
    _watch_loop(asyncio.get_running_loop())


def stop() -> None:
    """Take one `start` back; the last one ends the recording. What was recorded is kept."""
    global _watchers
    _watchers -= 1
    _update()


def scope_hook() -> Callable[[asyncio.AbstractEventLoop], None]:
    """Record from now on; return a hook for `greentor.bridge.running.scope_hooks` that includes each loop."""
    global _watchers
    _watchers += 1
    _update()
    return _watch_loop


def watch_for(seconds: float) -> None:
    """Record at least for so long: for whoever asks now and then, and may never come again."""
    global _until
    loop = asyncio.get_running_loop()
    _until = max(_until, time.monotonic() + seconds)
    _update()
    _watch_loop(loop)
    if loop not in _ends:
        _ends.add(loop)
        loop.call_later(seconds + INTERVAL, _look_for_end, loop)


def _look_for_end(loop: asyncio.AbstractEventLoop) -> None:
    _update()
    if (left := _until - time.monotonic()) > 0:
        loop.call_later(left + INTERVAL, _look_for_end, loop)
    else:
        _ends.discard(loop)


def _update() -> None:
    global active
    active = _watchers > 0 or time.monotonic() < _until


def _watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    lag = _lags.get(loop)
    if lag is None:
        lag = _lags[loop] = LoopLag()
    lag.start(loop)
