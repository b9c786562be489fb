"""The packets that a MySQL server sends, and how they are laid on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pymysql.constants import CLIENT, SERVER_STATUS

#: payloads of this length and above take several packets
FULL = 0xFFFFFF

MORE_RESULTS = SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS

#: what the servers here can do; PyMySQL asks for no more
CAPABILITIES = CLIENT.CAPABILITIES | CLIENT.LOCAL_FILES | CLIENT.CONNECT_WITH_DB


@dataclass(frozen=True)
class Packet:
    """One packet; what it announces can differ from what it is."""

    payload: bytes
    #: the length in its header, if not its own
    announced: int | None = None
    #: its place among the packets of the answer, if not its own
    place: int | None = None
    #: bytes of no packet that follow it
    stray: bytes = b""


def frame(packets: Sequence[Packet], first: int) -> list[bytes]:
    """Return the packets with their headers; the first has the sequence number `first`."""
    framed = []
    number = first
    for packet in packets:
        payload = packet.payload
        if packet.place is not None:
            number = first + packet.place
        while packet.announced is None and len(payload) >= FULL:
            framed.append(header(FULL, number) + payload[:FULL])
            payload = payload[FULL:]
            number += 1
        length = len(payload) if packet.announced is None else packet.announced
        framed.append(header(length, number) + payload + packet.stray)
        number += 1
    return framed


def header(length: int, number: int) -> bytes:
    return length.to_bytes(3, "little") + bytes([number % 256])


def lenenc(number: int, width: int = 0) -> bytes:
    """Encode a number with its prefix, in at least `width` bytes after it (0, 2, 3 or 8)."""
    if number < 251 and width < 2:
        return bytes([number])
    if number < 1 << 16 and width < 3:
        return b"\xfc" + number.to_bytes(2, "little")
    if number < 1 << 24 and width < 8:
        return b"\xfd" + number.to_bytes(3, "little")
    return b"\xfe" + number.to_bytes(8, "little")


def string(data: bytes | None, width: int = 0) -> bytes:
    """Encode a value of a row."""
    return b"\xfb" if data is None else lenenc(len(data), width) + data


def ok(
    affected: int = 0, insert_id: int = 0, status: int = 2, warnings: int = 0, message: bytes = b""
) -> bytes:
    numbers = status.to_bytes(2, "little") + warnings.to_bytes(2, "little")
    return b"\x00" + lenenc(affected) + lenenc(insert_id) + numbers + message


def eof(status: int = 2, warnings: int = 0) -> bytes:
    return b"\xfe" + warnings.to_bytes(2, "little") + status.to_bytes(2, "little")


def error(code: int, message: bytes = b"no", state: bytes | None = b"HY000") -> bytes:
    mark = b"" if state is None else b"#" + state
    return b"\xff" + code.to_bytes(2, "little") + mark + message


def load_local(name: bytes) -> bytes:
    return b"\xfb" + name


def auth_switch(plugin: bytes, salt: bytes) -> bytes:
    return b"\xfe" + plugin + b"\0" + salt


def extra_auth(data: bytes) -> bytes:
    return b"\x01" + data


def handshake(
    *,
    plugin: bytes | None = b"mysql_native_password",
    version: bytes = b"5.5.5-10.11.6-MariaDB",
    thread_id: int = 7,
    salt: bytes = b"0123456789abcdefghij",
    charset: int = 45,
    status: int = 2,
    capabilities: int = CAPABILITIES,
) -> bytes:
    """Return the server's greeting; without a plugin that of a server that knows of none."""
    if plugin is None:
        capabilities &= ~CLIENT.PLUGIN_AUTH
    low, high = capabilities & 0xFFFF, capabilities >> 16
    packet = b"\x0a" + version + b"\0" + thread_id.to_bytes(4, "little") + salt[:8] + b"\0"
    packet += low.to_bytes(2, "little") + bytes([charset % 256]) + status.to_bytes(2, "little")
    packet += high.to_bytes(2, "little") + bytes([len(salt) + 1]) + bytes(10) + salt[8:] + b"\0"
    return packet if plugin is None else packet + plugin + b"\0"


def column(
    name: bytes,
    type_code: int,
    *,
    charset: int = 45,
    length: int = 255,
    flags: int = 0,
    decimals: int = 0,
    table: bytes = b"t",
    database: bytes = b"db",
) -> bytes:
    """Return the definition of a column."""
    names = b"".join(map(string, (b"def", database, table, table, name, name)))
    numbers = charset.to_bytes(2, "little") + length.to_bytes(4, "little") + bytes([type_code])
    return names + b"\x0c" + numbers + flags.to_bytes(2, "little") + bytes([decimals, 0, 0])


def row(values: Sequence[bytes | None], rng: Random | None = None) -> bytes:
    """Return a row; with `rng` some of its lengths take more bytes than they need."""
    if rng is None or rng.randrange(8):
        return b"".join(map(string, values))
    return b"".join(string(value, rng.choice((0, 2, 3, 8))) for value in values)
