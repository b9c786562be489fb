"""`greentor.drivers.pymysql`: connecting by every way, and failing as blocking PyMySQL fails."""

import asyncio
import gc
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from greentor.drivers import tls as contexts
from tests.certificates import create_certificates
from tests.mariadb import MariaDB
from tests.proxy import Proxy, sockets
from tests.waiting import await_until

PREFERS_TLS = pymysql.VERSION >= (1, 2)


@pytest.fixture
def params(mariadb: MariaDB) -> dict[str, Any]:
    return mariadb.params("greentor")


def ask(sql: str, **kwargs: Any) -> Any:
    """In a greenlet, or blocking: open a connection, run one statement, return its first row."""
    connection = driver.connect(**kwargs)
    with connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


def cipher(**kwargs: Any) -> str:
    return str(ask("SHOW SESSION STATUS LIKE 'Ssl_cipher'", **kwargs)[1])


# --- ways to the server -----------------------------------------------------------------------


def test_tcp_v4(run: Any, params: Any) -> None:
    assert run(greentor.green(ask), "SELECT 1", **params) == (1,)


def test_tcp_v6(run: Any, params: Any, mariadb: MariaDB) -> None:
    if mariadb.host6 is None:
        pytest.skip("no IPv6 here")
    row = run(greentor.green(ask), "SELECT USER()", **{**params, "host": mariadb.host6})
    assert row == ("greentor@::1",)


def test_host_by_name(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**{**params, "host": "localhost"})
        assert connection.host_info == f"socket localhost:{params['port']}"
        connection.close()

    run(main)


def test_unix_socket_counts_as_secure(run: Any, mariadb: MariaDB) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**mariadb.params("greentor", unix=True), ssl_disabled=True)
        assert connection.host_info == "Localhost via UNIX socket"
        assert connection._secure
        connection.ping(reconnect=False)
        connection.close()

    run(main)


def test_bind_address(run: Any, params: Any) -> None:
    row = run(
        greentor.green(ask),
        "SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()",
        **params,
        bind_address="127.0.0.3",
    )
    assert row[0].startswith("127.0.0.3:")


