"""A server that promises TLS and says something else instead, on a real socket."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pymysql import err
from pymysql.constants import CLIENT

import greentor
from greentor.drivers import pymysql as driver
from tests.certificates import create_certificates
from tests.fuzz.packets import CAPABILITIES, Packet, frame, handshake, ok
from tests.proxy import sockets
from tests.waiting import await_until

GREETING = b"".join(frame([Packet(handshake(capabilities=CAPABILITIES | CLIENT.SSL))], 0))

#: what the server says instead of its part of the handshake; None to hang up
INSTEAD = {
    "nothing": None,
    "a packet": b"".join(frame([Packet(ok())], 2)),
    "zeros": bytes(5000),
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "half a record": b"\x16\x03\x03\x40\x00\x02",
    "a record of nothing": b"\x16\x03\x03\x00\x00",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
}


@contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Have a thread talk to one client: TLS begins in the middle of what a blocking socket has read."""

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        with connection, suppress(OSError):  # the client has had enough
            talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
    assert not thread.is_alive()


def receive(connection: Any, size: int) -> None:
    while size and (data := connection.recv(size)):
        size -= len(data)


@greentor.green
def connect(port: int, **kwargs: Any) -> Any:
    return driver.connect(
        host="127.0.0.1", port=port, user="me", ssl={}, connect_timeout=5, **kwargs
    )


def refused(run: Any, talk: Callable[[socket.socket], None], error: type[Exception]) -> None:
    async def main() -> None:
        before = set(sockets())
        with pytest.raises(error):
            await connect(port)
        await await_until(lambda: not set(sockets()) - before)

    with serving(talk) as port:
        run(main)


@pytest.mark.parametrize("instead", INSTEAD.values(), ids=list(INSTEAD))
def test_what_is_no_tls_is_an_error_of_pymysql(run: Any, instead: bytes | None) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        receive(connection, 36)  # the request for TLS
        if instead is not None:
            connection.sendall(instead)
            if len(instead) > 6:  # else hang up, for it is not even a record
                receive(connection, 1 << 20)

    refused(run, talk, err.OperationalError)


def test_plain_text_slipped_in_front_of_tls_is_not_read(run: Any) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING + b"".join(frame([Packet(ok())], 2)))
        receive(connection, 1 << 20)

    refused(run, talk, err.OperationalError)


@pytest.mark.parametrize("answer", [b"", b"\xff", b"\x01", b"\0\0"])
def test_a_malformed_answer_through_tls_is_an_error_of_pymysql(
    run: Any, tmp_path: Path, answer: bytes
) -> None:
    _, certificate, key = create_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        receive(connection, 36)
        with context.wrap_socket(connection, server_side=True) as encrypted:
            receive(encrypted, 36)  # the login begins
            encrypted.sendall(b"".join(frame([Packet(answer)], 3)))
            receive(encrypted, 1 << 20)

    refused(run, talk, err.Error)
