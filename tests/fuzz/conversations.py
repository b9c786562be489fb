"""Generate what a valid server and its application say to each other."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pymysql.charset import charset_by_name
from pymysql.constants import FIELD_TYPE, SERVER_STATUS

from tests.fuzz import packets, values
from tests.fuzz.application import CONVERTERS, CURSORS, FETCHES, Action, Settings
from tests.fuzz.packets import MORE_RESULTS, Packet
from tests.fuzz.wires import Script, Step

#: content of the file that the application may offer
CONTENT = b"".join(b"secret %d\n" % number for number in range(40))

CHARSETS = ("utf8mb4", "utf8mb4", "utf8mb4", "latin1", "ascii", "koi8r", "gbk", "cp1251", "sjis")
STATUS = (0, 2, 3, 2 | SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES, 34, 0xFF07 & ~MORE_RESULTS)
CODES = (1062, 1064, 1146, 1205, 1213, 1317, 1969, 3024, 900, 65535)
SIMPLE = ("ping", "begin", "commit", "rollback", "select_db", "set_character_set")


@dataclass
class Conversation:
    """All that two sides do, and in what pieces the bytes arrive."""

    #: what the application may offer to the server
    file: Path
    settings: Settings = field(default_factory=Settings)
    actions: list[Action] = field(default_factory=list)
    script: Script = field(default_factory=Script)
    pieces: str = "whole"
    ending: str = "eof"
    #: of silence: "read_timeout" or "deadline"
    limit: str = ""
    #: what was done to it, if it is no longer valid
    spoiled: list[str] = field(default_factory=list)

    def steps(self) -> list[Step]:
        """Return all that the server says."""
        return [*self.script.login, *(step for answer in self.script.answers for step in answer)]

    def describe(self) -> str:
        """Return it as text, from which it can be built by hand."""
        lines = [f"{self.settings}", f"pieces {self.pieces}, ending {self.ending} {self.limit}"]
        lines += [f"spoiled: {what}" for what in self.spoiled]
        lines += [f"login: {_hex(self.script.login, 0)}"]
        names = iter(self.actions)
        extra = len(self.script.answers) - len(self.actions)
        for number, answer in enumerate(self.script.answers):
            action: Any = "connect" if number < extra else next(names)
            lines.append(f"{action}: {_hex(answer, 1)}")
        return "\n".join(lines)


def _hex(steps: Sequence[Step], first: int) -> str:
    said = []
    for step in steps:
        data = b"".join(packets.frame(step.packets, first))
        cut = "" if step.cut is None else f" cut at {step.cut}"
        said.append(data.hex() + cut + (" (after a file)" if step.at_end_of_file else ""))
        first += 2
    return " | ".join(said) or "nothing"


def conversation(rng: Random, file: Path, *, odd: bool = False) -> Conversation:
    """Return a valid conversation; with `odd` some values are what no server sends."""
    conv = "default" if rng.randrange(3) else rng.choice(list(CONVERTERS))
    escapes = CONVERTERS[conv] is None or str in CONVERTERS[conv]
    settings = Settings(
        charset=rng.choice(CHARSETS),
        use_unicode=rng.randrange(6) > 0,
        conv=conv,
        local_infile=rng.randrange(3) == 0,
        password="secret" if rng.randrange(8) else "",
        database=rng.choice((None, None, "db")),
        autocommit=rng.choice((None, None, False)) if escapes else None,
        unix_socket=rng.randrange(4) == 0,
        leave="close" if rng.randrange(4) else "drop",
    )
    made = Conversation(
        file, settings, pieces=rng.choice(("whole", "whole", "packets", "bytes", "random"))
    )
    script = made.script
    script.login = login(rng, settings)
    script.answers.append([Step([Packet(packets.ok())])])  # SET NAMES
    if settings.autocommit is False:
        script.answers.append([Step([Packet(packets.ok(status=0))])])
    for _ in range(rng.choice((1, 1, 2, 3))):
        action = choose(rng)
        made.actions.append(action)
        script.answers.append(answer(rng, action, settings, file, odd))
    return made


def choose(rng: Random) -> Action:
    chance = rng.randrange(10)
    if chance < 7:
        cursor, how = rng.choice(list(CURSORS)), rng.choice(FETCHES)
        return Action("query", cursor, how, close=rng.randrange(4) > 0)
    if chance == 7:
        return Action("load")
    if chance == 8:
        return Action("show_warnings")
    return Action(rng.choice(SIMPLE))


def answer(
    rng: Random, action: Action, settings: Settings, file: Path, odd: bool = False
) -> list[Step]:
    if action.kind == "load" and settings.local_infile:
        name = str(file).encode()
        end = Packet(ok(rng))
        return [Step([Packet(packets.load_local(name))]), Step([end], at_end_of_file=True)]
    if action.kind in ("query", "show_warnings"):
        few = action.kind == "show_warnings"
        return [Step(results(rng, settings, odd, 1 if few else rng.choice((1, 1, 1, 2, 3)), few))]
    return [Step([Packet(ok(rng) if rng.randrange(8) else error(rng))])]


def results(rng: Random, settings: Settings, odd: bool, count: int, few: bool) -> list[Packet]:
    """Return `count` results in a row; `few` says that it must be rows."""
    found: list[bytes] = []
    for left in reversed(range(count)):
        more = MORE_RESULTS if left else 0
        kind = rng.randrange(10)
        if kind == 0:
            found.append(error(rng))
            break
        found += [ok(rng, more)] if kind < 3 and not few else result_set(rng, settings, odd, more)
        if kind == 9:  # an error in the place of the end
            found[-1] = error(rng)
            break
    return [Packet(payload) for payload in found]


def result_set(rng: Random, settings: Settings, odd: bool, more: int) -> list[bytes]:
    encoding = charset_by_name(settings.charset).encoding
    types = [rng.choice(values.TYPES) for _ in range(rng.choice((1, 1, 2, 3, 6)))]
    found = [packets.lenenc(len(types))]
    for number, type_code in enumerate(types):
        name = rng.choice(("c%d", "c%d", "id", "é%d", ""))
        name = name % number if "%" in name else name
        found.append(values.definition(name.encode(encoding, "ignore"), type_code, rng))
    found.append(eof(rng, rng.choice((more, more, 0))))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        row = [values.value(type_code, rng, encoding, odd) for type_code in types]
        payload = packets.row(row, rng)
        if payload[:1] != b"\xff" and not (payload[:1] == b"\xfe" and len(payload) < 9):
            found.append(payload)
    found.append(eof(rng, more))
    return found


def ok(rng: Random, more: int = 0) -> bytes:
    return packets.ok(
        rng.choice((0, 1, 250, 251, 65536, 1 << 24, (1 << 64) - 1)),
        rng.choice((0, 0, 5, 1000, (1 << 64) - 1)),
        rng.choice(STATUS) | more,
        rng.choice((0, 0, 1, 65535)),
        rng.choice((b"", b"", b"Rows matched: 1", b"\xff\xfe")),
    )


def eof(rng: Random, more: int = 0) -> bytes:
    return packets.eof(rng.choice(STATUS) | more, rng.choice((0, 0, 1, 65535)))


def error(rng: Random) -> bytes:
    message = rng.choice((b"no", b"", "n\u00f6".encode(), b"\xff\xfe no"))
    state = rng.choice((b"42000", b"HY000", None)) if message else b"42000"
    return packets.error(rng.choice(CODES), message, state)


# --- logging in -------------------------------------------------------------------------------

LOGINS = ("native", "native", "native", "switch", "fast", "full", "sha256", "clear", "dialog")
LOGINS += ("old", "refused", "busy")
SALT = b"abcdefghijklmnopqrst"


@functools.cache
def public_key() -> bytes:
    key = rsa.generate_private_key(65537, 2048).public_key()
    pem = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, pem)


def login(rng: Random, settings: Settings) -> list[Step]:
    how = rng.choice(LOGINS)
    plugin: bytes | None = b"mysql_native_password"
    done = packets.ok()
    said: list[list[bytes]] = []
    secret = bool(settings.password)
    if how == "switch":
        plugin = rng.choice((b"unknown", b"caching_sha2_password"))
        said = [[packets.auth_switch(b"mysql_native_password", SALT + b"\0")], [done]]
    elif how == "fast":
        plugin = b"caching_sha2_password"
        said = [[packets.extra_auth(b"\x03"), done]] if secret else [[done]]
    elif how == "full":
        plugin = b"caching_sha2_password"
        said = [[packets.extra_auth(b"\x04")], [done]] if secret else [[done]]
        if secret and not settings.unix_socket:
            said.insert(1, [packets.extra_auth(public_key())])
    elif how == "sha256":
        plugin = b"sha256_password"
        said = [[done]]
        if secret and not settings.unix_socket:
            said.insert(0, [packets.extra_auth(public_key())])
    elif how == "clear":
        said = [[packets.auth_switch(b"mysql_clear_password", b"")], [done]]
    elif how == "dialog":
        said = [[packets.auth_switch(b"dialog", b"\x05Password: ")], [done]]
    elif how == "old":
        plugin = None
        said = [[done]]
    elif how == "refused":
        said = [[packets.error(1045, b"Access denied", b"28000")]]
    elif how == "busy":
        return [Step([Packet(packets.error(1040, b"Too many connections", None))])]
    else:
        said = [[done]]
    greeting = packets.handshake(
        plugin=plugin,
        version=rng.choice((b"5.5.5-10.11.6-MariaDB", b"8.0.36", b"11.4.2-MariaDB")),
        thread_id=rng.choice((1, 7, 0xFFFFFFFF)),
        charset=rng.choice((8, 45, 255, 0)),
    )
    return [Step([Packet(payload) for payload in step]) for step in [[greeting], *said]]


def name_of_type(type_code: int) -> str:
    """Return the name of a type, for reports."""
    return next(name for name, code in vars(FIELD_TYPE).items() if code == type_code)
