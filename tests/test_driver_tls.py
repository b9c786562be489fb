"""`greentor.drivers.pymysql`: TLS asked for in every way, each with the outcome of blocking PyMySQL."""

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import greentor
from greentor.drivers import pymysql as driver
from tests.mariadb import MariaDB
from tests.scripted_server import Peer, ScriptedServer
from tests.waiting import wait_until

#: since 1.2 PyMySQL takes TLS where it is offered, and insists on it where it was asked for
PREFERS_TLS = hasattr(pymysql.connections.Connection(defer_connect=True), "_ssl_required")

KEY_PASSWORD = "a key's password"


class Files(NamedTuple):
    """Where a certificate and its key lie; of an authority, for those who trust it."""

    certificate: str
    key: str
    locked_key: str


class Authority:
    """Signs certificates, by itself or by another authority."""

    def __init__(self, name: str, valid: tuple[int, int] = (-1, 2)) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        self.certificate = (
            self._builder(self.name, self.key, valid)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def sign(
        self,
        directory: Path,
        subject: str,
        names: tuple[str, ...] = (),
        valid: tuple[int, int] = (-1, 2),
    ) -> Files:
        """Write a certificate for a server or client, valid from one day to another."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(_name(subject), key, valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
        )
        if names:
            general = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(general, critical=False)
        return _write(directory / subject, builder.sign(self.key, hashes.SHA256()), key)

    def write(self, directory: Path) -> str:
        """Write the authority's own certificate; return its path."""
        directory.mkdir(exist_ok=True)
        path = directory / "authority.pem"
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, valid: tuple[int, int]
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        begin, end = (now + datetime.timedelta(days=days) for days in valid)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(identifier, critical=False)
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not sign, False, False, False, False, sign, sign, False, False)


