"""The selector that tells of answers first: nobody is forgotten, and nothing that is gone is told of."""

import asyncio
import gc
import operator
import selectors
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.db import connection

import greentor
from greentor import selector
from greentor.connecting import open_stream
from greentor.selector import BATCH, ROUNDS, AnswersFirst, new_event_loop
from tests.mariadb import MariaDB
from tests.waiting import GATE, await_until, wait_until

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Pair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return what makes two connected sockets, which are closed at the end."""
    with ExitStack() as stack:

        def make() -> tuple[socket.socket, socket.socket]:
            near, far = socket.socketpair()
            return stack.enter_context(near), stack.enter_context(far)

        yield make


@pytest.fixture
def first() -> Iterator[AnswersFirst]:
    made = AnswersFirst()
    yield made
    made.close()


def prefer(first: AnswersFirst, sock: socket.socket) -> None:
    first.preferred[sock.fileno()] = sock
    first.register(sock, READ, sock)


def its(loop: asyncio.AbstractEventLoop) -> AnswersFirst:
    """Return the selector of a loop, which asyncio keeps in a private attribute."""
    found = loop._selector  # type: ignore[attr-defined]
    assert type(found) is AnswersFirst
    return found


def told(ready: list[selector.Ready]) -> list[object]:
    return [key.data for key, _ in ready]


def test_answer_is_told_of_before_what_was_ready_earlier(first: AnswersFirst, pair: Pair) -> None:
    (other, its_peer), (answer, server) = pair(), pair()
    first.register(other, READ, other)
    prefer(first, answer)
    its_peer.send(b"x")
    server.send(b"x")
    assert told(first.select(0)) == [answer]
    answer.recv(1)
    assert told(first.select(0)) == [other]


def test_answers_without_end_starve_nobody(first: AnswersFirst, pair: Pair) -> None:
    (other, its_peer), (answer, server) = pair(), pair()
    first.register(other, READ, other)
    prefer(first, answer)
    its_peer.send(b"x")
    server.send(b"x")  # never read: there is always another one
    rounds = [told(first.select(0)) for _ in range(2 * (ROUNDS + 1))]
    assert rounds == 2 * [*(ROUNDS * [[answer]]), [answer, other]]


def test_many_answers_without_end_leave_as_much_to_others(first: AnswersFirst, pair: Pair) -> None:
    answers, others = [], []
    for _ in range(BATCH):
        answer, server = pair()
        prefer(first, answer)
        server.send(b"x")  # never read
        answers.append(answer)
    for _ in range(5 * BATCH):
        other, its_peer = pair()
        first.register(other, READ, other)
        its_peer.send(b"x")
        others.append(other)
    rounds = [first.select(0) for _ in range(ROUNDS + 1)]
    assert {len(each) for each in rounds[:-1]} == {BATCH}
    assert told(rounds[-1]) == [*answers, *others]


def test_others_are_told_of_in_batches_and_in_their_order_with_answers_between(
    first: AnswersFirst, pair: Pair
) -> None:
    answer, server = pair()
    prefer(first, answer)
    others = []
    for _ in range(2 * BATCH + 1):
        other, its_peer = pair()
        first.register(other, READ, other)
        its_peer.send(b"x")
        others.append(other)
    assert told(first.select(0)) == others[:BATCH]
    server.send(b"x")
    assert told(first.select(0)) == [answer]
    answer.recv(1)
    assert told(first.select(None)) == others[BATCH : 2 * BATCH]
    assert told(first.select(None)) == others[2 * BATCH :]


@pytest.mark.parametrize("change", ["unregister", "modify", "reuse"])
def test_what_has_changed_since_it_became_ready_is_not_told_of_as_it_was(
    first: AnswersFirst, pair: Pair, change: str
) -> None:
    answer, _ = pair()
    prefer(first, answer)
    others = []
    for _ in range(BATCH + 1):
        other, its_peer = pair()
        first.register(other, READ, other)
        its_peer.send(b"x")
        others.append((other, its_peer))
    first.select(0)
    last, its_peer = others[-1]
    if change == "modify":
        first.modify(last, WRITE, "written")
        ready = [*first.select(0), *first.select(0), *first.select(0)]
        assert [(key.data, events) for key, events in ready if key.fileobj is last] == [
            ("written", WRITE)
        ]
        return
    first.unregister(last)
    if change == "reuse":
        first.register(last, READ, "anew")
        last.recv(1)
    assert last not in told(first.select(0))
    assert "anew" not in told(first.select(0))


def test_waiting_ends_with_an_answer_and_with_anything_else(
    first: AnswersFirst, pair: Pair
) -> None:
    (other, its_peer), (answer, server) = pair(), pair()
    first.register(other, READ, other)
    prefer(first, answer)
    assert first.select(0.001) == []
    server.send(b"x")
    assert told(first.select(None)) == [answer]
    answer.recv(1)
    its_peer.send(b"x")
    assert told(first.select(None)) == [other]
    server.send(b"x")
    assert told(first.select(None)) == [answer, other]


def test_without_answers_to_wait_for_it_is_the_usual_selector(
    first: AnswersFirst, pair: Pair
) -> None:
    others = []
    for _ in range(2 * BATCH):
        other, its_peer = pair()
        first.register(other, READ, other)
        its_peer.send(b"x")
        others.append(other)
    assert set(told(first.select(0))) == set(others)


def test_keys_are_found_wherever_they_are_registered(first: AnswersFirst, pair: Pair) -> None:
    (other, _), (answer, _) = pair(), pair()
    first.register(other, READ, "other")
    prefer(first, answer)
    assert first.get_key(other.fileno()).data == "other"
    assert first.get_key(answer).data is answer
    first.modify(answer, READ | WRITE, "both")
    assert first.get_key(answer).events == READ | WRITE
    assert told(first.select(0)) == ["both"]
    first.unregister(answer)
    with pytest.raises(KeyError):
        first.get_key(answer)
    with pytest.raises(KeyError):
        first.unregister(answer)


def test_descriptor_is_preferred_for_as_long_as_its_connection_lives() -> None:
    loop = new_event_loop()
    try:
        preferred = its(loop).preferred
        old, new = object(), object()
        selector.prefer(loop, 77, old)
        selector.prefer(
            loop, 77, new
        )  # closed and used again, before the loop has told the old one
        selector.forget(loop, 77, old)
        assert preferred == {77: new}
        selector.forget(loop, 77, new)
        assert preferred == {}
    finally:
        loop.close()


@pytest.mark.parametrize("why", ["no epoll", "policy"])
def test_loop_of_another_kind_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    class Own(asyncio.SelectorEventLoop):
        pass

    if why == "policy":
        monkeypatch.setattr(asyncio, "new_event_loop", Own)  # which asks the policy
    else:
        monkeypatch.delattr(selectors, "EpollSelector")
    loop = new_event_loop()
    try:
        assert type(loop) is (Own if why == "policy" else asyncio.SelectorEventLoop)
        assert type(loop._selector) is not AnswersFirst  # type: ignore[attr-defined]
        selector.prefer(loop, 77, None)
        selector.forget(loop, 77, None)
    finally:
        loop.close()


def test_closed_loop_is_kept_by_nobody(pair: Pair) -> None:
    near, _ = pair()
    loop = new_event_loop()
    loop.add_reader(near, print)
    selector.prefer(loop, 77, loop)  # as a stream, which refers to its loop
    kept = its(loop)
    gone = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
    assert kept.get_map() == {}


def test_file_that_was_closed_is_still_found(pair: Pair) -> None:
    (near, _), (answer, _) = pair(), pair()
    loop = new_event_loop()
    try:
        selector.prefer(loop, answer.fileno(), answer)
        for sock in (near, answer):
            loop.add_reader(sock, print)
            sock.close()
            assert loop.remove_reader(sock)
            assert not loop.remove_reader(sock)
        assert len(its(loop).get_map()) == 1  # what wakes the loop
    finally:
        loop.close()


def test_handshake_that_comes_to_nothing_leaves_no_preference() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):

        def connect() -> None:
            stream = open_stream(*silent.getsockname())
            stream.settimeout(0.05)
            assert len(its(runner.get_loop()).preferred) == 1
            with pytest.raises(TimeoutError):
                stream.start_tls(ssl.create_default_context(), "localhost")
            assert its(runner.get_loop()).preferred == {}

        runner.run(greentor.green(connect)())  # type: ignore[arg-type]


def test_connections_of_the_database_are_preferred_and_forgotten(mariadb: MariaDB) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        made = its(runner.get_loop())

        async def main() -> None:
            assert made.preferred == {}
            assert await greentor.green(ask)() == 1
            assert made.preferred == {}

        def ask() -> int:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                assert [type(each).__name__ for each in made.preferred.values()] == ["Stream"]
                [fd] = made.preferred
                assert fd in made._answers.get_map()
                result: int = cursor.fetchone()[0]
            connection.connection.close()
            greentor.sleep(0)  # the loop tells the stream
            return result

        runner.run(main())


def test_requests_are_read_while_queries_follow_each_other_without_a_pause(
    mariadb: MariaDB,
) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        over = False
        asked = [0] * 4

        def ask_on_and_on(number: int) -> None:
            with connection.cursor() as cursor:
                while not over:
                    cursor.execute("SELECT 1")
                    cursor.fetchall()
                    asked[number] += 1

        async def main() -> None:
            nonlocal over
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            busy = [greentor.spawn(ask_on_and_on, number) for number in range(len(asked))]
            try:
                async with asyncio.timeout(30):
                    await await_until(lambda: min(asked) > 0)
                    for _ in range(20):
                        reader, writer = await asyncio.open_connection(*address)
                        writer.write(b"ping\n")
                        assert await reader.readline() == b"ping\n"
                        writer.close()
                        await writer.wait_closed()
                    so_far = list(asked)
                    await await_until(lambda: all(map(operator.lt, so_far, asked)))
            finally:
                over = True
                await asyncio.gather(*busy)
                server.close()
                await server.wait_closed()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        runner.run(main())


def test_loop_is_woken_from_a_thread_while_it_waits_for_answers(mariadb: MariaDB) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:

        def both() -> str:
            with connection.cursor() as holder:
                holder.execute("SELECT GET_LOCK('gate', 0)")
                waiting = greentor.spawn(ask)
                came = greentor.thread(when_it_waits)
                holder.execute("SELECT RELEASE_LOCK('gate')")
                holder.fetchall()
            greentor.await_(waiting)
            return came

        def when_it_waits() -> str:
            wait_until(lambda: any(row["INFO"] == GATE for row in mariadb.processlist()))
            return "from the thread"

        def ask() -> None:
            with connection.cursor() as cursor:
                cursor.execute(GATE)
                cursor.fetchall()

        async def main() -> None:
            async with asyncio.timeout(30):
                assert await greentor.green(both)() == "from the thread"

        runner.run(main())
