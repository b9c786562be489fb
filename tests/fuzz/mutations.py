"""Spoil a conversation: its bytes, its packets, their order, their lengths, their numbers."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from tests.fuzz import conversations, packets
from tests.fuzz.conversations import Conversation
from tests.fuzz.packets import Packet
from tests.fuzz.wires import Step

#: first bytes with a meaning, and those beside them
TELLING = (0x00, 0x01, 0x7F, 0x80, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF)
#: lengths that a field may announce
LENGTHS = (0, 1, 250, 251, 252, 0xFFFF, 1 << 16, 0xFFFFFF, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32)
LENGTHS += ((1 << 63) - 1, 1 << 63, (1 << 64) - 1)
#: plugins that a server may name
PLUGINS = (
    b"client_ed25519",
    b"mysql_old_password",
    b"dialog",
    b"sha256_password",
    b"",
    b"\xff\xfe",
)
PLUGINS += (b"caching_sha2_password", b"mysql_native_password", b"auth_gssapi_client")

Spoiler = Callable[[Random, Step, int, Conversation], str]


def spoil(made: Conversation, rng: Random) -> Conversation:
    """Return a copy of a conversation with one to three things wrong in it."""
    made = copy.deepcopy(made)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # Half of them in the answers to the application's own commands
        steps = made.steps()
        own = [step for answer in made.script.answers[1:] for step in answer]
        step = rng.choice(own if own and rng.randrange(4) else steps)
        if not step.packets:
            continue
        spoiler = rng.choice(SPOILERS)
        what = spoiler(rng, step, rng.randrange(len(step.packets)), made)
        made.spoiled.append(f"{spoiler.__name__} {what}".strip())
    made.ending = rng.choice(("eof", "eof", "eof", "reset"))
    if not rng.randrange(60):
        made.ending, made.limit = "silence", rng.choice(("read_timeout", "deadline"))
    return made


# --- inside a packet --------------------------------------------------------------------------


def truncate(rng: Random, step: Step, at: int, made: Conversation) -> str:
    payload = step.packets[at].payload
    _payload(step, at, payload[: rng.randrange(len(payload) + 1)])
    return f"packet {at}"


def truncate_below_its_length(rng: Random, step: Step, at: int, made: Conversation) -> str:
    packet = step.packets[at]
    size = rng.randrange(len(packet.payload) + 1)
    step.packets[at] = replace(
        packet, payload=packet.payload[:size], announced=len(packet.payload) % packets.FULL
    )
    return f"packet {at}"


def lengthen(rng: Random, step: Step, at: int, made: Conversation) -> str:
    extra = rng.choice((b"\0", b"\xfb", b"\xff" * 9, b"\x05abc", bytes(300)))
    _payload(step, at, step.packets[at].payload + extra)
    return f"packet {at} by {len(extra)}"


def change_byte(rng: Random, step: Step, at: int, made: Conversation) -> str:
    payload = bytearray(step.packets[at].payload or b"\0")
    place = rng.choice((0, 0, rng.randrange(len(payload))))
    payload[place] = rng.choice(TELLING) if rng.randrange(3) else rng.randrange(256)
    _payload(step, at, bytes(payload))
    return f"{place} of packet {at} to {payload[place]}"


def insert_byte(rng: Random, step: Step, at: int, made: Conversation) -> str:
    payload = step.packets[at].payload
    place = rng.randrange(len(payload) + 1)
    _payload(step, at, payload[:place] + bytes([rng.choice(TELLING)]) + payload[place:])
    return f"at {place} of packet {at}"


def remove_byte(rng: Random, step: Step, at: int, made: Conversation) -> str:
    payload = step.packets[at].payload or b"\0"
    place = rng.randrange(len(payload))
    _payload(step, at, payload[:place] + payload[place + 1 :])
    return f"{place} of packet {at}"


def announce_in_field(rng: Random, step: Step, at: int, made: Conversation) -> str:
    payload = step.packets[at].payload or b"\0"
    place = rng.choice((0, 0, rng.randrange(len(payload))))
    number = rng.choice(LENGTHS)
    encoded = packets.lenenc(number, rng.choice((0, 2, 3, 8)))
    _payload(step, at, payload[:place] + encoded + payload[place + rng.randrange(2) :])
    return f"{number} at {place} of packet {at}"


def cut_field(rng: Random, step: Step, at: int, made: Conversation) -> str:
    """End a packet in the middle of a length."""
    prefix = rng.choice(
        (b"\xfc", b"\xfd", b"\xfe", b"\xfc\x01", b"\xfd\x01\x00", b"\xfe\x01\0\0\0")
    )
    payload = step.packets[at].payload
    place = rng.choice((0, len(payload), rng.randrange(len(payload) + 1)))
    _payload(step, at, payload[:place] + prefix)
    return f"{prefix.hex()} at {place} of packet {at}"


def randomise(rng: Random, step: Step, at: int, made: Conversation) -> str:
    _payload(step, at, rng.randbytes(rng.choice((0, 1, 2, 5, 7, 9, 20))))
    return f"packet {at}"


# --- packets among others ---------------------------------------------------------------------


def substitute(rng: Random, step: Step, at: int, made: Conversation) -> str:
    _payload(step, at, _other(rng, made))
    return f"packet {at}: {step.packets[at].payload[:1].hex()}"


def insert_packet(rng: Random, step: Step, at: int, made: Conversation) -> str:
    numbered = _number(rng, step)
    step.packets.insert(at, Packet(_other(rng, made)))
    return f"at {at}: {step.packets[at].payload[:1].hex()}{numbered}"


def duplicate(rng: Random, step: Step, at: int, made: Conversation) -> str:
    numbered = _number(rng, step)
    step.packets[at:at] = [step.packets[at]] * rng.choice((1, 1, 2))
    return f"packet {at}{numbered}"


def drop(rng: Random, step: Step, at: int, made: Conversation) -> str:
    numbered = _number(rng, step)
    del step.packets[at : at + rng.choice((1, 1, 2))]
    return f"packet {at}{numbered}"


def reorder(rng: Random, step: Step, at: int, made: Conversation) -> str:
    numbered = _number(rng, step)
    other = rng.randrange(len(step.packets))
    step.packets[at], step.packets[other] = step.packets[other], step.packets[at]
    return f"{at} and {other}{numbered}"


def splice(rng: Random, step: Step, at: int, made: Conversation) -> str:
    """Continue with what was meant for something else."""
    other = rng.choice(made.steps()).packets
    begin = rng.randrange(len(other) + 1)
    step.packets[at:] = other[begin : begin + 20]
    return f"{len(other) - begin} packets at {at}"


def glue(rng: Random, step: Step, at: int, made: Conversation) -> str:
    """Say twice, or at once what was to be said later; numbered as if each were the answer."""
    other = rng.choice(made.steps()).packets
    step.packets += [replace(packet, place=place) for place, packet in enumerate(other)]
    return f"{len(other)} packets"


def probe_answer(rng: Random, step: Step, at: int, made: Conversation) -> str:
    """Answer a question before it is asked."""
    wrong = [packets.lenenc(1), packets.column(b"probe", 253), packets.eof()]
    wrong += [packets.row([b"somebody else's"]), packets.eof()]
    step.packets += [Packet(payload, place=place) for place, payload in enumerate(wrong)]
    return ""


# --- headers and the stream -------------------------------------------------------------------


def announce(rng: Random, step: Step, at: int, made: Conversation) -> str:
    packet = step.packets[at]
    length = len(packet.payload)
    announced = rng.choice((0, 1, length - 1, length + 1, length + 4, 0xFFFF, 0xFFFFFE, 0xFFFFFF))
    step.packets[at] = replace(packet, announced=max(0, announced) & 0xFFFFFF)
    return f"{announced} for {length}"


def misnumber(rng: Random, step: Step, at: int, made: Conversation) -> str:
    place = rng.choice((at - 1, at + 1, 0, -1, at + 128, 254, rng.randrange(256)))
    step.packets[at] = replace(step.packets[at], place=place)
    return f"packet {at} as {place}"


def stray(rng: Random, step: Step, at: int, made: Conversation) -> str:
    noise = rng.choice((b"\0", b"\0\0\0", b"\0\0\0\1", b"\x01\0\0\1\0", rng.randbytes(7)))
    step.packets[at] = replace(step.packets[at], stray=noise)
    return f"{noise.hex()} after packet {at}"


def cut(rng: Random, step: Step, at: int, made: Conversation) -> str:
    size = len(b"".join(packets.frame(step.packets, 1)))
    step.cut = rng.randrange(size + 1)
    return f"{step.cut} of {size}"


def empty(rng: Random, step: Step, at: int, made: Conversation) -> str:
    _payload(step, at, b"")
    return f"packet {at}"


SPOILERS: tuple[Spoiler, ...] = (
    truncate,
    truncate_below_its_length,
    lengthen,
    change_byte,
    change_byte,
    change_byte,
    insert_byte,
    remove_byte,
    announce_in_field,
    announce_in_field,
    cut_field,
    randomise,
    substitute,
    substitute,
    insert_packet,
    duplicate,
    drop,
    reorder,
    splice,
    glue,
    probe_answer,
    announce,
    misnumber,
    stray,
    cut,
    empty,
)


def _payload(step: Step, at: int, payload: bytes) -> None:
    step.packets[at] = replace(step.packets[at], payload=payload)


def _number(rng: Random, step: Step) -> str:
    """Half of the time let the packets keep the numbers that they have."""
    if rng.randrange(2):
        return ""
    step.packets[:] = _placed(step.packets)
    return ", numbers kept"


def _placed(sequence: Iterable[Packet]) -> list[Packet]:
    return [
        packet if packet.place is not None else replace(packet, place=place)
        for place, packet in enumerate(sequence)
    ]


def _other(rng: Random, made: Conversation) -> bytes:
    """Return the payload of a packet that has its place elsewhere."""
    kind = rng.randrange(9)
    if kind == 0:
        return conversations.ok(rng, rng.choice((0, packets.MORE_RESULTS)))
    if kind == 1:
        return conversations.eof(rng, rng.choice((0, packets.MORE_RESULTS)))
    if kind == 2:
        return conversations.error(rng)
    if kind == 3:
        name = rng.choice(
            (
                str(made.file).encode(),
                str(made.file).encode(),
                b"/nowhere",
                b"/",
                b"",
                b"a\0b",
                b"\xff" * 300,
            )
        )
        return packets.load_local(name)
    if kind == 4:
        return packets.auth_switch(
            rng.choice(PLUGINS), rng.choice((conversations.SALT, b"", b"\0"))
        )
    if kind == 5:
        return packets.extra_auth(
            rng.choice((b"", b"\x03", b"\x04", b"\x05", b"no key", bytes(20)))
        )
    if kind == 6:
        return packets.lenenc(rng.choice((1, 2, 7, 250, 251, 300, 65536, 1 << 24, (1 << 64) - 1)))
    if kind == 7:
        return packets.column(rng.choice((b"c", b"\xff", b"x" * 251)), rng.randrange(256))
    return packets.handshake(plugin=rng.choice(PLUGINS), version=rng.choice((b"", b"x", b"4.1")))
