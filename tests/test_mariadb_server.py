"""The private server that other tests rely on: it is reachable, bounded, and leaves nothing."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from tests.mariadb import MariaDB
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent


def ask(sql: str, **params) -> tuple:
    """Return the first row of a query on a connection of its own."""
    with pymysql.connect(**params) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    """Start a second server, which tests may break."""
    with MariaDB(max_connections=10, options=("--wait-timeout=1234",)) as server:
        server.create_database("mine")
        yield server


@pytest.fixture
def verified(mariadb: MariaDB) -> dict:
    """Return parameters that check the certificate and the name in it."""
    return {
        **mariadb.params(),
        "ssl_ca": mariadb.ca,
        "ssl_verify_cert": True,
        "ssl_verify_identity": True,
    }


def test_tcp(mysql_params):
    assert ask("SELECT DATABASE(), @@character_set_server", **mysql_params) == (
        "greentor",
        "utf8mb4",
    )


def test_unix_socket(mariadb):
    assert len(mariadb.unix_socket) < 100
    assert ask("SELECT @@socket", **mariadb.params(unix=True)) == (mariadb.unix_socket,)


def test_ipv6(mariadb):
    if mariadb.host6 is None:
        pytest.skip("this machine has no ::1")
    params = {**mariadb.params(), "host": mariadb.host6}
    assert ask("SELECT @@port", **params) == (mariadb.port,)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_tls_is_verified(mariadb, verified, host):
    if host == "::1" and mariadb.host6 is None:
        pytest.skip("this machine has no ::1")
    name, cipher = ask("SHOW STATUS LIKE 'Ssl_cipher'", **{**verified, "host": host})
    assert name == "Ssl_cipher"
    assert cipher


def test_another_authority_is_refused(verified, server):
    with pytest.raises(pymysql.OperationalError, match="certificate verify failed"):
        ask("SELECT 1", **{**verified, "ssl_ca": server.ca})


def test_plain_connection(mariadb):
    row = ask("SHOW STATUS LIKE 'Ssl_cipher'", **mariadb.params(), ssl_disabled=True)
    assert row == ("Ssl_cipher", "")


def test_applications_are_bounded_and_root_is_not(server):
    connections = []

    def fill() -> bool:  # connections of earlier tests may take a moment to go
        try:
            connections.append(pymysql.connect(**server.params("mine")))
        except pymysql.OperationalError:
            return False
        return len(connections) == 10

    try:
        wait_until(fill)
        with pytest.raises(pymysql.OperationalError, match="Too many connections"):
            pymysql.connect(**server.params("mine"))
        wait_until(lambda: server.status("Threads_connected") == 10)
        assert [row["DB"] for row in server.processlist()] == ["mine"] * 10
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: not server.processlist())
    wait_until(lambda: server.status("Threads_connected") == 0)
    server.execute("FLUSH STATUS")
    assert ask("SELECT 1", **server.params()) == (1,)
    assert server.status("Max_used_connections") == 1 + 1


def test_options_reach_the_server(server):
    assert server.execute("SELECT @@global.wait_timeout AS n") == [{"n": 1234}]


def test_restart_and_kill_keep_data_and_port(server):
    server.create_database("kept")
    server.execute("CREATE TABLE kept.t (n INT PRIMARY KEY)")
    server.execute("INSERT INTO kept.t VALUES (1)")
    before = server.pid
    server.restart()
    after = server.pid
    assert ask("SELECT n FROM t", **server.params("kept")) == (1,)
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))
    server.start()
    assert ask("SELECT n FROM t", **server.params("kept")) == (1,)
    assert len({before, after, server.pid}) == 3


def test_paused_server_does_not_answer(server):
    with pymysql.connect(**server.params("mine"), read_timeout=0.2) as connection:
        server.pause()
        try:
            with pytest.raises(pymysql.OperationalError, match="timed out"):
                connection.query("SELECT 1")
        finally:
            server.resume()
    assert ask("SELECT 1", **server.params("mine")) == (1,)


def test_stop_leaves_nothing():
    server = MariaDB()
    server.start()
    directory, pid = server.directory, server.pid
    server.pause()  # which must not keep it from ending
    server.stop()
    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()
    server.stop()


def test_a_server_that_cannot_start_says_why():
    server = MariaDB(options=("--no-such-option",))
    with pytest.raises(RuntimeError, match="no-such-option"):
        server.start()
    assert server.directory is None


def test_command_line():
    show = "import os, sys; print(os.environ['DATABASE_URL'], *sys.argv[1:]); sys.exit(3)"
    server = [sys.executable, "-m", "tests.mariadb", "--database", "shown", "--"]
    command = [sys.executable, "-c", show, "--", "-x"]
    done = subprocess.run([*server, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 3
    url, *arguments = done.stdout.split()
    assert url.startswith("mysql://greentor:greentor@127.0.0.1:")
    assert url.endswith("/shown")
    assert arguments == ["--", "-x"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_owner(number):
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.mariadb"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with owner:
        owner.stdout.readline()
        directory = Path(owner.stdout.readline()).parent
        pid = int((directory / "pid").read_text())
        os.kill(pid, 0)
        owner.send_signal(number)
    wait_until(lambda: not directory.exists())
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or is_zombie(pid))


def is_zombie(pid: int) -> bool:
    """Say whether the process has ended and only its parent has not noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
