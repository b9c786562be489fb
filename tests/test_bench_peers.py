"""The peers of the benchmark: how they are registered, the rules they share, and those on Tornado at work.

The other servers, ORMs and drivers are not installed where the tests run. How fast anything is, is no matter
here.
"""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from bench.compare.verify import ALONE, closed, verify
from bench.compare.workloads import WORKLOADS
from bench.peers import PEERS, pages
from tests.app import techempower
from tests.app.server import ROOT
from tests.mariadb import MariaDB
from tests.waiting import wait_until

DATABASE = "bench_peers"
POOL = 4

#: the peers that need no package that the tests do not have, and the connections that each may open
AT_WORK = {
    "greentor": ("greentor_", [], POOL),
    "floor": ("tornado_blocking", [], 1),
    "threads-pymysql": ("tornado_threads", ["--driver", "PyMySQL"], POOL),
    "greentor-httptools": ("greentor_", ["--loop", "uvloop", "--http", "httptools"], POOL),
}
needs_httptools = pytest.mark.skipif(
    not importlib.util.find_spec("httptools"), reason="needs httptools"
)


@pytest.fixture(scope="module")
def environ(mariadb: MariaDB) -> dict[str, str]:
    """Create and fill the tables, and return the environment that names them."""
    mariadb.create_database(DATABASE)
    environ = {**os.environ, "BENCH_DATABASE": json.dumps(mariadb.params(DATABASE))}
    command = [sys.executable, "-m", "bench.peers.tables"]
    subprocess.run(command, env=environ, cwd=ROOT, check=True, timeout=60)
    return environ


