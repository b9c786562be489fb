"""Handlers that end in every way in which a request can end.

Each writes its token in a transaction, and then meets its fate. ``on_commit`` counts the hooks that ran, by
kind: at the end there are as many as rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextvars import Context
from typing import Any

from django.db import connection, transaction
from tornado import gen
from tornado.web import RequestHandler

import greentor
from app.models import World
from greentor.web import BaseRequestHandler, GreenWebSocketHandler

#: seconds that the database keeps a request
NAP = 0.05
#: the same for one that is interrupted, and after which. It is so much longer for a machine that is busy: an
#: answer that came first is no fault, nor is a row if the interruption strikes at the COMMIT
LONG, INTERRUPTION = 1.0, 0.02

#: of a request with a token: how much there is to count, and seconds that it keeps its connection besides
ROWS, PAUSE = 5000, 0.005

on_commit: Counter[str] = Counter()


class Planned(Exception):
    """What a handler raises on purpose."""


def write(kind: str, token: str) -> None:
    """Write a token and have the commit counted; for code in a transaction."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO fire (kind, token) VALUES (%s, %s)", [kind, token])
    transaction.on_commit(lambda: on_commit.update([kind]))


def commit(kind: str, token: str) -> None:
    with transaction.atomic():
        write(kind, token)


def nap(seconds: float = LONG) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s)", [seconds])


def look() -> None:
    """Query, as something that has nothing to do with a request."""
    World.objects.filter(pk=1).exists()


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


class Fault(BaseRequestHandler):
    """A request that writes its token; its address ends in its kind."""

    @property
    def kind(self) -> str:
        return self.request.path.rpartition("/")[2]

    @property
    def token(self) -> str:
        return self.get_query_argument("token")

    @property
    def late(self) -> bool:
        """Whether it is interrupted in its query; if not, where it stands by then: in the queue, maybe."""
        return int(self.token.rpartition("-")[2]) % 2 == 1

    def write_and_nap(self) -> None:
        with transaction.atomic():
            write(self.kind, self.token)
            nap()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value.__cause__ or value, (Planned, greentor.DeadlineExceeded)):
            super().log_exception(typ, value, tb)


class Normal(Fault):
    def get(self) -> None:
        commit(self.kind, self.token)
        self.write("normal")


class Raising(Fault):
    def get(self) -> None:
        with transaction.atomic():
            write(self.kind, self.token)
            raise Planned


class Early(Fault):
    """Answers, and then does its work."""

    def get(self) -> None:
        self.finish("early")
        commit(self.kind, self.token)


class Cancelled(Fault):
    """Has its task cancelled."""

    def get(self) -> None:
        loop = asyncio.get_running_loop()
        if not self.late:
            loop.call_later(INTERRUPTION, current_task().cancel)
        with transaction.atomic():
            write(self.kind, self.token)
            if self.late:
                loop.call_later(INTERRUPTION, current_task().cancel)
            nap()


class Deadline(Fault):
    def get(self) -> None:
        if self.late:
            with transaction.atomic():
                write(self.kind, self.token)
                with greentor.timeout(INTERRUPTION):
                    nap()
        else:
            with greentor.timeout(INTERRUPTION):
                self.write_and_nap()


class TimedOut(Fault):
    request_timeout = INTERRUPTION

    def get(self) -> None:
        self.write_and_nap()


class Gone(Fault):
    """Ends with its client, whom it tells when its transaction has begun."""

    cancel_on_disconnect = True

    def get(self) -> None:
        with transaction.atomic():
            write(self.kind, self.token)
            if self.late:
                self.write("begun")
                self.flush()
            nap()


class Unheard(Fault):
    """Goes on without its client."""

    def get(self) -> None:
        with transaction.atomic():
            write(self.kind, self.token)
            nap(NAP)
        self.write("nobody hears it")


class GoneCoroutine(Fault):
    """Ends with its client, in the middle of a generator of Tornado's."""

    cancel_on_disconnect = True

    @gen.coroutine
    def get(self) -> Iterator[Any]:
        yield gen.moment
        with transaction.atomic():
            write(self.kind, self.token)
            yield gen.sleep(LONG)


class Abandoned(Fault):
    """Drops a generator in the middle of its transaction."""

    def rows(self) -> Iterator[World]:
        with transaction.atomic():
            write(self.kind, self.token)
            yield from World.objects.filter(pk__lt=100).iterator()

    async def arows(self) -> AsyncIterator[World]:
        with transaction.atomic():
            write(self.kind, self.token)
            async for row in World.objects.filter(pk__lt=100).aiterator():
                yield row

    async def get(self) -> None:
        if self.token.endswith(("0", "2", "4", "6", "8")):
            next(self.rows())
        else:
            async for _ in self.arows():
                break
        self.write("abandoned")


