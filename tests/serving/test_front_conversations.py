"""The same bytes to Tornado's server and to `FrontServer`: clients and handlers must not see a difference."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greentor.serving.front import Front
from greentor.serving.front_server import FrontServer
from greentor.serving.server import Server
from tests.conftest import UVLOOP, _new_loop
from tests.serving import speaking
from tests.serving.conversations import (
    BEHIND_THE_END,
    CONVERSATIONS,
    Conversation,
    chunked,
    get,
    half_close,
    post,
)
from tests.serving.conversing import Outcome, Step, converse, listening

APPS: dict[str, Callable[[speaking.Seen], Any]] = {
    "application": speaking.make_app,
    "custom": speaking.Custom,
    "callable": speaking.make_callable,
}


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    logger = logging.getLogger("tornado")
    logger.propagate = False
    yield
    logger.propagate = True


async def hold(server_class: type[Server], conversation: Conversation) -> Outcome:
    """Hold a conversation with a new server."""
    seen: speaking.Seen = []
    server = server_class(APPS[conversation.app](seen), **conversation.options)
    with listening(server):
        return await converse(server, conversation.steps, seen)


def differences(stock: Outcome, front: Outcome, behind_the_end: bool) -> list[str]:
    """Return what differs; requests that came after the end may have been begun by Tornado alone."""
    found = []
    if stock.received != front.received:
        found.append(f"received {stock.received!r}, from the front {front.received!r}")
    if stock.closed != front.closed:
        found.append(f"closed {stock.closed}, by the front {front.closed}")
    for what in ("seen", "logged"):
        ours, theirs = getattr(front, what), getattr(stock, what)
        if ours != (theirs[: len(ours)] if behind_the_end else theirs):
            found.append(f"{what} {theirs}, on the front {ours}")
    if behind_the_end and len(front.seen) >= len(stock.seen):
        found.append("nothing came behind the end")
    return found


@pytest.mark.parametrize("group", CONVERSATIONS)
def test_clients_and_handlers_see_no_difference(run: Callable[..., Any], group: str) -> None:
    async def main() -> dict[str, list[str]]:
        found = {}
        for conversation in CONVERSATIONS[group]:
            stock = await hold(Server, conversation)
            front = await hold(FrontServer, conversation)
            behind_the_end = conversation.name in BEHIND_THE_END
            if differs := differences(stock, front, behind_the_end):
                found[conversation.name] = differs
        return found

    assert run(main) == {}


def test_names_of_conversations_are_unique_and_exceptions_exist() -> None:
    names = [each.name for group in CONVERSATIONS.values() for each in group]
    assert len(names) == len(set(names))
    assert set(names) >= BEHIND_THE_END


@contextmanager
def both(seen: speaking.Seen, **options: Any) -> Iterator[Callable[..., Any]]:
    """Have both servers listen; give what holds a conversation with each and returns what came of it."""
    servers = [kind(speaking.make_app(seen), **options) for kind in (Server, FrontServer)]

    async def ask(steps: Sequence[Step]) -> list[Outcome]:
        outcomes = []
        for server in servers:
            seen.clear()
            outcome = await converse(server, steps, seen)
            outcome.seen = list(seen)
            outcomes.append(outcome)
        return outcomes

    with listening(servers[0]), listening(servers[1]):
        yield ask


@pytest.mark.parametrize(
    "data",
    [
        post("/x", b"abc", "A: b") + get("/y", "Connection: close"),
        chunked("/", b"abc") + get("/y"),
        post("/stream?async=1", b"abcdef"),
        b"GET / HTTP/1.1\nHost: test\r\n\nGET /b HTTP/1.1\r\nHost: test\r\n\r\n",
    ],
    ids=["plain", "chunked", "streamed", "line feeds"],
)
def test_it_does_not_matter_where_packets_end(run: Callable[..., Any], data: bytes) -> None:
    async def main() -> None:
        with both([]) as ask:
            [whole, front] = await ask([data])
            assert front == whole
            for cut in range(1, len(data)):
                [stock, front] = await ask([data[:cut], data[cut:]])
                assert front == stock, cut
                assert front.received == whole.received, cut

    run(main)


# --- conversations that nobody has thought of ---------------------------------------------------

MESSAGES = [
    get(),
    get("/late?rounds=1"),
    get("/", "Connection: close"),
    get("/x", "Connection: keep-alive", version="1.0"),
    get("/chunks"),
    get("/", "A: b", "Cookie: c=d; e=f", "A: g"),
    get(method="HEAD"),
    post("/", b"a=1&b=2", "Content-Type: application/x-www-form-urlencoded"),
    post("/", get("/inner")),
    post("/stream", b"abcdefgh"),
    chunked("/", b"abc", b"defghij"),
    get("/", "Expect: 100-continue", "Content-Length: 3", method="POST") + b"abc",
    get("/", "Connection: Upgrade", "Upgrade: websocket"),
]
MARKS = [
    b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b",", b"\0", b"\x0b", b"\x7f", b"\x85", b"\xa0", b"\xff",
    b"0", b"3", b"+", b"_", b";", b"/", b"?", b"%", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\n\t", b"HTTP/1.0",
    b"Content-Length: 3\r\n", b"Content-Length: 4\r\n", b"Content-Length:\r\n", b"Host: test\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n",
]  # fmt: skip
PLACE = st.integers(0, 300)
CHANGE = st.tuples(st.sampled_from(["insert", "delete", "replace", "after a line"]), PLACE, PLACE)


def spoil(data: bytes, change: tuple[str, int, int]) -> bytes:
    """Change one place of a message."""
    how, place, number = change
    mark = MARKS[number % len(MARKS)]
    if how == "after a line":
        lines = [at + 2 for at in range(len(data)) if data[at : at + 2] == b"\r\n"]
        at = lines[place % len(lines)] if lines else 0
        return data[:at] + mark + data[at:]
    at = place % (len(data) + 1)
    if how == "insert":
        return data[:at] + mark + data[at:]
    if how == "replace":
        return data[:at] + mark + data[at + len(mark) :]
    return data[:at] + data[at + 1 + number % 4 :]


@st.composite
def spoiled(draw: Any) -> list[Step]:
    """Return some messages in packets, some of which are not what they should be."""
    data = b""
    for message in draw(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=3)):
        for change in draw(st.lists(CHANGE, max_size=2)):
            message = spoil(message, change)
        data += message
    cuts = sorted(
        {cut % (len(data) + 1) for cut in draw(st.lists(st.integers(0, 999), max_size=3))}
    )
    packets = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    steps: list[Step] = [packet for packet in packets if packet]
    return [*steps, half_close] if draw(st.booleans()) else steps


@pytest.mark.parametrize("loop", ["asyncio", UVLOOP])
def test_spoiled_messages_are_understood_as_tornado_does(loop: str) -> None:
    check_spoiled(loop, 250)


def check_spoiled(loop: str, examples: int, **options: Any) -> None:
    """Compare the servers on so many conversations."""
    with asyncio.Runner(loop_factory=partial(_new_loop, loop)) as runner:

        async def enter() -> Any:
            context = both([])
            return context, context.__enter__()

        context, ask = runner.run(enter())

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            **{"derandomize": True, **options},
        )
        @given(steps=spoiled())
        def compare(steps: list[Step]) -> None:
            stock, front = runner.run(ask(steps))
            assert (front.received, front.closed) == (stock.received, stock.closed)
            if front.seen != stock.seen:  # requests behind the end, which Tornado begins
                assert stock.closed
                assert front.seen == stock.seen[: len(front.seen)]

        try:
            compare()
        finally:

            async def leave() -> None:
                context.__exit__(None, None, None)

            runner.run(leave())


# --- the rare is left to Tornado, and the plain is not ------------------------------------------


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (get(), False),
        (get() + post("/", b"x" * 60_000) + get(), False),
        (get("/", version="1.0"), False),
        (post("/stream", b"abc"), False),
        (get("/status/204") + get("/chunks") + get(method="HEAD"), False),
        (chunked("/", b"abc"), True),
        (post("/", b"x" * 70_000), True),
        (get("/", "Upgrade: websocket", "Connection: upgrade"), True),
        (post("/", b"abc", "Upgrade: h2c", "Connection: upgrade"), True),
        (get("/", "Expect: 100-continue"), True),
        (b"nonsense\r\n\r\n", True),
        (get("/", "A: b", " c"), True),
    ],
)
def test_what_is_plain_is_parsed_by_llhttp_and_the_rest_is_not(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, data: bytes, left: bool
) -> None:
    times: list[Front] = []
    leave = Front._leave_to_tornado

    def counted(self: Front) -> None:
        times.append(self)
        leave(self)

    monkeypatch.setattr(Front, "_leave_to_tornado", counted)

    async def main() -> None:
        outcome = await hold(FrontServer, Conversation("", [data]))
        assert outcome.received.startswith(b"HTTP/1.1 ")

    run(main)
    assert len(times) == left
