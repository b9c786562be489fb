"""The servers that are measured: each starts, answers, is asked what it has cost, and is ended.

Invariants
- A server and what it starts are one session, and only the processes of that session are signalled.
- `Fleet.need` leaves exactly the servers that are asked for; `Fleet.close` none.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from bench.compare import machine
from bench.peers import Peer

ROOT = Path(__file__).resolve().parents[2]
#: seconds within which a server must answer, and end after SIGTERM
START, END = 60.0, 5.0


class ServerFailed(Exception):
    """A server does not start, or has ended by itself; its log says why."""


class Server:
    """A process that serves on a port of 127.0.0.1, and its children."""

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
    ) -> None:
        self.name, self.log = name, log
        self.port = free_port()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file, machine.pinned(cores):
            self._process = subprocess.Popen(
                command(self.port),
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float = START, path: str = "/json") -> None:
        """Wait until it answers ``path``; raise `ServerFailed` if it does not, or ends before."""
        end = time.monotonic() + seconds
        while not self._answers(path):
            self.check()
            if time.monotonic() > end:
                raise ServerFailed(f"no answer within {seconds:g} s; {self.told()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise `ServerFailed` if it has ended."""
        if not self.alive:
            raise ServerFailed(f"it has ended with {self._process.returncode}; {self.told()}")

    def told(self) -> str:
        """Return where the log is, and the last line of it."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"see {self.log}" + (f": {last[:200]}" if last else ", which is empty")

    def terminate(self) -> None:
        """Ask it to end."""
        if self.alive:
            self._process.terminate()

    def stop(self, seconds: float = END) -> None:
        """End it by SIGTERM; kill what is left of it after some time."""
        if self.alive and seconds:
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        end = time.monotonic() + END
        while (pids := self._processes()) and time.monotonic() < end:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self._process.wait()

    def busy(self) -> bool:
        """Return whether it has something to do, and is not waiting."""
        return machine.busy(self._processes())

    def cpu(self) -> float:
        """Return the CPU seconds that it has used."""
        return machine.cpu(self._processes())

    def memory(self) -> int:
        """Return its memory in bytes."""
        return machine.memory(self._processes())

    def _processes(self) -> list[int]:
        return machine.processes(self.pid)

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Fleet:
    """The servers that are up: of each peer one, with a pool size."""

    def __init__(
        self,
        peers: Mapping[str, Peer],
        database: Mapping[str, Any],
        logs: Path,
        *,
        processes: int = 1,
        cores: Sequence[int] = (),
    ) -> None:
        self.peers, self.processes, self.cores, self.logs = peers, processes, cores, logs
        self._environ = {"BENCH_DATABASE": json.dumps(dict(database))}
        self._up: dict[str, tuple[int, Server]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Server:
        return self._up[name][1]

    def need(self, wanted: Mapping[str, int]) -> dict[str, str]:
        """Have these peers up with these pool sizes and no others; return why one is not up."""
        for name, (pool, server) in list(self._up.items()):
            if wanted.get(name) != pool or not server.alive:
                self.end(name)
        started = [name for name in wanted if name not in self._up]
        for name in started:
            self._begin(name, wanted[name])
        failed = {}
        for name in started:
            try:
                self[name].wait()
            except ServerFailed as exc:
                failed[name] = str(exc)
                self.end(name)
        return failed

    def restart(self, name: str) -> None:
        """Kill a server and start it again; raise `ServerFailed` if it does not answer then."""
        pool = self._up[name][0]
        self.end(name, 0)
        self._begin(name, pool)
        try:
            self[name].wait()
        except ServerFailed:
            self.end(name)
            raise

    def end(self, name: str, seconds: float = END) -> None:
        """End a server, if it is up."""
        if name in self._up:
            self._up[name][1].stop(seconds)
            del self._up[name]

    def close(self) -> None:
        """End all."""
        for _, server in self._up.values():
            server.terminate()
        for name in list(self._up):
            self.end(name, 1)

    def _begin(self, name: str, pool: int) -> None:
        with machine.uninterrupted():
            self._up[name] = pool, self._start(name, pool)

    def _start(self, name: str, pool: int) -> Server:
        peer = self.peers[name]

        def command(port: int) -> list[str]:
            options = {"port": port, "pool": pool, "processes": self.processes}
            words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
            return [sys.executable, "-m", f"bench.peers.{peer.module}", *words, *peer.arguments]

        log = self.logs / f"{name}.log"
        return Server(name, command, log, environ=self._environ, cores=self.cores)


def free_port() -> int:
    """Return a port that nobody listens on, below those that the system gives to clients."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            # A connection of a server that has ended lingers; a listener is refused still.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
