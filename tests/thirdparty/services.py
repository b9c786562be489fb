"""Slow services on loopback: real servers behind a proxy that delays, and small impostors."""

from __future__ import annotations

import contextlib
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.thirdparty.measure import DELAY, Skip


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    delay = DELAY


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Run a server in a thread; yield its port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class Smtp(socketserver.StreamRequestHandler):
    """Accepts every mail, after a moment's thought."""

    def handle(self) -> None:
        time.sleep(DELAY)
        self.wfile.write(b"220 slow\r\n")
        body = False
        for line in self.rfile:
            if body and line != b".\r\n":
                continue
            body = line.upper() == b"DATA\r\n"
            self.wfile.write(b"354 go on\r\n" if body else b"250 ok\r\n")


class Silent(socketserver.BaseRequestHandler):
    """Accepts, and says nothing for a while: a database that does not answer."""

    def handle(self) -> None:
        time.sleep(2 * DELAY)


class Http(BaseHTTPRequestHandler):
    """Answers everything with 200, slowly; enough for a client, and for an S3 upload."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(DELAY)
        self.send_response(200)
        self.send_header("ETag", '"1"')
        body = b"ok" if self.command == "GET" else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class Delay(socketserver.BaseRequestHandler):
    """Passes on to another port; the answers come late."""

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
            threading.Thread(target=self._back, args=(upstream,), daemon=True).start()
            while data := self.request.recv(65536):
                upstream.sendall(data)

    def _back(self, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                time.sleep(DELAY)
                self.request.sendall(data)


def smtp() -> contextlib.AbstractContextManager[int]:
    return serving(_Server(("127.0.0.1", 0), Smtp))


def silent() -> contextlib.AbstractContextManager[int]:
    return serving(_Server(("127.0.0.1", 0), Silent))


def http() -> contextlib.AbstractContextManager[int]:
    return serving(ThreadingHTTPServer(("127.0.0.1", 0), Http))


@contextlib.contextmanager
def delayed(port: int) -> Iterator[int]:
    """Yield the port of a proxy that delays what ``port`` answers."""
    server = _Server(("127.0.0.1", 0), Delay)
    server.target = port
    with serving(server) as own:
        yield own


@contextlib.contextmanager
def program(name: str, *options: str) -> Iterator[int]:
    """Run redis-server or memcached on a free port; yield the port of a proxy that delays it."""
    if shutil.which(name) is None:
        raise Skip(f"{name} is not installed")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [name, *(option.format(port=port) for option in options)]
        process = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(port)
            with delayed(port) as own:
                yield own
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def redis() -> contextlib.AbstractContextManager[int]:
    return program("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "")


def memcached() -> contextlib.AbstractContextManager[int]:
    return program("memcached", "-p", "{port}", "-l", "127.0.0.1", "-u", "nobody")


_running = contextlib.ExitStack()
_ports: dict[str, int] = {}


def start(name: str) -> None:
    """Start the service that a function of this module, called ``name``, runs; once."""
    if name not in _ports:
        _ports[name] = _running.enter_context(globals()[name]())


def needs(*names: str) -> Callable[[], None]:
    """Return what starts these services, as the setup of a probe."""

    def setup() -> None:
        for name in names:
            start(name)

    return setup


def port(name: str) -> int:
    """Return the port of a service that was started."""
    return _ports[name]


def stop() -> None:
    """End everything that was started."""
    _running.close()
    _ports.clear()
