"""The server's side of a conversation, played in memory: for an event loop, and for a blocking socket.

The server answers what it is sent, packet by packet (`Server`). A cooperative connection reaches it through
a transport that hands its bytes over in pieces, one at each turn of the loop; when the server has no more
to say and the application waits, the conversation ends as it says: end-of-file, reset, or silence.
"""

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz.packets import Packet, frame

#: turns of the loop without a byte from either side after which the application is taken to wait
TURNS = 12
#: and so many seconds, if it may be busy in a thread with a file
PATIENCE = 0.05

PROBE = b"SELECT 'probe "

COM_QUIT = 0x01


@dataclass
class Step:
    """What the server sends at once, and upon what: b"" for any packet, or the end of a file."""

    packets: list[Packet]
    at_end_of_file: bool = False
    #: so many of its bytes are sent and no more
    cut: int | None = None


@dataclass
class Script:
    """What the server has to say: on connecting, and to each command in turn."""

    login: list[Step] = field(default_factory=list)
    answers: list[list[Step]] = field(default_factory=list)


class Server:
    """Reads what the application sends and returns what the script says to it."""

    def __init__(self, script: Script, probe: Callable[[bytes], list[Packet]]) -> None:
        self._pending = bytearray()
        self._steps = deque(script.login)
        self._answers = deque(script.answers)
        self._probe = probe
        self._begun = False
        #: all that was received, and how many bytes were said
        self.heard = bytearray()
        self.said = 0

    @property
    def awaits_file(self) -> bool:
        """Whether a thread of the client's may be at work: it gets its turn when the machine is not busy."""
        return bool(self._steps) and self._steps[0].at_end_of_file

    def greet(self) -> list[bytes]:
        return self._send(self._steps.popleft(), 0) if self._steps else []

    def hear(self, data: bytes) -> list[bytes]:
        self.heard += data
        pending = self._pending
        pending += data
        said = []
        while len(pending) >= 4:
            length = int.from_bytes(pending[:3], "little")
            if len(pending) < 4 + length:
                break
            number, payload = pending[3], bytes(pending[4 : 4 + length])
            del pending[: 4 + length]
            said += self._answer(number, payload)
        return said

    def _answer(self, number: int, payload: bytes) -> list[bytes]:
        if number == 0 and payload[:1]:  # a command
            if payload[0] == COM_QUIT:
                return []
            if payload.startswith(PROBE, 1):
                self._steps.clear()
                self._answers.clear()
                return self._send(Step(self._probe(payload[1:])), 1)
            self._steps = deque(self._answers.popleft()) if self._answers else deque()
        elif self._steps and self._steps[0].at_end_of_file and payload:
            return []  # a piece of the file
        return self._send(self._steps.popleft(), number + 1) if self._steps else []

    def _send(self, step: Step, first: int) -> list[bytes]:
        framed = frame(step.packets, first)
        if step.cut is not None:
            framed = [b"".join(framed)[: step.cut]]
        self.said += sum(map(len, framed))
        return framed


