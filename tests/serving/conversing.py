"""The same raw bytes to a server and to another: what each answered, and what its handlers saw.

Client and server share a loop, and loopback delivers at once: a conversation is over when the loop has gone
round `QUIET` times, with no request at work, and nothing came. Nobody waits for the clock.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tornado.netutil import bind_sockets

from greentor.serving.server import Server, _request_tasks
from tests.waiting import await_until

#: rounds of the loop in which nothing comes: what the longest chain of callbacks between two bytes needs
QUIET = 25
#: rounds between two packets
APART = 6
#: rounds that a request may be at work without a byte
PATIENCE = 150

_VOLATILE = (
    (re.compile(rb"Date: [^\r]+"), b"Date: now"),
    (re.compile(rb"127\.0\.0\.1:[0-9]+"), b"client"),
)
_TIME = re.compile(r"[0-9.]+ms$")

Step = bytes | Callable[["Client"], Any]


@dataclass
class Outcome:
    """All that can be told of a conversation."""

    received: bytes = b""
    closed: bool = False
    seen: list[Any] = field(default_factory=list)
    logged: list[Any] = field(default_factory=list)


class Client:
    """A connection; steps of a conversation are called with it."""

    def __init__(self, address: Any, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(address)  # the kernel accepts
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.closed = False
        self.deaf = False  # reads nothing

    def send(self, data: bytes) -> bytes:
        """Send what the kernel takes; return the rest."""
        try:
            return data[self.socket.send(data) :]
        except BlockingIOError:
            return data
        except OSError:
            return b""  # the server has closed

    def hear(self) -> bool:
        """Take what has come; return whether anything has."""
        if self.closed or self.deaf:
            return False
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.received += data
        self.closed = not data
        return True


def half_close(client: Client) -> None:
    """End the requests, as `nc -N` does."""
    try:
        client.socket.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def reset(client: Client) -> None:
    """Vanish, telling the server so at once."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    leave(client)


def leave(client: Client) -> None:
    """Close the connection."""
    client.socket.close()
    client.closed = True


def go_deaf(client: Client) -> None:
    """Read nothing any more."""
    client.deaf = True


def listen_again(client: Client) -> None:
    client.deaf = False


async def converse(server: Server, steps: Iterable[Step], seen: list[Any]) -> Outcome:
    """Hold a conversation with a server that listens; return what came of it."""
    [listening] = server._sockets.values()
    outcome = Outcome(seen=seen)
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: outcome.logged.append((context["message"], context.get("exception")))
    )
    with logged(outcome.logged):
        client = Client(listening.getsockname())
        try:
            await until_quiet(client, APART)
            for step in steps:
                if callable(step):
                    step(client)
                    rest = b""
                else:
                    rest = client.send(step)
                while rest:
                    await until_quiet(client, APART)
                    rest = client.send(rest)
                await until_quiet(client, APART)
            await until_quiet(client, QUIET)
            outcome.closed = client.closed
        finally:
            client.socket.close()
        await await_until(lambda: not server._connections and not _request_tasks())
        for _ in range(APART):
            await asyncio.sleep(0)
    data = bytes(client.received)
    for pattern, instead in _VOLATILE:
        data = pattern.sub(instead, data)
    outcome.received = data
    return outcome


async def until_quiet(client: Client, rounds: int) -> None:
    """Let the loop go round until nothing has come so many times."""
    quiet = at_work = 0
    while quiet < rounds:
        await asyncio.sleep(0)
        if client.hear():
            quiet = at_work = 0
        elif _request_tasks() and at_work < PATIENCE:
            at_work += 1
        else:
            quiet += 1


@contextmanager
def logged(records: list[Any]) -> Iterator[None]:
    """Collect what Tornado logs, without times."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[0] if record.exc_info else None
            message = _TIME.sub("", record.getMessage()).partition("\n")[0]
            records.append((record.name, record.levelname, message, error))

    handler = Collect()
    logger = logging.getLogger("tornado")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextmanager
def listening(server: Server) -> Iterator[Server]:
    """Have a server listen on a port of its own."""
    server.add_sockets(bind_sockets(0, "127.0.0.1"))
    try:
        yield server
    finally:
        server.stop()
