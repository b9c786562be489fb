"""How the application starts and ends."""

from __future__ import annotations

import re
import select
import signal
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.server import main
from tests.app.server import Server, start
from tests.noise import undisturbed
from tests.waiting import wait_until


@pytest.fixture(params=["sqlite", "mariadb"])
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    environ = {"DATA_DIR": str(tmp_path)}
    if request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb")
        mariadb.create_database("life")
        environ["DATABASE_URL"] = mariadb.url("life")
    return environ


@pytest.fixture
def sqlite(tmp_path: Path) -> dict[str, str]:
    return {"DATA_DIR": str(tmp_path)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_lets_requests_finish(environ, number, loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    undisturbed(lambda: _signal_during_a_request(environ, number, loop), 0.3)


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _signal_during_a_request(environ: dict[str, str], number: signal.Signals, loop: str) -> None:
    with Server(environ, "--loop", loop) as server:
        idle = server.connect()
        idle.request("GET", "/db")
        assert idle.getresponse().read()
        at_work = server.connect()
        at_work.request("GET", "/sleep?ms=1000")
        assert server.get("/json").status == 200  # which came after it
        begin = time.monotonic()
        server.send(number)
        wait_until(lambda: refused(server.port))
        assert not select.select([at_work.sock], [], [], 0)[0]  # the request is still under way
        answer = at_work.getresponse()
        assert (answer.status, answer.read()) == (200, b'{"ms": 1000}')
        assert server.wait() == 0
        assert time.monotonic() - begin < 8
        idle.close()
        at_work.close()
    assert "Traceback" not in server.log
    assert "Task was destroyed" not in server.log


def test_a_second_signal_does_not_wait(sqlite):
    with Server(sqlite) as server:
        at_work = server.connect()
        at_work.request("GET", "/sleep?ms=9000")
        assert server.get("/json").status == 200  # which came after it
        server.send(signal.SIGTERM)
        wait_until(lambda: refused(server.port))
        begin = time.monotonic()
        server.send(signal.SIGTERM)
        assert server.wait() == -signal.SIGTERM
        assert time.monotonic() - begin < 7
        at_work.close()


def test_the_sample_data_is_filled_in_where_it_is_missing(sqlite, tmp_path):
    tables = ("app_author", "app_book", "world", "fortune")

    def rows() -> dict[str, list[tuple]]:
        with closing(sqlite3.connect(tmp_path / "app.sqlite3")) as database:
            return {
                t: database.execute(f"SELECT * FROM {t} ORDER BY id").fetchall() for t in tables
            }

    with Server(sqlite):
        first = rows()
    assert [len(first[table]) for table in tables] == [20, 42, 10_000, 12]
    with Server(sqlite):
        assert rows() == first
    with closing(sqlite3.connect(tmp_path / "app.sqlite3")) as database, database:
        database.execute("DELETE FROM world WHERE id IN (1, 777)")
        database.execute("DELETE FROM fortune WHERE id = 12")
    with Server(sqlite):
        third = rows()
    assert [row[0] for row in third["world"]] == list(range(1, 10_001))
    assert third["fortune"] == first["fortune"]


def test_several_processes_serve_one_database(environ, tmp_path):
    with Server(environ, "--processes", "2", "--grace", "9") as server:
        answers = server.get_at_once([f"/echo?token={n}&ms=1" for n in range(40)])
        assert [answer.json["token"] for answer in answers] == [str(n) for n in range(40)]
        assert {answer.status for answer in server.get_at_once(["/books/"] * 20)} == {200}
        assert server.stop() == 0
    served = set(re.findall(r" ([0-9]+) INFO tornado.access: 200 GET /books/", server.log))
    assert served == set(re.findall(r"worker [01] started, process ([0-9]+)", server.log))
    with Server(environ) as server:  # which finds what both have written at their end
        paths = server.get("/api/access-records/paths").json["items"]
    assert [each["views"] for each in paths if each["path"] == "/books/"] == [20]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_requests_may_be_parsed_by_httptools(sqlite, loop):
    for package in ("httptools", loop):
        pytest.importorskip(package)
    with Server(sqlite, "--http", "httptools", "--loop", loop) as server:
        connection = server.connect()
        for path in ("/books/", "/json", "/no/such/page", "/books/"):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.read()
            assert answer.status == (404 if "such" in path else 200)
        assert server.stop() == 0
        connection.close()
    assert "Traceback" not in server.log


def test_httptools_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "httptools", None)
    for name in [name for name in sys.modules if name.startswith("greentor.serving.front")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "greentor.serving.heads", raising=False)
    monkeypatch.setattr("logging.basicConfig", lambda **kwargs: None)
    with pytest.raises(
        SystemExit, match=r"--http httptools: .*pip install 'greentor\[httptools\]'"
    ):
        main(["--http", "httptools"])


def run(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run the application to its end and return the exit code and what it said."""
    process = start(environ, *arguments)
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, errors


def test_a_port_in_use_is_said(sqlite):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, errors = run(sqlite, "--port", port)
    assert code == 1
    assert errors == f"cannot listen on 127.0.0.1 port {port}: Address already in use\n"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DATABASE_URL": "mysql://h/n?pool_size=x"}, "pool_size must be an integer, not 'x'"),
        ({"DATABASE_URL": "mysql://h/n?pool_sice=8"}, "'pool_sice'"),
        ({"DATABASE_URL": "mysql://u:p@127.0.0.1:1/n"}, "Can't connect to MySQL server"),
        ({"DATABASE_URL": "no url"}, "DATABASE_URL"),
        ({"DEBUG": "perhaps"}, "DEBUG must be 1 or 0"),
        ({"DATA_DIR": "/dev/null/data"}, "/dev/null/data"),
    ],
)
def test_a_wrong_setting_is_said_in_a_line(sqlite, environ, said):
    code, errors = run(sqlite | environ, "--port", "0")
    assert code == 1
    assert said in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--port", value) for value in ("-1", "65536", "http")),
        *(("--processes", value) for value in ("-1", "many")),
        *(("--grace", value) for value in ("-1", "nan", "inf")),
    ],
)
def test_a_wrong_option_is_refused(sqlite, option, value):
    code, errors = run(sqlite, option, value)
    assert code == 2
    assert f"argument {option}" in errors


def test_debug_shows_tracebacks_and_otherwise_changes_nothing(sqlite):
    with Server(sqlite | {"DEBUG": "1"}) as server:
        assert server.get("/books/").status == 200
        assert server.get("/books/detail/0").status == 404
        assert server.stop() == 0
