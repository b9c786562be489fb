"""`Crowd`: many keep-alive connections to one server, and a fixed number of requests on them.

What `wrk` does not do: so many requests and no more, some of the connections idle, and every answer looked
at. It costs 20 µs a request, on another core than the server's.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from time import monotonic
from typing import Any, Self

TIMEOUT = 60.0


class Failure(Exception):
    """A request was not answered with 200."""


class Crowd:
    """Connections to a port of 127.0.0.1."""

    def __init__(self, port: int, connections: int, path: str) -> None:
        """Open the connections, and use each once."""
        self._idle: deque[socket.socket] = deque()
        self._poll: Any = select.epoll()
        self._parts: dict[int, bytes] = {}
        self._sockets: dict[int, socket.socket] = {}
        try:
            for _ in range(connections):
                opened = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
                self._sockets[opened.fileno()] = opened
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened.setblocking(False)
                self._poll.register(opened, select.EPOLLIN)
                self._idle.append(opened)
                if len(self._sockets) % 64 == 0:
                    self._send_last(64, path)
            self._send_last(len(self._sockets) % 64, path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._sockets)

    def _send_last(self, number: int, path: str) -> None:
        self._idle.rotate(number)
        if number:
            self.send(path, number, number)

    def send(self, path: str, requests: int, at_once: int) -> float:
        """Send requests, each on the connection that has been idle longest; return the seconds it took.

        Raise `Failure` for an answer that is not 200, or none within `TIMEOUT` seconds.
        """
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        sockets, parts, idle = self._sockets, self._parts, self._idle
        at_once = min(at_once, requests, len(sockets))
        start = monotonic()
        for _ in range(at_once):
            idle.popleft().send(request)
        left, answered = requests - at_once, 0
        while answered < requests:
            events = self._poll.poll(TIMEOUT, at_once)
            if not events:
                raise Failure(f"{path}: no answer within {TIMEOUT:.0f} s")
            for number, _ in events:
                part = parts.pop(number, b"") + sockets[number].recv(1 << 18)
                if not is_whole(part, path):
                    parts[number] = part
                    continue
                answered += 1
                idle.append(sockets[number])
                if left:
                    left -= 1
                    idle.popleft().send(request)
        return monotonic() - start

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()
        self._poll.close()


def is_whole(data: bytes, path: str) -> bool:
    """Tell whether an answer has wholly arrived; raise `Failure` if it is none, or not a 200."""
    if not data:
        raise Failure(f"{path}: the server has closed the connection")
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    if not data.startswith(b"HTTP/1.1 200 "):
        raise Failure(f"{path}: {data[:300]!r}")
    at = data.index(b"\r\nContent-Length: ") + 18
    length = int(data[at : data.index(b"\r", at)])
    return len(data) >= end + 4 + length
