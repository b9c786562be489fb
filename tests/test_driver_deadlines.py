"""`greentor.drivers.pymysql`: what limits a wait, at each place at which a connection waits.

A limit that strikes closes the connection, with the error that PyMySQL has for it.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from tests.certificates import create_certificates
from tests.mariadb import MariaDB
from tests.noise import Noise, undisturbed
from tests.proxy import Proxy, Way, sockets
from tests.scripted_server import OK, PUBLIC_KEY, Peer, ScriptedServer
from tests.waiting import await_until, until

LIMIT = 0.1
HOW = ["timeout", "deadline", "cancel"]


@pytest.fixture
def params(mariadb: MariaDB) -> dict[str, Any]:
    return {**mariadb.params("greentor"), "ssl_disabled": True}


def query(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def raised(fn: Callable[..., Any], *args: Any) -> tuple[type, Any]:
    """The type and the code of what a call raises."""
    try:
        fn(*args)
    except Exception as exc:
        return type(exc), exc.args[0] if exc.args else None
    raise AssertionError("nothing was raised")


async def strike(how: str, parked: Callable[[], bool], fn: Callable[..., Any], *args: Any) -> None:
    """Run ``fn`` until it waits at the right place, and have a limit that is not its own end that."""

    def within() -> None:
        with greentor.timeout(LIMIT if how == "deadline" else None):
            fn(*args)

    task = asyncio.create_task(bridge.run_in_scope("struck", within))
    await await_until(lambda: parked() or task.done())
    if how == "cancel":
        task.cancel()
    expected = {
        "timeout": pymysql.err.OperationalError,
        "deadline": bridge.DeadlineExceeded,
        "cancel": asyncio.CancelledError,
    }
    with pytest.raises(expected[how]) as info:
        await task
    if how == "timeout":
        assert info.value.args[0] in (2003, 2006, 2013)
        assert "timed out" in info.value.args[1]


# --- connecting -------------------------------------------------------------------------------


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """The address of a listener that answers nobody: others have taken all places in its queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        held = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            held.append(client)
        yield server.getsockname()
        for client in held:
            client.close()


def test_server_that_does_not_answer(run: Any, full: tuple[str, int]) -> None:
    def connect(connect: Callable[..., Any]) -> tuple[Any, ...]:
        before = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError) as info:
            connect(host=full[0], port=full[1], user="u", connect_timeout=LIMIT)
        assert LIMIT * 0.9 < time.monotonic() - before < 8  # by default 10 s; the kernel's is 130 s
        return info.value.args

    theirs = connect(pymysql.connect)
    assert theirs == (2003, "Can't connect to MySQL server on '127.0.0.1' (timed out)")
    assert run(greentor.green(connect), driver.connect) == theirs


def silent_after_login(peer: Peer) -> None:
    peer.server.log.append("there")
    peer.silence()


def silent_after_switch(peer: Peer) -> None:
    peer.switch("mysql_native_password", peer.nonce + b"\0")
    silent_after_login(peer)


def silent_before_key(peer: Peer) -> None:
    peer.more(b"\4")
    assert peer.read() == b"\2"
    silent_after_login(peer)


def silent_after_key(peer: Peer) -> None:
    peer.more(b"\4")
    assert peer.read() == b"\2"
    peer.more(PUBLIC_KEY)
    peer.read()
    silent_after_login(peer)


def silent_in_dialog(peer: Peer) -> None:
    peer.switch("dialog", b"\2Password: ")
    peer.send(b"\2Password: ")
    peer.read()
    silent_after_login(peer)


def silent_at_first_command(peer: Peer) -> None:
    peer.send(OK)
    peer.read()
    silent_after_login(peer)


def silent_at_init_command(peer: Peer) -> None:
    peer.send(OK)
    while b"init" not in peer.read():
        peer.send(OK)
    silent_after_login(peer)


SILENT = {
    "caching_sha2_password": [silent_before_key, silent_after_key],
    "mysql_native_password": [
        silent_after_login,
        silent_after_switch,
        silent_in_dialog,
        silent_at_first_command,
        silent_at_init_command,
    ],
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("plugin", "script"), [(name, script) for name, scripts in SILENT.items() for script in scripts]
)
def test_silence_in_a_login(run: Any, plugin: str, script: Any, how: str) -> None:
    async def main() -> None:
        before = len(sockets())
        with ScriptedServer(script, plugin=plugin) as server:
            limit = LIMIT if how == "timeout" else 30
            kwargs = {**server.params(), "connect_timeout": limit, "init_command": "DO 'init'"}
            await strike(how, lambda: "there" in server.log, lambda: driver.connect(**kwargs))
        await await_until(lambda: len(sockets()) <= before)

    run(main)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("reply", [b"", b"\x16\x03\x03"], ids=["nothing", "half"])
