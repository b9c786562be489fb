"""Have one conversation with a cooperative connection, and with a blocking one, and say what was wrong.

What must hold, whatever the server says:
- only PyMySQL's errors come out, or the application's own, or the deadline that it set;
- what comes out as an answer is what blocking PyMySQL makes of the same bytes; its error, if they are valid;
- the next question gets its own answer or an error: never bytes that came before it was asked;
- every action ends when the server has hung up; nothing is left over then: transport, task, timer, report;
- a server that names a file gets it only if the application allowed that;
- memory grows with the bytes that came, not with what they announce.

For a value that it cannot decode or convert, PyMySQL lets ValueError and its relatives out. Here that is
allowed of the application's own converters alone.
"""

import asyncio
import gc
import itertools
import sys
import tracemalloc
import warnings
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from pymysql import err
from pymysql.constants import CR, FIELD_TYPE

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from tests.fuzz import packets
from tests.fuzz.application import OWN, Application, Refused, Seen, connect_blocking
from tests.fuzz.conversations import CONTENT, Conversation
from tests.fuzz.packets import Packet
from tests.fuzz.wires import Server, Socket, Wire, new_loop

#: what a built-in converter or a decoder may raise
CONTENT_ERRORS = (ValueError, ArithmeticError, TypeError)
#: the code of what a value is that cannot be read
MALFORMED = str(CR.CR_MALFORMED_PACKET)
OUT_OF_SYNC = str(CR.CR_COMMANDS_OUT_OF_SYNC)
#: seconds after which an action is taken to hang
HANGS = 10
#: seconds of patience with a silent server
SILENCE = 0.002
#: bytes of memory for each byte from the server, and anyhow: a row of one NULL takes 5 bytes, and a dict
PER_BYTE, ANYHOW = 100, 1 << 20


@dataclass
class Verdict:
    """What came of a conversation."""

    outcome: str = ""
    wrong: list[str] = field(default_factory=list)
    sees: list[Seen] = field(default_factory=list)
    expected: list[Seen] = field(default_factory=list)
    #: all that the server received
    heard: bytes = b""


