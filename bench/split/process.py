"""`Server`: a server that is measured by itself, and asked what it is made to answer."""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.compare import servers

LOGS = Path(".cache/bench")


class Server(servers.Server):
    """A server of which all is asked: what it answers, and the memory that is its own and shared."""

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

    def resident(self) -> int:
        """Return the bytes that are resident."""
        return self._status("VmRSS")

    def most_resident(self) -> int:
        """Return the most bytes that were resident since the last `forget_most`."""
        return self._status("VmHWM")

    def forget_most(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(rf"{name}:\s+(\d+) kB", text)
        assert match is not None
        return int(match[1]) * 1024


@contextmanager
def started(
    module: str, *arguments: str, database: dict[str, Any], core: int | None
) -> Iterator[Server]:
    """Start ``python -m module``, and end it; raise `servers.ServerFailed` if it does not answer."""
    server = Server(
        module,
        lambda port: [sys.executable, "-m", module, "--port", str(port), *arguments],
        LOGS / f"{'-'.join(word.lstrip('-') for word in (module, *arguments))}.log",
        environ={"BENCH_DATABASE": json.dumps(database)},
        cores=() if core is None else (core,),
    )
    try:
        server.wait(path="/-/canned?mode=stop")
        yield server
    finally:
        server.stop(30)
