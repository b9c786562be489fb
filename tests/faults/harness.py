"""Run a session at each of its switch points, strike it there, and look at all that may be wrong after."""

import asyncio
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from greentor import bridge
from tests.faults import session
from tests.faults.strikes import Strike, Target, struck
from tests.faults.watching import Watch, new_loop
from tests.mariadb import MariaDB
from tests.proxy import Proxy, Way

#: no session here parks as often as that
MANY = 3000
#: after so many faults found there is no need of more
ENOUGH = 5
#: seconds after which a struck session is taken to hang
HANGS = 20
#: seconds of patience of a session whose server falls silent
SILENCE = 0.3


class Ragged(Way):
    """Carries pieces of random length, and lets the other side take each."""

    def allowed(self) -> int:
        self.piece = random.choice((1, 1, 1, 2, 3, 4, 5, 7, 30))
        time.sleep(0.00005)  # so the interpreter switches to the thread of the client
        return super().allowed()


@dataclass(frozen=True)
class Wire:
    """How a session reaches the server."""

    name: str
    tls: bool = False
    #: the server's bytes come in pieces of random length
    ragged: bool = False
    #: asyncio takes so many bytes at a time: each read of the driver parks
    receive: int | None = None

    @property
    def width(self) -> int:
        """How wide the large result is: more than the stream reads ahead, unless that takes for ever."""
        return 50 if self.ragged or self.receive else 40_000


WHOLE = Wire("TLS", tls=True)
BYTES = Wire("byte by byte", receive=1)
RAGGED = Wire("random pieces", ragged=True)
RAGGED_TLS = Wire("TLS in random pieces", tls=True, ragged=True)


@dataclass
class Report:
    """What has been struck, and what was wrong after."""

    name: str
    points: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = sum(self.points.values())
        raised = sum(self.errors.values())
        return f"{self.name}: {total} points struck, {raised} raised, {len(self.wrong)} wrong"


#: strike one session, and return what is wrong after
Try = Callable[[Strike, int], Awaitable[tuple[Target, BaseException | None, list[str]]]]


async def outcome(target: Target, strike: Strike, coroutine: Any) -> BaseException | None:
    """Run a session in a task of its own, struck; return what it raised."""
    target.token = secrets.token_hex(8)
    target.task = task = asyncio.create_task(struck(coroutine, target, strike))
    done, _ = await asyncio.wait([task], timeout=HANGS)
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=HANGS)
        return AssertionError("it hung")
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception()


def unexpected(target: Target, strike: Strike, exc: BaseException | None) -> list[str]:
    """Say whether a session ended as it should not have."""
    fine = strike.expected(exc, target) if target.struck else exc is None
    return [] if fine else [f"it ended with {exc!r}"]


def numbers(every: int = 1, first: int = 1) -> Iterator[int]:
    return iter(range(first, MANY, every))


async def strike_all(
    report: Report, strikes: Sequence[Strike], one: Try, every: int = 1, first: int = 1
) -> None:
    """Strike at each point (or each so-many-th) in turn, with one strike after the other at different points.

    Ends with the first session that has no such point any more, and so got through.
    """
    for turn, number in enumerate(numbers(every, first)):
        strike = strikes[turn % len(strikes)]
        target, exc, wrong = await one(strike, number)
        wrong += unexpected(target, strike, exc)
        report.wrong += [f"{strike.name} at {number} ({target.phase}): {what}" for what in wrong]
        if not target.struck:
            return
        if len(report.wrong) >= ENOUGH:
            report.wrong.append("and so on: the rest was left")
            return
        report.points[strike.name] += 1
        if exc is not None:
            report.errors[type(exc).__name__] += 1
    raise AssertionError("it never got through")


async def wrong_answers(connection: Any) -> list[str]:
    """Say whether a connection that a struck session has left answers another's question wrongly."""
    if connection is None:
        return []
    was_alive = connection.alive
    token = secrets.token_hex(8)

    def ask() -> Any:
        return session.query(connection, "SELECT %s", token)

    try:
        answer = await asyncio.wait_for(bridge.run_in_scope("token", ask), 5)
    except pymysql.err.InterfaceError:
        return [] if not was_alive else ["its connection seemed alive, and was closed"]
    except Exception as exc:
        return [f"its connection (alive: {was_alive}) answers with {exc!r}"]
    if not was_alive:
        return ["a connection that was closed answers"]
    return [] if answer == ((token,),) else [f"its connection answers with {answer!r}"]


def drive(
    server: MariaDB,
    database: str,
    directory: Path,
    loop: str,
    wire: Wire,
    strikes: Sequence[Strike],
    every: int = 1,
    first: int = 1,
) -> Report:
    """Strike the session on the driver at its points; see `strike_all`."""
    path = session.prepare(server, database, directory)
    report = Report(f"driver, {loop}, {wire.name}, {name_of(strikes)}")

    async def main(proxy: Proxy | None) -> None:
        params = server.params(database)
        params.update({"ssl_ca": server.ca} if wire.tls else {"ssl_disabled": True})
        if proxy is not None:
            params["port"] = proxy.port
        if any(strike.name == "wire silent" for strike in strikes):
            params.update(connect_timeout=SILENCE, read_timeout=SILENCE, write_timeout=SILENCE)

        async def one(strike: Strike, number: int) -> Any:
            target = Target(number, proxy, wire.width)
            watch.begin()
            run = bridge.run_in_scope("session", session.session, params, path, target)
            exc = await outcome(target, strike, run)
            restore(proxy)
            connection, target.connection = target.connection, None
            wrong = await wrong_answers(connection)
            if connection is not None and connection.open:
                connection.close()
            wrong += await watch.settled()
            wrong += session.wrong_rows(server, database, target, exc is None)
            return target, exc, wrong

        with Watch(server, proxy) as watch:
            await strike_all(report, strikes, one, every, first)

    run_on(loop, main, server, wire, any(strike.wire for strike in strikes))
    return report


def run_on(
    loop: str,
    main: Callable[[Proxy | None], Any],
    server: MariaDB,
    wire: Wire,
    needs_proxy: bool,
) -> None:
    """Run `main` on a new loop, with a proxy if the wire has one."""
    with asyncio.Runner(loop_factory=lambda: new_loop(loop, wire.receive)) as runner:
        if not (wire.ragged or needs_proxy):
            runner.run(main(None))
            return
        with Proxy(server.host, server.port) as proxy:
            if wire.ragged:
                proxy.down = Ragged()
                # The kernel would join the pieces; what the listener accepts inherits this.
                proxy._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            runner.run(main(proxy))


def name_of(strikes: Sequence[Strike]) -> str:
    if len(strikes) == 1:
        return strikes[0].name
    return "all faults of the wire" if strikes[0].wire else "all exceptions"


def restore(proxy: Proxy | None) -> None:
    if proxy is not None:
        proxy.up.stall_after = proxy.down.stall_after = None
        proxy.reset = False
