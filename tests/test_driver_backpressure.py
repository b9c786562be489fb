"""`greentor.drivers.pymysql`: large statements and large results hold neither the loop nor memory."""

import asyncio
import fcntl
import struct
import termios
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor, SSDictCursor

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from greentor.stream import READ_LIMIT, WRITE_CHUNK, WRITE_TURN
from tests.mariadb import MariaDB
from tests.proxy import Proxy
from tests.waiting import until, wait_until

MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def params(request: pytest.FixtureRequest, mariadb: MariaDB) -> dict[str, Any]:
    security: dict[str, Any] = {"ssl_ca": mariadb.ca} if request.param else {"ssl_disabled": True}
    return {**mariadb.params("greentor"), **security, "autocommit": True}


@pytest.fixture(scope="module", autouse=True)
def large_packets(mariadb: MariaDB) -> Iterator[None]:
    [old] = mariadb.execute("SELECT @@GLOBAL.max_allowed_packet AS size")
    mariadb.execute(f"SET GLOBAL max_allowed_packet = {2 * SIZE}")
    mariadb.execute("CREATE TABLE large (body LONGTEXT) ENGINE=MyISAM", database="greentor")
    yield
    mariadb.execute("DROP TABLE large", database="greentor")
    mariadb.execute(f"SET GLOBAL max_allowed_packet = {old['size']}")


