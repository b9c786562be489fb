"""`greentor.drivers.pymysql`: every way to prove who one is, as blocking PyMySQL proves it.

MariaDB knows some of them. For the others a server of the tests' own plays the other half of the login.
"""

import inspect
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from tests.certificates import create_certificates
from tests.mariadb import MariaDB
from tests.scripted_server import (
    PASSWORD,
    PUBLIC_KEY,
    Denied,
    Peer,
    Script,
    ScriptedServer,
    check_clear,
    check_native,
    check_rsa,
    check_sha2,
)

#: 1.2.4 answers packets of a login in whatever order they come
IS_STATE_MACHINE = (
    "handler" in inspect.signature(pymysql.connections.Connection._process_auth).parameters
)


# --- scripts ----------------------------------------------------------------------------------


def native(peer: Peer) -> None:
    check_native(peer.answer, peer.nonce)


def switch_to_native(peer: Peer) -> None:
    check_native(peer.switch("mysql_native_password", peer.nonce + b"\0"), peer.nonce)


def sha2_fast(peer: Peer) -> None:
    check_sha2(peer.answer, peer.nonce)
    peer.more(b"\3")


def sha2_full(peer: Peer) -> None:
    check_sha2(peer.answer, peer.nonce)
    _sha2_full(peer, peer.nonce)


def _sha2_full(peer: Peer, nonce: bytes) -> None:
    peer.more(b"\4")
    if peer.secure:
        check_clear(peer.read("clear"))
        return
    answer = peer.read()
    if answer == b"\2":
        peer.server.log.append("key?")
        peer.more(PUBLIC_KEY)
        answer = peer.read()
    peer.server.log.append("rsa")
    check_rsa(answer, nonce)


def switch_to_sha2_fast(peer: Peer) -> None:
    nonce = peer.nonce[::-1]
    check_sha2(peer.switch("caching_sha2_password", nonce + b"\0"), nonce)
    peer.more(b"\3")


def switch_to_sha2_full(peer: Peer) -> None:
    nonce = peer.nonce[::-1]
    check_sha2(peer.switch("caching_sha2_password", nonce + b"\0"), nonce)
    _sha2_full(peer, nonce)


def sha2_full_then_native(peer: Peer) -> None:
    """As MySQL's router does."""
    sha2_full(peer)
    switch_to_native(peer)


def sha2_nonsense(peer: Peer) -> None:
    peer.more(b"\x09")
    peer.silence()


def sha256(peer: Peer) -> None:
    if peer.secure:
        check_clear(peer.answer)
        return
    assert peer.answer == b"\1"
    peer.server.log.append("key?")
    peer.more(PUBLIC_KEY)
    check_rsa(peer.read("rsa"), peer.nonce)


def switch_to_sha256(peer: Peer) -> None:
    nonce = peer.nonce[::-1]
    answer = peer.switch("sha256_password", nonce + b"\0")
    if peer.secure:
        check_clear(answer)
        return
    if answer == b"\1":
        peer.server.log.append("key?")
        peer.more(PUBLIC_KEY)
        answer = peer.read()
    peer.server.log.append("rsa")
    check_rsa(answer, nonce)


def no_password(peer: Peer) -> None:
    if peer.answer.strip(b"\0"):
        raise Denied("there is none")


def switch_to_clear(peer: Peer) -> None:
    check_clear(peer.switch("mysql_clear_password"))


def switch_to_old(peer: Peer) -> None:
    peer.switch("mysql_old_password", peer.nonce[:8] + b"\0")


def dialog_password(peer: Peer) -> None:
    check_clear(peer.switch("dialog", b"\4Password: "))


def dialog_questions(peer: Peer) -> None:
    first = peer.switch("dialog", b"\2Who are you? ")
    peer.send(b"\3And how old? ")  # the last one
    second = peer.read("second")
    if (first, second) != (b"2: Who are you? \0", b"2: And how old? \0"):
        raise Denied(f"{first!r} {second!r}")


def switch_to_own(peer: Peer) -> None:
    if peer.switch("own_plugin", b"some data") != b"some data reversed: atad emos":
        raise Denied("own")


def switch_to_unknown(peer: Peer) -> None:
    peer.switch("nobody_knows", b"data")


def denied(peer: Peer) -> None:
    raise Denied("as always")


def two_switches(peer: Peer) -> None:
    switch_to_native(peer)
    switch_to_native(peer)


# --- plugins of the user ----------------------------------------------------------------------


