"""Several processes: who serves, what a crash does to the others, and how all of them end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.mariadb import MariaDB
from tests.serving.client import Client, NotAnswered, Program, ask
from tests.test_serving import begun, fine, refused, stop
from tests.waiting import await_until, wait_until


@pytest.fixture
def lite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.sqlite3"


@pytest.fixture
def maria(mariadb: MariaDB) -> str:
    mariadb.create_database("serving")
    return mariadb.url("serving") + "?pool_size=4&max_overflow=0"


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return request.param


def alive(pid: int) -> bool:
    """Tell whether a process, or what its parent has not yet buried of it, is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def descriptors(pid: int) -> list[str]:
    """Name what a process holds open."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(each))
    return found


def connections(mariadb: MariaDB) -> list[int]:
    return [row["ID"] for row in mariadb.processlist() if row["DB"] == "serving"]


async def by_worker(program: Program, stack: AsyncExitStack, each: int) -> dict[int, list[Client]]:
    """Return at least so many connections to each of two workers."""
    found: dict[int, list[Client]] = {}
    for _ in range(100):
        client = await stack.enter_async_context(Client(program.port))
        found.setdefault(int((await client.ask("/pid")).body), []).append(client)
        if len(found) == 2 and min(map(len, found.values())) >= each:
            break
    return found


def test_each_serves_and_the_parent_holds_neither_loop_nor_database(maria, loop, mariadb):
    async def main() -> Counter[int]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(program.port)) for _ in range(64)]
            tokens = await asyncio.gather(
                *(c.ask(f"/echo?token={i}") for i, c in enumerate(clients))
            )
            assert [answer.body for answer in tokens] == [b"%d" % i for i in range(64)]
            return Counter([int((await client.ask("/pid")).body) for client in clients])

    with Program(maria, loop=loop, processes=2).serving() as program:
        # What a process shared the socket with took nearly all: the kernel spreads by a hash.
        share = asyncio.run(main())
        assert set(share) == set(program.started())
        assert min(share.values()) >= 12
        assert program.out.count("prepared") == 1
        assert f"prepared {program.pid}\n" in program.out
        assert len(connections(mariadb)) <= 8
        held = descriptors(program.pid)
        assert not [each for each in held if "eventpoll" in each or "sqlite" in each]
        assert len([each for each in held if each.startswith("socket:")]) == 2  # that listen
        for pid in program.started():
            listening = set(descriptors(pid)) & {each for each in held if "socket:" in each}
            assert len(listening) == 1
        program.send(signal.SIGTERM)
        fine(program)
    assert connections(mariadb) == []


def test_a_killed_worker_is_replaced_and_the_others_serve_on(maria, loop, mariadb):
    async def ask_on(client: Client, name: str, failed: list[str]) -> None:
        while not done.is_set():
            try:
                answer = await client.ask(f"/echo?token={name}&ms=5")
            except (NotAnswered, EOFError):
                failed.append(name)
                return
            assert (answer.status, answer.body) == (200, name.encode())

    async def main() -> None:
        async with AsyncExitStack() as stack:
            victim, other = (found := await by_worker(program, stack, 10))
            failed: list[str] = []
            async with asyncio.TaskGroup() as group:
                for pid, clients in found.items():
                    for number, client in enumerate(clients):
                        group.create_task(ask_on(client, f"{pid}-{number}", failed))
                await await_until(
                    lambda: all(c.answered > 5 for c in [*found[victim], *found[other]])
                )
                os.kill(victim, signal.SIGKILL)
                await await_until(lambda: len(failed) == len(found[victim]))
                await await_until(lambda: len(program.started()) == 3)
                answered = [client.answered for client in found[other]]
                newcomers = await asyncio.gather(*(ask(program.port, "/pid") for _ in range(40)))
                await await_until(
                    lambda: all(
                        c.answered > before + 5
                        for c, before in zip(found[other], answered, strict=True)
                    )
                )
                done.set()
            assert all(name.startswith(f"{victim}-") for name in failed)
            new = program.started()[2]
            assert {int(answer.body) for answer in newcomers} == {other, new}
        wait_until(lambda: len(connections(mariadb)) <= 8)

    done = asyncio.Event()
    with Program(maria, loop=loop, processes=2).serving() as program:
        asyncio.run(main())
        assert re.search(r"worker [01], process [0-9]+, was killed by signal 9", program.log)
        program.send(signal.SIGTERM)
        fine(program)
    assert connections(mariadb) == []


def test_stop_under_load_answers_every_request_that_arrived(maria, loop, mariadb):
    """A connection in use may be closed between two requests, as HTTP allows; none is cut in one."""

    async def ask_on(name: str, outcome: Counter[str]) -> None:
        number = 0
        while True:
            try:
                client = Client(program.port)
                async with client:
                    while True:
                        number += 1
                        token = f"{name}-{number}"
                        answer = await client.ask(f"/echo?token={token}&ms=20")
                        assert (answer.status, answer.body) == (200, token.encode())
                        outcome["answered"] += 1
                        if answer.headers.get("connection") == "close":
                            outcome["closing"] += 1
                            break
            except ConnectionRefusedError:
                return
            except NotAnswered:
                outcome["idle" if client.answered else "lost"] += 1

    async def main() -> Counter[str]:
        outcome: Counter[str] = Counter()
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(ask_on(f"client{number}", outcome))
            await await_until(lambda: outcome["answered"] > 300)
            program.send(signal.SIGTERM)
        return outcome

    with Program(maria, loop=loop, processes=2, grace=30).serving() as program:
        outcome = asyncio.run(main())
        begin = time.monotonic()
        fine(program)
        assert time.monotonic() - begin < 15
    assert outcome["lost"] == 0
    assert outcome["closing"] > 0
    assert (
        program.log.count("200 GET /echo")
        == outcome["answered"]
        == program.out.count("begin /echo")
    )
    assert connections(mariadb) == []
    assert mariadb.execute("SELECT * FROM information_schema.INNODB_TRX") == []


def test_what_ignores_the_end_of_grace_is_killed_and_said_so(maria, mariadb):
    async def main() -> None:
        async with AsyncExitStack() as stack:
            found = await by_worker(program, stack, 1)
            (client, *_), (other, *_) = found.values()
            assert (await other.ask("/echo?token=x")).body == b"x"
            client.send("/block?s=60")
            await begun(program, "/block")
            # Its queue is not closed before it wakes, so that others cannot tell the end of the listening.
            program.send(signal.SIGTERM)
            assert await other.rest() == b""

    with Program(maria, processes=2, grace=0.1, kill_after=0.9).serving() as program:
        asyncio.run(main())
        assert program.wait() == 1
        assert not any(map(alive, program.started()))
    assert re.search(r"killed after 1 s: workers \[[01]\]", program.log)
    wait_until(lambda: not connections(mariadb))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("crash", "RuntimeError: this application cannot be made"),
        ("leave", "this application does not want to be made"),
    ],
)
def test_a_crash_loop_pauses_and_gives_up(lite, fault, said):
    with Program(lite, processes=2, fault=fault, max_restarts=3) as program:
        assert program.wait() == 1
        assert not any(map(alive, program.started()))
    assert "Listening" not in program.out
    assert said in program.log
    assert 4 <= len(program.started()) <= 8
    pauses = [float(s) for s in re.findall("worker 0 will be started in ([0-9.]+) s", program.log)]
    assert pauses == [0.1, 0.2][: len(pauses)] != []
    assert re.search(r"worker [01] ended 4 times in a row: giving up", program.log)


def test_a_signal_while_the_workers_start_ends_it(lite):
    with Program(lite, processes=2, fault="hang") as program:
        wait_until(lambda: program.out.count("hanging") == 2, 20)
        program.send(signal.SIGTERM)
        fine(program)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_them_is_one_signal(lite, number):
    """A terminal sends SIGINT, an init system SIGTERM, to the workers as well as to the parent."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            clients = [
                client
                for found in (await by_worker(program, stack, 1)).values()
                for client in found
            ]
            for client in clients:
                client.send("/wait?s=0.5")
            await begun(program, "/wait", len(clients))
            os.killpg(program.pid, number)
            for client in clients:
                answer = await client.receive()
                assert (answer.body, answer.headers["connection"]) == (b"waited", "close")

    with Program(lite, processes=2).serving() as program:
        asyncio.run(main())
        fine(program)


