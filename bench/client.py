"""A small keep-alive HTTP client, for what `ab` and `wrk` cannot do: check answers, and vanish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Client:
    """One keep-alive connection to a server on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of a GET; raise OSError if the server is gone."""
        await self.send(path)
        reader = self._reader
        assert reader is not None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError("the server closed the connection") from exc

    async def send(self, path: str) -> None:
        """Send a GET and do not wait for the answer."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await self._writer.drain()

    def vanish(self) -> None:
        """Drop the connection as a killed client does; the next request opens another."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None


async def hammer(
    port: int, requests: int, concurrency: int, one: Callable[[Client, int], Awaitable[None]]
) -> None:
    """Call ``one(client, number)`` for ``requests`` numbers, ``concurrency`` at a time."""
    numbers = iter(range(requests))

    async def work() -> None:
        client = Client(port)
        try:
            for number in numbers:
                await one(client, number)
        finally:
            client.vanish()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, requests)):
            group.create_task(work())
