"""How `bench.compare` measures a server: what the load counted, what it cost, and that it is ended.

The servers here are small ones that do what is to be noticed.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.compare import load, machine, measure
from bench.compare.crowd import crowd
from bench.compare.measure import Gauge
from bench.compare.pace import Pace
from bench.compare.servers import Fleet, Server, ServerFailed, free_port
from bench.compare.workloads import WORKLOADS, Cell, Workload
from tests.mariadb import MariaDB
from tests.waiting import wait_until

#: answers as its path says: /json, /burn (uses CPU in threads that end),
#: /on (goes on with something), /slow, /die, /500, /once, /first
SERVER = """
import asyncio, os, sys, threading, time
busy = 0

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

async def serve(reader, writer):
    global busy
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            path, status, more = head.split()[1].decode(), "200 OK", "keep-alive"
            if path.startswith("/burn"):
                threads = [threading.Thread(target=burn, args=(0.02,)) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            elif path == "/on":
                threading.Thread(target=burn, args=(5,), daemon=True).start()
            elif path == "/slow":
                await asyncio.sleep(0.05)
            elif path == "/die":
                print("killed by a request", file=sys.stderr, flush=True)
                os._exit(3)
            elif path == "/500":
                status = "500 No"
            elif path == "/once":
                more = "close"
            elif path == "/first":
                if busy:
                    await asyncio.sleep(60)
                busy += 1
            text = f"HTTP/1.1 {status}\\r\\nContent-Length: 2\\r\\nConnection: {more}\\r\\n\\r\\n{{}}"
            writer.write(text.encode())
            if more == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=2000)
    if "child" in sys.argv:  # which does not listen to SIGTERM, as its parent
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not os.fork():
            time.sleep(600)
    await server.serve_forever()

asyncio.run(main())
"""

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server of this text, and end it."""
    servers = []

    def begin(text: str = SERVER, *arguments: str) -> Server:
        server = Server(
            "one",
            lambda port: [sys.executable, "-c", text, str(port), *arguments],
            tmp_path / "one.log",
        )
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.stop(0)


# --- what wrk and ab say ----------------------------------------------------------------------

WRK = """Running 4s test @ http://127.0.0.1:8001/db
  1 threads and 64 connections
Requests/sec:   2000.00

{"requests": 5000, "duration": 2500000, "connect": 1, "read": 2, "write": 3, "status": 40, \
"timeout": 5, "p50": 31000.0, "p90": 40000.0, "p99": 60500.0, "max": 99000.0}
"""

AB = """This is ApacheBench, Version 2.3 <$Revision: 1903618 $>

Concurrency Level:      64
Time taken for tests:   2.500 seconds
Complete requests:      5000
Failed requests:        6
   (Connect: 1, Receive: 2, Length: 0, Exceptions: 3)
Write errors:           4
Non-2xx responses:      40
Keep-Alive requests:    4900
Requests per second:    2000.00 [#/sec] (mean)

Percentage of the requests served within a certain time (ms)
  50%     31
 100%     99 (longest request)
"""
PERCENTILES = "Percentage served,Time in ms\n" + "".join(f"{n},{n}.5\n" for n in range(100))


def test_every_kind_of_error_that_wrk_counts_is_kept_and_none_counts_as_served() -> None:
    outcome = load.parse_wrk(WRK)
    assert outcome.errors == {"connect": 1, "read": 2, "write": 3, "timeout": 5, "status": 40}
    assert (outcome.requests, outcome.served, outcome.seconds) == (5000, 4960, 2.5)
    assert (outcome.p50, outcome.p90, outcome.p99, outcome.longest) == (31, 40, 60.5, 99)


def test_every_kind_of_error_that_ab_counts_is_kept_and_none_counts_as_served() -> None:
    outcome = load.parse_ab(AB, PERCENTILES)
    errors = {name: count for name, count in outcome.errors.items() if count}
    assert errors == {"connect": 1, "read": 2, "exceptions": 3, "write": 4, "status": 40}
    assert (outcome.requests, outcome.served, outcome.seconds) == (5000, 4950, 2.5)
    assert (outcome.p50, outcome.p90, outcome.p99, outcome.longest) == (50.5, 90.5, 99.5, 99)


