"""`greentor.drivers.pymysql`: how connections end, in good order and in every other way."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor, SSDictCursor

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from greentor.stream import ConcurrentUseError
from tests.mariadb import MariaDB
from tests.proxy import sockets
from tests.test_driver_queries import query
from tests.waiting import until, wait_until


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def params(mariadb: MariaDB, tls: bool) -> dict[str, Any]:
    security: dict[str, Any] = {"ssl_ca": mariadb.ca} if tls else {"ssl_disabled": True}
    return {**mariadb.params("greentor"), **security}


def known(mariadb: MariaDB, number: int) -> bool:
    """Whether the server still has that connection."""
    return any(row["ID"] == number for row in mariadb.processlist())


def gone(mariadb: MariaDB, number: int) -> Callable[[], bool]:
    return lambda: not known(mariadb, number)


def aborted(mariadb: MariaDB) -> int:
    """How many connections ended without a goodbye, once the server has noticed them all."""
    for row in mariadb.processlist():  # what other tests have left in a long statement
        with contextlib.suppress(pymysql.err.OperationalError):
            mariadb.execute(f"KILL {row['ID']}")
    wait_until(lambda: not mariadb.processlist())
    return mariadb.status("Aborted_clients") + mariadb.status("Aborted_connects")


# --- close() ----------------------------------------------------------------------------------


def test_close_says_goodbye_to_the_server(run: Any, params: Any, mariadb: MariaDB) -> None:
    before = aborted(mariadb)

    @greentor.green
    def main() -> list[int]:
        numbers = []
        for _ in range(10):
            connection = driver.connect(**params)
            query(connection, "SELECT 1")
            numbers.append(connection.thread_id())
            connection.close()
            assert not connection.open
            with pytest.raises(pymysql.err.Error, match="Already closed"):
                connection.close()
        return numbers

    for number in run(main):
        wait_until(gone(mariadb, number))
    assert aborted(mariadb) == before


def test_close_outside_a_greenlet_says_goodbye_too(run: Any, params: Any, mariadb: MariaDB) -> None:
    before = aborted(mariadb)

    async def main() -> int:
        connection = await bridge.run_in_scope("open", lambda: driver.connect(**params))
        connection.close()
        return int(connection.thread_id())

    wait_until(gone(mariadb, run(main)))
    assert aborted(mariadb) == before


def test_closed_connections_leave_no_socket(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        before = len(sockets())
        for _ in range(5):
            driver.connect(**params).close()
        until(lambda: len(sockets()) == before)

    run(main)


def test_close_in_another_thread(run: Any, params: Any, mariadb: MariaDB) -> None:
    @greentor.green
    def main() -> None:
        before = len(sockets())
        connection = driver.connect(**params)
        number = connection.thread_id()
        greentor.thread(connection.close)
        assert not connection.open
        until(lambda: len(sockets()) == before)
        greentor.thread(wait_until, gone(mariadb, number))

    run(main)


def test_close_by_another_greenlet_wakes_the_one_that_waits(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        loop = asyncio.get_running_loop()
        task = loop.create_task(bridge.run_in_scope("w", query, connection, "SELECT SLEEP(20)"))
        until(lambda: connection._stream._user is not None)
        connection.close()
        with pytest.raises(pymysql.err.OperationalError) as info:
            greentor.await_(asyncio.wait_for(task, 10))
        assert info.value.args[0] == 2013

    run(main)


# --- garbage ----------------------------------------------------------------------------------


def drop_in_own_greenlet(box: list[Any]) -> None:
    box.clear()
    gc.collect()


def drop_in_another_greenlet(box: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    greentor.await_(loop.create_task(bridge.run_in_scope("other", drop_in_own_greenlet, box)))


def drop_in_the_loop(box: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def drop() -> None:
        drop_in_own_greenlet(box)
        done.set_result(None)

    loop.call_soon(drop)
    greentor.await_(done)


def drop_in_a_thread(box: list[Any]) -> None:
    greentor.thread(drop_in_own_greenlet, box)


DROPS = [drop_in_own_greenlet, drop_in_another_greenlet, drop_in_the_loop, drop_in_a_thread]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("cls", [SSCursor, SSDictCursor])
def test_unread_cursor_that_is_collected_waits_for_nothing_and_closes(
    run: Any, params: Any, drop: Any, cls: Any
) -> None:
    @greentor.green
    def main() -> None:
        before = len(sockets())
        connection = driver.connect(**params)
        cursor = connection.cursor(cls)
        cursor.execute("SELECT seq, REPEAT('x', 1000), SLEEP(seq > 2000) FROM seq_1_to_3000")
        assert cursor.fetchone()
        box = [cursor]
        del cursor
        drop(box)
        until(lambda: not connection.alive)
        until(lambda: len(sockets()) == before)
        with pytest.raises(pymysql.err.Error):
            query(connection, "SELECT 1")

    run(main)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("state", ["idle", "unread", "transaction", "cycle"])
def test_connection_that_is_collected_waits_for_nothing(
    run: Any, params: Any, mariadb: MariaDB, drop: Any, state: str
) -> None:
    @greentor.green
    def main() -> None:
        before = len(sockets())
        connection = driver.connect(**params)
        number = connection.thread_id()
        box: list[Any] = [connection]
        if state == "unread":
            cursor = connection.cursor(SSCursor)
            cursor.execute("SELECT seq, REPEAT('x', 1000), SLEEP(seq > 2000) FROM seq_1_to_3000")
            assert cursor.fetchone()
            box.append(cursor)
            del cursor
        elif state == "transaction":
            connection.begin()
        elif state == "cycle":
            connection.itself = connection
        del connection
        drop(box)
        until(lambda: len(sockets()) == before)
        if state != "unread":  # there it notices at its next row
            greentor.thread(wait_until, gone(mariadb, number))

    run(main)


def test_connection_that_is_collected_while_its_loop_stands_still(
    params: Any, mariadb: MariaDB
) -> None:
    before = len(sockets())
    with asyncio.Runner() as runner:
        box = [runner.run(bridge.run_in_scope("open", lambda: driver.connect(**params)))]
        number = box[0].thread_id()
        box.clear()
        gc.collect()
    assert len(sockets()) == before
    wait_until(gone(mariadb, number))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # as asyncio and uvloop say, rightly
@pytest.mark.parametrize("how", ["close", "collect"])
def test_connection_that_outlives_its_loop(
    run: Any, params: Any, mariadb: MariaDB, how: str
) -> None:
    before = len(sockets())

    async def main() -> Any:
        return await bridge.run_in_scope("open", lambda: driver.connect(**params))

    connection = run(main)
    number = connection.thread_id()
    assert not connection.alive
    if how == "close":
        connection.close()
        wait_until(gone(mariadb, number))  # though the transport is not collected
        assert not connection.open
    del connection
    gc.collect()
    wait_until(gone(mariadb, number))
    assert len(sockets()) <= before


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_connection_of_another_loop_is_refused(run: Any, params: Any) -> None:
    async def opened() -> Any:
        return await bridge.run_in_scope("open", lambda: driver.connect(**params))

    connection = run(opened)

    async def use() -> None:
        with pytest.raises(ConcurrentUseError, match="another event loop"):
            await bridge.run_in_scope("use", query, connection, "SELECT 1")

    run(use)
    connection.close()
    connection = None
    gc.collect()


# --- fork -------------------------------------------------------------------------------------

FORK = """
    import gc, os, sys
    from greentor import bridge
    from greentor.drivers import pymysql as driver
    from greentor.stream import ConcurrentUseError
    from tests.proxy import sockets
    import asyncio

    params = {params!r}

    def query(connection, sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def child(connection, held):
        try:
            query(connection, "SELECT 'child'")
        except ConcurrentUseError:
            pass
        else:
            return 3
        if connection.alive:
            return 4
        if {how!r} == "close":
            connection.close()
        elif {how!r} == "collect":
            held.clear()
            del connection
            gc.collect()
        return 5 if name in sockets() and {how!r} != "exit" else 0

    def main():
        global name
        before = set(sockets())
        held = [driver.connect(**params)]
        [name] = set(sockets()) - before
        query(held[0], "SET @mark = 7")
        for _ in range(2):
            pid = os.fork()
            if not pid:
                code = 2
                try:
                    code = child(held[0], held) if {how!r} != "collect" else child(held.pop(), held)
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            assert status == 0, os.waitstatus_to_exitcode(status)
            assert query(held[0], "SELECT @mark") == ((7,),)
        held.pop().close()

    if {loop!r} == "uvloop":
        import uvloop
        factory = uvloop.new_event_loop
    else:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bridge.run_green(main))
    print("fine")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["close", "collect", "exit"])
def test_forked_child_leaves_the_connection_to_its_parent(
    params: Any, mariadb: MariaDB, how: str, loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    before = aborted(mariadb)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK.format(params=params, how=how, loop=loop))],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert done.stdout == "fine\n", done.stderr
    assert done.stderr == ""
    wait_until(lambda: not mariadb.processlist())
    assert aborted(mariadb) == before


def test_blocking_connection_in_a_forked_child(params: Any, mariadb: MariaDB) -> None:
    connection = driver.connect(**params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3.12: fork() in a process with threads
        pid = os.fork()
    if not pid:  # pragma: no cover
        try:
            connection.close()
        finally:
            os._exit(0 if not connection.open else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert query(connection, "SELECT 1") == ((1,),)
    connection.close()


def test_threads_may_open_blocking_connections_beside(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        rows: list[Any] = []

        def other() -> None:
            blocking = driver.connect(**params)
            assert blocking._stream is None
            rows.append(query(blocking, "SELECT 2"))
            blocking.close()

        thread = threading.Thread(target=other)
        thread.start()
        assert query(connection, "SELECT 1") == ((1,),)
        until(lambda: not thread.is_alive())
        assert rows == [((2,),)]
        connection.close()

    run(main)