def test_silence_in_the_tls_handshake(run: Any, tmp_path: Path, how: str, reply: bytes) -> None:
    ca, _, _ = create_certificates(tmp_path)

    class Mute:
        """A context whose handshake stops after the client's hello."""

        def wrap_socket(self, sock: socket.socket, server_side: bool) -> Any:
            assert sock.recv(65536)
            sock.sendall(reply)
            server.log.append("there")
            while sock.recv(65536):
                pass
            raise ssl.SSLError("over")

    async def main() -> None:
        before = len(sockets())
        limit = LIMIT if how == "timeout" else 30
        with server:
            kwargs = {**server.params(), "connect_timeout": limit, "ssl_ca": str(ca)}
            await strike(how, lambda: "there" in server.log, lambda: driver.connect(**kwargs))
        await await_until(lambda: len(sockets()) <= before)

    server = ScriptedServer(silent_after_login, tls=Mute())  # type: ignore[arg-type]
    run(main)


# --- an open connection -----------------------------------------------------------------------


def in_rows(connection: Any) -> Iterator[None]:
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_5000")
    cursor.fetchone()
    yield
    try:
        cursor.fetchall()
    finally:
        cursor._result.unbuffered_active = False  # or PyMySQL reads on from its __del__


def at_the_end_of_a_cursor(connection: Any) -> Iterator[None]:
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_5000")
    yield
    try:
        cursor.close()
    finally:
        cursor._result.unbuffered_active = False  # or PyMySQL reads on from its __del__


def at_the_next_result(connection: Any) -> Iterator[None]:
    cursor = connection.cursor()
    cursor.execute("SELECT 1; SELECT SLEEP(0.01), REPEAT('x', 4000000)")
    yield
    cursor.nextset()


def calls(fn: Callable[[Any], Any]) -> Callable[[Any], Iterator[None]]:
    def steps(connection: Any) -> Iterator[None]:
        yield
        fn(connection)

    return steps


READS: dict[str, Callable[[Any], Iterator[None]]] = {
    "query": calls(lambda connection: query(connection, "SELECT 1")),
    "large row": calls(lambda connection: query(connection, "SELECT REPEAT('x', 12000000)")),
    "rows": in_rows,
    "end of a cursor": at_the_end_of_a_cursor,
    "next result": at_the_next_result,
    "commit": calls(lambda connection: connection.commit()),
    "ping": calls(lambda connection: connection.ping(reconnect=False)),
    "select_db": calls(lambda connection: connection.select_db("greentor")),
    "set_character_set": calls(lambda connection: connection.set_character_set("latin1")),
    "procedure": calls(lambda connection: connection.cursor().callproc("nowhere")),
    "kill": calls(lambda connection: connection.kill(1)),
    "show_warnings": calls(lambda connection: connection.show_warnings()),
    "many": calls(lambda connection: connection.cursor().executemany("DO %s", [(1,), (2,)])),
    "LOAD DATA": calls(
        lambda connection: query(connection, "LOAD DATA LOCAL INFILE '/dev/null' INTO TABLE x")
    ),
}


class Session:
    """A connection through a proxy, that waits in one of `READS` for bytes that do not come."""

    def __init__(self, connect: Callable[..., Any], params: Any, mariadb: MariaDB) -> None:
        self.proxy = Proxy(mariadb.host, mariadb.port)
        self._connect = connect
        self._params = {**params, "local_infile": True, "client_flag": CLIENT.MULTI_STATEMENTS}

    def __enter__(self) -> "Session":
        self.proxy.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.proxy.__exit__(*exc_info)

    def open(self, **kwargs: Any) -> Any:
        self.connection = self._connect(**{**self._params, "port": self.proxy.port, **kwargs})
        return self.connection

    def stall(self, name: str) -> Callable[[], Any]:
        """Prepare one of the reads, and return the rest of it."""
        steps = READS[name](self.connection)
        next(steps)
        down = self.proxy.down
        down.stall_after = down.carried + (200_000 if name == "large row" else 0)
        return lambda: next(steps)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", READS)
