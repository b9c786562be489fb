"""Who may see what goes on inside the application, and that nobody's looking keeps it from ending."""

from __future__ import annotations

import base64
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.server import Server

PATHS = ("/-/greentor", "/-/metrics")


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("STATUS_PASSWORD", raising=False)
    return {"DATA_DIR": str(tmp_path)}


def ask(server: Server, path: str, authorization: str | None = None, accept: str = "*/*"):
    connection = server.connect()
    headers = {"Accept": accept}
    if authorization is not None:
        headers["Authorization"] = authorization
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return connection, answer


def status(server: Server, path: str, authorization: str | None = None) -> int:
    connection, answer = ask(server, path, authorization)
    connection.close()
    return answer.status


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_without_a_password_there_is_nothing_to_see(environ):
    with Server(environ) as server:
        assert [status(server, path, basic("")) for path in PATHS] == [404, 404]


def test_in_debug_everybody_sees_it(environ):
    with Server(environ | {"DEBUG": "1"}) as server:
        assert [status(server, path) for path in PATHS] == [200, 200]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {"DATA_DIR": str(tmp_path_factory.mktemp("data")), "STATUS_PASSWORD": "geheim ü:"}
    with Server(environ | {"DEBUG": "1"}) as server:
        yield server
    assert "Traceback" not in server.log


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic", "Basic ?", "Basic 4pyT", "Bearer geheim", basic(""), basic("geheim ü")],
)
def test_without_the_password_nobody_sees_it(locked, path, authorization):
    connection, answer = ask(locked, path, authorization)
    connection.close()
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("path", PATHS)
def test_with_the_password_one_sees_it(locked, path):
    assert status(locked, path, basic("geheim ü:")) == 200


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_does_not_wait_for_who_watches(environ, loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with Server(environ | {"DEBUG": "1"}, "--loop", loop) as server:
        streams = [ask(server, PATHS[0], accept="text/event-stream") for _ in range(3)]
        for _, answer in streams:
            while not (line := answer.readline()).startswith(b"data: "):
                pass
            assert json.loads(line[6:])["recording"]
        at_work = server.connect()
        at_work.request("GET", "/sleep?ms=700")
        assert server.get("/json").status == 200  # which came after it
        begin = time.monotonic()
        server.send(signal.SIGTERM)
        assert at_work.getresponse().read() == b'{"ms": 700}'
        assert server.wait() == 0
        assert time.monotonic() - begin < 8
        for connection, answer in streams:
            while answer.readline():  # to the end of what had been sent
                pass
            connection.close()
        at_work.close()
    assert "Traceback" not in server.log
    assert "Task was destroyed" not in server.log


def test_a_client_that_resets_its_stream_leaves_nothing(environ):
    with Server(environ | {"DEBUG": "1"}) as server:
        for _ in range(5):
            raw = socket.create_connection(("127.0.0.1", server.port))
            raw.sendall(b"GET /-/greentor HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            assert raw.recv(100)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raw.close()
        end = time.monotonic() + 5
        while True:
            connection, answer = ask(server, PATHS[0], accept="application/json")
            recording = json.loads(answer.read())["recording"]
            connection.close()
            if not recording:
                break
            assert time.monotonic() < end
        assert server.stop() == 0
    assert "Traceback" not in server.log