def test_deferred_connect_and_init_command(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(
            **params, defer_connect=True, init_command="SET @a = 5", autocommit=True
        )
        assert not connection.open
        assert not connection.alive
        connection.connect()
        assert connection.get_autocommit()
        with connection.cursor() as cursor:
            cursor.execute("SELECT @a")
            assert cursor.fetchone() == (5,)
        connection.close()

    run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_handshake_byte_by_byte(run: Any, params: Any, mariadb: MariaDB, tls: bool) -> None:
    with Proxy(mariadb.host, mariadb.port) as proxy:
        proxy.up.piece = proxy.down.piece = 1
        row = run(
            greentor.green(ask),
            "SELECT REPEAT('x', 500), 1",
            **{**params, "host": proxy.host, "port": proxy.port, "ssl_disabled": not tls},
            **({"ssl": {"ca": mariadb.ca, "check_hostname": False}} if tls else {}),
        )
        assert row == ("x" * 500, 1)


# --- TLS --------------------------------------------------------------------------------------


def test_tls_is_used_where_the_server_offers_it(run: Any, params: Any) -> None:
    used = run(greentor.green(cipher), **params)
    assert bool(used) == PREFERS_TLS
    assert bool(cipher(**params)) == PREFERS_TLS


def test_tls_disabled(run: Any, params: Any) -> None:
    assert run(greentor.green(cipher), **params, ssl_disabled=True) == ""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize(
    "make",
    [
        lambda ca: {"ssl_ca": ca},
        lambda ca: {"ssl_ca": ca, "ssl_verify_cert": True, "ssl_verify_identity": True},
        lambda ca: {"ssl": {"ca": ca, "check_hostname": True}},
        lambda ca: {"ssl": ssl.create_default_context(cafile=ca)},
    ],
    ids=["ca", "verify", "dict", "context"],
)
def test_tls_verified(run: Any, params: Any, mariadb: MariaDB, host: str, make: Any) -> None:
    assert run(greentor.green(cipher), **{**params, "host": host, **make(mariadb.ca)})


def test_tls_with_another_authority_is_refused_as_by_pymysql(
    run: Any, params: Any, tmp_path: Path
) -> None:
    ca, _, _ = create_certificates(tmp_path)
    kwargs = {**params, "ssl_ca": str(ca), "ssl_verify_cert": True}
    ours, theirs = both(run, lambda connect: connect(**kwargs))
    assert_same(ours, theirs, pymysql.err.OperationalError, 2003, "CERTIFICATE_VERIFY_FAILED")
    assert isinstance(ours.original_exception, ssl.SSLCertVerificationError)


def test_tls_with_another_name_is_refused(run: Any, params: Any, mariadb: MariaDB) -> None:
    kwargs = {**params, "ssl_ca": mariadb.ca, "ssl_verify_cert": True, "ssl_verify_identity": True}
    with Proxy(mariadb.host, mariadb.port) as proxy:
        assert run(greentor.green(cipher), **{**kwargs, "port": proxy.port})
    with socket.create_server(("127.0.0.2", 0)) as front:
        threading.Thread(target=forward_once, args=(front, mariadb), daemon=True).start()
        with pytest.raises(pymysql.err.OperationalError, match="127.0.0.2") as info:
            host, port = front.getsockname()
            run(greentor.green(driver.connect), **{**kwargs, "host": host, "port": port})
        assert "CERTIFICATE_VERIFY_FAILED" in str(info.value)


def forward_once(front: socket.socket, mariadb: MariaDB) -> None:
    client, _ = front.accept()
    server = socket.create_connection((mariadb.host, mariadb.port))

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    other = threading.Thread(target=copy, args=(server, client), daemon=True)
    other.start()
    copy(client, server)
    other.join(5)
    client.close()
    server.close()


def test_one_ssl_context_for_each_configuration(run: Any, params: Any, mariadb: MariaDB) -> None:
    @greentor.green
    def main() -> None:
        one, two, verified, dictionary = (
            driver.connect(**params, **kwargs)
            for kwargs in (
                {"ssl_ca": mariadb.ca},
                {"ssl_ca": mariadb.ca},
                {"ssl_ca": mariadb.ca, "ssl_verify_cert": True},
                {"ssl": {"ca": mariadb.ca, "check_hostname": False, "x": object()}},
            )
        )
        assert one.ctx is two.ctx
        assert one.ctx is not verified.ctx
        assert one.ctx.context is not dictionary.ctx.context
        for connection in (one, two, verified, dictionary):
            connection.close()

    run(main)


def test_certificate_that_is_replaced_on_disk_makes_a_new_context_in_place_of_the_old(
    run: Any, params: Any, mariadb: MariaDB, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    shutil.copy(mariadb.ca, ca)
    kwargs = {**params, "ssl_ca": str(ca), "ssl_verify_cert": True}

    @greentor.green
    def main() -> None:
        first = driver.connect(**kwargs)
        count = len(contexts._contexts)
        for _ in range(3):
            other = tmp_path / "other"
            shutil.copy(mariadb.ca, other)
            stat = os.stat(ca)
            os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `cp --preserve` does
            os.replace(other, ca)
            second = driver.connect(**kwargs)
            assert second.ctx is not first.ctx
            second.close()
        assert len(contexts._contexts) == count
        wrong, _, _ = create_certificates(tmp_path)  # another authority, at the same path
        assert wrong == ca
        with pytest.raises(pymysql.err.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            driver.connect(**kwargs)
        first.ping(reconnect=False)
        first.close()

    run(main)


# --- outside greenlets ------------------------------------------------------------------------


def test_outside_a_greenlet_it_is_blocking_pymysql(params: Any, run: Any) -> None:
    connection = driver.connect(**params)
    try:
        assert connection._stream is None
        assert type(connection._sock).__module__ in ("socket", "ssl")
        assert type(connection.cursor(pymysql.cursors.SSCursor)) is pymysql.cursors.SSCursor
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchall() == ((1,),)

        @greentor.green
        def main() -> Any:  # and so it stays, in a greenlet, too
            with connection.cursor() as cursor:
                cursor.execute("SELECT 2")
                return cursor.fetchone()

        assert run(main) == (2,)
        assert connection.alive
        assert connection.quiet
        assert not connection.in_transaction
        connection.begin()
        assert connection.in_transaction
    finally:
        connection.close()
    with pytest.raises(pymysql.err.Error, match="Already closed"):
        connection.close()


def test_blocking_use_in_a_thread_beside_the_loop(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> Any:
        return greentor.thread(ask, "SELECT 3", **params)

    assert run(main) == (3,)


def test_opened_in_a_greenlet_used_outside_is_refused_and_stays_usable(
    run: Any, params: Any
) -> None:
    async def main() -> None:
        connection = await bridge.run_in_scope("open", driver.connect, **params)
        cursor = connection.cursor()
        with pytest.raises(bridge.NotGreen, match="greentor.green"):
            cursor.execute("SELECT 'never sent'")
        assert connection.alive

        def use() -> Any:
            cursor.execute("SELECT 'sent'")
            return cursor.fetchall()

        assert await bridge.run_in_scope("use", use) == (("sent",),)
        connection.close()

    run(main)


# --- failing as PyMySQL does ------------------------------------------------------------------


def both(run: Any, fn: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What ``fn(connect)`` raises in a greenlet, and what with blocking PyMySQL."""

    def call(connect: Any) -> BaseException | None:
        try:
            fn(connect)
        except Exception as exc:
            return exc
        return None

    return run(greentor.green(call), driver.connect), call(pymysql.connect)


def assert_same(ours: Any, theirs: Any, cls: type, code: int, text: str) -> None:
    assert type(ours) is type(theirs) is cls
    assert ours.args[0] == theirs.args[0] == code
    assert text in ours.args[1]
    assert text in theirs.args[1]


def test_connection_refused(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ours, theirs = both(run, lambda connect: connect(host="127.0.0.1", port=port))
    text = "Can't connect to MySQL server on '127.0.0.1' ([Errno 111] Conn"
    assert_same(ours, theirs, pymysql.err.OperationalError, 2003, text)
    assert isinstance(ours.original_exception, ConnectionRefusedError)
    assert "Traceback" in ours.traceback


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_no_such_unix_socket(run: Any, tmp_path: Path) -> None:
    ours, theirs = both(run, lambda connect: connect(unix_socket=str(tmp_path / "none")))
    text = "Can't connect to MySQL server on 'localhost' ([Errno 2] No such file or directory"
    assert_same(ours, theirs, pymysql.err.OperationalError, 2003, text)
    del theirs  # blocking PyMySQL has left its socket to the garbage collector
    gc.collect()


def test_unknown_host(run: Any) -> None:
    ours, theirs = both(run, lambda connect: connect(host="nowhere.invalid"))
    text = "Can't connect to MySQL server on 'nowhere.invalid' ([Errno -"
    assert_same(ours, theirs, pymysql.err.OperationalError, 2003, text)


def test_host_that_is_no_name(run: Any) -> None:
    ours, theirs = both(run, lambda connect: connect(host="a" * 70 + ".example"))
    assert type(ours) is type(theirs)


def test_wrong_password(run: Any, params: Any) -> None:
    kwargs = {**params, "password": "wrong"}
    ours, theirs = both(run, lambda connect: connect(**kwargs))
    assert_same(ours, theirs, pymysql.err.OperationalError, 1045, "Access denied for user")


def test_unknown_database(run: Any, params: Any) -> None:
    kwargs = {**params, "database": "nowhere"}
    ours, theirs = both(run, lambda connect: connect(**kwargs))
    assert_same(ours, theirs, pymysql.err.OperationalError, 1049, "Unknown database 'nowhere'")


def test_wrong_init_command(run: Any, params: Any) -> None:
    kwargs = {**params, "init_command": "no sql"}
    ours, theirs = both(run, lambda connect: connect(**kwargs))
    assert_same(ours, theirs, pymysql.err.ProgrammingError, 1064, "syntax")


@pytest.mark.skipif(not PREFERS_TLS, reason="before 1.2 PyMySQL goes on in plain text")
def test_tls_required_of_a_server_without_it(run: Any, params: Any, mariadb: MariaDB) -> None:
    with fake_server(b"") as port:
        kwargs = {"host": "127.0.0.1", "port": port, "user": "u", "ssl_ca": mariadb.ca}
        ours, theirs = both(run, lambda connect: connect(**kwargs))
    assert_same(ours, theirs, pymysql.err.OperationalError, 2026, "SSL is required")


def test_too_many_connections(run: Any, params: Any, mariadb: MariaDB) -> None:
    held = []
    try:
        with pytest.raises(pymysql.err.OperationalError):
            while True:
                held.append(pymysql.connect(**params))
        ours, theirs = both(run, lambda connect: connect(**params))
        assert_same(ours, theirs, pymysql.err.OperationalError, 1040, "Too many connections")
    finally:
        for connection in held:
            connection.close()


# The handshake of a server without TLS, then whatever a test adds.
GREETING = (
    b"\x0a5.7.0\0"
    + b"\1\0\0\0"
    + b"saltsalt\0"
    + b"\xff\xf7"
    + b"\x21"
    + b"\2\0"
    + b"\x0f\0"
    + b"\x15"
    + bytes(10)
    + b"saltsaltsalt\0"
    + b"mysql_native_password\0"
)


class fake_server:
    """Greet everybody as a server without TLS would, add ``more``, and be silent."""

    def __init__(self, more: bytes, greeting: bytes | None = GREETING) -> None:
        packet = b"" if greeting is None else len(greeting).to_bytes(3, "little") + b"\0" + greeting
        self._data = packet + more

    def __enter__(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()
        return int(self._listener.getsockname()[1])

    def _serve(self) -> None:
        try:
            while True:
                peer, _ = self._listener.accept()
                peer.sendall(self._data)
                self._peers.append(peer)
        except OSError:
            pass

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            peer.close()


@pytest.mark.parametrize("greeting", [None, GREETING[:20], GREETING], ids=["none", "half", "whole"])
def test_silent_server_is_bounded_by_connect_timeout(run: Any, greeting: Any) -> None:
    if greeting is not None and len(greeting) < len(GREETING):
        more, greeting = len(GREETING).to_bytes(3, "little") + b"\0" + greeting, None
    else:
        more = b""
    with fake_server(more, greeting) as port:

        @greentor.green
        def main() -> None:
            before = len(sockets())
            with pytest.raises(pymysql.err.OperationalError) as info:
                driver.connect(host="127.0.0.1", port=port, user="u", connect_timeout=0.1)
            assert info.value.args[0] == 2013
            assert "timed out" in info.value.args[1]
            with (
                pytest.raises(bridge.DeadlineExceeded),
                greentor.timeout(0.1),
            ):
                driver.connect(host="127.0.0.1", port=port, user="u", connect_timeout=30)
            # The server's ends of the two connections are sockets of this process, too.
            greentor.await_(await_until(lambda: len(sockets()) == before + 2))

        run(main)


def test_plain_text_before_tls_is_refused(run: Any, mariadb: MariaDB) -> None:
    tls = bytearray(GREETING)
    tls[tls.index(b"\xff\xf7") + 1] |= 0x08  # the server has TLS
    packet = b"\x07\0\0\x02\0\0\0\2\0\0\0"  # an OK that somebody on the way has added
    with fake_server(packet, bytes(tls)) as port:
        with pytest.raises(pymysql.err.OperationalError, match="before the TLS handshake") as info:
            run(
                greentor.green(driver.connect),
                host="127.0.0.1",
                port=port,
                user="u",
                ssl_ca=mariadb.ca,
                connect_timeout=5,
            )
        assert info.value.args[0] == 2003


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return request.param


def login_length(mariadb: MariaDB, params: Any, tls: bool) -> tuple[int, int]:
    """How many bytes a login takes, up and down."""
    with Proxy(mariadb.host, mariadb.port) as proxy:
        kwargs = via(proxy, params, mariadb, tls)
        driver.connect(**kwargs)._force_close()
        proxy.wait_closed()
        return proxy.up.carried, proxy.down.carried


def via(proxy: Proxy, params: Any, mariadb: MariaDB, tls: bool) -> dict[str, Any]:
    kwargs = {**params, "host": proxy.host, "port": proxy.port}
    kwargs.update({"ssl_ca": mariadb.ca} if tls else {"ssl_disabled": True})
    return kwargs


def test_cut_at_any_byte_of_the_login_is_an_operational_error(
    run: Any, params: Any, mariadb: MariaDB, tls: bool
) -> None:
    _, length = login_length(mariadb, params, tls)
    points = range(0, length - 40, max(length // 25, 1))

    @greentor.green
    def main() -> None:
        before = len(sockets())
        for point in points:
            with Proxy(mariadb.host, mariadb.port) as proxy:
                proxy.down.cut_after = point or 1
                with pytest.raises(pymysql.err.OperationalError) as info:
                    driver.connect(**via(proxy, params, mariadb, tls), connect_timeout=5)
                assert info.value.args[0] in (2003, 2013), info.value
        greentor.await_(await_until(lambda: len(sockets()) <= before))

    run(main)


@pytest.mark.parametrize("how", ["cancel", "deadline", "collect"])
def test_login_interrupted_at_any_byte_leaves_nothing(
    run: Any, params: Any, mariadb: MariaDB, tls: bool, how: str
) -> None:
    _, length = login_length(mariadb, params, tls)
    points = range(0, length - 40, max(length // 12, 1))

    async def main() -> None:
        before = len(sockets())
        for point in points:
            with Proxy(mariadb.host, mariadb.port) as proxy:
                proxy.down.stall_after = point
                kwargs = via(proxy, params, mariadb, tls)

                def stalled(proxy: Proxy = proxy, point: int = point) -> bool:
                    return proxy.accepted == 1 and proxy.down.carried == point

                if how == "collect":
                    coroutine = bridge.run_in_scope("c", driver.connect, **kwargs)
                    await asyncio.create_task(step_until(coroutine, stalled))
                    coroutine.close()
                else:
                    task = asyncio.create_task(
                        bridge.run_in_scope("c", connect_within, how, kwargs)
                    )
                    if how == "cancel":
                        await await_until(stalled)
                        task.cancel()
                    expected = (
                        asyncio.CancelledError if how == "cancel" else bridge.DeadlineExceeded
                    )
                    with pytest.raises(expected):
                        await task
                await await_until(lambda proxy=proxy: not proxy.open)
        await await_until(lambda: len(sockets()) <= before)
        assert await bridge.run_in_scope("after", ask, "SELECT 1", **params) == (1,)

    run(main)


def connect_within(how: str, kwargs: Any) -> None:
    with greentor.timeout(0.1 if how == "deadline" else None):
        driver.connect(**kwargs)


async def step_until(coroutine: Any, condition: Callable[[], bool]) -> None:
    """Step a coroutine by hand, as its task would, and leave it parked when the condition holds."""
    future = coroutine.send(None)
    while not condition() or future.done():
        if not future.done():
            await asyncio.sleep(0.001)
            continue
        future._asyncio_future_blocking = False
        future = coroutine.send(None)