class Socket:
    """A blocking socket, and its file, that is connected to a `Server`; after its last word comes the end."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray().join(server.greet())
        self.closed = False

    def settimeout(self, seconds: float | None) -> None:
        pass

    def makefile(self, mode: str) -> "Socket":
        return self

    def sendall(self, data: bytes) -> None:
        for piece in self._server.hear(bytes(data)):
            self._buffer += piece

    def read(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def close(self) -> None:
        self.closed = True


class _Raw:
    """What a transport has below it, as far as anybody asks."""

    family = socket.AF_UNIX

    def fileno(self) -> int:
        return -1

    def shutdown(self, how: int) -> None:
        pass


class Transport(asyncio.Transport):
    """Connects an `asyncio.Protocol` to a `Server`."""

    def __init__(self, loop: Any, protocol: Any, wire: "Wire") -> None:
        super().__init__({"socket": _Raw(), "sockname": ""})
        self._loop = loop
        self._protocol = protocol
        self._wire = wire
        self._pieces: deque[bytes] = deque()
        self._running = False
        self._closing = False
        self._paused = False
        self._idle = 0
        self._timer: asyncio.TimerHandle | None = None
        protocol.connection_made(self)
        self._say(wire.server.greet())

    def _say(self, packets: list[bytes]) -> None:
        self._pieces.extend(self._wire.cut(packets))
        self._go_on()

    def _go_on(self) -> None:
        self._idle = 0
        if not self._running and not self._closing:
            self._running = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._running = False
        if self._closing or self._paused:
            return
        if self._pieces:
            self._deliver(self._pieces.popleft())
            self._go_on()
        elif self._wire.waiting():
            self._idle += 1
            idle, wire = self._idle, self._wire
            reads_file = wire.server.awaits_file and TURNS <= idle < TURNS + 40
            if wire.patient and (idle == TURNS or reads_file):
                self._running = True
                self._timer = self._loop.call_later(PATIENCE, self._turn)
            elif idle <= TURNS:
                self._running = True
                self._loop.call_soon(self._turn)
            else:
                self._end()

    def _deliver(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            protocol.data_received(data)
            return
        while data and not self._closing:
            buffer = protocol.get_buffer(len(data))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]

    def _end(self) -> None:
        ending = self._wire.ending
        if ending == "eof":
            if not self._protocol.eof_received():
                self.abort()
        elif ending == "reset":
            self._lose(ConnectionResetError("reset by the test"))

    def nudge(self) -> None:
        """Look again whether the application waits."""
        self._go_on()

    @property
    def drained(self) -> bool:
        return not self._pieces or self._closing or self._paused

    # --- what a protocol asks of it -----------------------------------------------------------

    def write(self, data: Any) -> None:
        if not self._closing:
            self._say(self._wire.server.hear(bytes(data)))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def abort(self) -> None:
        self._lose(None)

    close = abort

    def _lose(self, exc: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._connection_lost, exc)

    def _connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._protocol.connection_lost(exc)
        self._wire.transport = None

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._go_on()

    def is_reading(self) -> bool:
        return not self._paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol


@dataclass
class Wire:
    """One connection to be: who answers, in what pieces, and how it ends."""

    server: Server
    #: "whole" answers, single "bytes", "packets", two parts cut "at N", or pieces of a "random" length
    pieces: str = "whole"
    #: "eof", "reset" or "silence"
    ending: str = "eof"
    rng: Random = field(default_factory=lambda: Random(0))
    #: whether the application may be busy elsewhere for a moment
    patient: bool = False
    #: says whether the application is in the middle of something
    waiting: Callable[[], bool] = bool
    transport: Transport | None = None

    def cut(self, packets: list[bytes]) -> list[bytes]:
        if self.pieces == "packets":
            return [packet for packet in packets if packet]
        data = b"".join(packets)
        if not data or self.pieces == "whole":
            return [data] if data else []
        if self.pieces.startswith("at "):  # and one of a conversation's many answers is that long
            at = int(self.pieces.removeprefix("at "))
            return [piece for piece in (data[:at], data[at:]) if piece]
        if self.pieces == "bytes" and len(data) < 600:
            return [data[i : i + 1] for i in range(len(data))]
        marks = {0, len(data), *(self.rng.randrange(len(data)) for _ in range(1 + len(data) // 40))}
        ordered = sorted(marks)
        return [data[a:b] for a, b in itertools.pairwise(ordered)]


class _Loop:
    """An event loop whose connections all lead to the `wire` that it was given."""

    wire: Wire

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []
        self.reports: list[str] = []
        self.set_exception_handler(self._report)  # type: ignore[attr-defined]

    def _report(self, loop: Any, context: dict[str, Any]) -> None:
        self.reports.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        protocol = protocol_factory()
        self.wire.transport = transport = Transport(self, protocol, self.wire)
        return transport, protocol

    create_unix_connection = create_connection

    def call_at(self, when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return self._remember(super().call_at(when, *args, **kwargs))  # type: ignore[misc]

    def call_later(self, delay: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return self._remember(super().call_later(delay, *args, **kwargs))  # type: ignore[misc]

    def _remember(self, handle: asyncio.TimerHandle) -> asyncio.TimerHandle:
        if hasattr(handle, "when"):  # to uvloop, one of no delay is no timer
            self.timers.append(handle)
        return handle

    def running_timers(self) -> list[asyncio.TimerHandle]:
        """Return those that have neither run nor been cancelled, and forget all."""
        now = self.time()  # type: ignore[attr-defined]
        found = [timer for timer in self.timers if not timer.cancelled() and timer.when() > now]
        self.timers.clear()
        return found


def new_loop(name: str) -> Any:
    if name == "uvloop":
        import uvloop

        return type("UVLoop", (_Loop, uvloop.Loop), {})()
    return type("Loop", (_Loop, asyncio.SelectorEventLoop), {})()