def _write(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Files:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain, lock = (
        serialization.NoEncryption(),
        serialization.BestAvailableEncryption(KEY_PASSWORD.encode()),
    )
    files = Files(*(f"{stem}-{part}.pem" for part in ("certificate", "key", "locked")))
    Path(files.certificate).write_bytes(certificate.public_bytes(pem))
    Path(files.key).write_bytes(key.private_bytes(pem, form, plain))
    Path(files.locked_key).write_bytes(key.private_bytes(pem, form, lock))
    return files


# --- what a login ends with -------------------------------------------------------------------


def outcome(connect: Callable[..., Any], kwargs: Any) -> Any:
    """Whether the connection is encrypted, or the type, code and reason of the error."""
    try:
        connection = connect(**kwargs)
    except Exception as exc:
        reason = getattr(getattr(exc, "original_exception", exc), "reason", None)
        return type(exc), exc.args[0] if exc.args else None, reason
    with connection, connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        return bool(cursor.fetchone()[1])


def compare(run: Any, kwargs: Any) -> Any:
    """What both come to, which is the same."""
    theirs = outcome(pymysql.connect, kwargs)
    ours = run(greentor.green(outcome), driver.connect, kwargs)
    assert ours == theirs
    return ours


REFUSED = (pymysql.err.OperationalError, 2003, "CERTIFICATE_VERIFY_FAILED")

#: what is asked for, and what comes of it: True for TLS, or an error
REQUESTS: dict[str, tuple[Callable[[str, str], dict[str, Any]], Any]] = {
    "nothing": (lambda ca, other: {}, PREFERS_TLS),
    "disabled": (lambda ca, other: {"ssl_disabled": True}, False),
    "disabled, though configured": (
        lambda ca, other: {"ssl_disabled": True, "ssl_ca": ca, "ssl_verify_cert": True},
        False,
    ),
    "not disabled": (lambda ca, other: {"ssl_disabled": False}, PREFERS_TLS),
    "authority, nothing verified": (lambda ca, other: {"ssl_ca": other}, True),
    "certificate": (lambda ca, other: {"ssl_ca": ca, "ssl_verify_cert": True}, True),
    "certificate, by a word": (lambda ca, other: {"ssl_ca": ca, "ssl_verify_cert": "yes"}, True),
    "unknown authority": (lambda ca, other: {"ssl_ca": other, "ssl_verify_cert": True}, REFUSED),
    "no authority": (lambda ca, other: {"ssl_verify_cert": True}, REFUSED),
    "identity": (
        lambda ca, other: {"ssl_ca": ca, "ssl_verify_cert": True, "ssl_verify_identity": True},
        True,
    ),
    "dict": (lambda ca, other: {"ssl": {"ca": ca}}, True),
    "dict, unknown authority": (lambda ca, other: {"ssl": {"ca": other}}, REFUSED),
    "dict, unknown authority, nothing verified": (
        lambda ca, other: {"ssl": {"ca": other, "check_hostname": False, "verify_mode": "none"}},
        True,
    ),
    "dict, cipher": (
        lambda ca, other: {"ssl": {"ca": ca, "cipher": "ECDHE-ECDSA-AES256-GCM-SHA384"}},
        True,
    ),
    "dict, no such cipher": (
        lambda ca, other: {"ssl": {"ca": ca, "cipher": "CAESAR"}},
        (ssl.SSLError, ANY, ANY),
    ),
    "context": (lambda ca, other: {"ssl": ssl.create_default_context(cafile=ca)}, True),
    "context, unknown authority": (
        lambda ca, other: {"ssl": ssl.create_default_context(cafile=other)},
        REFUSED,
    ),
    "no such file": (lambda ca, other: {"ssl_ca": ca + ".none"}, (FileNotFoundError, 2, None)),
    "no certificates in it": (
        lambda ca, other: {"ssl_ca": __file__},
        (ssl.SSLError, ANY, "NO_CERTIFICATE_OR_CRL_FOUND"),
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_tls_asked_for(run: Any, mariadb: MariaDB, tmp_path: Path, name: str) -> None:
    make, expected = REQUESTS[name]
    other = Authority("another").write(tmp_path)
    assert compare(run, {**mariadb.params(), **make(mariadb.ca, other)}) == expected


def test_tls_when_the_server_has_none(run: Any, mariadb: MariaDB) -> None:
    def script(peer: Peer) -> None:
        assert not peer.secure

    def connect(**kwargs: Any) -> Any:
        driver.connect(**kwargs).close()

    with ScriptedServer(script) as server:
        run(greentor.green(connect), **server.params())  # preferred only
        run(greentor.green(connect), **server.params(), ssl_disabled=True)
        if PREFERS_TLS:
            with pytest.raises(pymysql.err.OperationalError, match="SSL is required") as info:
                run(greentor.green(connect), **server.params(), ssl_verify_cert=True)
            assert info.value.args[0] == 2026


# --- the server's certificate -----------------------------------------------------------------

LOCAL = ("localhost", "127.0.0.1")
IDENTITY = {"ssl_verify_cert": True, "ssl_verify_identity": True}

#: names in the server's certificate, its days, the authority's days, host, arguments; the outcome
SERVERS: dict[str, tuple[Any, Any, Any, str, dict[str, Any], bool]] = {
    "right address": (LOCAL, (-1, 2), (-1, 2), "127.0.0.1", IDENTITY, True),
    "right name": (LOCAL, (-1, 2), (-1, 2), "localhost", IDENTITY, True),
    "another address": (("127.0.0.2",), (-1, 2), (-1, 2), "127.0.0.1", IDENTITY, False),
    "another name": (("example.org",), (-1, 2), (-1, 2), "localhost", IDENTITY, False),
    "name for an address": (("localhost",), (-1, 2), (-1, 2), "127.0.0.1", IDENTITY, False),
    "no name": ((), (-1, 2), (-1, 2), "localhost", IDENTITY, False),
    "any name": (("localhost", "*"), (-1, 2), (-1, 2), "127.0.0.1", IDENTITY, False),
    "another name, not asked": (
        ("example.org",),
        (-1, 2),
        (-1, 2),
        "localhost",
        {"ssl_verify_cert": True},
        True,
    ),
    "expired": (LOCAL, (-3, -1), (-4, 2), "localhost", {"ssl_verify_cert": True}, False),
    "expired, not asked": (LOCAL, (-3, -1), (-4, 2), "localhost", {}, True),
    "not yet valid": (LOCAL, (1, 2), (-1, 2), "localhost", {"ssl_verify_cert": True}, False),
    "authority expired": (LOCAL, (-3, 2), (-4, -1), "localhost", {"ssl_verify_cert": True}, False),
}


@pytest.mark.parametrize("name", SERVERS)
def test_certificate_of_a_server(run: Any, tmp_path: Path, name: str) -> None:
    names, valid, valid_authority, host, kwargs, accepted = SERVERS[name]
    authority = Authority("authority", valid_authority)
    files = authority.sign(tmp_path, "server", names, valid)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def log_in(connect: Callable[..., Any]) -> Any:
        try:
            connection = connect(**kwargs, **params)
        except pymysql.err.OperationalError as exc:
            return exc.args[0], exc.original_exception.reason
        connection.ping(reconnect=False)
        connection.close()
        return True

    def script(peer: Peer) -> None:
        assert peer.secure

    with ScriptedServer(script, tls=context) as server:
        params = {**server.params(), "host": host, "ssl_ca": authority.write(tmp_path)}
        theirs = log_in(pymysql.connect)
        assert run(greentor.green(log_in), driver.connect) == theirs
    assert theirs == (True if accepted else (2003, "CERTIFICATE_VERIFY_FAILED"))


# --- the client's certificate -----------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(mariadb: MariaDB) -> Iterator[Authority]:
    """An authority for clients that the server trusts besides its own."""
    authority = Authority("clients")
    path = Path(mariadb.ca)
    before = path.read_bytes()
    path.write_bytes(before + authority.certificate.public_bytes(serialization.Encoding.PEM))
    mariadb.execute("FLUSH SSL")
    yield authority
    path.write_bytes(before)
    mariadb.execute("FLUSH SSL")


@pytest.fixture
def account(mariadb: MariaDB) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Create an account with ``account("REQUIRE ...")``; return what it takes to connect as it."""

    def create(required: str) -> dict[str, Any]:
        mariadb.execute("DROP USER IF EXISTS x509@'%'")
        mariadb.execute(f"CREATE USER x509@'%' IDENTIFIED BY 'x' {required}")
        return {**mariadb.params(), "user": "x509", "password": "x", "ssl_ca": mariadb.ca}

    yield create
    mariadb.execute("DROP USER IF EXISTS x509@'%'")


DENIED = (pymysql.err.OperationalError, 1045, None)


def test_account_that_requires_tls(run: Any, account: Any) -> None:
    kwargs = account("REQUIRE SSL")
    assert compare(run, kwargs) is True
    del kwargs["ssl_ca"]
    assert compare(run, {**kwargs, "ssl_disabled": True}) == DENIED


@pytest.mark.parametrize("required", ["REQUIRE X509", "REQUIRE SUBJECT '/CN=client'"])
def test_account_that_requires_a_certificate(
    run: Any, account: Any, authority: Authority, tmp_path: Path, required: str
) -> None:
    kwargs = account(required)
    files = authority.sign(tmp_path, "client")
    pair = {"ssl_cert": files.certificate, "ssl_key": files.key}
    locked = {"ssl_cert": files.certificate, "ssl_key": files.locked_key}
    assert compare(run, kwargs) == DENIED
    assert compare(run, {**kwargs, **pair}) is True
    assert compare(run, {**kwargs, **locked, "ssl_key_password": KEY_PASSWORD}) is True
    assert compare(run, {**kwargs, **locked, "ssl_key_password": "wrong"})[0] is ssl.SSLError
    context = ssl.create_default_context(cafile=kwargs["ssl_ca"])
    context.load_cert_chain(files.certificate, files.key)
    assert compare(run, {**kwargs, "ssl": context, "ssl_ca": None}) is True
    by_dict = {"ca": kwargs["ssl_ca"], "cert": files.certificate, "key": files.key}
    assert compare(run, {**kwargs, "ssl": by_dict, "ssl_ca": None}) is True


def test_two_clients_with_certificates_of_their_own_share_no_context(
    run: Any, account: Any, authority: Authority, tmp_path: Path
) -> None:
    # Contexts are shared between connections of one configuration: never the certificate of another.
    kwargs = account("REQUIRE SUBJECT '/CN=client'")
    for subject, expected in [("client", True), ("stranger", DENIED), ("client", True)]:
        directory = tmp_path / subject
        directory.mkdir(exist_ok=True)
        files = authority.sign(directory, subject)
        pair = {"ssl_cert": files.certificate, "ssl_key": files.key}
        assert compare(run, {**kwargs, **pair}) == expected


def test_certificate_of_a_client_that_the_server_does_not_trust(
    run: Any, mariadb: MariaDB, account: Any, tmp_path: Path
) -> None:
    # With TLS 1.3 it says so when the client takes the handshake to be complete.
    kwargs = account("REQUIRE X509")
    files = Authority("stranger").sign(tmp_path, "client")
    kwargs |= {"ssl_cert": files.certificate, "ssl_key": files.key}

    def code(connect: Callable[..., Any]) -> int:
        with pytest.raises(pymysql.err.OperationalError) as info:
            connect(**kwargs)
        return int(info.value.args[0])

    lost = {2003, 2006, 2013, 2026}
    assert code(pymysql.connect) in lost
    assert run(greentor.green(code), driver.connect) in lost
    wait_until(lambda: not [row for row in mariadb.processlist() if row["USER"] == "x509"])
