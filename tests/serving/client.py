"""`Program`: the program as a process of its own; `request`: HTTP by hand, to see what becomes of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-X", "dev", "-m", "tests.serving.program"]


class Program:
    """`tests.serving.program`, from its start to its exit; what it leaves behind is killed."""

    def __init__(self, url: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, json.dumps({"url": url, **options})],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._out: list[str] = []
        self._log: list[str] = []
        self._readers = [
            threading.Thread(target=lines.extend, args=[stream])
            for lines, stream in (
                (self._out, self.process.stdout),
                (self._log, self.process.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own
        except ProcessLookupError:
            pass
        self.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return "".join(self._out)

    @property
    def log(self) -> str:
        return "".join(self._log)

    def serving(self) -> Self:
        """Wait until it says that it serves."""
        wait_until(lambda: "Listening on" in self.out or self.process.poll() is not None, 20)
        assert "Listening on" in self.out, self.out + self.log
        return self

    @property
    def port(self) -> int:
        found = re.search(r"Listening on http://127\.0\.0\.1:([0-9]+)/", self.out)
        assert found is not None
        return int(found[1])

    def started(self) -> list[int]:
        """Return the processes of the workers, in the order of their starts."""
        return [
            int(pid) for pid in re.findall(r"worker [0-9]+ started, process ([0-9]+)", self.log)
        ]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        """Return the exit status of the parent, once there is one."""
        status = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()
        return status

    def get(self, path: str) -> Answer:
        """Ask for a path on a connection of its own."""
        return asyncio.run(ask(self.port, path))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class NotAnswered(Exception):
    """The connection ended before the first byte of an answer."""


class Client:
    """A connection, on which requests are sent one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        #: requests answered so far
        self.answered = 0

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.transport.abort()

    def send(self, path: str, headers: Sequence[str] = (), body: bytes = b"") -> None:
        method = "POST" if body else "GET"
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> Answer:
        """Read an answer with a length; raise NotAnswered if there is none, EOFError if it is cut."""
        try:
            first = await self._reader.read(1)
        except ConnectionError:
            first = b""
        if not first:
            raise NotAnswered
        try:
            head = first + await self._reader.readuntil(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")[:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers["content-length"]))
        except ConnectionError as exc:
            raise EOFError from exc
        self.answered += 1
        return Answer(int(status.split()[1]), headers, body)

    async def read_until(self, mark: bytes) -> bytes:
        """Read up to the next ``mark``, whatever it is that comes."""
        return await self._reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Read to the end of the connection."""
        try:
            return await self._reader.read(-1)
        except ConnectionError:
            return b""

    async def ask(self, path: str) -> Answer:
        self.send(path)
        return await self.receive()


async def ask(port: int, path: str) -> Answer:
    """Ask for a path on a connection of its own."""
    async with Client(port) as client:
        return await client.ask(path)