class Own:
    """Speaks for itself, with the connection's own packets, and so parks in a greenlet."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def authenticate(self, packet: Any) -> Any:
        data = packet.read_all()
        self.connection.write_packet(data + b" reversed: " + data[::-1])
        return self.connection._read_packet()


class Failing(Own):
    def authenticate(self, packet: Any) -> Any:
        raise ZeroDivisionError("in a plugin of the user")


class Dialog:
    def __init__(self, connection: Any) -> None:
        pass

    def prompt(self, echo: bool, prompt: bytes) -> bytes:
        return b"%d: %b" % (2 if echo else 4, prompt)


class WrongDialog(Dialog):
    def prompt(self, echo: bool, prompt: bytes) -> Any:
        return 5

    def __repr__(self) -> str:
        return "<the same each time>"


class Unfit:
    """Takes no connection."""


# --- the cases --------------------------------------------------------------------------------

SHA2, SHA256 = "caching_sha2_password", "sha256_password"
WRONG = {"password": "wrong"}
EMPTY = {"password": ""}
KNOWN_KEY = {"server_public_key": PUBLIC_KEY}

#: script, plugin of the greeting, wire, further arguments; what the client has to send, or an error's code
CASES: dict[str, tuple[Script, str, str, dict[str, Any], Any]] = {
    "native": (native, "mysql_native_password", "tcp", {}, []),
    "native, greeting without a plugin": (native, "", "tcp", {}, []),
    "native, wrong": (native, "mysql_native_password", "tcp", WRONG, 1045),
    "native after a switch": (switch_to_native, SHA2, "tcp", {}, ["switched"]),
    "sha2, fast": (sha2_fast, SHA2, "tcp", {}, []),
    "sha2, fast, after a switch": (switch_to_sha2_fast, "", "tcp", {}, ["switched"]),
    "sha2, full, TLS": (sha2_full, SHA2, "tls", {}, ["clear"]),
    "sha2, full, unix socket": (sha2_full, SHA2, "unix", {}, ["clear"]),
    "sha2, full, RSA": (sha2_full, SHA2, "tcp", {}, ["key?", "rsa"]),
    "sha2, full, RSA, key known": (sha2_full, SHA2, "tcp", KNOWN_KEY, ["rsa"]),
    "sha2, full, TLS, after a switch": (
        switch_to_sha2_full,
        "mysql_native_password",
        "tls",
        {},
        ["switched", "clear"],
    ),
    "sha2, full, RSA, after a switch": (
        switch_to_sha2_full,
        "mysql_native_password",
        "tcp",
        {},
        ["switched", "key?", "rsa"],
    ),
    "sha2, then native": (
        sha2_full_then_native,
        SHA2,
        "tcp",
        {},
        ["key?", "rsa", "switched"] if IS_STATE_MACHINE else None,
    ),
    "sha2, wrong": (sha2_fast, SHA2, "tcp", WRONG, 1045),
    "sha2, no password": (no_password, SHA2, "tcp", EMPTY, []),
    "sha2, an answer that does not exist": (sha2_nonsense, SHA2, "tcp", {}, "caching sha2"),
    "sha256, TLS": (sha256, SHA256, "tls", {}, []),
    "sha256, RSA": (sha256, SHA256, "tcp", {}, ["key?", "rsa"]),
    "sha256, RSA, after a switch": (switch_to_sha256, "", "tcp", {}, ["switched", "key?", "rsa"]),
    "sha256, key known, after a switch": (
        switch_to_sha256,
        "",
        "tcp",
        KNOWN_KEY,
        ["switched", "rsa"],
    ),
    "sha256, unix socket, after a switch": (switch_to_sha256, "", "unix", {}, ["switched"]),
    "sha256, wrong": (sha256, SHA256, "tcp", WRONG, 1045),
    "sha256, no password": (no_password, SHA256, "tcp", EMPTY, []),
    "clear text, TLS": (switch_to_clear, "", "tls", {}, ["switched"]),
    "clear text, without TLS": (switch_to_clear, "", "tcp", {}, ["switched"]),
    "before 4.1, which PyMySQL has lost": (switch_to_old, "", "tcp", {}, AttributeError),
    "dialog, the password": (dialog_password, "", "tcp", {}, ["switched"]),
    "dialog, questions": (
        dialog_questions,
        "",
        "tcp",
        {"auth_plugin_map": {"dialog": Dialog}},
        ["switched", "second"],
    ),
    "dialog, questions, nobody to ask": (dialog_questions, "", "tcp", {}, 2059),
    "dialog, answers that are none": (
        dialog_questions,
        "",
        "tcp",
        {"auth_plugin_map": {b"dialog": WrongDialog}},
        2061,
    ),
    "own plugin": (
        switch_to_own,
        "",
        "tcp",
        {"auth_plugin_map": {"own_plugin": Own}},
        ["switched"],
    ),
    "own plugin, TLS": (
        switch_to_own,
        "",
        "tls",
        {"auth_plugin_map": {b"own_plugin": Own}},
        ["switched"],
    ),
    "own plugin that fails": (
        switch_to_own,
        "",
        "tcp",
        {"auth_plugin_map": {"own_plugin": Failing}},
        ZeroDivisionError,
    ),
    "own plugin that is none": (
        switch_to_own,
        "",
        "tcp",
        {"auth_plugin_map": {"own_plugin": Unfit}},
        2059,
    ),
    "unknown plugin": (switch_to_unknown, "", "tcp", {}, 2059),
    "denied": (denied, "mysql_native_password", "tcp", {}, 1045),
    "switched twice": (two_switches, "", "tcp", {}, None),
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ssl.SSLContext]:
    """The path of an authority's certificate, and the context of a server that it has signed for."""
    ca, certificate, key = create_certificates(tmp_path_factory.mktemp("auth"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return str(ca), context


def log_in(connect: Callable[..., Any], server: ScriptedServer, kwargs: Any) -> Any:
    """What a login raises, or what the client has sent."""
    server.log.clear()
    try:
        connection = connect(**{**server.params(), **kwargs})
    except Exception as exc:
        return type(exc), exc.args
    connection.ping(reconnect=False)
    connection.close()
    return list(server.log)


@pytest.mark.parametrize("name", CASES)
def test_login_by(run: Any, name: str, certificates: Any, tmp_path: Path) -> None:
    script, plugin, wire, kwargs, expected = CASES[name]
    ca, context = certificates
    kwargs = {**kwargs, **({"ssl_ca": ca, "ssl_verify_cert": True} if wire == "tls" else {})}
    server = ScriptedServer(
        script,
        plugin=plugin,
        tls=context if wire == "tls" else None,
        unix_socket=str(tmp_path / "s") if wire == "unix" else None,
    )
    with server:
        theirs = log_in(pymysql.connect, server, kwargs)
        ours = run(greentor.green(log_in), driver.connect, server, kwargs)
    if expected is AttributeError:  # the driver has an error of the DB-API in its place
        assert theirs[0] is AttributeError
        assert issubclass(ours[0], AttributeError | pymysql.err.Error)
        return
    assert ours == theirs
    if isinstance(expected, int):
        assert ours[0] is pymysql.err.OperationalError
        assert ours[1][0] == expected
    elif isinstance(expected, str):
        assert expected in ours[1][0]
    elif isinstance(expected, type):
        assert ours[0] is expected
    elif expected is not None:
        assert ours == expected


def test_plugin_of_the_user_parks_and_is_bounded_by_connect_timeout(run: Any) -> None:
    def silent(peer: Peer) -> None:
        peer.switch("own_plugin", b"data")
        peer.silence()

    with ScriptedServer(silent) as server:
        kwargs = {**server.params(), "auth_plugin_map": {"own_plugin": Own}}

        @greentor.green
        def main() -> None:
            with pytest.raises(pymysql.err.OperationalError) as info:
                driver.connect(**kwargs, connect_timeout=0.1)
            assert info.value.args[0] == 2013
            with pytest.raises(bridge.DeadlineExceeded), greentor.timeout(0.1):
                driver.connect(**kwargs)

        run(main)


def test_password_does_not_go_over_an_unencrypted_wire_before_the_key(run: Any) -> None:
    # Whoever listens must not see it: neither in the login nor in the first answer.
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        seen.append(peer.answer)
        peer.more(b"\4")
        seen.append(peer.read())
        peer.silence()

    with ScriptedServer(script, plugin=SHA2) as server, pytest.raises(pymysql.err.OperationalError):
        run(greentor.green(driver.connect), **server.params(), connect_timeout=0.1)
    assert seen[1] == b"\2"
    assert not any(PASSWORD in data for data in seen)


# --- MariaDB's own ----------------------------------------------------------------------------


@pytest.fixture
def account(mariadb: MariaDB) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Create an account with ``account("IDENTIFIED ...")``; return what it takes to connect as it."""

    def create(identified: str) -> dict[str, Any]:
        mariadb.execute(f"CREATE OR REPLACE USER other@'%%' {identified}".replace("%%", "%"))
        return {**mariadb.params(), "user": "other", "password": PASSWORD.decode()}

    yield create
    mariadb.execute("DROP USER IF EXISTS other@'%'")


def whoami(connect: Callable[..., Any], kwargs: Any) -> Any:
    try:
        with connect(**kwargs) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT CURRENT_USER()")
            return cursor.fetchone()
    except pymysql.err.OperationalError as exc:
        return exc.args[0]


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_ed25519(run: Any, mariadb: MariaDB, account: Any, wrong: bool) -> None:
    pytest.importorskip("nacl")
    [row] = mariadb.execute("SELECT @@plugin_dir AS directory")
    if not Path(row["directory"], "auth_ed25519.so").exists():
        pytest.skip("MariaDB has no auth_ed25519.so: `make system`, as root, installs it")
    mariadb.execute("INSTALL SONAME 'auth_ed25519'")
    try:
        kwargs = account(f"IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD.decode()}')")
        if wrong:
            kwargs["password"] = "wrong"
        theirs = whoami(pymysql.connect, kwargs)
        assert theirs == (1045 if wrong else ("other@%",))
        assert run(greentor.green(whoami), driver.connect, kwargs) == theirs
    finally:
        mariadb.execute("DROP USER IF EXISTS other@'%'")
        mariadb.execute("UNINSTALL SONAME 'auth_ed25519'")
