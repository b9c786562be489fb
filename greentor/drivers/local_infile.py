"""``LOAD DATA LOCAL INFILE``: the file that the server asks for, sent without blocking the loop.

Invariants
- No call that may block on the file runs on the loop. Worker threads open and read it, one block of
  `BLOCK` bytes ahead of what is being sent; a FIFO, which may be silent for ever, is watched by the loop
  instead, and so no thread waits for it.
- While a file is waited for nobody else can use the connection, and what interrupts the wait closes it:
  half a file is never taken for the whole.
- The descriptor is closed when the last byte is sent, or the exchange interrupted; one that a thread is
  reading from at that moment, when its read returns.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from io import FileIO
from typing import Any

from pymysql import err
from pymysql.constants import ER
from pymysql.protocol import LoadLocalPacketWrapper

from greentor.stream import Stream

#: bytes in one packet, as PyMySQL sends them
PACKET = 16 * 1024
#: bytes read, and sent, at a time
BLOCK = 512 * 1024

_READING = "reading a local file"


def send_local_file(connection: Any, request: Any) -> Any:
    """Send the file that the server requests; return the packet that it answers with.

    Raise OperationalError (1017) if the file cannot be read, as PyMySQL does.
    """
    stream: Stream = connection._stream
    name = LoadLocalPacketWrapper(request).filename
    size = max(min(connection.max_allowed_packet, PACKET), 1)
    with closing(Reader(stream, name)) as reader:
        while stream.alive:  # else read on: the server may have said why it hung up
            block = reader.next_block()
            if block:
                connection._write_bytes(_packets(connection, block, size))
            elif stream.alive:
                connection.write_packet(b"")  # the end of the file
                break
    answer = connection._read_packet()
    if reader.problem is not None:
        problem = f"Can't open file '{name}': {reader.problem}"
        raise err.OperationalError(ER.FILE_NOT_FOUND, problem)
    return answer


def _packets(connection: Any, block: bytes, size: int) -> bytes:
    view = memoryview(block)
    parts: list[bytes | memoryview] = []
    number = connection._next_seq_id
    for start in range(0, len(block), size):
        part = view[start : start + size]
        parts += (len(part).to_bytes(3, "little") + bytes((number,)), part)
        number = (number + 1) % 256
    connection._next_seq_id = number
    return b"".join(parts)


class Reader:
    """The blocks of one file, for the greenlet that sends them."""

    def __init__(self, stream: Stream, path: Any) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._file = LocalFile(path)
        #: what went wrong with the file
        self.problem: BaseException | None = None
        self._ahead = self._start(self._file.open)

    def next_block(self) -> bytes:
        """Wait for the next block and return it.

        Nothing means the end, or a `problem`, or that the server has hung up.
        """
        if self._file.is_pipe:
            return self._next_of_pipe()
        ahead = self._ahead
        self._stream.wait_beside(ahead, _READING)
        if not ahead.done():
            return b""
        self.problem = ahead.exception()
        if isinstance(self.problem, OSError):
            return b""
        block = ahead.result()
        if self._file.is_pipe:
            return self._next_of_pipe()
        if block:
            self._ahead = self._start(self._file.read)
        return block

    def _next_of_pipe(self) -> bytes:
        # Ready is not before there was a writer: only then does no data mean the end.
        block = None
        while block is None and self._stream.alive:
            ready = self._loop.create_future()
            fd = self._file.fileno()
            self._loop.add_reader(fd, _finish, ready)
            try:
                self._stream.wait_beside(ready, _READING)
            finally:
                if not self._loop.is_closed():
                    self._loop.remove_reader(fd)
            if ready.done():
                try:
                    block = self._file.read_available()
                except OSError as exc:
                    self.problem = exc
                    break
        return block or b""

    def _start(self, fn: Callable[[], bytes]) -> asyncio.Future[bytes]:
        return self._loop.run_in_executor(None, fn)

    def close(self) -> None:
        """Give the file up, without waiting for a thread that reads it."""
        ahead = self._ahead
        if not self._loop.is_closed() and not ahead.cancel() and not ahead.cancelled():
            ahead.exception()  # so that nobody says it was never retrieved
        self._file.close()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class LocalFile:
    """A file that one thread at a time reads, and that any may close meanwhile."""

    def __init__(self, path: Any) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._busy = threading.Lock()
        self._closed = False
        self.is_pipe = False

    def open(self) -> bytes:
        """Open the file and return its first block; of a pipe, nothing."""
        return self._work(self._open)

    def read(self) -> bytes:
        """Return the next block, nothing at the end."""
        return self._work(self._read)

    def read_available(self) -> bytes | None:
        """Return what a pipe has, nothing at its end, None if it has nothing yet."""
        assert self._file is not None
        return self._file.read(BLOCK)

    def fileno(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    def close(self) -> None:
        """Close the file, or have the thread that reads it do so."""
        self._closed = True
        if self._busy.acquire(blocking=False):
            try:
                if self._file is not None:
                    self._file.close()
            finally:
                self._busy.release()

    def _work(self, fn: Callable[[], bytes]) -> bytes:
        try:
            with self._busy:
                return b"" if self._closed else fn()
        finally:
            if self._closed:
                self.close()

    def _open(self) -> bytes:
        # A FIFO is opened at once, instead of when a writer comes.
        self._file = file = FileIO(self._path, "rb", opener=_open_at_once)
        self.is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
        if self.is_pipe:
            return b""
        os.set_blocking(file.fileno(), True)
        return self._read()

    def _read(self) -> bytes:
        assert self._file is not None
        return self._file.read(BLOCK)


def _open_at_once(path: Any, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