def query(connection: Any, sql: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def spawn(fn: Any, *args: Any) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(bridge.run_in_scope("user", fn, *args))


# --- writing ----------------------------------------------------------------------------------


class Watched:
    """A stream's transport, and what it is given between two rounds of the loop."""

    def __init__(self, stream: Any) -> None:
        self._transport = stream._transport
        self._loop = stream._loop
        self.written = self.most_in_a_round = self.most_buffered = 0
        self._in_round = 0
        self._handle: asyncio.Handle | None = None
        stream._transport = self

    def write(self, data: Any) -> None:
        self._transport.write(data)
        self.written += len(data)
        self._in_round += len(data)
        self.most_in_a_round = max(self.most_in_a_round, self._in_round)
        self.most_buffered = max(self.most_buffered, self._transport.get_write_buffer_size())
        if self._handle is None:
            self._handle = self._loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._handle = None
        self._in_round = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def insert(size: int) -> bytes:
    start, end = b"INSERT INTO large VALUES ('", b"')"
    return start + b"abcdefgh" * ((size - len(start) - len(end)) // 8) + end


def test_insert_of_64_mib_is_given_to_the_transport_in_small_pieces_and_the_loop_goes_round(
    run: Any, params: Any
) -> None:
    sql = insert(SIZE)

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        watched = Watched(connection._stream)
        query(connection, "TRUNCATE large")
        connection.query(sql)
        assert watched.written > SIZE - 16
        # What was left of one packet, and the next one's first turn.
        assert watched.most_in_a_round <= 2 * WRITE_TURN
        assert watched.most_buffered <= 2 * WRITE_CHUNK  # TLS adds a little
        [[length]] = query(connection, "SELECT LENGTH(body) FROM large")
        assert length == sql.count(b"abcdefgh") * 8
        connection.close()

    run(main)


def test_insert_of_64_mib_does_not_return_before_it_was_sent(
    run: Any, params: Any, mariadb: MariaDB
) -> None:
    sql = insert(SIZE)

    @greentor.green
    def main() -> None:
        with Proxy(mariadb.host, mariadb.port) as proxy:
            connection = driver.connect(**{**params, "port": proxy.port})
            stream = connection._stream
            query(connection, "TRUNCATE large")
            up = proxy.up
            up.stall_after = up.carried + SIZE // 2
            tracemalloc.start()
            task = spawn(connection._execute_command, pymysql.constants.COMMAND.COM_QUERY, sql)
            until(lambda: up.carried == up.stall_after, 20)
            until(lambda: stream._user is not None)
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            for _ in range(20):
                greentor.sleep(0)
                assert not task.done()
                assert stream._transport.get_write_buffer_size() <= 2 * WRITE_CHUNK
            # PyMySQL's own: what is left of the statement, the packet, and the packet with its header.
            assert held < 48 * MIB + 2 * 16 * MIB + MIB
            up.stall_after = None
            greentor.await_(task)
            assert connection._read_query_result() == 1
            [[length]] = query(connection, "SELECT LENGTH(body) > 67000000 FROM large")
            assert length == 1
            connection.close()

    run(main)


def test_others_are_served_while_64_mib_wait_for_a_slow_server(
    run: Any, params: Any, mariadb: MariaDB
) -> None:
    sql = insert(SIZE)

    @greentor.green
    def main() -> None:
        with Proxy(mariadb.host, mariadb.port) as proxy:
            connection = driver.connect(**{**params, "port": proxy.port})
            other = driver.connect(**params)
            query(connection, "TRUNCATE large")
            proxy.up.stall_after = proxy.up.carried + 20 * MIB
            task = spawn(connection.query, sql)
            until(lambda: proxy.up.carried == proxy.up.stall_after, 20)
            for number in range(50):
                assert query(other, f"SELECT {number}") == ((number,),)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                greentor.await_(task)
            assert not connection.alive
            proxy.up.stall_after = None
            until(lambda: not proxy.open)
            assert query(other, "SELECT COUNT(*) FROM large") == ((0,),)
            other.close()

    run(main)


# --- reading ----------------------------------------------------------------------------------

#: 400 MB: far more than all buffers on the way
ROWS = "SELECT seq, REPEAT('x', 10000) AS text FROM seq_1_to_40000"


def server_waits(mariadb: MariaDB, connection: Any) -> bool:
    """Whether the server waits for somebody to take its rows."""
    [row] = mariadb.execute(
        "SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = %s", connection.thread_id()
    )
    return bool(row["STATE"] == "Writing to net")


def in_the_kernel(connection: Any) -> int:
    """Bytes that have arrived and that nobody has taken from the socket."""
    sock = connection._stream._transport.get_extra_info("socket")
    count = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", count)[0])


@pytest.mark.parametrize("cls", [SSCursor, SSDictCursor])
def test_reader_that_stops_stops_the_server_and_keeps_less_than_a_mib(
    run: Any, params: Any, mariadb: MariaDB, cls: Any
) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        with connection.cursor(cls) as cursor:
            cursor.execute(ROWS)
            for _ in range(300):
                assert cursor.fetchone()
            stream = connection._stream
            until(lambda: not stream._reading)

            def standing() -> bool:
                before = in_the_kernel(connection)
                time.sleep(0.05)
                return in_the_kernel(connection) == before and server_waits(mariadb, connection)

            greentor.thread(wait_until, standing)
            assert in_the_kernel(connection) > 0
            assert buffered(stream) < MIB
            assert cursor.fetchone()[0 if cls is SSCursor else "seq"] == 301
            connection.close()  # and nobody waits for the rest
        assert not connection.open

    run(main)


def buffered(stream: Any) -> int:
    unread = getattr(stream, "unread", None)
    return len(stream._buffer) if unread is None else int(unread)


def by_portions(cursor: Any) -> int:
    count = 0
    while rows := cursor.fetchmany(100):
        count += len(rows)
    return count


ENDS: dict[str, Callable[[Any], int]] = {
    "fetchmany": by_portions,
    "iteration": lambda cursor: sum(1 for _ in cursor),
    "fetchall_unbuffered": lambda cursor: sum(1 for _ in cursor.fetchall_unbuffered()),
    "scroll": lambda cursor: cursor.scroll(5000 - 1 - cursor.rownumber) or 4999 - 1,
    "close": lambda cursor: cursor.close() or 4999,
}


@pytest.mark.parametrize("params", [False], ids=["plain"], indirect=True)
@pytest.mark.parametrize("how", ENDS)
def test_rest_of_a_result_is_read_in_little_memory(run: Any, params: Any, how: str) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT seq, REPEAT('x', 10000) FROM seq_1_to_5000")
        assert cursor.fetchone()
        until(lambda: not connection._stream._reading)
        tracemalloc.start()
        count = ENDS[how](cursor)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == (4998 if how == "scroll" else 4999)
        # A portion of fetchmany() is 1 MB, and the last one is there until the next is.
        assert peak < 4 * READ_LIMIT + (3 * MIB if how == "fetchmany" else MIB)
        cursor.close()
        assert query(connection, "SELECT 1") == ((1,),)
        connection.close()

    run(main)