class Judge:
    """An event loop, and what is asked of each conversation on it."""

    def __init__(self, loop: str = "asyncio") -> None:
        self._runner = asyncio.Runner(loop_factory=lambda: new_loop(loop))
        self._loop: Any = self._runner.get_loop()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.close()

    def hear(self, made: Conversation, *, memory: bool = False) -> Verdict:
        """Have the conversation; with `memory` watch that, too, which takes longer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unread results, which these applications leave
            return self._runner.run(self._hear(made, memory))

    async def _hear(self, made: Conversation, memory: bool) -> Verdict:
        verdict = Verdict()
        server = Server(made.script, probe_answer)
        hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        if memory:
            tracemalloc.start()
        try:
            await self._converse(made, server, verdict)
        finally:
            sys.unraisablehook = hook
            if memory:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                allowed = PER_BYTE * server.said + ANYHOW
                if peak > allowed:
                    verdict.wrong.append(f"{peak} bytes of memory for {server.said} of the server")
        verdict.heard = bytes(server.heard)
        if CONTENT in verdict.heard and not made.settings.local_infile:
            verdict.wrong.append("a file was sent that nobody offered")
        verdict.expected = converse_blocking(made)
        await self._compare(made, verdict)
        verdict.outcome = outcome(verdict)
        return verdict

    def _unraisable(self, what: Any) -> None:
        self._loop.reports.append(f"{what.exc_value!r} in {what.object!r}")

    async def _converse(self, made: Conversation, server: Server, verdict: Verdict) -> None:
        """Have the conversation in a greenlet, and look at what is left of it."""
        wire = Wire(server, made.pieces, made.ending, Random(1), made.settings.local_infile)
        self._loop.wire = wire
        arguments = made.settings.arguments()
        if made.limit == "read_timeout":
            arguments.update(read_timeout=SILENCE, connect_timeout=SILENCE)

        def connect() -> Any:
            return driver.Connection(**arguments)

        def settle() -> None:
            while wire.transport is not None and not wire.transport.drained:
                bridge.await_(asyncio.sleep(0))
            if wire.transport is not None:
                wire.transport.nudge()

        application = Application(connect, made.actions, settle, made.settings.leave)
        wire.waiting = lambda: application.busy
        limit = SILENCE if made.limit == "deadline" else None

        def run() -> list[Seen]:
            with greentor.timeout(limit):
                return application.run()

        task = asyncio.create_task(bridge.run_in_scope("fuzz", run))
        await asyncio.wait([task], timeout=HANGS)
        if not task.done():
            verdict.wrong.append(f"it hangs after {[str(seen) for seen in application.sees]}")
            task.cancel()
            await asyncio.wait([task])
        elif not task.cancelled():
            self._end(task.exception(), limit, verdict)
        verdict.sees = application.sees
        del task
        await self._left(wire, verdict)

    def _end(self, error: BaseException | None, limit: float | None, verdict: Verdict) -> None:
        if error is None or (type(error) is greentor.DeadlineExceeded and limit is not None):
            return
        verdict.wrong.append(f"{error!r} came out at the end")

    async def _left(self, wire: Wire, verdict: Verdict) -> None:
        for _ in range(3):  # for a transport to tell that it is closed
            await asyncio.sleep(0)
        if wire.transport is not None:
            gc.collect()
            await asyncio.sleep(0)
        if wire.transport is not None:
            verdict.wrong.append("the transport is left open")
            wire.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        tasks.discard(asyncio.current_task(self._loop))  # type: ignore[arg-type]
        verdict.wrong += [f"the task {task} is left" for task in tasks]
        verdict.wrong += [f"the timer {timer} is left" for timer in self._loop.running_timers()]
        verdict.wrong += self._loop.reports
        self._loop.reports.clear()

    async def _compare(self, made: Conversation, verdict: Verdict) -> None:
        """Judge each action; against the blocking connection until one of them goes its own way."""
        alike = True
        for number, seen in enumerate(verdict.sees):
            there = number < len(verdict.expected)
            expected = verdict.expected[number] if there else Seen(seen.action, error=EOFError)
            kind = seen.action.kind
            answer = kind if made.settings.use_unicode else kind.encode()
            if seen.error is None:
                if kind.startswith("probe") and seen.value != ("tuple", ("tuple", answer)):
                    verdict.wrong.append(f"{kind} was answered {seen.value}")
                elif alike and (expected.error or seen.value != expected.value):
                    verdict.wrong.append(different(seen, expected))
            elif await self._is_allowed(seen.error, expected.error, made, number):
                same = (seen.error, seen.args) == (expected.error, expected.args)
                # At a value that PyMySQL cannot take, it may go on and fail in another way.
                stricter = seen.error is err.DataError and seen.args[0] == MALFORMED
                # And what the application raised in its place is hidden if closing the cursor fails, too.
                stricter |= seen.error is Refused
                # What nobody has asked for is refused by name; PyMySQL stumbles over its number.
                unasked = seen.error is err.OperationalError and seen.args[0] == OUT_OF_SYNC
                stricter |= unasked and expected.error is not None
                if alike and not (made.spoiled or same or stricter):
                    verdict.wrong.append(different(seen, expected))
                if seen.error is err.OperationalError and seen.args[0] == MALFORMED and seen.open:
                    verdict.wrong.append(f"{seen}: the connection is open after it")
                alike = alike and same and seen.open and expected.open
            else:
                verdict.wrong.append(f"{seen} is none of PyMySQL's errors")
                alike = False

    async def _is_allowed(
        self, error: type[BaseException], expected: Any, made: Conversation, number: int
    ) -> bool:
        if issubclass(error, err.MySQLError | Refused):
            return True
        if made.limit == "deadline" and error is greentor.DeadlineExceeded:
            return True
        own = made.settings.conv in OWN and issubclass(error, CONTENT_ERRORS)
        return own and error is expected and await self._content(made, number)

    async def _content(self, made: Conversation, number: int) -> bool:
        """Tell whether the value alone was at fault: nothing fails that converts nothing."""
        settings = replace(made.settings, conv="empty", use_unicode=False)
        plain = Verdict()
        again = replace(made, settings=settings)
        await self._converse(again, Server(made.script, probe_answer), plain)
        error = plain.sees[number].error if len(plain.sees) > number else None
        return error is None or issubclass(error, err.MySQLError)


def converse_blocking(made: Conversation) -> list[Seen]:
    """Have the conversation with blocking PyMySQL."""
    server = Server(made.script, probe_answer)
    socket = Socket(server)

    def connect() -> Any:
        return connect_blocking(made.settings, socket)

    return Application(connect, made.actions, lambda: None).run()


def probe_answer(sql: bytes) -> list[Packet]:
    """Answer a question with what it asks for."""
    token = sql.split(b"'")[1].removeprefix(b"probe ")
    parts = [packets.lenenc(1), packets.column(b"probe", FIELD_TYPE.LONG_BLOB), packets.eof()]
    return [Packet(payload) for payload in [*parts, packets.row([token]), packets.eof()]]


def different(seen: Seen, expected: Seen) -> str:
    """Say what the two saw, and where it parts."""
    ours, theirs = str(seen), str(expected)
    if len(ours) + len(theirs) > 400:
        alike = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)
        )
        at = max(0, sum(1 for _ in alike) - 60)
        ours, theirs = f"...{ours[at : at + 200]}", f"...{theirs[at : at + 200]}"
    return f"{ours}\n  PyMySQL: {theirs}"


def outcome(verdict: Verdict) -> str:
    """Name what came of the conversation: its first error."""
    for seen in verdict.sees:
        if seen.error is not None:
            return f"{_stage(seen)}: {_error_name(seen)}"
    return "answered to the end"


def _stage(seen: Seen) -> str:
    return "connect" if seen.action.kind == "connect" else "later"


def _error_name(seen: Seen) -> str:
    assert seen.error is not None
    name = seen.error.__name__
    first = seen.args[0] if seen.args else ""
    if not issubclass(seen.error, err.MySQLError):
        return f"{name} of the content" if issubclass(seen.error, CONTENT_ERRORS) else name
    if first.isdigit() and 2000 <= int(first) < 2100:
        return f"{name} {first}"
    return f"{name} of the server" if first.lstrip("-").isdigit() else name
