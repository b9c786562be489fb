"""The reference application as a process of its own, on a private MariaDB, and what it uses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mariadb import MariaDB


class Server:
    """A running ``python -m app``."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def threads(self) -> int:
        """How many threads the process has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    @property
    def memory(self) -> int:
        """Its resident memory, in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+)", status)
        assert match is not None
        return int(match[1])


@contextmanager
def serve(mariadb: MariaDB, query: str, *arguments: str) -> Iterator[Server]:
    """Start the application on a new database; end it with SIGTERM.

    Raise RuntimeError unless it ends with exit code 0 and has logged nothing worse than an info: no
    failed request, no connection that was not given back.
    """
    mariadb.create_database("bench")
    environ = {**os.environ, "DATABASE_URL": f"{mariadb.url('bench')}?ssl_disabled=1&{query}"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "--port", "0", "--log-level", "warning", *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        yield from _watch(process)
        log.seek(0)
        if complaints := log.read():
            raise RuntimeError(f"the application complained:\n{complaints[-2000:]}")


def _watch(process: subprocess.Popen[str]) -> Iterator[Server]:
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r":(\d+)/", line)
        if match is None:
            raise RuntimeError(f"the application did not start: {line!r}")
        yield Server(process, int(match[1]))
        process.send_signal(signal.SIGTERM)
        if (code := process.wait(60)) != 0:
            raise RuntimeError(f"the application ended with {code}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
