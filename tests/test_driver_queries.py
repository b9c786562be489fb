"""`greentor.drivers.pymysql`: rows, packets and interruptions on an open connection."""

import asyncio
import gc
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor, SSDictCursor

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from greentor.stream import READ_LIMIT, ConcurrentUseError
from tests.mariadb import MariaDB
from tests.proxy import Proxy, sockets
from tests.waiting import await_until, until, wait_until

MIB = 1 << 20


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def params(mariadb: MariaDB, tls: bool) -> dict[str, Any]:
    security: dict[str, Any] = {"ssl_ca": mariadb.ca} if tls else {"ssl_disabled": True}
    return {**mariadb.params("greentor"), **security}


def query(connection: Any, sql: str, *args: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, args or None)
        return cursor.fetchall()


def spawn(name: str, fn: Any, *args: Any) -> "asyncio.Task[Any]":
    """A task with a greenlet and a scope, all called ``name``."""
    loop = asyncio.get_running_loop()
    return loop.create_task(bridge.run_in_scope(name, fn, *args), name=name)


def parked(connection: Any) -> Callable[[], bool]:
    return lambda: connection._stream._user is not None


# --- many greenlets, each its own rows --------------------------------------------------------


def test_queries_overlap_and_rows_go_to_whoever_asked(run: Any, params: Any) -> None:
    def one(number: int) -> None:
        connection = driver.connect(**params)
        for turn in range(20):
            token = f"{number}-{turn}" * (turn * 50 + 1)
            assert query(connection, "SELECT %s, %s", token, turn) == ((token, turn),)
        connection.close()

    async def main() -> None:
        await asyncio.gather(*(spawn(f"g{number}", one, number) for number in range(10)))

    run(main)


