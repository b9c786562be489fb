"""A server that says anything at all: some thousand spoiled conversations; more by ``python -m tests.fuzz``.

Those that hypothesis plays it makes smaller when one is wrong; the others are told by their number.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.fuzz import conversations, mutations, packets
from tests.fuzz.__main__ import WATCHED, make
from tests.fuzz.application import Action, Settings
from tests.fuzz.conversations import CONTENT, Conversation
from tests.fuzz.judging import Judge
from tests.fuzz.packets import Packet
from tests.fuzz.wires import Script, Step

LOOPS = pytest.mark.parametrize("judge", ["asyncio", "uvloop"], indirect=True)
#: the same inputs each time: ``python -m tests.fuzz`` looks for new ones
SEED = 2960458600


@pytest.fixture(scope="module")
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    with Judge(getattr(request, "param", "asyncio")) as judge:
        yield judge


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        path.write_bytes(CONTENT)
        yield path


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(rng=st.randoms(use_true_random=False))
def test_whatever_a_server_says_only_errors_of_pymysql_come_out(
    judge: Judge, file: Path, rng: Random
) -> None:
    made = mutations.spoil(conversations.conversation(rng, file, odd=True), rng)
    verdict = judge.hear(made)
    note(made.describe())
    assert not verdict.wrong, "\n".join(verdict.wrong)


@LOOPS
def test_of_many_spoiled_conversations_none_goes_wrong(judge: Judge, file: Path) -> None:
    seed = SEED
    outcomes = set()
    for number in range(1000):
        made = make(seed, number, file)
        verdict = judge.hear(made, memory=number % WATCHED == 0)
        where = f"python -m tests.fuzz --seed {seed} --only {number}\n{made.describe()}"
        assert not verdict.wrong, "\n".join([where, *verdict.wrong])
        outcomes.add(verdict.outcome)
    assert len(outcomes) > 10, "they are all the same"


# --- what is announced ------------------------------------------------------------------------

#: an answer that announces much, and what it brings
ANNOUNCED = {
    "a packet": [Packet(b"\x01", announced=0xFFFFFF)],
    "a packet and another": [Packet(b"\x01", announced=0xFFFFFE), Packet(bytes(100))],
    "columns": [Packet(packets.lenenc((1 << 64) - 1)), Packet(packets.column(b"c", 253))],
    "columns, 3 bytes": [Packet(packets.lenenc((1 << 24) - 1)), Packet(packets.column(b"c", 253))],
    "a name": [Packet(b"\x01"), Packet(b"\x03def" + packets.lenenc(1 << 40) + b"db")],
    "the rows of an OK": [Packet(packets.ok((1 << 64) - 1, (1 << 64) - 1))],
}
for _size in (1 << 16, 0xFFFFFF, 1 << 32, 1 << 40, (1 << 64) - 1):
    ANNOUNCED[f"a value of {_size}"] = [
        Packet(payload)
        for payload in (
            packets.lenenc(1),
            packets.column(b"c", 252),
            packets.eof(),
            packets.lenenc(_size) + b"x",
            packets.eof(),
        )
    ]


@pytest.mark.parametrize("cursor", ["Cursor", "SSCursor"])
@pytest.mark.parametrize("answer", ANNOUNCED.values(), ids=list(ANNOUNCED))
def test_a_length_alone_takes_no_memory(
    judge: Judge, file: Path, answer: list[Packet], cursor: str
) -> None:
    made = by_hand(file, Action("query", cursor), [Step(answer)])
    verdict = judge.hear(made, memory=True)
    assert not verdict.wrong, "\n".join(verdict.wrong)


# --- pieces -----------------------------------------------------------------------------------


def test_a_conversation_cut_in_two_anywhere_is_the_same(judge: Judge, file: Path) -> None:
    answer = [packets.lenenc(2), packets.column(b"a", 3), packets.column(b"b", 252), packets.eof()]
    answer += [packets.row([b"1", b"x" * 300]), packets.row([None, b""]), packets.eof(10)]
    answer += [packets.ok(3, status=10), packets.error(1062)]
    made = by_hand(file, Action("query"), [Step([Packet(payload) for payload in answer])])
    size = sum(map(len, packets.frame(made.script.answers[1][0].packets, 1)))
    for at in range(size):
        made.pieces = f"at {at}"
        made.spoiled.clear()
        verdict = judge.hear(made)
        assert not verdict.wrong, "\n".join([f"cut at {at}", *verdict.wrong])


def test_a_conversation_that_ends_anywhere_ends_with_an_error(judge: Judge, file: Path) -> None:
    answer = [packets.lenenc(1), packets.column(b"a", 3), packets.eof(), packets.row([b"1"])]
    step = Step([Packet(payload) for payload in [*answer, packets.eof()]])
    size = sum(map(len, packets.frame(step.packets, 1)))
    for cursor in ("Cursor", "SSCursor"):
        for ending in ("eof", "reset"):
            for at in range(size):
                made = by_hand(file, Action("query", cursor), [replace(step, cut=at)])
                made.ending = ending
                verdict = judge.hear(made)
                assert not verdict.wrong, "\n".join([f"cut at {at}", *verdict.wrong])
                assert verdict.sees[1].error is not None


# --- a file that nobody offered ---------------------------------------------------------------


def test_a_file_that_was_not_offered_is_not_sent(judge: Judge, file: Path) -> None:
    request = Packet(packets.load_local(str(file).encode()))
    for action in (Action("query"), Action("query", "SSCursor"), Action("ping"), Action("load")):
        made = by_hand(file, action, [Step([request]), Step([Packet(packets.ok())])])
        verdict = judge.hear(made)  # which looks at what was sent
        assert not verdict.wrong, "\n".join(verdict.wrong)
        assert verdict.sees[1].error is not None


def test_a_file_that_was_offered_is_sent(judge: Judge, file: Path) -> None:
    request, done = Packet(packets.load_local(str(file).encode())), Packet(packets.ok(40))
    steps = [Step([request]), Step([done], at_end_of_file=True)]
    made = by_hand(file, Action("load"), steps, Settings(local_infile=True))
    made.spoiled.clear()
    verdict = judge.hear(made)
    assert not verdict.wrong, "\n".join(verdict.wrong)
    assert verdict.sees[1].error is None
    assert CONTENT in verdict.heard


def by_hand(file: Path, action: Action, answer: list[Step], *args: Any) -> Conversation:
    """Return a conversation with this answer to one action."""
    script = Script([Step([Packet(packets.handshake())]), Step([Packet(packets.ok())])])
    script.answers = [[Step([Packet(packets.ok())])], answer]
    made = Conversation(file, *(args or (Settings(),)), [action], script)
    made.spoiled.append("by hand")
    return made