def test_silence_of_the_server(
    run: Any, params: Any, mariadb: MariaDB, name: str, how: str
) -> None:
    timeouts = {"read_timeout": LIMIT} if how == "timeout" else {}

    async def main() -> None:
        with Session(driver.connect, params, mariadb) as session:
            connection = await bridge.run_in_scope("o", lambda: session.open(**timeouts))
            wait = await bridge.run_in_scope("stall", session.stall, name)
            await strike(how, lambda: connection._stream._need > 0, wait)
            assert not connection.open
            assert not connection.alive
            refused = await bridge.run_in_scope("again", raised, query, connection, "SELECT 1")
            assert refused[0] is pymysql.err.InterfaceError

    run(main)
    if how == "timeout":
        with Session(pymysql.connect, params, mariadb) as session:
            session.open(**timeouts)
            assert raised(session.stall(name)) == (pymysql.err.OperationalError, 2013)


def test_silence_of_the_reader(run: Any, params: Any, mariadb: MariaDB, tmp_path: Path) -> None:
    # Of a statement there are tests; in LOAD DATA each packet is a write of its own.
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)

    def load(connect: Callable[..., Any]) -> Any:
        with Session(connect, params, mariadb) as session:
            connection = session.open(write_timeout=LIMIT)
            query(connection, "CREATE OR REPLACE TEMPORARY TABLE large (body LONGBLOB)")
            session.proxy.up.stall_after = session.proxy.up.carried + 300_000
            result = raised(query, connection, f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE large")
            assert not connection.open
            session.proxy.up.stall_after = None
            return result

    assert run(greentor.green(load), driver.connect) == (pymysql.err.OperationalError, 2006)


# --- slow, but not silent ---------------------------------------------------------------------


class trickle:
    """Let a way carry so many bytes now and then, for as long as the ``with`` block lasts."""

    def __init__(self, way: Way, size: int, seconds: float) -> None:
        self._way, self._size, self._seconds = way, size, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._way.stall_after = self._way.carried
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._way.stall_after = self._way.carried + self._size
        self._way.stall_after = None

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def security(request: pytest.FixtureRequest, mariadb: MariaDB) -> dict[str, Any]:
    return {"ssl_disabled": False, "ssl_ca": mariadb.ca} if request.param else {}


def test_read_timeout_is_for_silence_not_for_a_slow_row(
    run: Any, params: Any, mariadb: MariaDB, security: Any
) -> None:
    def read(connect: Callable[..., Any]) -> int:
        with Session(connect, {**params, **security}, mariadb) as session:
            connection = session.open(read_timeout=0.2)
            before = time.monotonic()
            with trickle(session.proxy.down, 40_000, 0.02):
                [[text]] = query(connection, "SELECT REPEAT('x', 600000)")
            assert time.monotonic() - before > 0.3
            connection.close()
            return len(text)

    # A machine that stands still for longer than the limit is silence as well.
    assert undisturbed(lambda: read(pymysql.connect), 0.1) == 600_000
    assert undisturbed(lambda: run(greentor.green(read), driver.connect), 0.1) == 600_000


def test_write_timeout_is_for_the_whole_of_a_packet(
    run: Any, params: Any, mariadb: MariaDB, security: Any
) -> None:
    def write(connect: Callable[..., Any]) -> Any:
        with Session(connect, {**params, **security}, mariadb) as session:
            connection = session.open(write_timeout=0.2)
            before = time.monotonic()
            with Noise() as noise, trickle(session.proxy.up, 200_000, 0.02):
                result = raised(query, connection, "DO LENGTH('{}')".format("x" * 15_000_000))
            took = time.monotonic() - before
            assert took < 1.2 + noise.total  # all of it would take 1.5 s
            assert not connection.open
            return result

    assert write(pymysql.connect) == (pymysql.err.OperationalError, 2006)
    assert run(greentor.green(write), driver.connect) == (pymysql.err.OperationalError, 2006)


def test_limit_of_one_call_is_not_left_to_the_next(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params, read_timeout=0.3, write_timeout=0.3)
        for _ in range(3):
            assert query(connection, "SELECT SLEEP(0.15)") == ((0,),)
            greentor.sleep(0.1)
        assert connection.alive
        until(lambda: connection.quiet)
        connection.close()

    undisturbed(lambda: run(main), 0.05)