@contextmanager
def serving(
    environ: dict[str, str], module: str, *arguments: str, status: int | None = None
) -> Iterator[Any]:
    """Start a peer; end it with SIGTERM, and see that it has logged nothing and how it ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", f"bench.peers.{module}", "--port", str(port)]
    with TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--pool", str(POOL), *arguments], env=environ, cwd=ROOT, stderr=log
        )
        try:
            wait_until(lambda: process.poll() is not None or answers(port), 30)
            server = techempower.Remote(f"http://127.0.0.1:{port}")
            server.pid = process.pid
            yield server
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        assert not log.read()
    assert process.returncode in ((0, -signal.SIGTERM) if status is None else (status,))


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


# --- the registry -----------------------------------------------------------------------------


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_a_peer_has_its_module_its_sizes_and_pinned_versions(peer: Any) -> None:
    assert PEERS[peer.name] is peer
    assert importlib.util.find_spec(f"bench.peers.{peer.module}")
    assert peer.title
    assert peer.pool_of in ("threads", "connections")
    assert peer.pools == tuple(sorted(set(peer.pools)))
    assert set(peer.packages) - {"greentor"} <= pinned()


def test_no_two_peers_are_the_same_program() -> None:
    assert len({(peer.module, peer.arguments) for peer in PEERS.values()}) == len(PEERS)
    assert len({peer.title for peer in PEERS.values()}) == len(PEERS)


def test_a_peer_that_does_not_serve_all_serves_what_there_are_rules_for() -> None:
    some = [peer for peer in PEERS.values() if peer.workloads]
    assert [peer.name for peer in some] == [peer.name for peer in PEERS.values() if peer.ceiling]
    for peer in some:
        assert {route for name in peer.workloads for route in WORKLOADS[name].routes} <= set(ALONE)
        assert not peer.serves("db")
        assert all(map(peer.serves, peer.workloads))
    assert PEERS["floor"].serves("db")


def test_each_module_of_a_program_is_registered() -> None:
    programs = {
        path.stem
        for path in Path(ROOT, "bench/peers").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    }
    assert programs - {"tables"} == {peer.module for peer in PEERS.values()}


def pinned() -> set[str]:
    text = Path(ROOT, "bench/peers/requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [
        re.fullmatch(r"([\w.-]+)==[\d.]+(; python_version [<>=]+ \"[\d.]+\")?", line)
        for line in lines
    ]
    assert all(found), lines
    return {match[1] for match in found if match}


# --- the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("20", 20),
        ("0", 1),
        ("-5", 1),
        ("501", 500),
        ("foo", 1),
        ("1.5", 1),
        ("9" * 5000, 1),  # more digits than int() takes
        ("", 1),
        (None, 1),
    ],
)
def test_the_number_of_queries_is_brought_into_its_range(text: str | None, number: int) -> None:
    assert pages.number_of_queries(text) == number


@pytest.mark.parametrize(("text", "ms"), [("50", 50), ("-1", 0), ("x", 0), ("99999", 10_000)])
def test_the_milliseconds_are_brought_into_their_range(text: str, ms: int) -> None:
    assert pages.milliseconds(text) == ms


def test_the_rows_to_update_are_different_and_in_order_so_that_no_two_requests_deadlock() -> None:
    ids = pages.ids_to_update(500)
    assert ids == sorted(set(ids))
    assert len(ids) == 500
    assert 1 <= min(ids + pages.random_ids(500)) <= max(ids + pages.random_ids(500)) <= 10_000


def test_a_page_knows_of_the_books_that_were_not_read() -> None:
    page = pages.first_page(["book"] * 20, 41)
    assert (page.paginator.count, page.paginator.num_pages) == (41, 3)
    assert (page.start_index(), page.end_index()) == (1, 20)
    assert page.has_next()
    assert not page.has_previous()


# --- at work ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_httptools if "httptools" in name else ()) for name in AT_WORK],
)
def test_a_peer_obeys_the_rules_on_its_connections(
    name: str, environ: dict[str, str], mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(techempower, "CONCURRENCY", 24)
    problems: dict[str, list[str]] = {}
    module, arguments, connections = AT_WORK[name]
    assert (module, tuple(arguments)) == (PEERS[name].module, PEERS[name].arguments)
    with serving(environ, module, *arguments) as server:
        database = techempower.Database(mariadb.url(DATABASE))
        techempower.verify(server, database, problems.__setitem__)
        database._connection.close()
        sleep = server.get("/sleep?ms=5")
        page = server.get("/page")
        at_work = [row for row in mariadb.processlist() if row["DB"] == DATABASE]
        assert len(at_work) <= connections
    assert sleep.json == {"ms": 5}
    assert not techempower.check_answer(sleep, "json")
    assert not techempower.check_answer(page, "html")
    assert page.text.count("<li>") == pages.PAGE_SIZE
    assert ", 1 to 20 shown." in page.text
    assert "Page 1 of 3" in page.text
    # What Django asks once for each connection makes a few more queries than expected: a warning.
    failures = {
        rule: found
        for rule, found in problems.items()
        if not all(isinstance(each, techempower.Warn) for each in found)
    }
    assert len(problems) == 24
    assert not failures


def test_a_ceiling_sleeps_without_the_database_and_keeps_the_rules_of_its_routes(
    environ: dict[str, str], mariadb: MariaDB
) -> None:
    without = {name: value for name, value in environ.items() if name != "BENCH_DATABASE"}
    looked_at: list[str] = []
    with serving(without, "tornado_alone") as server:
        rules = verify(server.port, mariadb.url(DATABASE), looked_at.append, list(ALONE))
        begun = time.monotonic()
        assert server.get("/sleep?ms=200").json == {"ms": 200}
        assert time.monotonic() - begun >= 0.2
        assert server.get("/db").status == 404
    assert looked_at == [f"{path}, 20 times" for path in ("/json", "/plaintext", "/sleep?ms=50")]
    assert [rule["verdict"] for rule in rules] == ["PASS"] * 3


def test_a_ceiling_that_answers_something_else_is_not_measured_there(
    environ: dict[str, str], mariadb: MariaDB
) -> None:
    with serving(environ, "tornado_alone") as server:
        broken = {"/json": ("/plaintext", *ALONE["/json"][1:]), "/sleep": ALONE["/sleep"]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bench.compare.verify.ALONE", broken)
            rules = verify(server.port, mariadb.url(DATABASE), lambda rule: None, list(broken))
    assert list(closed(rules)) == ["/plaintext"]


def test_sigterm_to_the_parent_ends_all_processes(environ: dict[str, str]) -> None:
    with serving(environ, "tornado_blocking", "--processes", "3") as server:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert len(children) == 3
        assert server.get("/db").status == 200
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_process_that_is_killed_takes_the_others_with_it(environ: dict[str, str]) -> None:
    with serving(environ, "tornado_blocking", "--processes", "2", status=1) as server:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{children[1]}").exists(), 10)
