"""`Server`: a program that is measured, as a process of its own on a core of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.driver.worker import pin
from tests.waiting import wait_until


class Server:
    """A server that runs on 127.0.0.1."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> bytes:
        """Return the body of an answer; raise RuntimeError if it is not a 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:300]!r}")
        return body

    @property
    def cpu(self) -> float:
        """The CPU seconds of all its threads that still live."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    @property
    def memory(self) -> int:
        """The bytes that are resident."""
        return self._status("VmRSS")

    @property
    def most_memory(self) -> int:
        """The most bytes that were resident since the last `forget_most`."""
        return self._status("VmHWM")

    def forget_most(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"{name}:\s+(\d+) kB", text)
        assert match is not None
        return int(match[1]) * 1024


@contextmanager
def started(
    module: str, *arguments: str, database: dict[str, Any], core: int | None
) -> Iterator[Server]:
    """Start ``python -m module``, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--port", str(port), *arguments],
        env={**os.environ, "BENCH_DATABASE": json.dumps(database)},
        preexec_fn=lambda: pin(core),
    )
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), timeout=60)
        if process.poll() is not None:
            raise RuntimeError(f"{module} ended with {process.returncode}")
        yield Server(process, port)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))