def test_failures_of_a_kind_that_ab_does_not_name_are_kept() -> None:
    outcome = load.parse_ab(AB.replace("Failed requests:        6", "Failed requests: 16"), "")
    assert outcome.errors["other"] == 10
    assert outcome.served == 4940


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused\n{"])
def test_a_load_that_counted_nothing_is_no_result(output: str) -> None:
    with pytest.raises(load.LoadFailed, match="counted nothing"):
        load.parse_wrk(output)
    with pytest.raises(load.LoadFailed, match="counted nothing"):
        load.parse_ab(output, "")


def test_no_answer_at_all_has_no_latency_rather_than_no_result() -> None:
    assert load.parse_wrk(WRK.replace("31000.0", "-nan")).p50 == 0
    assert load.parse_ab(AB.replace("5000", "0"), "").p99 == 0


def installed(name: str) -> Any:
    if lack := load.missing(load.LOADS[name]()):
        pytest.skip(lack)
    return load.LOADS[name]()


@pytest.mark.parametrize("name", load.LOADS)
def test_a_run_takes_as_long_as_it_is_to_and_its_late_call_comes_before_its_end(
    name: str, start: Start
) -> None:
    server, sender, calls = start(), installed(name), []
    server.wait()
    begun = time.monotonic()
    cell = Cell(WORKLOADS["json"], 4)
    outcome = sender.run(server.port, cell, 0.5, lambda: calls.append(time.monotonic()))
    assert 0.45 < outcome.seconds < 5
    assert outcome.served == outcome.requests > 10
    assert 0 < outcome.p50 <= outcome.p99 <= outcome.longest + 1
    assert len(calls) == 1
    assert 0.35 < calls[0] - begun < 5


@pytest.mark.parametrize("name", load.LOADS)
def test_answers_that_are_not_2xx_are_errors(name: str, start: Start) -> None:
    server, sender = start(), installed(name)
    server.wait()
    cell = Cell(Workload("no", "cpu", (("/500", 1),)), 4)
    outcome = sender.run(server.port, cell, 0.3)
    assert outcome.errors["status"] >= outcome.requests > 10
    assert outcome.served == 0


@pytest.mark.parametrize("name", load.LOADS)
def test_a_server_that_is_not_there_fails_the_load(name: str) -> None:
    try:
        outcome = installed(name).run(free_port(), Cell(WORKLOADS["json"], 4), 0.3)
    except load.LoadFailed:
        return
    assert outcome.served == 0  # of ab, which tries again
    assert sum(outcome.errors.values())


@pytest.mark.parametrize("name", load.LOADS)
def test_a_server_that_answers_nothing_has_failed(name: str, start: Start) -> None:
    server = start(SERVER.replace("if busy:", "if True:"))
    server.wait()
    cell = Cell(Workload("no", "cpu", (("/first", 1),)), 4)
    outcome = installed(name).run(server.port, cell, 0.3)
    assert (outcome.requests, outcome.served) == (0, 0)
    assert outcome.errors["unanswered"] == 4


def test_a_mix_has_the_shares_that_it_is_to_have(start: Start, tmp_path: Path) -> None:
    seen = requests_seen(start, tmp_path, Cell(WORKLOADS["mixed"], 1))
    total = sum(seen.values())
    assert total > 40
    for route, weight in WORKLOADS["mixed"].paths:
        assert seen[route] / total == pytest.approx(weight / 20, abs=0.05)


def test_plaintext_is_sent_without_waiting_for_the_answers(start: Start, tmp_path: Path) -> None:
    seen = requests_seen(start, tmp_path, Cell(WORKLOADS["plaintext"], 1), at_once=True)
    assert max(seen.values()) == 16


def requests_seen(start: Start, tmp_path: Path, cell: Cell, at_once: bool = False) -> Counter[str]:
    """Return the requests that wrk sends, by path; or by when they arrived."""
    text = SERVER.replace(
        'path, status, more = head.split()[1].decode(), "200 OK", "keep-alive"',
        'path, status, more = head.split()[1].decode(), "200 OK", "keep-alive"\n'
        "            print(path, len(reader._buffer), file=sys.stderr, flush=True)",
    )
    assert text != SERVER
    sender, server = installed("wrk"), start(text)
    server.wait()
    sender.run(server.port, cell, 0.5)
    # Other lines are asyncio's, about connections that wrk has closed.
    lines = [line.split() for line in server.log.read_text().splitlines() if line[:1] == "/"]
    found: Counter[str] = Counter()
    for path, waiting in lines:
        if path != "/json":
            if at_once:
                length = len(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n")
                found[path] = max(found[path], int(waiting) // length + 1)
            else:
                found[path] += 1
    return found


# --- servers ----------------------------------------------------------------------------------


def test_a_server_that_dies_is_reported_with_its_log(start: Start) -> None:
    server = start("import sys; sys.exit('no such module')")
    with pytest.raises(ServerFailed, match=r"ended with 1; see .*one\.log: no such module"):
        server.wait()


def test_a_server_that_never_answers_is_reported_and_killed(start: Start) -> None:
    server = start("import time; print('up', flush=True); time.sleep(600)")
    with pytest.raises(ServerFailed, match=r"no answer within 0\.5 s; see .*one\.log"):
        server.wait(0.5)
    server.stop(0.1)
    assert not server.alive


def test_a_server_that_does_not_listen_to_sigterm_is_killed_with_its_children(
    start: Start,
) -> None:
    server = start(SERVER, "child")
    server.wait()
    pids = wait_until(lambda: (found := server._processes())[1:] and found)
    server.stop(0.2)
    assert not [pid for pid in pids if machine.alive(pid)]


def test_a_server_is_only_answered_by_one_of_its_own_session(start: Start) -> None:
    one, other = start(), start()
    assert set(one._processes()).isdisjoint(other._processes())
    one.stop()
    other.wait()
    assert other.alive


def test_cpu_time_counts_threads_that_have_ended_and_children(start: Start) -> None:
    server = start()
    server.wait()
    idle = server.cpu()
    asyncio.run(ask(server.port, "/burn", 10))
    burnt = server.cpu() - idle
    assert 0.8 <= burnt < 1.3  # ten times four threads, 20 ms each
    child = (
        "import os, time\nif not os.fork():\n while time.process_time() < .3: pass\n os._exit(0)"
    )
    parent = start(child + "\nos.wait()\ntime.sleep(600)")
    wait_until(lambda: len(parent._processes()) == 1 and parent.cpu() > 0.3)
    assert 0.3 <= parent.cpu() < 0.6


async def ask(port: int, path: str, times: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"{}")
    writer.close()
    await writer.wait_closed()


def test_memory_of_forks_counts_shared_pages_once(start: Start) -> None:
    text = (
        "import os, time\nkept = b'x' * 50_000_000\nfor _ in range(3): os.fork()\ntime.sleep(600)"
    )
    server = start(text)
    wait_until(lambda: len(server._processes()) == 8)
    assert 50_000_000 < server.memory() < 150_000_000


def test_cores_are_kept_apart_and_come_back() -> None:
    cores = machine.Cores.split(64)
    if not cores.server:
        pytest.skip("one core")
    assert cores.others
    assert set(cores.server).isdisjoint(cores.others)
    before = os.sched_getaffinity(0)
    with machine.pinned(cores.others):
        asked = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
        assert subprocess.check_output(asked, text=True).strip() == str(list(cores.others))
    assert os.sched_getaffinity(0) == before


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Fleet whose peers are the server of this text; one of them does not start."""

    def begin(self: Fleet, name: str, pool: int) -> Server:
        text = "raise SystemExit('broken')" if name == "broken" else SERVER
        return Server(
            name,
            lambda port: [sys.executable, "-c", text, str(port), str(pool)],
            tmp_path / f"{name}.log",
        )

    monkeypatch.setattr(Fleet, "_start", begin)
    with Fleet({}, {}, tmp_path) as fleet:
        yield fleet


def test_a_fleet_has_exactly_the_servers_that_are_needed(fleet: Fleet) -> None:
    assert fleet.need({"a": 1, "b": 1}) == {}
    first, kept = fleet["a"], fleet["b"]
    failed = fleet.need({"a": 2, "b": 1, "broken": 1})
    assert list(failed) == ["broken"]
    assert "broken.log: broken" in failed["broken"]
    assert not first.alive
    assert fleet["b"] is kept
    assert fleet["a"] is not first
    second = fleet["a"]
    fleet.close()
    assert not kept.alive
    assert not second.alive


# --- one sample -------------------------------------------------------------------------------


def test_a_server_that_dies_under_load_fails_the_sample(fleet: Fleet, mariadb: MariaDB) -> None:
    fleet.need({"a": 8})
    workload = Workload("die", "cpu", (("/die", 1),))
    with pytest.raises(ServerFailed, match=r"ended with 3; see .*a\.log: killed by a request"):
        Gauge(fleet, installed("wrk"), mariadb).sample("a", 8, Cell(workload, 2), 0, 0.3)


def test_a_sample_has_what_the_load_has_cost_and_no_more(fleet: Fleet, mariadb: MariaDB) -> None:
    fleet.need({"a": 8})
    gauge = Gauge(fleet, installed("wrk"), mariadb)
    workload = Workload("burn", "cpu", (("/burn", 1),))
    found = gauge.sample("a", 8, Cell(workload, 1), 3, 2)
    assert (found.peer, found.workload, found.connections, found.round) == ("a", "burn", 1, 3)
    assert found.served == found.requests > 0
    assert 80_000 <= found.cpu < 200_000  # the request that was at work at the end counts
    assert found.statements == 0
    assert found.memory > 5_000_000


def test_a_server_that_was_just_started_is_warmed_up_for_longer(
    fleet: Fleet, mariadb: MariaDB
) -> None:
    wrk = installed("wrk")
    seconds: list[float] = []

    class Noting:
        def run(self, port: int, cell: Cell, wanted: float, *args: Any) -> Any:
            seconds.append(wanted)
            return wrk.run(port, cell, 0.05, *args)

    fleet.need({"a": 8})
    gauge = Gauge(fleet, Noting(), mariadb)  # type: ignore[arg-type]
    cell = Cell(Workload("burn", "cpu", (("/burn", 1),)), 1)
    for _ in range(2):
        gauge.sample("a", 8, cell, 0, 0.1)
    fleet.restart("a")
    gauge.sample("a", 8, cell, 0, 0.1)
    first, usual = measure.FIRST_WARM_UP, measure.WARM_UP
    assert seconds == [first, 0.1, usual, 0.1, first, 0.1]


class Scripted(Pace):
    """Cores that are as slow as is said beforehand."""

    def __init__(self, *looks: float) -> None:
        super().__init__()
        self.looks = list(looks)
        self.waited = 0

    def wait(self) -> None:
        self.waited += 1

    def look(self) -> float:
        return self.looks.pop(0)


@pytest.mark.parametrize(
    ("looks", "taken", "kept"),
    [((1.0,), 1, 1.0), ((1.9, 1.1), 2, 1.1), ((1.9, 1.5, 1.6), 3, 1.5)],
)
def test_a_sample_beside_which_a_core_was_slow_is_taken_again(
    fleet: Fleet, mariadb: MariaDB, looks: tuple[float, ...], taken: int, kept: float
) -> None:
    fleet.need({"a": 8})
    pace = Scripted(*looks)
    gauge = Gauge(fleet, installed("wrk"), mariadb, pace)
    found = gauge.sample("a", 8, Cell(WORKLOADS["json"], 1), 0, 0.1)
    assert (pace.waited, pace.looks, found.pace) == (taken, [], kept)


def test_a_sample_in_which_requests_failed_is_kept_however_slow_a_core_was(
    fleet: Fleet, mariadb: MariaDB
) -> None:
    fleet.need({"a": 8})
    pace = Scripted(1.9, 1.0)
    failing = Workload("failing", "cpu", (("/500", 1),))
    found = Gauge(fleet, installed("wrk"), mariadb, pace).sample("a", 8, Cell(failing, 1), 0, 0.1)
    assert found.failed > 0
    assert pace.looks == [1.0]


class Machine:
    """In place of the module `time`, and of the loop: a core that takes as long as is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took: Callable[[float], float]) -> None:
        self.now = 0.0
        monkeypatch.setattr("bench.compare.pace.time", self)
        monkeypatch.setattr("bench.compare.pace._loop", lambda: took(self.now))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def sample(self, pace: Pace, seconds: float = 1.5) -> float:
        """Wait, have a sample taken, and look, as `Gauge.sample` does."""
        pace.wait()
        self.sleep(seconds)
        return pace.look()


def test_pace_is_told_of_the_slowest_core_against_what_is_usual_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took: list[float] = []
    monkeypatch.setattr("bench.compare.pace._loop", lambda: took.pop(0))
    allowed = sorted(os.sched_getaffinity(0))
    pace = Pace((allowed[0], allowed[-1]))
    took += [5.0, 4.0, 40.0, 50.0]  # of two the shorter: the other was interrupted
    assert pace.look() == 1
    took += [6.0, 7.0, 40.0, 40.0]
    assert pace.look() == 1.5
    took += [4.0, 9.0, 80.0, 80.0]
    assert pace.look() == 2
    took += [3.0, 3.0, 20.0, 20.0]
    assert pace.look() == 1
    assert took == []


def test_pace_takes_one_lucky_moment_for_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Machine(monkeypatch, lambda now: 1.0 if 3 <= now < 4 else 1.3)
    pace = Pace()
    paces = [core.sample(pace) for _ in range(10)]
    assert paces[-1] == 1
    assert core.now == pytest.approx(10 * 1.5, abs=1.5)  # it was hardly waited for another


def test_pace_gets_used_to_a_machine_that_has_become_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = Machine(monkeypatch, lambda now: 1.0 if now < 60 else 2.0)
    pace = Pace()
    while core.now < 60:
        core.sample(pace)
    paces = [core.sample(pace) for _ in range(30)]
    assert paces[0] == 2
    assert set(paces[-10:]) == {1}
    begun = core.now
    core.sample(pace)
    assert core.now == begun + 1.5  # nobody waits any more


@pytest.mark.parametrize("dip", [1.0, 5.0])
def test_pace_calls_a_dip_slow_to_its_end_and_what_follows_usual(
    monkeypatch: pytest.MonkeyPatch, dip: float
) -> None:
    core = Machine(monkeypatch, lambda now: 2.0 if 60 <= now % 100 < 60 + dip else 1.0)
    pace = Pace()
    while core.now < 250:  # the third of them, too
        begun, pace_of_it = core.now, core.sample(pace)
        assert pace_of_it == (2 if 60 <= core.now % 100 < 60 + dip else 1), begun


def test_pace_waits_for_the_end_of_a_dip_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Machine(monkeypatch, lambda now: 2.0 if 10 <= now < 10.5 or now >= 20 else 1.0)
    pace = Pace()
    pace.look()
    for now, until in ((10, 10.5), (11, 11), (20, 21)):
        core.now = now
        pace.wait()
        assert core.now == pytest.approx(until, abs=0.06)


def test_a_server_that_still_works_when_the_load_is_over_is_started_again(
    fleet: Fleet, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.compare.measure.SETTLE", 0.3)
    fleet.need({"a": 8})
    before = fleet["a"]
    gauge = Gauge(fleet, installed("wrk"), mariadb)
    gauge.sample("a", 8, Cell(WORKLOADS["json"], 1), 0, 0.3)
    assert before.alive
    gauge.sample("a", 8, Cell(Workload("on", "cpu", (("/on", 1),)), 1), 0, 0.3)
    assert not before.alive
    assert fleet["a"].alive


# --- crowds -----------------------------------------------------------------------------------


def test_a_crowd_counts_each_client(start: Start) -> None:
    server = start()
    server.wait()
    found = asyncio.run(crowd(server.port, "/slow", 20, 0.5))
    assert len(found.served) == 20
    assert min(found.served) > 0
    assert sum(found.served) == len(found.seconds)
    assert not found.failures
    assert min(found.seconds) >= 0.05


def test_a_crowd_of_which_one_is_served_says_so_and_ends(start: Start) -> None:
    server = start(
        SERVER.replace("if busy:", "if busy and not hasattr(writer, 'first'):").replace(
            "busy += 1", "busy += 1; writer.first = True"
        )
    )
    server.wait()
    begun = time.monotonic()
    found = asyncio.run(crowd(server.port, "/first", 10, 0.5, patience=0.5))
    assert [bool(count) for count in sorted(found.served)] == [False] * 9 + [True]
    assert found.share == 0
    assert time.monotonic() - begun < 10


def test_a_crowd_opens_another_connection_when_it_is_told_to(start: Start) -> None:
    server = start()
    server.wait()
    found = asyncio.run(crowd(server.port, "/once", 5, 0.3))
    assert min(found.served) > 0
    assert not found.failures


def test_a_crowd_counts_answers_that_are_failures(start: Start) -> None:
    server = start()
    server.wait()
    found = asyncio.run(crowd(server.port, "/500", 3, 0.3, patience=0.2))
    assert sum(found.served) == 0
    assert len(found.failures) > 3
