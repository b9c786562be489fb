"""A TCP proxy that a test puts between client and server, to make the wire misbehave.

    with Proxy(server.host, server.port) as proxy:
        connect(host=proxy.host, port=proxy.port, ...)

It runs in a thread with an event loop of its own, so that blocking clients can use it and a client's loop
that is held up does not hold it up. "Up" is towards the server, "down" is towards the client. The
settings are plain attributes, read for each piece that is carried: set them at any time.
"""

import asyncio
import contextlib
import os
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Self

from tests.waiting import wait_until


def sockets() -> list[str]:
    """Name the sockets that this process holds open: what a leak would add to."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            name = os.readlink(f"/proc/self/fd/{fd}")
            if name.startswith("socket:"):
                found.append(name)
    return found


@dataclass
class Way:
    """One direction: what has been carried, and what shall happen to the rest."""

    carried: int = 0
    #: close all connections when so many bytes have been carried, the last one among them
    cut_after: int | None = None
    #: carry nothing more from that byte on; the connections stay open
    stall_after: int | None = None
    #: carry at most so many bytes in one piece
    piece: int = 65536
    data: bytearray = field(default_factory=bytearray)

    def allowed(self) -> int:
        limits = (
            end - self.carried for end in (self.cut_after, self.stall_after) if end is not None
        )
        return max(min((self.piece, *limits)), 0)


class Proxy:
    """Carry bytes between those who connect to `port` and a server, until told otherwise."""

    host = "127.0.0.1"

    def __init__(
        self, host: str, port: int, *, connect_delay: float = 0, record: bool = False
    ) -> None:
        self._target = (host, port)
        self._connect_delay = connect_delay
        self._record = record
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.up = Way()
        self.down = Way()
        #: connections accepted so far
        self.accepted = 0
        #: end connections with a reset, not in good order
        self.reset = False

    def __enter__(self) -> Self:
        self._listener = socket.create_server((self.host, 0), backlog=1024)
        # Small, so that a stalled proxy stalls its client soon, whatever the kernel would tune it to.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        # Or the kernel would join small pieces; what the listener accepts inherits both.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def open(self) -> int:
        """The connections that are open now."""
        return len(self._tasks)

    def wait_closed(self, timeout: float = 5) -> None:
        """Block until the clients have closed all connections."""
        wait_until(lambda: not self._tasks, timeout)

    def cut(self) -> None:
        """Close all connections now."""
        self._loop.call_soon_threadsafe(self._close_all)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        async with await asyncio.start_server(self._accept, sock=self._listener):
            await self._stop.wait()
            tasks = self._tasks.copy()
            for task in tasks:
                task.cancel()
            self.reset = True
            self._close_all()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        server = None
        try:
            await asyncio.sleep(self._connect_delay)
            server_reader, server = await asyncio.open_connection(*self._target)
            self._writers.add(server)
            pumps = [
                asyncio.create_task(self._pump(self.up, reader, server)),
                asyncio.create_task(self._pump(self.down, server_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, server):
                if each is not None:
                    self._close(each)
            self._tasks.discard(task)

    async def _pump(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        rest = b""
        try:
            while rest := rest or await reader.read(65536):
                while not (count := way.allowed()):
                    if way.cut_after is not None and way.carried >= way.cut_after:
                        return
                    await asyncio.sleep(0.002)
                data, rest = rest[:count], rest[count:]
                writer.write(data)
                await writer.drain()
                way.carried += len(data)
                if self._record:
                    way.data += data
                if way.piece < 65536:
                    await asyncio.sleep(0)
        except OSError:
            pass

    def _close_all(self) -> None:
        for writer in self._writers.copy():
            self._close(writer)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        if self.reset:
            sock = writer.get_extra_info("socket")
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        else:
            writer.close()