def test_a_second_signal_ends_all_of_them_at_once(lite):
    async def main() -> None:
        async with Client(program.port) as client:
            client.send("/wait?s=30")
            await begun(program, "/wait")
            await stop(program)
            program.send(signal.SIGTERM)
            assert program.wait(5) == -signal.SIGTERM

    with Program(lite, processes=2).serving() as program:
        asyncio.run(main())
        wait_until(lambda: not any(map(alive, program.started())))


def test_workers_end_in_good_order_when_their_parent_is_killed(lite, loop):
    async def main() -> None:
        async with Client(program.port) as client:
            client.send("/wait?s=0.5")
            await begun(program, "/wait")
            program.send(signal.SIGKILL)
            await await_until(lambda: refused(program.port))
            answer = await client.receive()
            assert (answer.body, answer.headers["connection"]) == (b"waited", "close")

    with Program(lite, loop=loop, processes=2).serving() as program:
        asyncio.run(main())
        assert program.wait() == -signal.SIGKILL
        wait_until(lambda: not any(map(alive, program.started())))
    assert program.out.count("at stop") == 2


def test_a_worker_that_is_told_to_stop_is_replaced(lite):
    async def main() -> None:
        async with AsyncExitStack() as stack:
            (pid, [client, *_]), *_ = (await by_worker(program, stack, 1)).items()
            client.send("/wait?s=0.3")
            await begun(program, "/wait")
            os.kill(pid, signal.SIGTERM)
            assert (await client.receive()).body == b"waited"
            await await_until(lambda: len(program.started()) == 3)
            answers = await asyncio.gather(*(ask(program.port, "/pid") for _ in range(40)))
            assert pid not in {int(answer.body) for answer in answers}

    with Program(lite, processes=2).serving() as program:
        asyncio.run(main())
        program.send(signal.SIGTERM)
        fine(program)
    assert "ended with status 0" in program.log
