"""The same bytes, the same rows: what valid servers say, next to what blocking PyMySQL makes of it."""

import functools
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from pymysql import converters
from pymysql.constants import FIELD_TYPE

from tests.fuzz import conversations, packets, values
from tests.fuzz.application import CONVERTERS, CURSORS, Action, Settings
from tests.fuzz.conversations import Conversation
from tests.fuzz.judging import Judge, Verdict
from tests.fuzz.packets import Packet
from tests.fuzz.wires import Script, Step

PIECES = ("whole", "packets", "bytes", "random")
LOOPS = pytest.mark.parametrize("judge", ["asyncio", "uvloop"], indirect=True)
#: the same inputs each time: ``python -m tests.fuzz`` looks for new ones
SEED = 2960458600
FILE = Path("/nowhere")


@pytest.fixture(scope="module")
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    with Judge(getattr(request, "param", "asyncio")) as judge:
        yield judge


def check(judge: Judge, made: Conversation) -> Verdict:
    verdict = judge.hear(made)
    assert not verdict.wrong, "\n".join([*verdict.wrong, made.describe()[:4000]])
    return verdict


def selecting(
    columns: list[bytes],
    rows: list[bytes],
    settings: Settings | None = None,
    cursor: str = "Cursor",
    fetch: str = "all",
) -> Conversation:
    """Return a conversation in which these rows answer one query."""
    answer = [packets.lenenc(len(columns)), *columns, packets.eof(), *rows, packets.eof()]
    script = Script([Step([Packet(packets.handshake())]), Step([Packet(packets.ok())])])
    script.answers = [[Step([Packet(packets.ok())])]]
    script.answers.append([Step([Packet(payload) for payload in answer])])
    return Conversation(FILE, settings or Settings(), [Action("query", cursor, fetch)], script)


@settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(rng=st.randoms(use_true_random=False))
def test_what_a_valid_server_says_is_the_same_to_both(judge: Judge, rng: Random) -> None:
    made = conversations.conversation(rng, FILE)
    note(made.describe())
    check(judge, made)


@LOOPS
def test_many_valid_conversations_are_the_same_to_both(judge: Judge) -> None:
    seed = SEED
    answered = 0
    for number in range(500):
        rng = Random(f"{seed} {number}")
        made = conversations.conversation(rng, FILE, odd=number % 2 == 0)
        made.spoiled = [f"seed {seed}, number {number}"] if number % 2 == 0 else []
        answered += check(judge, made).outcome == "answered to the end"
    assert answered > 120


# --- each type, in each way of reading it -----------------------------------------------------

WAYS = list(itertools.product(("utf8mb4", "latin1", "gbk"), (True, False), CONVERTERS))


@functools.cache
def samples(type_code: int, encoding: str) -> list[bytes | None]:
    """Return values of a type: all the edges that `values` knows."""
    rng = Random(type_code)
    found = {values.value(type_code, rng, encoding) for _ in range(400)}
    return sorted(found, key=lambda value: (value is None, value))


@pytest.mark.parametrize("type_code", values.TYPES, ids=conversations.name_of_type)
def test_each_value_of_a_type_is_the_same_to_both(judge: Judge, type_code: int) -> None:
    # In an order of chance: what is kept of a column's definition must not reach another connection.
    ways = WAYS.copy()
    Random(secrets.randbits(32)).shuffle(ways)
    cursors = itertools.cycle(CURSORS)
    for charset, use_unicode, conv in ways:
        encoding = {"latin1": "latin-1", "gbk": "ascii"}.get(charset, "utf8")
        rows = [packets.row([value]) for value in samples(type_code, encoding)]
        collation = secrets.choice((45, values.BINARY))
        columns = [packets.column(b"c", type_code, charset=collation)]
        settings = Settings(charset=charset, use_unicode=use_unicode, conv=conv)
        if check(judge, selecting(columns, rows, settings, next(cursors))).sees[1].error:
            for row in rows:  # one that PyMySQL refuses hides the others
                check(judge, selecting(columns, [row], settings))


ODD = {
    FIELD_TYPE.DATETIME: values.ODD_MOMENTS,
    FIELD_TYPE.TIMESTAMP: values.ODD_MOMENTS,
    FIELD_TYPE.DATE: values.ODD_DATES + values.ODD_MOMENTS,
    FIELD_TYPE.TIME: values.ODD_TIMES + values.ODD_MOMENTS,
    FIELD_TYPE.LONG: values.ODD_NUMBERS,
    FIELD_TYPE.YEAR: values.ODD_NUMBERS,
    FIELD_TYPE.DOUBLE: values.ODD_REALS,
    FIELD_TYPE.NEWDECIMAL: values.ODD_REALS + values.ODD_NUMBERS,
}


@pytest.mark.parametrize("type_code", ODD, ids=conversations.name_of_type)
@pytest.mark.parametrize("use_unicode", [True, False])
def test_what_no_server_sends_is_the_same_to_both_or_an_error(
    judge: Judge, type_code: int, use_unicode: bool
) -> None:
    wrong = []
    for value in ODD[type_code]:
        settings = Settings(use_unicode=use_unicode)
        made = selecting([packets.column(b"c", type_code)], [packets.row([value])], settings)
        wrong += [f"{value!r}: {what}" for what in judge.hear(made).wrong]
    assert not wrong, "\n".join(wrong)


# --- forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("pieces", PIECES)
def test_lengths_at_which_the_prefix_grows(judge: Judge, cursor: str, pieces: str) -> None:
    sizes = (0, 1, 249, 250, 251, 252, 253, 254, 255, 256, 257, 65534, 65535, 65536, 65537, 70000)
    columns = [packets.column(b"a", FIELD_TYPE.BLOB), packets.column(b"b", FIELD_TYPE.LONG)]
    rows = [packets.row([b"x" * size, b"%d" % size]) for size in sizes]
    rows += [packets.row([None, b"1"]), packets.row([b"", None]), packets.row([None, None])]
    made = selecting(columns, rows, cursor=cursor, fetch="many")
    made.pieces = pieces
    check(judge, made)


@pytest.mark.parametrize("width", [2, 3, 8])
def test_lengths_with_longer_prefixes_than_they_need(judge: Judge, width: int) -> None:
    columns = [packets.column(b"a", FIELD_TYPE.BLOB), packets.column(b"b", FIELD_TYPE.LONG)]
    values = (b"", b"1", b"22", b"4" * 251)
    rows = [packets.string(value, width) + packets.string(b"7", width) for value in values]
    check(judge, selecting(columns, rows))


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("count", [1, 249, 250, 251, 252, 300])
def test_many_columns(judge: Judge, cursor: str, count: int) -> None:
    columns = [packets.column(b"c%d" % n, FIELD_TYPE.LONG) for n in range(count)]
    rows = [packets.row([b"%d" % n for n in range(count)]), packets.row([None] * count)]
    for pieces in ("whole", "packets", "random"):
        made = selecting(columns, rows, cursor=cursor)
        made.pieces = pieces
        check(judge, made)


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("pieces", ["whole", "random"])
def test_more_rows_than_there_are_sequence_numbers(judge: Judge, cursor: str, pieces: str) -> None:
    columns = [packets.column(b"a", FIELD_TYPE.LONG), packets.column(b"b", FIELD_TYPE.STRING)]
    for count in (249, 250, 251, 252, 253, 1000):
        rows = [packets.row([b"%d" % n, b"x" * (n % 30)]) for n in range(count)]
        made = selecting(columns, rows, cursor=cursor)
        made.pieces = pieces
        check(judge, made)


@pytest.mark.parametrize("cursor", ["Cursor", "SSCursor"])
@pytest.mark.parametrize("over", [-5, -4, 0, 1, 300])
def test_rows_about_the_length_of_a_packet(judge: Judge, cursor: str, over: int) -> None:
    # A packet of the greatest length is followed by another, an empty one if need be.
    columns = [packets.column(b"a", FIELD_TYPE.BLOB, charset=values.BINARY)]
    value = b"ab" * (packets.FULL // 2 + 200)
    rows = [packets.row([value[: packets.FULL - 4 + over]]), packets.row([b"after"])]
    made = selecting(columns, rows, cursor=cursor)
    check(judge, made)


def test_several_results_with_errors_and_without(judge: Judge) -> None:
    column, row = packets.column(b"a", FIELD_TYPE.LONG), packets.row([b"5"])
    more = 2 | packets.MORE_RESULTS
    for cursor, last in itertools.product(CURSORS, (packets.ok(), packets.error(1062), None)):
        answer = [packets.ok(3, 4, status=more, message=b"Rows matched: 1")]
        answer += [packets.lenenc(1), column, packets.eof(), row, row, packets.eof(more, 7)]
        answer += [packets.lenenc(1), column, packets.eof(more), packets.eof(more if last else 2)]
        made = selecting([], [], cursor=cursor)
        payloads = [*answer, last] if last else answer
        made.script.answers[1] = [Step([Packet(payload) for payload in payloads])]
        for pieces in PIECES:
            check(judge, replace(made, pieces=pieces))


# --- what is kept of columns ------------------------------------------------------------------


def test_converters_that_the_application_exchanges_are_used_at_once(judge: Judge) -> None:
    columns = [packets.column(b"a", FIELD_TYPE.LONG), packets.column(b"b", FIELD_TYPE.DATETIME)]
    rows = [packets.row([b"5", b"2024-01-02 03:04:05.5"])]
    for conv in [*CONVERTERS, *reversed(CONVERTERS)]:
        check(judge, selecting(columns, rows, Settings(conv=conv)))
    changed = CONVERTERS["copy"]
    try:
        changed[FIELD_TYPE.LONG] = str
        seen = check(judge, selecting(columns, rows, Settings(conv="copy"))).sees[1]
        assert "'5'" in str(seen.value)
        del changed[FIELD_TYPE.LONG]
        check(judge, selecting(columns, rows, Settings(conv="copy")))
    finally:
        changed[FIELD_TYPE.LONG] = converters.decoders[FIELD_TYPE.LONG]


@pytest.mark.parametrize("count", [1, 2, 6])
def test_columns_that_differ_in_one_byte_are_told_apart(judge: Judge, count: int) -> None:
    rows = [packets.row([b"5"] * count)]
    columns = [packets.column(b"abc%d" % n, FIELD_TYPE.LONG) for n in range(count)]
    plain = columns.pop()
    check(judge, selecting([*columns, plain], rows))
    for at in range(1, len(plain)):
        for byte in (plain[at] ^ 1, 0xFF):
            changed = plain[:at] + bytes([byte]) + plain[at + 1 :]
            made = selecting([*columns, changed], rows)
            made.spoiled = [f"byte {at} is {byte}"]
            check(judge, made)
            check(judge, selecting([*columns, plain], rows))


def test_columns_of_one_connection_in_turn(judge: Judge) -> None:
    # The same beginning, then other columns, in other numbers; each twice, and with rows in between.
    sets = []
    for count in (1, 2, 3, 6, 7):
        for type_code in (FIELD_TYPE.LONG, FIELD_TYPE.VAR_STRING, FIELD_TYPE.DATE):
            columns = [packets.column(b"abcdefgh%d" % n, FIELD_TYPE.LONG) for n in range(count)]
            columns[-1] = packets.column(b"z", type_code)
            sets.append(columns)
    made = selecting([], [])
    made.actions *= 4 * len(sets)
    del made.script.answers[1:]
    rng = Random(1)
    for columns in rng.sample(sets * 4, 4 * len(sets)):
        row = packets.row([b"5"] * len(columns))
        answer = [packets.lenenc(len(columns)), *columns, packets.eof(), row, packets.eof()]
        made.script.answers.append([Step([Packet(payload) for payload in answer])])
    for pieces in PIECES:
        check(judge, replace(made, pieces=pieces))