class Collected(Fault):
    """Leaves a coroutine half-way, which nobody will ever resume, to the garbage collector."""

    async def get(self) -> None:
        # A task with a context of its own: the coroutine opens a scope, as it would outside a request.
        context = Context()
        await asyncio.create_task(self.leave(self.kind, self.token), context=context)
        self.write("collected")

    @staticmethod
    async def leave(kind: str, token: str) -> None:
        def half() -> None:
            with transaction.atomic():
                write(kind, token)
                nap()

        coroutine = greentor.green(half)()
        coroutine.send(None)  # until it waits for the first time
        ring: list[Any] = [coroutine]
        ring.append(ring)


class Spawning(Fault):
    """Starts work that outlives it."""

    def get(self) -> None:
        greentor.spawn(commit, self.kind, self.token)
        self.write("spawned")


class Tasks(Fault):
    """Starts plain tasks: waits for two, and leaves one behind."""

    async def get(self) -> None:
        await asyncio.gather(greentor.green(commit)(self.kind, self.token), greentor.green(look)())
        left = asyncio.create_task(greentor.green(look)())
        left.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.write("tasks")


class Socket(GreenWebSocketHandler):
    """Writes each message; one of ``raise`` ends it."""

    cancel_on_disconnect = True

    def on_message(self, message: str | bytes) -> None:
        with transaction.atomic():
            write("socket", str(message))
            if str(message).startswith("raise"):
                raise Planned
            nap(NAP)
        self.write_message(message)

    def on_close(self) -> None:
        look()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, Planned):
            super().log_exception(typ, value, tb)


class Token(Fault):
    """Sends a token through the database, and tells which connections it was on, and since when.

    ``shape`` is plain, two (statements), atomic or write. The answer is the same in success and failure:
    ``{"token": ..., "held": [[id, since], ...], "connecting": since or null, "error": ...}``.
    Times are those of the monotonic clock, which all processes of a machine share.
    """

    def initialize(self) -> None:
        self.held: dict[int, float] = {}
        self.connecting: float | None = None

    def get(self) -> None:
        token, shape = self.token, self.get_query_argument("shape")
        if shape in ("atomic", "write"):
            self.note()
            with transaction.atomic():
                if shape == "write":
                    write(shape, token)
                found = self.ask(token)
                greentor.sleep(PAUSE)
                if self.ask(token) != found:
                    raise AssertionError("another answer within a transaction")
        else:
            found = self.ask(token)
            greentor.sleep(PAUSE)
            if shape == "two":
                found = self.ask(found)
        self.answer({"token": found})

    def note(self) -> None:
        """Take a connection, as the next statement would, and note which."""
        self.connecting = time.monotonic()
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        self.held.setdefault(connection.connection.thread_id(), time.monotonic())
        self.connecting = None

    def ask(self, token: str) -> str:
        if not connection.in_atomic_block:
            self.note()
        with connection.cursor() as cursor:
            # No SLEEP() here: now and then, KILL makes all of them in a MariaDB sleep for 2 s.
            cursor.execute(f"SELECT %s, CONNECTION_ID(), COUNT(*) FROM seq_1_to_{ROWS}", [token])
            (answer, number, _) = cursor.fetchone()
        if number not in self.held:
            raise AssertionError(f"on connection {number}, not one of {list(self.held)}")
        return str(answer)

    def answer(self, what: dict[str, Any]) -> None:
        self.write({**what, "held": list(self.held.items()), "connecting": self.connecting})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        cause = getattr(error, "__cause__", None)
        self.answer({"error": repr(cause or error)})
        self.finish()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        pass  # it is in the answer


KINDS: dict[str, type[RequestHandler]] = {
    "normal": Normal,
    "raising": Raising,
    "early": Early,
    "cancelled": Cancelled,
    "deadline": Deadline,
    "timedout": TimedOut,
    "gone": Gone,
    "unheard": Unheard,
    "coroutine": GoneCoroutine,
    "abandoned": Abandoned,
    "collected": Collected,
    "spawning": Spawning,
    "tasks": Tasks,
    "socket": Socket,
}

ROUTES = [(rf"/fire/{name}", handler) for name, handler in KINDS.items()] + [(r"/token", Token)]
