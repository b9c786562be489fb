"""A private MariaDB server: its own directory, port and socket, TLS on, gone when its owner is.

    with MariaDB(max_connections=12) as server:
        server.create_database("books")
        pymysql.connect(**server.params("books"))

Invariants: only the processes started here are ever signalled. A guard, which waits on a pipe from
this process, kills the server and removes the directory when this process ends in whatever way.
Applications connect as `user`, who is refused past `max_connections`. `execute()` and its relatives
share one root connection by a port of their own, which is kept: it takes nothing from the limit
and does not count in Threads_connected, but adds one to Max_used_connections.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import pymysql
import pymysql.cursors

from tests.certificates import create_certificates

# Reads the server's process id, an empty line when the server has ended, and at last end-of-file.
GUARD = """
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then kill -KILL "$pid"; sleep 0.5; fi
rm -rf "$0"
"""
SEARCH_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/usr/local/mysql/bin"]
)
OPTIONS = [
    "--aria-pagecache-buffer-size=8M",
    "--character-set-server=utf8mb4",
    "--innodb-buffer-pool-size=64M",
    "--innodb-doublewrite=OFF",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-log-file-size=16M",
    "--key-buffer-size=1M",
    "--performance-schema=OFF",
    "--skip-log-bin",
    "--skip-name-resolve",
]


class MariaDB:
    """A server that belongs to this process."""

    host = "127.0.0.1"
    user = "greentor"
    password = "greentor"

    def __init__(
        self, *, max_connections: int = 40, timezones: bool = False, options: tuple[str, ...] = ()
    ):
        self.max_connections = max_connections
        self.timezones = timezones
        self.options = options
        self.host6: str | None = None  # "::1" where the machine has it
        self.port = 0
        self.directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._root_port = 0
        self._root: pymysql.Connection[Any] | None = None
        self._root_lock = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # The server's life

    def start(self, timeout: float = 60) -> None:
        """Start the server and wait until it answers; after `kill()`, on the data that it left."""
        if self.directory is not None:
            self._launch(timeout)
            return
        try:
            self._install()
            for attempts_left in (2, 1, 0):
                self.port, self._root_port = self._free_port(), self._free_port()
                try:
                    self._launch(timeout)
                    break
                except RuntimeError as error:
                    if not attempts_left or "already in use" not in str(error):
                        raise
            self.execute(f"CREATE USER {self.user}@'%%' IDENTIFIED BY %s", self.password)
            # Everything on every database, but no CONNECTION ADMIN, which may exceed the limit.
            self.execute(f"GRANT ALL PRIVILEGES ON `%`.* TO {self.user}@'%'")
            if self.timezones:
                self._load_timezones()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its directory."""
        self._end(signal.SIGTERM)
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait(60)
        self._guard = self.directory = None

    def restart(self, timeout: float = 60) -> None:
        """End the server in good order and start it again on the same port."""
        self._end(signal.SIGTERM)
        self._launch(timeout)

    def kill(self) -> None:
        """End the server at once, as a crash would; `start()` brings it back."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Hold the server: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)  # its last thread has stopped

    def resume(self) -> None:
        """Let a paused server go on."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    # How to reach it

    @property
    def unix_socket(self) -> str:
        return str(self._path("s"))

    @property
    def ca(self) -> str:
        """Return the path of the authority's certificate, to verify the server's with."""
        return str(self._path("ca.pem"))

    def params(self, database: str | None = None, *, unix: bool = False) -> dict[str, Any]:
        """Return keyword arguments for `pymysql.connect`: TCP, or with `unix` the socket."""
        params: dict[str, Any] = {"user": self.user, "password": self.password}
        if unix:
            params["unix_socket"] = self.unix_socket
        else:
            params.update(host=self.host, port=self.port)
        if database is not None:
            params["database"] = database
        return params

    def url(self, database: str) -> str:
        """Return a DATABASE_URL."""
        return f"mysql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    # What root may ask, one statement at a time; the calls block

    def execute(self, sql: str, *args: Any, database: str | None = None) -> list[dict[str, Any]]:
        """Run one statement as root and return its rows."""
        with self._root_lock:
            if self._root is None or not self._root.open:
                self._root = self._connect()
            if database is not None:
                self._root.select_db(database)
            with self._root.cursor() as cursor:
                cursor.execute(sql, args or None)
                return list(cursor.fetchall())

    def create_database(self, name: str) -> None:
        """Create an empty database, in place of one of that name."""
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")

    def status(self, name: str) -> int:
        """Return a number of SHOW GLOBAL STATUS."""
        rows = self.execute("SHOW GLOBAL STATUS WHERE Variable_name = %s", name)
        return int(rows[0]["Value"])

    def processlist(self) -> list[dict[str, Any]]:
        """Return the rows of the connections, except root's and the server's own threads."""
        return self.execute(
            "SELECT * FROM information_schema.PROCESSLIST"
            " WHERE ID <> CONNECTION_ID() AND USER NOT IN ('system user', 'event_scheduler')"
        )

    # Inside

    def _connect(self, database: str | None = None) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            user="root",
            host=self.host,
            port=self._root_port,
            database=database,
            autocommit=True,
            ssl_disabled=True,
            init_command="SET wait_timeout = 86400",
            connect_timeout=20,
            read_timeout=60,
            cursorclass=pymysql.cursors.DictCursor,
        )

    def _path(self, name: str) -> Path:
        assert self.directory is not None, "the server is stopped"
        return self.directory / name

    def _install(self) -> None:
        base = tempfile.gettempdir()
        if len(base) > 60:  # a unix socket's path ends at 107 bytes
            base = "/tmp"
        self.directory = Path(tempfile.mkdtemp(prefix="greentor-mariadb-", dir=base))
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, str(self.directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        create_certificates(self.directory)
        command = [
            _binary("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self._path('data')}",
            # Servers that share one remove each other's files when they start.
            f"--tmpdir={self.directory}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *_user(),
            *OPTIONS,
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db failed:\n{done.stdout}{done.stderr}")

    def _free_port(self) -> int:
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            port = int(probe.getsockname()[1])
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", port))
            self.host6 = "::1"
        except OSError:
            self.host6 = None
        return port

    def _launch(self, timeout: float) -> None:
        assert self._process is None, "the server is already running"
        addresses = [address for address in (self.host, self.host6) if address]
        command = [
            _binary("mariadbd"),
            "--no-defaults",
            f"--datadir={self._path('data')}",
            f"--tmpdir={self.directory}",
            f"--socket={self.unix_socket}",
            f"--pid-file={self._path('pid')}",
            f"--bind-address={','.join(addresses)}",
            f"--port={self.port}",
            f"--extra-port={self._root_port}",
            "--extra-max-connections=10",
            f"--ssl-ca={self.ca}",
            f"--ssl-cert={self._path('cert.pem')}",
            f"--ssl-key={self._path('key.pem')}",
            f"--max-connections={self.max_connections}",
            *_user(),
            *OPTIONS,
            *self.options,
        ]
        with self._path("log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for its owner
            )
        self._tell_guard(str(self._process.pid))
        end = time.monotonic() + timeout
        while not self._answers():
            status = self._process.poll()
            if status is None and time.monotonic() < end:
                time.sleep(0.02)
                continue
            problem = "no answer" if status is None else f"it ended with {status}"
            self._end(signal.SIGKILL)
            raise RuntimeError(f"MariaDB did not start: {problem}\n{self._log()}")

    def _answers(self) -> bool:
        # PyMySQL leaves a socket open when nobody listens: look first.
        with socket.socket() as probe:
            if probe.connect_ex((self.host, self._root_port)):
                return False
        try:
            self._connect().close()
        except pymysql.OperationalError:
            return False
        return True

    def _log(self) -> str:
        path = self._path("log")
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-25:])

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # it may be paused
        if self._root is not None and self._root.open:
            self._root.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._tell_guard("")

    def _tell_guard(self, line: str) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        self._guard.stdin.write(line.encode() + b"\n")
        self._guard.stdin.flush()

    def _load_timezones(self) -> None:
        command = [_binary("mariadb-tzinfo-to-sql"), "--skip-write-binlog", "/usr/share/zoneinfo"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        with self._connect("mysql") as connection, connection.cursor() as cursor:
            for statement in done.stdout.split(";\n"):
                if statement.strip():
                    cursor.execute(statement)


def _binary(name: str) -> str:
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise RuntimeError(
            f"{name} is not installed (Debian: apt-get install mariadb-server-core mariadb-client)"
        )
    return path


def _user() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []
