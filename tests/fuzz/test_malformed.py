"""Malformed packets, one of each kind: for each of these PyMySQL raises what is none of its own errors.

The fuzzer found them; this is the list, so that each is met by name in every run.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymysql import err
from pymysql.constants import FIELD_TYPE as T

from tests.fuzz.application import Action, Settings
from tests.fuzz.conversations import SALT, Conversation
from tests.fuzz.judging import Judge, Verdict
from tests.fuzz.packets import (
    Packet,
    auth_switch,
    column,
    eof,
    extra_auth,
    handshake,
    lenenc,
    load_local,
    ok,
    row,
)
from tests.fuzz.wires import Script, Step

FILE = Path("/nowhere")
COLUMN, EOF, ROW = column(b"c", T.VAR_STRING), eof(), row([b"x"])
OFFERS = Settings(local_infile=True)
PLAIN = Settings(use_unicode=False)

#: a public key with which nothing can be encrypted
EC_KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
"""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


def rows(*payloads: bytes, columns: int = 1, kind: int = T.VAR_STRING) -> list[bytes]:
    """Return an answer of rows."""
    return [lenenc(columns), *[column(b"c", kind)] * columns, EOF, *payloads, EOF]


#: answers to a query
ANSWERS = {
    "nothing": [b""],
    "ERR of one byte": [b"\xff"],
    "ERR that ends before its text": [b"\xff\x15\x04"],
    "ERR whose state is not UTF-8": [b"\xff\x15\x04#\xff\xff\xff\xff\xff"],
    "OK of 3 bytes": [b"\0\0\0"],
    "OK whose number is cut": [b"\0\xfe\1\0\0\0\0\0"],
    "OK whose status is cut": [b"\0\xfc\1\0\xfc\1\0"],
    "EOF": [EOF],
    "a count that is cut": [b"\xfc"],
    "a count of 2**64 - 1": [lenenc((1 << 64) - 1)],
    "a definition cut before its numbers": [lenenc(1), COLUMN[:-5]],
    "a definition with a length past its end": [lenenc(1), b"\x03def\xfa"],
    "a definition of one byte": [lenenc(1), b"\x03"],
    "an empty definition": [lenenc(1), b""],
    "a definition without a table": [lenenc(1), b"\x03def\x02db\xfb" + COLUMN[8:]],
    "a name that is not UTF-8": [lenenc(1), column(b"\xff", T.LONG), EOF, EOF],
    "rows after the definitions": [lenenc(1), COLUMN, ROW, EOF],
    "an end of one byte": [*rows(ROW)[:-1], b"\xfe"],
    "a value longer than its packet": rows(b"\xfax"),
    "a value of 2**64 - 1 bytes": rows(lenenc((1 << 64) - 1) + b"x"),
    "a value of 2**63 bytes": rows(lenenc(1 << 63) + b"x"),
    "a length that is cut": rows(b"\xfc\1"),
    "a second length that is cut": rows(b"\1x\xfd\1", columns=2),
    "an empty row": rows(b""),
    "a request for a file": [load_local(b"/etc/passwd")],
    "text that is not UTF-8": rows(b"\1\xff"),
    "a word for an integer": rows(row([b"abc"]), kind=T.LONG),
    "a word for a float": rows(row([b"abc"]), kind=T.DOUBLE),
    "a word for a decimal": rows(row([b"abc"]), kind=T.NEWDECIMAL),
    "an integer of 5,000 digits": rows(row([b"9" * 5000]), kind=T.LONGLONG),
    "a date that is a year": rows(row([b"2024"]), kind=T.DATE),
    "a date that is not ASCII": rows(row([b"\xff"]), kind=T.DATE),
}
#: the same for a connection without Unicode
PLAIN_ANSWERS = {
    "a decimal": rows(row([b"1.5"]), kind=T.NEWDECIMAL),
    "a date that is not ASCII": ANSWERS["a date that is not ASCII"],
    "a word for an integer": ANSWERS["a word for an integer"],
}
#: what logs in, step by step
LOGINS = {
    "an empty greeting": [[b""]],
    "a greeting of one byte": [[b"\x0a"]],
    "a greeting cut in its number": [[b"\x0a5.5\0\1"]],
    "a greeting cut after its salt": [[b"\x0a5.5\0\1\0\0\0abcdefgh\0"]],
    "half a greeting": [[b"\x0a5.5\0\1\0\0\0abcdefgh\0\xff\xff"], [ok()]],
    "a version that is no number": [[handshake(version=b"x")], [ok()]],
    "no version": [[handshake(version=b"")], [ok()]],
    "a plugin that is not UTF-8": [[handshake(plugin=b"\xff")], [ok()]],
    "a plugin that is not ASCII": [[handshake(plugin="é".encode())], [ok()]],
    "nothing": [[handshake()], [b""]],
    "a switch without a plugin": [[handshake()], [b"\xfe"]],
    "a switch to the oldest plugin": [[handshake()], [auth_switch(b"mysql_old_password", SALT)]],
    "a switch to ed25519": [[handshake()], [auth_switch(b"client_ed25519", b"")]],
    "a switch to no ASCII": [[handshake()], [auth_switch(b"\xff", SALT)]],
    "a dialog without a prompt": [[handshake()], [auth_switch(b"dialog", b"")]],
    "a dialog that asks": [[handshake()], [auth_switch(b"dialog", b"\x05What?")]],
    "no salt for sha2": [[handshake()], [auth_switch(b"caching_sha2_password", b"")], [b"\1\4"]],
    "no salt for sha256": [
        [handshake()],
        [auth_switch(b"sha256_password", b"")],
        [extra_auth(b"no key")],
    ],
    "extra data of one byte": [[handshake(plugin=b"caching_sha2_password")], [b"\x01"]],
    "a key that is none": [
        [handshake(plugin=b"caching_sha2_password")],
        [b"\x01\x04"],
        [extra_auth(b"no key")],
    ],
    "a key of another kind": [
        [handshake(plugin=b"caching_sha2_password")],
        [b"\x01\x04"],
        [extra_auth(EC_KEY)],
    ],
    "a key that is none for sha256": [
        [handshake(plugin=b"sha256_password")],
        [extra_auth(b"no key")],
    ],
    "OK that is cut": [[handshake()], [b"\0\0"]],
    "an ERR of two bytes": [[handshake()], [b"\xff\1"]],
}


def conversation(
    action: Action,
    answer: list[bytes],
    settings: Settings,
    login: list[list[bytes]] | None = None,
) -> Conversation:
    steps = login or [[handshake()], [ok()]]
    script = Script([Step([Packet(payload) for payload in step]) for step in steps])
    names = [Step([Packet(ok())])]
    script.answers = [names, [Step([Packet(payload) for payload in answer])]]
    return Conversation(FILE, settings, [action], script, spoiled=["by hand"])


def check(verdict: Verdict, number: int) -> None:
    assert not verdict.wrong, "\n".join(verdict.wrong)
    error = verdict.sees[number].error
    assert error is not None
    assert issubclass(error, err.Error)


ACTIONS = {
    "Cursor": Action("query"),
    "SSCursor": Action("query", "SSCursor"),
    "show_warnings": Action("show_warnings"),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=list(ACTIONS))
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_a_malformed_answer_is_an_error_of_pymysql(
    judge: Judge, answer: list[bytes], action: Action
) -> None:
    check(judge.hear(conversation(action, answer, Settings())), 1)


@pytest.mark.parametrize("answer", PLAIN_ANSWERS.values(), ids=list(PLAIN_ANSWERS))
def test_a_value_that_cannot_be_read_is_an_error_without_unicode_too(
    judge: Judge, answer: list[bytes]
) -> None:
    check(judge.hear(conversation(Action("query"), answer, PLAIN)), 1)


SHORT = {
    name: ANSWERS[name]
    for name in (
        "nothing",
        "ERR of one byte",
        "ERR that ends before its text",
        "OK of 3 bytes",
        "OK whose number is cut",
        "OK whose status is cut",
        "EOF",
        "a request for a file",
        "a value longer than its packet",
    )
}


@pytest.mark.parametrize("kind", ["ping", "begin", "commit", "rollback", "select_db"])
@pytest.mark.parametrize("answer", SHORT.values(), ids=list(SHORT))
def test_a_malformed_answer_to_a_command_is_an_error_of_pymysql(
    judge: Judge, answer: list[bytes], kind: str
) -> None:
    check(judge.hear(conversation(Action(kind), answer, Settings())), 1)


@pytest.mark.parametrize("name", [b"a\0b", b"", b"/", b"/nowhere", b"\xff" * 300])
def test_a_file_that_cannot_be_read_is_an_error_of_pymysql(judge: Judge, name: bytes) -> None:
    check(judge.hear(conversation(Action("load"), [load_local(name)], OFFERS)), 1)


@pytest.mark.parametrize("login", LOGINS.values(), ids=list(LOGINS))
def test_a_malformed_login_is_an_error_of_pymysql(judge: Judge, login: list[list[bytes]]) -> None:
    check(judge.hear(conversation(Action("query"), [ok()], Settings(), login)), 0)


# --- bytes that nobody asked for --------------------------------------------------------------


def surplus(*more: bytes) -> list[Packet]:
    """Return OK, and after it packets that are numbered as if they answered the next question."""
    return [Packet(ok()), *(Packet(payload, place=at) for at, payload in enumerate(more))]


SURPLUS = {
    "an OK": surplus(ok()),
    "rows": surplus(*rows(row([b"of somebody else"]))),
    "an ERR": surplus(b"\xff\x15\x04#42000no"),
    "one byte": [Packet(ok(), stray=b"\1")],
    "half a header": [Packet(ok(), stray=b"\1\0")],
}


@pytest.mark.parametrize("kind", ["query", "ping", "set_character_set"])
@pytest.mark.parametrize("answer", SURPLUS.values(), ids=list(SURPLUS))
def test_what_came_before_the_question_does_not_answer_it(
    judge: Judge, answer: list[Packet], kind: str
) -> None:
    made = conversation(Action(kind), [], Settings())
    made.script.answers[1] = [Step(answer)]
    verdict = judge.hear(made)
    assert not verdict.wrong, "\n".join(verdict.wrong)


@pytest.mark.parametrize("kind", ["ping", "commit", "set_character_set", "select_db"])
def test_rows_for_an_ok_do_not_answer_the_next_question(judge: Judge, kind: str) -> None:
    # 251 of them, so that the one numbered 1 comes round.
    answer = rows(*[row([b"of somebody else"])] * 251)
    verdict = judge.hear(conversation(Action(kind), answer, Settings()))
    assert not verdict.wrong, "\n".join(verdict.wrong)