def test_loop_goes_on_while_a_query_waits(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        task = spawn("sleeper", query, connection, "SELECT SLEEP(30)")
        until(parked(connection))
        for _ in range(100):
            greentor.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            greentor.await_(task)

    run(main)


def test_second_greenlet_on_a_busy_connection_is_refused_and_the_first_keeps_its_rows(
    run: Any, params: Any
) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        first = spawn("first", query, connection, "SELECT SLEEP(0.2), 'mine'")
        until(parked(connection))
        second = spawn("second", query, connection, "SELECT 'stolen'")
        with pytest.raises(ConcurrentUseError) as info:
            greentor.await_(second)
        assert "first" in str(info.value)
        assert "second" in str(info.value)
        assert connection.alive
        assert greentor.await_(first) == ((0, "mine"),)
        assert query(connection, "SELECT 'next'") == (("next",),)
        connection.close()

    run(main)


# --- size -------------------------------------------------------------------------------------


@pytest.fixture
def big_packets(mariadb: MariaDB) -> Any:
    [old] = mariadb.execute("SELECT @@GLOBAL.max_allowed_packet AS size")
    mariadb.execute("SET GLOBAL max_allowed_packet = 67108864")
    yield
    mariadb.execute(f"SET GLOBAL max_allowed_packet = {old['size']}")


@pytest.mark.parametrize("size", [16 * MIB - 2, 16 * MIB - 1, 16 * MIB, 20 * MIB])
def test_packets_of_16_mib_and_more_both_ways(
    run: Any, params: Any, big_packets: None, size: int
) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params, max_allowed_packet=64 * MIB)
        prefix = "SELECT '"
        text = "abcdefgh" * (size // 8 + 1)
        text = text[: size - len(prefix) - 2]  # the command's byte and the closing quote
        [[answer]] = query(connection, prefix + text + "'")
        assert answer == text
        assert query(connection, "SELECT 1") == ((1,),)
        connection.close()

    run(main)


@pytest.mark.parametrize("cls", [SSCursor, SSDictCursor])
def test_slow_reader_of_an_unbuffered_cursor_holds_the_server_back(
    run: Any, params: Any, cls: Any
) -> None:
    count = 40_000

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        cursor = connection.cursor(cls)
        cursor.execute(f"SELECT seq, REPEAT('x', 1000) AS text FROM seq_1_to_{count}")
        stream = connection._stream
        assert stream is not None
        assert cursor.fetchone()
        until(lambda: not stream._reading)
        gc.collect()
        tracemalloc.start()
        largest = rows = 0
        for rows, _ in enumerate(cursor, 2):
            largest = max(largest, stream.unread)
            if rows % 1000 == 0:
                greentor.sleep(0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == count
        assert largest < 3 * READ_LIMIT
        assert peak < 4 * MIB
        cursor.close()
        assert query(connection, "SELECT 1") == ((1,),)
        connection.close()

    run(main)


@pytest.mark.timeout(30)
def test_unbuffered_rows_larger_than_the_read_limit(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT seq, REPEAT('x', 1000000) FROM seq_1_to_10")
        stream = connection._stream
        assert stream is not None
        for number in range(1, 11):
            if number < 9:
                until(lambda: not stream._reading)
            row = cursor.fetchone()
            assert (row[0], len(row[1])) == (number, 1_000_000)
        assert cursor.fetchone() is None
        connection.close()

    run(main)


# --- interruptions ----------------------------------------------------------------------------

#: what to interrupt: a statement, and the bytes of the way it is stopped at
STATEMENTS = {
    "query": ("SELECT SLEEP(30)", None),
    "big read": ("SELECT REPEAT('x', 12000000)", "down"),
    "big write": ("SELECT LENGTH('{}')".format("x" * 15_000_000), "up"),
}


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("how", ["cancel", "deadline", "collect", "read_timeout"])
def test_interrupted_statement_closes_the_connection_and_leaves_nothing(
    run: Any, params: Any, mariadb: MariaDB, statement: str, how: str
) -> None:
    sql, way = STATEMENTS[statement]
    limits = {"read_timeout": 0.1, "write_timeout": 0.1} if how == "read_timeout" else {}
    expected: Any = {
        "cancel": asyncio.CancelledError,
        "deadline": bridge.DeadlineExceeded,
        "read_timeout": pymysql.err.OperationalError,
    }.get(how)

    async def main() -> None:
        before = len(sockets())
        with Proxy(mariadb.host, mariadb.port) as proxy:
            target = {**params, "host": proxy.host, "port": proxy.port}
            connection = await bridge.run_in_scope(
                "open", lambda: driver.connect(**target, **limits)
            )
            if way is not None:
                side = getattr(proxy, way)
                side.stall_after = side.carried + 100_000

            def use() -> None:
                with greentor.timeout(0.1 if how == "deadline" else None):
                    query(connection, sql)

            if how == "collect":
                coroutine = bridge.run_in_scope("c", use)
                coroutine.send(None)
                await await_until(parked(connection))
                coroutine.close()
            else:
                task = spawn("user", use)
                if how == "cancel":
                    await await_until(parked(connection))
                    if way is not None:
                        await await_until(lambda: side.carried == side.stall_after)
                    task.cancel()
                with pytest.raises(expected) as info:
                    await task
                if how == "read_timeout":
                    code = 2006 if statement == "big write" else 2013
                    assert info.value.args[0] == code
                    assert "timed out" in info.value.args[1]
            assert not connection.open
            assert not connection.alive
            with pytest.raises(pymysql.err.InterfaceError):
                await bridge.run_in_scope("again", query, connection, "SELECT 1")
            if way is not None:
                side.stall_after = None  # a stalled proxy does not notice that the client is gone
            await await_until(lambda: not proxy.open)
            if way == "up":
                assert side.carried < len(sql)
            connection = None
        await await_until(lambda: len(sockets()) <= before)
        after = await bridge.run_in_scope("after", lambda: driver.connect(**params))
        assert await bridge.run_in_scope("after", query, after, "SELECT 5") == ((5,),)
        after.close()
        rows = await asyncio.to_thread(mariadb.processlist)
        for row in rows:  # MariaDB notices a vanished client of SLEEP only at its end
            await asyncio.to_thread(kill, mariadb, row["ID"])

    run(main)


def kill(mariadb: MariaDB, number: int) -> None:
    try:
        mariadb.execute(f"KILL {number}")
    except pymysql.err.OperationalError:
        pass  # gone meanwhile


def test_cancel_amid_an_unbuffered_cursor_is_not_hidden_by_closing_the_cursor(
    run: Any, params: Any, mariadb: MariaDB
) -> None:
    # PyMySQL's SSCursor reads on in close(), here on a connection that is gone.
    @greentor.green
    def main() -> None:
        with Proxy(mariadb.host, mariadb.port) as proxy:
            connection = driver.connect(**{**params, "host": proxy.host, "port": proxy.port})
            proxy.down.stall_after = proxy.down.carried + 300_000

            def use() -> None:
                with connection.cursor(SSCursor) as cursor:
                    cursor.execute("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_5000")
                    for _ in cursor:
                        pass

            task = spawn("user", use)
            until(lambda: proxy.down.carried == proxy.down.stall_after)
            until(parked(connection))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                greentor.await_(task)
            assert not connection.open

    run(main)


def test_rows_that_are_missing_are_not_taken_for_the_end(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_5000")
        assert cursor.fetchone()
        connection.close()
        with pytest.raises(Exception):  # noqa: B017, PT011, whatever, but no end of rows
            for _ in range(5000):
                assert cursor.fetchone() is not None
        cursor.close()

    run(main)


@pytest.mark.parametrize("cut", [1, 3, 5, 40, 70_000])
def test_end_of_file_amid_a_packet(run: Any, params: Any, mariadb: MariaDB, cut: int) -> None:
    @greentor.green
    def main() -> None:
        with Proxy(mariadb.host, mariadb.port) as proxy:
            connection = driver.connect(**{**params, "host": proxy.host, "port": proxy.port})
            proxy.down.cut_after = proxy.down.carried + cut
            with pytest.raises(pymysql.err.OperationalError) as info:
                query(connection, "SELECT REPEAT('x', 100000)")
            assert info.value.args[0] == 2013
            assert not connection.open

    run(main)


# --- as PyMySQL -------------------------------------------------------------------------------


def differ(run: Any, mariadb: MariaDB, params: Any, fn: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What ``fn(connection, proxy)`` raises in a greenlet, and what with blocking PyMySQL."""

    def call(connect: Any) -> BaseException | None:
        with Proxy(mariadb.host, mariadb.port) as proxy:
            target = {**params, "host": proxy.host, "port": proxy.port}
            connection = connect(**target, **kwargs)
            try:
                fn(connection, proxy)
            except Exception as exc:
                return exc
            finally:
                assert connection.open is False
        return None

    return run(greentor.green(call), driver.connect), call(pymysql.connect)


def stalled_read(connection: Any, proxy: Proxy) -> None:
    proxy.down.stall_after = proxy.down.carried
    query(connection, "SELECT 1")


def stalled_write(connection: Any, proxy: Proxy) -> None:
    proxy.up.stall_after = proxy.up.carried
    query(connection, "SELECT LENGTH('{}')".format("x" * 15_000_000))


def cut_read(connection: Any, proxy: Proxy) -> None:
    proxy.down.cut_after = proxy.down.carried + 2
    query(connection, "SELECT 1")


def cut_write(connection: Any, proxy: Proxy) -> None:
    proxy.reset = True
    proxy.up.cut_after = proxy.up.carried + 100_000
    query(connection, "SELECT LENGTH('{}')".format("x" * 15_000_000))


@pytest.mark.parametrize(
    ("fn", "code", "text"),
    [
        (
            stalled_read,
            2013,
            "Lost connection to MySQL server during query (The read operation timed out)",
        ),
        (stalled_write, 2006, "MySQL server has gone away (TimeoutError("),
        (cut_read, 2013, "Lost connection to MySQL server during query"),
        (cut_write, 2006, "MySQL server has gone away ("),
    ],
)
def test_errors_are_those_of_pymysql(
    run: Any, mariadb: MariaDB, params: Any, tls: bool, fn: Any, code: int, text: str
) -> None:
    ours, theirs = differ(run, mariadb, params, fn, read_timeout=0.2, write_timeout=0.2)
    assert type(ours) is type(theirs) is pymysql.err.OperationalError
    assert theirs.args[0] == code
    prefix = text.partition("The read operation")[0]
    if tls and fn is cut_write and ours.args[0] == 2013:
        return  # what the last writes gave to TLS was lost below it: the read says so
    assert ours.args[0] == code
    assert ours.args[1].startswith(prefix)
    assert theirs.args[1].startswith(prefix)
    assert ("timed out" in ours.args[1]) == ("timed out" in theirs.args[1])


def test_server_says_why_it_hung_up_amid_a_write(run: Any, params: Any, tls: bool) -> None:
    # 1153, max_allowed_packet. Where the reset overtakes it there is only PyMySQL's "gone away".
    @greentor.green
    def main() -> set[int]:
        codes = set()
        for _ in range(5):
            connection = driver.connect(**params)
            with pytest.raises(pymysql.err.OperationalError) as info:
                query(connection, "SELECT LENGTH('{}')".format("x" * 40_000_000))
            codes.add(info.value.args[0])
            assert not connection.alive
        return codes

    assert run(main) <= {1153, 2006, 2013}


def test_statement_errors_leave_the_connection_open(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        with pytest.raises(pymysql.err.ProgrammingError):
            query(connection, "no sql")
        with pytest.raises(pymysql.err.OperationalError):
            query(connection, "SELECT x FROM seq_1_to_3")
        assert connection.alive
        assert connection.quiet
        assert query(connection, "SELECT 1") == ((1,),)
        connection.close()

    run(main)


def test_transaction_and_quiet_are_told_without_asking(run: Any, params: Any) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params, client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS)
        assert connection.quiet
        assert not connection.in_transaction
        connection.begin()
        assert connection.in_transaction
        connection.rollback()
        assert not connection.in_transaction
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT seq FROM seq_1_to_3")
        assert not connection.quiet
        assert len(cursor.fetchall()) == 3
        assert connection.quiet
        cursor.close()
        cursor = connection.cursor()
        cursor.execute("SELECT 1; SELECT 2")
        assert not connection.quiet
        assert cursor.nextset()
        assert cursor.fetchall() == ((2,),)
        assert connection.quiet
        connection.close()

    run(main)


def test_unbuffered_result_left_incomplete_is_read_to_its_end_by_the_next_query(
    run: Any, params: Any
) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT seq FROM seq_1_to_3000")
        assert cursor.fetchone() == (1,)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert query(connection, "SELECT 'mine'") == (("mine",),)
        assert any("left incomplete" in str(warning.message) for warning in caught)
        connection.close()

    run(main)


def test_server_kills_an_idle_connection(run: Any, params: Any, mariadb: MariaDB) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        assert connection.alive
        greentor.thread(kill, mariadb, connection.thread_id())
        until(lambda: not connection.alive)  # and nobody has asked the server
        with pytest.raises(pymysql.err.OperationalError) as info:
            query(connection, "SELECT 1")
        assert info.value.args[0] in (2006, 2013)
        assert not connection.open

    run(main)


def test_server_kills_a_connection_in_a_query(run: Any, params: Any, mariadb: MariaDB) -> None:
    def call(connect: Any) -> Any:
        connection = connect(**params)
        sleeping = "SELECT * FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'"

        def kill_it() -> None:
            wait_until(lambda: mariadb.execute(sleeping))
            kill(mariadb, connection.thread_id())

        killer = threading.Thread(target=kill_it)
        killer.start()
        with pytest.raises(pymysql.err.OperationalError) as info:
            query(connection, "SELECT SLEEP(30)")
        killer.join()
        assert not connection.open
        return info.value.args[0]

    assert run(greentor.green(call), driver.connect) == call(pymysql.connect) == 2013


def test_ping_reconnects_only_when_asked(run: Any, params: Any, mariadb: MariaDB) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        connection._force_close()
        with pytest.raises(pymysql.err.Error):
            connection.ping(reconnect=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            connection.ping(reconnect=True)
        assert query(connection, "SELECT 1") == ((1,),)
        connection.close()

    run(main)
