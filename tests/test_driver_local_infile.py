"""``LOAD DATA LOCAL INFILE`` in a greenlet: as blocking PyMySQL does it, and never on the loop."""

import asyncio
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.cursors import Cursor, SSCursor

import greentor
from greentor import bridge
from greentor.drivers import local_infile
from greentor.drivers import pymysql as driver
from greentor.stream import ConcurrentUseError
from tests.mariadb import MariaDB
from tests.proxy import Proxy
from tests.scripted_server import ScriptedServer
from tests.test_driver_connect import step_until
from tests.waiting import await_until, until, wait_until

MIB = 1 << 20
PACKET, BLOCK = local_infile.PACKET, local_infile.BLOCK
LOAD = "LOAD DATA LOCAL INFILE '{}' INTO TABLE loaded (body)"


@pytest.fixture
def params(mariadb: MariaDB) -> dict[str, Any]:
    mariadb.execute("DROP TABLE IF EXISTS loaded", database="greentor")
    mariadb.execute(
        "CREATE TABLE loaded (id INT AUTO_INCREMENT PRIMARY KEY, body LONGTEXT UNIQUE) ENGINE=InnoDB",
        database="greentor",
    )
    return {**mariadb.params("greentor"), "local_infile": True, "ssl_disabled": True}


def query(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def spawn(fn: Any, *args: Any) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(bridge.run_in_scope("loading", fn, *args))


def opened(path: Path) -> list[int]:
    """The descriptors that this process has open on a file."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                found.append(int(name))
        except FileNotFoundError:
            pass
    return found


# --- as PyMySQL -------------------------------------------------------------------------------


def lines(size: int) -> bytes:
    """So many bytes of text, in lines of which no two are the same."""
    text = b"".join(b"%08d %s\n" % (n, b"x" * 200) for n in range(size // 210 + 1))
    return text[: size - 1] + b"\n" if size else b""


SIZES = [0, 1, PACKET - 1, PACKET, PACKET + 1, 3 * PACKET, BLOCK - 1, BLOCK, BLOCK + 1, 2 * MIB]


def load(connect: Callable[..., Any], params: Any, path: Any, cls: Any = Cursor) -> Any:
    """What came of it: the number of rows and warnings, or the error; and what is in the table."""
    connection = connect(**params, autocommit=True)
    try:
        with connection.cursor(cls) as cursor:
            result: Any = cursor.execute(LOAD.format(path)), cursor.warning_count
    except pymysql.err.MySQLError as exc:
        result = type(exc), exc.args
    count = "SELECT COUNT(*), COALESCE(MD5(GROUP_CONCAT(MD5(body) ORDER BY id)), '') FROM loaded"
    query(connection, "SET group_concat_max_len = 10000000")
    [row] = query(connection, count)  # which shows that nothing was left over, too
    query(connection, "DELETE FROM loaded")
    query(connection, "ALTER TABLE loaded AUTO_INCREMENT = 1")
    connection.close()
    return result, row


def compare(run: Any, *args: Any) -> Any:
    theirs = load(pymysql.connect, *args)
    assert run(greentor.green(load), driver.connect, *args) == theirs
    return theirs


@pytest.mark.parametrize("size", SIZES)
def test_file_of_any_size(run: Any, params: Any, tmp_path: Path, size: int) -> None:
    path = tmp_path / "rows"
    path.write_bytes(lines(size))
    (count, warnings), row = compare(run, params, path)
    assert count == row[0] == lines(size).count(b"\n")
    assert warnings == 0


def test_file_by_packets_that_a_client_makes_smaller(
    run: Any, params: Any, tmp_path: Path, mariadb: MariaDB
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(lines(300_000))

    def pieces(connect: Callable[..., Any]) -> tuple[Any, int]:
        with Proxy(mariadb.host, mariadb.port) as proxy:
            small = {**params, "port": proxy.port, "max_allowed_packet": 1000}
            result = load(connect, small, path)
            proxy.wait_closed()
            return result, proxy.up.carried

    theirs = pieces(pymysql.connect)
    assert theirs[1] > 301_200  # a header for each
    assert run(greentor.green(pieces), driver.connect) == theirs


def test_unbuffered_cursor_loads_too(run: Any, params: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(lines(100_000))
    assert compare(run, params, path, SSCursor)[1][0] == 477


def test_file_over_tls(run: Any, params: Any, mariadb: MariaDB, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(lines(MIB))
    secure = {**params, "ssl_disabled": False, "ssl_ca": mariadb.ca}
    assert compare(run, secure, path)[1][0] == lines(MIB).count(b"\n")


def test_file_amid_several_statements(run: Any, params: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(lines(100_000))

    def results(connect: Callable[..., Any]) -> list[Any]:
        flag = pymysql.constants.CLIENT.MULTI_STATEMENTS
        with connect(**params, client_flag=flag) as connection, connection.cursor() as cursor:
            load = LOAD.format(path)
            cursor.execute(f"SELECT 1; {load}; SELECT COUNT(*) FROM loaded; {load}; SELECT 2")
            found = [cursor.fetchall()]
            while cursor.nextset():
                found += [cursor.rowcount, cursor.fetchall()]
            return found

    theirs = results(pymysql.connect)
    assert theirs[0] == ((1,),)
    assert theirs[-1] == ((2,),)
    assert run(greentor.green(results), driver.connect) == theirs


def test_server_that_does_not_allow_it(
    run: Any, params: Any, mariadb: MariaDB, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"text\n")
    mariadb.execute("SET GLOBAL local_infile = OFF")
    try:
        (error, _), row = compare(run, params, path)
    finally:
        mariadb.execute("SET GLOBAL local_infile = ON")
    assert issubclass(error, pymysql.err.MySQLError)
    assert row[0] == 0


def unreadable(directory: Path) -> Path:
    path = directory / "secret"
    path.write_text("text\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    return path


#: what is wrong with a file, and the code and the text of the error
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda directory: directory / "none", "No such file"),
    "directory": (lambda directory: directory, "Is a directory"),
    "not allowed": (unreadable, "Permission denied"),
    "fails to be read": (lambda directory: "/proc/self/mem", "Input/output error"),
    "below a file": (lambda directory: __file__ + "/none", "Not a directory"),
}


@pytest.mark.parametrize("name", WRONG)
def test_file_that_is_wrong(run: Any, params: Any, tmp_path: Path, name: str) -> None:
    make, text = WRONG[name]
    path = make(tmp_path)
    theirs = load(pymysql.connect, params, path)
    ours = run(greentor.green(load), driver.connect, params, path)
    for (error, (code, _)), row in (theirs, ours):
        assert (error, code, row[0]) == (pymysql.err.OperationalError, 1017, 0)
    assert text in ours[0][1][1]
    if pymysql.VERSION >= (1, 2):  # before, it did not say what was wrong
        assert ours == theirs


def test_device_without_an_end_of_its_own(run: Any, params: Any) -> None:
    assert compare(run, params, "/dev/null") == ((0, 0), (0, ""))


def test_rows_that_the_server_leaves_out(run: Any, params: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"twice\ntwice\n" + lines(50_000))
    (count, warnings), row = compare(run, params, path)
    assert (count, warnings) == (row[0], 1)


def test_server_that_finds_fault_with_a_row(
    run: Any, params: Any, mariadb: MariaDB, tmp_path: Path
) -> None:
    mariadb.execute(
        "CREATE TRIGGER fault BEFORE INSERT ON loaded FOR EACH ROW"
        " IF NEW.body = 'wrong' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF",
        database="greentor",
    )
    path = tmp_path / "rows"
    path.write_bytes(lines(600_000) + b"wrong\n" + lines(2 * MIB))
    (error, args), row = compare(run, params, path)
    assert error is pymysql.err.OperationalError
    assert args == (1644, "no")
    assert row[0] == 0


@pytest.mark.parametrize("allowed", [False, None], ids=["refused", "not asked for"])
def test_client_that_does_not_allow_it(
    run: Any, params: Any, tmp_path: Path, allowed: bool | None
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"secret\n")
    del params["local_infile"]
    if allowed is not None:
        params["local_infile"] = allowed
    (error, _), row = compare(run, params, path)
    assert issubclass(error, pymysql.err.MySQLError)
    assert row[0] == 0


@pytest.mark.timeout(20)
def test_server_that_asks_though_it_may_not_gets_nothing(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("secret\n")

    def reply(command: bytes) -> bytes:
        return b"\xfb" + bytes(path) if b"harmless" in command else b"\0\0\0\2\0\0\0"

    with ScriptedServer(lambda peer: None, plugin="", reply=reply) as server:

        @greentor.green
        def main() -> None:
            connection = driver.connect(**server.params(), password="", ssl_disabled=True)
            with pytest.raises((RuntimeError, pymysql.err.Error), match="local_infile"):
                query(connection, "SELECT 'harmless'")
            assert not connection.alive

        params = server.params()
        params.pop("password")
        server.params = lambda: params  # type: ignore[method-assign]
        run(main)


# --- a FIFO that is silent --------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def open_writer(path: Path) -> int:
    """Open the writing end as soon as somebody has the other."""

    def attempt() -> Any:
        try:
            return [os.open(path, os.O_WRONLY | os.O_NONBLOCK)]
        except OSError:
            return None

    return int(wait_until(attempt)[0])


@pytest.fixture
def clean() -> Iterator[None]:
    """No thread is left that was not there before, except idle ones of an executor that is shut down."""
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [b"", b"one\n", b"one\ntwo\nthree\n"])
def test_fifo_whose_writer_comes_late_and_writes_in_pieces(
    run: Any, params: Any, fifo: Path, text: bytes, clean: None
) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        task = spawn(query, connection, LOAD.format(fifo))
        until(lambda: opened(fifo))
        for _ in range(50):  # without a writer it is not at its end
            greentor.sleep(0)
        assert not task.done()
        writer = greentor.thread(open_writer, fifo)
        for index in range(len(text)):
            os.write(writer, text[index : index + 1])
            greentor.sleep(0)
        assert not task.done()
        os.close(writer)
        greentor.await_(task)
        rows = query(connection, "SELECT body FROM loaded ORDER BY id")
        assert [row[0] for row in rows] == text.decode().splitlines()
        assert not opened(fifo)
        connection.close()

    run(main)


@pytest.mark.timeout(30)
def test_fifo_with_more_than_the_kernel_keeps(
    run: Any, params: Any, fifo: Path, clean: None
) -> None:
    text = lines(3 * MIB)

    def write() -> None:
        with fifo.open("wb") as file:
            file.write(text)

    def fed(connect: Callable[..., Any]) -> Any:
        thread = threading.Thread(target=write)
        thread.start()
        try:
            return load(connect, params, fifo)
        finally:
            thread.join()

    theirs = fed(pymysql.connect)
    assert run(greentor.green(fed), driver.connect) == theirs


@pytest.mark.timeout(20)
@pytest.mark.parametrize("how", ["cancel", "deadline", "collect"])
@pytest.mark.parametrize("written", [None, b"", b"half a l"], ids=["no writer", "silent", "half"])
def test_fifo_that_is_silent_is_given_up_at_once_and_holds_no_thread(
    run: Any, params: Any, fifo: Path, clean: None, how: str, written: bytes | None
) -> None:
    async def main() -> None:
        connection = await bridge.run_in_scope("open", lambda: driver.connect(**params))

        def use() -> None:
            with greentor.timeout(0.1 if how == "deadline" else None):
                query(connection, LOAD.format(fifo))

        coroutine = bridge.run_in_scope("load", use)
        if how == "collect":
            await asyncio.create_task(step_until(coroutine, lambda: bool(opened(fifo))))
        else:
            task = asyncio.create_task(coroutine)
            await await_until(lambda: opened(fifo))
        writer = None if written is None else await asyncio.to_thread(open_writer, fifo)
        if written:
            assert writer is not None
            os.write(writer, written)
        if how == "collect":
            coroutine.close()
        else:
            if how == "cancel":
                await asyncio.sleep(0.01)  # so that it takes what was written, and waits again
                task.cancel()
            expected = (asyncio.CancelledError, bridge.DeadlineExceeded)[how == "deadline"]
            with pytest.raises(expected):
                await task
        assert not connection.alive
        await await_until(lambda: opened(fifo) == ([] if writer is None else [writer]))
        if writer is not None:
            with pytest.raises(BrokenPipeError):
                os.write(writer, b"too late")
            os.close(writer)
        after = await bridge.run_in_scope("after", lambda: driver.connect(**params))
        # The server rolls back when it notices.
        rows = "SELECT COUNT(*) FROM loaded"
        assert await bridge.run_in_scope("after", query, after, rows) == ((0,),)
        after.close()

    run(main)


@pytest.mark.timeout(20)
def test_connection_that_is_lost_while_a_fifo_is_silent_is_an_error(
    run: Any, params: Any, fifo: Path, mariadb: MariaDB, clean: None
) -> None:
    # PyMySQL waits for the file first, and that for ever.
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        task = spawn(query, connection, LOAD.format(fifo))
        until(lambda: opened(fifo))
        greentor.thread(mariadb.execute, f"KILL {connection.thread_id()}")
        with pytest.raises(pymysql.err.OperationalError) as info:
            greentor.await_(task)
        assert info.value.args[0] in (1927, 2006, 2013)
        assert not connection.alive
        assert not opened(fifo)

    run(main)


@pytest.mark.timeout(20)
def test_nobody_else_writes_into_the_midst_of_the_file(run: Any, params: Any, fifo: Path) -> None:
    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        task = spawn(query, connection, LOAD.format(fifo))
        until(lambda: opened(fifo))
        assert not connection.quiet
        with pytest.raises(ConcurrentUseError, match="loading"):
            query(connection, "SELECT 'stolen'")
        writer = greentor.thread(open_writer, fifo)
        os.write(writer, b"mine\n")
        os.close(writer)
        greentor.await_(task)
        assert query(connection, "SELECT body FROM loaded") == (("mine",),)
        connection.close()

    run(main)


# --- a disk that is slow ----------------------------------------------------------------------


class Slow:
    """Have each read of a local file wait in its thread until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.go = threading.Event()
        read = local_infile.LocalFile._read

        def slow(file: local_infile.LocalFile) -> bytes:
            self.threads.append(threading.get_ident())
            assert self.go.wait(10)
            return read(file)

        monkeypatch.setattr(local_infile.LocalFile, "_read", slow)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(monkeypatch)
    yield slow
    slow.go.set()


@pytest.mark.timeout(20)
def test_loop_goes_on_while_a_disk_is_slow(
    run: Any, params: Any, tmp_path: Path, slow: Slow
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(lines(2 * BLOCK))

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        task = spawn(query, connection, LOAD.format(path))
        until(lambda: slow.threads)
        for _ in range(20):
            greentor.sleep(0)
        assert not task.done()
        slow.go.set()
        greentor.await_(task)
        assert threading.get_ident() not in slow.threads
        assert not opened(path)
        connection.close()

    run(main)


@pytest.mark.timeout(20)
def test_cancel_does_not_wait_for_the_disk_and_its_thread_closes_the_file(
    run: Any, params: Any, tmp_path: Path, slow: Slow
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(lines(2 * BLOCK))

    @greentor.green
    def main() -> None:
        connection = driver.connect(**params)
        task = spawn(query, connection, LOAD.format(path))
        until(lambda: slow.threads)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            greentor.await_(task)
        assert not connection.alive
        assert opened(path)  # not under the feet of the thread
        slow.go.set()
        until(lambda: not opened(path))

    run(main)


@pytest.mark.timeout(20)
def test_cancel_before_a_thread_was_free_opens_nothing(
    run: Any, params: Any, fifo: Path, clean: None
) -> None:
    @greentor.green
    def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        go = threading.Event()
        blocker = loop.run_in_executor(None, go.wait, 10)
        connection = driver.connect(**params)
        task = spawn(query, connection, LOAD.format(fifo))
        until(lambda: connection._stream._user is not None)
        for _ in range(20):
            greentor.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            greentor.await_(task)
        go.set()
        greentor.await_(blocker)
        greentor.thread(lambda: None)  # after whatever else was queued
        assert not opened(fifo)

    run(main)


@pytest.mark.timeout(30)
def test_file_is_not_read_further_ahead_than_a_block(
    run: Any, params: Any, tmp_path: Path, mariadb: MariaDB
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 * MIB)

    def position() -> int:
        [fd] = opened(path)
        return int(Path(f"/proc/self/fdinfo/{fd}").read_text().split()[1])

    @greentor.green
    def main() -> None:
        with Proxy(mariadb.host, mariadb.port) as proxy:
            connection = driver.connect(**{**params, "port": proxy.port})
            sock = connection._stream._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            proxy.up.stall_after = proxy.up.carried + 3 * MIB
            task = spawn(query, connection, LOAD.format(path))
            until(lambda: proxy.up.carried == proxy.up.stall_after)
            until(lambda: connection._stream._user is not None)
            last = time.monotonic() + 0.2
            while time.monotonic() < last:
                assert position() < 3 * MIB + 4 * BLOCK
                greentor.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                greentor.await_(task)
            assert not opened(path)
            proxy.up.stall_after = None

    assert stat.S_ISREG(path.stat().st_mode)
    run(main)
