"""The reference application as a process of its own, and a plain client for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Response:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """`python -m app --port 0`, from its first line of output to its exit."""

    def __init__(self, environ: dict[str, str], *arguments: str):
        self._process = start(environ, "--port", "0", *arguments)
        self._errors: list[str] = []
        # Whoever does not read the log blocks its writer.
        self._reader = threading.Thread(target=lambda: self._errors.extend(self._process.stderr))
        self._reader.start()
        line = self._process.stdout.readline()
        found = re.fullmatch(r"Listening on (http://127\.0\.0\.1:([0-9]+))/\n", line)
        if found is None:
            self.stop(signal.SIGKILL)
            raise RuntimeError(f"the application did not start: {line}{self.log}")
        self.url, self.port = found[1], int(found[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return "".join(self._errors)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to send requests on."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def get(self, path: str) -> Response:
        """Ask for a path on a connection of its own; redirects are not followed."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get_at_once(self, paths: list[str]) -> list[Response]:
        """Ask for all paths at the same time, on a connection each."""
        return asyncio.run(self._gather(paths))

    async def _gather(self, paths: list[str]) -> list[Response]:
        return await asyncio.gather(*map(self._get, paths))

    async def _get(self, path: str) -> Response:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        status, _, headers = head.partition(b"\r\n")
        message = http.client.HTTPMessage()
        for line in headers.decode().splitlines():
            name, _, value = line.partition(": ")
            message[name] = value
        return Response(int(status.split()[1]), message, body)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code, once there is one."""
        try:
            return self._process.wait(20)
        finally:
            self._process.kill()
            self._reader.join()
            self._process.stdout.close()
            self._process.stderr.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process and return its exit code."""
        if self._process.poll() is None:
            self.send(number)
        return self.wait()


def start(environ: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start the application with nothing from this environment that it listens to."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name
        not in ("DATABASE_URL", "REPLICA_URL", "DATA_DIR", "DEBUG", "DJANGO_SETTINGS_MODULE")
    }
    return subprocess.Popen(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=inherited | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
