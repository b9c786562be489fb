"""The server's half of a MySQL login, played by a test: for what the installed server cannot do.

    with ScriptedServer(script, plugin="caching_sha2_password") as server:
        connect(**server.params())
    server.log  # what the clients have sent, by name

A *script* is a function of a `Peer`: it reads and sends packets as the protocol's pages say, checks
what the client sends with code of its own, and raises `Denied`. What it returns from is a login; after
it each command is answered by `reply`, which says OK. The server runs in threads, so that blocking
clients can use it.
"""

import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PASSWORD = b"open sesame"

# Capabilities
CONNECT_WITH_DB = 8
SSL = 0x800
SECURE_CONNECTION = 0x8000
PLUGIN_AUTH = 0x80000
CAPABILITIES = 0x3FF7FF & ~SSL & ~0x20  # all up to PLUGIN_AUTH_LENENC, without TLS and compression

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_KEY = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
OK = b"\0\0\0\2\0\0\0"


class Denied(Exception):
    """The password was wrong."""


Script = Callable[["Peer"], None]


class Peer:
    """One client, as the server sees it."""

    def __init__(self, server: "ScriptedServer", sock: socket.socket) -> None:
        self.server = server
        self._sock: Any = sock
        self._number = 0
        # Neither zero, which ends a string, nor the same each time.
        self.nonce = bytes(byte % 255 + 1 for byte in os.urandom(20))
        self.secure = sock.family == socket.AF_UNIX
        #: the plugin of the client's choice, and what it has sent for it in the login
        self.plugin = b""
        self.answer = b""
        #: the login as it came
        self.login = b""

    def read(self, name: str = "") -> bytes:
        header = self._exactly(4)
        self._number = header[3] + 1
        data = self._exactly(int.from_bytes(header[:3], "little"))
        if name:
            self.server.log.append(name)
        return data

    def send(self, payload: bytes) -> None:
        self._sock.sendall(len(payload).to_bytes(3, "little") + bytes([self._number]) + payload)
        self._number += 1

    def more(self, data: bytes) -> None:
        """Send AuthMoreData."""
        self.send(b"\1" + data)

    def switch(self, plugin: str, data: bytes = b"") -> bytes:
        """Ask for another plugin; return what the client has answered."""
        self.send(b"\xfe" + plugin.encode() + b"\0" + data)
        return self.read("switched")

    def silence(self) -> None:
        """Say nothing until the client is gone."""
        while self._sock.recv(65536):
            pass
        raise ConnectionError

    def serve(self) -> None:
        self._greet()
        try:
            self.server.script(self)
        except Denied as exc:
            self.send(b"\xff\x15\x04#28000Access denied: " + str(exc).encode())
            return
        self.send(OK)
        while (command := self.read())[:1] != b"\1":  # COM_QUIT
            self.send(self.server.reply(command))

    def close(self) -> None:
        self._sock.close()

    def _greet(self) -> None:
        capabilities = CAPABILITIES | (SSL if self.server.tls else 0)
        flags = capabilities.to_bytes(4, "little")
        self.send(
            b"\x0a8.0.99-scripted\0"
            + (7).to_bytes(4, "little")
            + self.nonce[:8]
            + b"\0"
            + flags[:2]
            + b"\x2d\2\0"
            + flags[2:]
            + b"\x15"
            + bytes(10)
            + self.nonce[8:]
            + b"\0"
            + self.server.plugin.encode()
            + b"\0"
        )
        login = self.read()
        if len(login) == 32 and self.server.tls:  # SSLRequest
            self._sock = self.server.tls.wrap_socket(self._sock, server_side=True)
            self.secure = True
            login = self.read()
        self._parse(login)

    def _parse(self, login: bytes) -> None:
        self.login = login
        flags = int.from_bytes(login[:4], "little")
        user, _, rest = login[32:].partition(b"\0")
        assert user == b"somebody"
        assert rest[0] < 251
        self.answer, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
        if flags & CONNECT_WITH_DB:
            _, _, rest = rest.partition(b"\0")
        self.plugin = rest.partition(b"\0")[0]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._sock.recv(count - len(data))
            if not piece:
                raise ConnectionError
            data += piece
        return data


class ScriptedServer:
    """Serve everybody with one script, over TCP or on a unix socket."""

    def __init__(
        self,
        script: Script,
        *,
        plugin: str = "mysql_native_password",
        tls: ssl.SSLContext | None = None,
        unix_socket: str | None = None,
        reply: Callable[[bytes], bytes] = lambda command: OK,
    ) -> None:
        self.script = script
        self.reply = reply
        self.plugin = plugin
        self.tls = tls
        self.unix_socket = unix_socket
        self.log: list[str] = []

    def __enter__(self) -> Self:
        if self.unix_socket:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.unix_socket)
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
        self._peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(5)
        self._listener.close()
        if self.unix_socket:
            os.unlink(self.unix_socket)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), "a client has not closed its connection"

    def params(self) -> dict[str, Any]:
        """Return what `pymysql.connect` takes to reach this server."""
        params: dict[str, Any] = {"user": "somebody", "password": PASSWORD.decode()}
        if self.unix_socket:
            return {**params, "unix_socket": self.unix_socket}
        host, port = self._listener.getsockname()
        return {**params, "host": host, "port": port}

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                peer = Peer(self, sock)
                thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
                self._threads.append(thread)
                thread.start()
        except OSError:
            pass

    def _serve(self, peer: Peer) -> None:
        try:
            peer.serve()
        except OSError:
            pass  # the client is gone, or has refused our certificate
        finally:
            peer.close()


# --- the server's side of the plugins ---------------------------------------------------------


def check_native(token: bytes, nonce: bytes) -> None:
    stored = hashlib.sha1(hashlib.sha1(PASSWORD).digest()).digest()
    candidate = _xor(token, hashlib.sha1(nonce + stored).digest())
    if len(token) != 20 or hashlib.sha1(candidate).digest() != stored:
        raise Denied("native")


def check_sha2(token: bytes, nonce: bytes) -> None:
    stored = hashlib.sha256(hashlib.sha256(PASSWORD).digest()).digest()
    candidate = _xor(token, hashlib.sha256(stored + nonce).digest())
    if len(token) != 32 or hashlib.sha256(candidate).digest() != stored:
        raise Denied("sha2")


def check_clear(data: bytes) -> None:
    if data != PASSWORD + b"\0":
        raise Denied("clear")


def check_rsa(data: bytes, nonce: bytes) -> None:
    sha1 = hashes.SHA1()
    try:
        plain = KEY.decrypt(data, padding.OAEP(padding.MGF1(sha1), sha1, None))
    except ValueError as exc:
        raise Denied("RSA") from exc
    check_clear(_xor(plain, nonce * (len(plain) // len(nonce) + 1)))


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=False))
