"""What may happen to a session where it is parked, and `struck`, which lets it happen at the k-th park.

The library is not touched: the coroutine of the session is stepped here, between it and its task, and so
whatever its greenlet waits for passes through.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

import pymysql
from greenlet import GreenletExit
from pymysql.constants import CR

from greentor.bridge import DeadlineExceeded
from tests.proxy import Proxy


class Own(BaseException):
    """An exception that nobody knows."""


class Closed(BaseException):
    """The coroutine was closed, as the garbage collector does."""


@dataclass
class Target:
    """What a strike needs to know of a session, and what the session leaves to be looked at."""

    number: int
    proxy: Proxy | None
    #: of the text in each row of the large result
    width: int = 50
    task: asyncio.Task[Any] | None = None
    #: the `greentor.timeout` around the session
    limit: Any = None
    parks: int = 0
    struck: bool = False
    #: "before" anything can be there, while "committing", "after" it must be there
    phase: str = "before"
    token: str = ""
    connection: Any = None


def cancel(target: Target) -> None:
    assert target.task is not None
    target.task.cancel()


def run_out(target: Target) -> None:
    """Let the deadline strike, as its timer does."""
    if target.limit is not None:
        target.limit._expire()


def throw_exit(target: Target) -> None:
    raise GreenletExit


def throw_own(target: Target) -> None:
    raise Own(target.token)


def cut(target: Target) -> None:
    """End the connections in good order, and have that on the way before the session goes on."""
    assert target.proxy is not None
    target.proxy.cut()
    target.proxy.wait_closed()


def reset(target: Target) -> None:
    assert target.proxy is not None
    target.proxy.reset = True
    cut(target)


def stall(target: Target) -> None:
    """Let nothing pass from here on."""
    assert target.proxy is not None
    for way in (target.proxy.up, target.proxy.down):
        way.stall_after = 0


def is_cancel(exc: BaseException | None, target: Target) -> bool:
    return isinstance(exc, asyncio.CancelledError)


def is_deadline(exc: BaseException | None, target: Target) -> bool:
    return isinstance(exc, DeadlineExceeded)


def is_own(exc: BaseException | None, target: Target) -> bool:
    return isinstance(exc, Own) and exc.args == (target.token,)


def is_closed(exc: BaseException | None, target: Target) -> bool:
    return isinstance(exc, Closed)


#: the codes with which PyMySQL says that it cannot reach the server, or no longer
LOST = (CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST)


def is_lost(exc: BaseException | None, target: Target) -> bool:
    """Whether it is what PEP 249 and PyMySQL's users expect of a lost connection, or no error at all.

    What strikes before the connection is there, or after the last answer, harms nothing.
    """
    if exc is None:
        return True
    while exc.__cause__ is not None and not isinstance(exc, pymysql.err.Error):
        exc = exc.__cause__  # Django's, of the same name
    return isinstance(exc, pymysql.err.OperationalError) and exc.args[0] in LOST


@dataclass(frozen=True)
class Strike:
    """One way to strike: before the wait begins, or when what it waited for has just come."""

    name: str
    act: Callable[[Target], None]
    expected: Callable[[BaseException | None, Target], bool]
    late: bool = False
    wire: bool = False


def _close(target: Target) -> None:
    raise Closed


CLOSED = Strike("coroutine closed", _close, is_closed)
STRIKES = (
    Strike("cancel", cancel, is_cancel),
    Strike("cancel, the answer there", cancel, is_cancel, late=True),
    Strike("deadline", run_out, is_deadline),
    Strike("deadline, the answer there", run_out, is_deadline, late=True),
    Strike("GreenletExit", throw_exit, is_cancel),
    Strike("GreenletExit, the answer there", throw_exit, is_cancel, late=True),
    Strike("own exception", throw_own, is_own),
    Strike("own exception, the answer there", throw_own, is_own, late=True),
    CLOSED,
)
WIRE = (
    Strike("wire cut", cut, is_lost, wire=True),
    Strike("wire reset", reset, is_lost, wire=True),
    Strike("wire silent", stall, is_lost, wire=True),
)


async def struck(coroutine: Coroutine[Any, Any, Any], target: Target, strike: Strike) -> Any:
    """Await `coroutine` in the running task, and strike when it parks for the so-many-th time."""
    return await _stepped(coroutine, target, strike)


@types.coroutine
def _stepped(
    coroutine: Coroutine[Any, Any, Any], target: Target, strike: Strike
) -> Generator[Any, Any, Any]:
    step: Callable[[Any], Any] = coroutine.send
    value: Any = None
    while True:
        try:
            item = step(value)
        except StopIteration as stop:
            return stop.value
        target.parks += 1
        mine = target.parks == target.number
        try:
            if mine:
                target.struck = True
                if not strike.late:
                    strike.act(target)
                elif strike.act in (cancel, run_out):
                    # Called when the future is done, before the task is woken by it.
                    if item is None:
                        strike.act(target)
                    else:
                        item.add_done_callback(lambda _: strike.act(target))
            value = yield item
            if mine and strike.late and strike.act not in (cancel, run_out):
                strike.act(target)
            step = coroutine.send
        except Closed:
            coroutine.close()
            raise
        except BaseException as exc:
            step, value = coroutine.throw, exc
