"""`greentor.pool` lending real connections to MariaDB."""

import asyncio
import random
from typing import Any

import pymysql
import pytest

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from greentor.pool import Pool, PoolOptions, PoolTimeout
from greentor.pool import driver as pool_driver
from tests.mariadb import MariaDB
from tests.proxy import Proxy
from tests.waiting import await_until, wait_until


class Driver:
    """As the ENGINE's."""

    def is_open(self, connection: driver.Connection) -> bool:
        return connection.alive

    def is_clean(self, connection: driver.Connection) -> bool:
        return connection.quiet and not connection.in_transaction

    def reset(self, connection: driver.Connection) -> None:
        if connection.quiet:
            connection.rollback()

    def ping(self, connection: driver.Connection, timeout: float) -> None:
        connection._read_timeout = timeout
        connection.ping(reconnect=False)

    def close(self, connection: driver.Connection) -> None:
        if not connection._closed:
            connection.close()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def params(request: pytest.FixtureRequest, mariadb: MariaDB) -> dict[str, Any]:
    security: dict[str, Any] = {"ssl_ca": mariadb.ca} if request.param else {"ssl_disabled": True}
    return {**mariadb.params("greentor"), **security}


@pytest.fixture(autouse=True)
def nobody_else(mariadb: MariaDB) -> None:
    """Wait for what the server still does for an earlier test: a query that was cancelled runs on."""
    wait_until(lambda: not mariadb.processlist(), 15)


def make_pool(size: int, overflow: int = 0, **options: Any) -> Pool[driver.Connection]:
    return Pool("real", Driver(), PoolOptions(size, overflow, **options))


def query(connection: Any, sql: str, *args: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, args or None)
        return cursor.fetchall()


def spawn(fn: Any, *args: Any) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(bridge.run_in_scope("user", fn, *args))


def test_a_slow_connect_is_not_overshot(run: Any, params: Any, mariadb: MariaDB) -> None:
    async def main(proxy: Proxy) -> None:
        target = {**params, "host": proxy.host, "port": proxy.port}
        pool = make_pool(5)

        def use(number: int) -> None:
            connection, _ = pool.acquire(lambda: driver.connect(**target))
            try:
                assert query(connection, "SELECT %s", number) == ((number,),)
            finally:
                pool.release(connection)

        await asyncio.gather(*(spawn(use, number) for number in range(100)))
        assert proxy.accepted == 5
        assert (pool.in_use, pool.idle, pool.waiting) == (0, 5, 0)
        pool.close()
        await await_until(lambda: not proxy.open)

    with Proxy(mariadb.host, mariadb.port, connect_delay=0.2) as proxy:
        run(main, proxy)


def test_pool_timeout_comes_in_time_and_a_release_after_it_is_not_lost(
    run: Any, params: Any, mariadb: MariaDB
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = make_pool(5, pool_timeout=0.5)

        def open_() -> driver.Connection:
            return driver.connect(**params)

        held = [(await spawn(pool.acquire, open_))[0] for _ in range(5)]
        start = loop.time()
        late = []

        def wait_in_vain() -> None:
            with pytest.raises(PoolTimeout, match="5 of 5 in use"):
                pool.acquire(open_)
            late.append(loop.time() - start)

        await asyncio.gather(*(spawn(wait_in_vain) for _ in range(20)))
        assert min(late) >= 0.499
        assert max(late) < 5  # one after the other, they would wait for 10 s
        assert pool.stats().timeouts == 20
        for connection in held:
            await spawn(pool.release, connection)
        assert (pool.in_use, pool.idle, pool.waiting) == (0, 5, 0)
        again = [await spawn(pool.acquire, open_) for _ in range(5)]
        assert [fresh for _, fresh in again] == [False] * 5
        assert {connection for connection, _ in again} == set(held)
        pool.close()
        for connection in held:
            pool.release(connection)

    run(main)


# --- signs of life ----------------------------------------------------------------------------


@pytest.mark.parametrize("pre_ping", [False, True], ids=["unasked", "pinged"])
def test_connection_killed_where_the_loop_cannot_have_seen_it_yet(
    run: Any, params: Any, mariadb: MariaDB, pre_ping: bool
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(2, pool_pre_ping=pre_ping)

        def open_() -> driver.Connection:
            return driver.connect(**params)

        connection, _ = pool.acquire(open_)
        pool.release(connection)
        mariadb.execute(f"KILL {connection.thread_id()}")  # the loop is held meanwhile
        wait_until(lambda: not mariadb.processlist())
        assert connection.alive, "the loop has seen it; this test would show nothing"
        lent, fresh = pool.acquire(open_)
        assert fresh == pre_ping
        if pre_ping:
            assert query(lent, "SELECT 1") == ((1,),)
        else:
            with pytest.raises(pymysql.err.OperationalError):
                query(lent, "SELECT 1")
        pool.release(lent)
        stats = pool.stats()
        assert (stats.in_use, stats.idle) == (0, int(pre_ping))
        assert stats.closed["ping" if pre_ping else "lost"] == 1
        pool.close()

    run(main)


def test_ping_that_nobody_answers_gives_up_in_time(
    run: Any, params: Any, mariadb: MariaDB, monkeypatch: Any
) -> None:
    """As with a firewall that has forgotten the connection: nobody is told that it is dead."""
    monkeypatch.setattr(pool_driver, "PING_TIMEOUT", 0.1)

    async def main(proxy: Proxy) -> None:
        pool = make_pool(1, pool_pre_ping=True)
        first = await spawn(
            pool.acquire,
            lambda: driver.connect(**{**params, "host": proxy.host, "port": proxy.port}),
        )
        pool.release(first[0])
        proxy.down.stall_after = 0
        lent, fresh = await asyncio.wait_for(
            spawn(pool.acquire, lambda: driver.connect(**params)), 5
        )
        assert fresh
        assert await spawn(query, lent, "SELECT 1") == ((1,),)
        assert pool.stats().closed["ping"] == 1
        assert pool.stats().wait.max >= 0.099
        pool.release(lent)
        pool.close()

    with Proxy(mariadb.host, mariadb.port) as proxy:
        run(main, proxy)


def test_session_that_is_pinged_serves_as_before(run: Any, params: Any, mariadb: MariaDB) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(1, pool_pre_ping=True)
        connection, _ = pool.acquire(lambda: driver.connect(**params))
        pool.release(connection)
        for number in range(20):
            assert pool.acquire(lambda: driver.connect(**params)) == (connection, False)
            assert query(connection, "SELECT %s", number) == ((number,),)
            pool.release(connection)
        assert pool.stats().pings == 20
        pool.close()

    run(main)


# --- nobody asked -----------------------------------------------------------------------------


def test_warmed_connections_are_there_and_idle_ones_leave_the_server(
    run: Any, params: Any, mariadb: MariaDB
) -> None:
    async def main() -> None:
        pool = make_pool(5, min_size=3, max_idle=0.2)

        def open_() -> driver.Connection:
            return driver.connect(**params)

        assert await pool.warm(open_) == 3
        assert len(mariadb.processlist()) == 3
        held = [await spawn(pool.acquire, open_) for _ in range(5)]
        assert [fresh for _, fresh in held] == [False] * 3 + [True] * 2
        for connection, _ in held:
            await spawn(pool.release, connection)
        await await_until(lambda: len(mariadb.processlist()) == 3)
        assert pool.idle == 3
        assert pool.stats().closed["idle"] == 2
        pool.close()
        await await_until(lambda: not mariadb.processlist())

    run(main)


# --- what comes back --------------------------------------------------------------------------


def test_transaction_left_open_is_rolled_back(run: Any, params: Any, mariadb: MariaDB) -> None:
    mariadb.execute("CREATE OR REPLACE TABLE pool_rows (n INT) ENGINE=InnoDB", database="greentor")

    @greentor.green
    def main() -> None:
        pool = make_pool(1)
        connection, _ = pool.acquire(lambda: driver.connect(**params))
        connection.begin()
        query(connection, "INSERT INTO pool_rows VALUES (1)")
        pool.release(connection)
        again, fresh = pool.acquire(lambda: driver.connect(**params))
        assert again is connection
        assert not fresh
        assert query(again, "SELECT COUNT(*) FROM pool_rows") == ((0,),)
        pool.release(again)
        pool.close()

    run(main)


@pytest.mark.parametrize("state", ["unread", "killed", "closed", "cancelled"])
def test_connection_that_is_of_no_use_is_not_lent_again(
    run: Any, params: Any, mariadb: MariaDB, state: str
) -> None:
    @greentor.green
    def main() -> None:
        pool = make_pool(1)

        def open_() -> driver.Connection:
            return driver.connect(**params)

        connection, _ = pool.acquire(open_)
        if state == "unread":
            cursor = connection.cursor(pymysql.cursors.SSCursor)
            cursor.execute("SELECT seq FROM seq_1_to_100000")
            assert cursor.fetchone()
        elif state == "closed":
            connection.close()
        elif state == "cancelled":
            with pytest.raises(TimeoutError), greentor.timeout(0.05):
                query(connection, "SELECT SLEEP(1)")
        pool.release(connection)
        if state == "killed":
            assert pool.idle == 1
            greentor.thread(mariadb.execute, f"KILL {connection.thread_id()}")
            greentor.await_(await_until(lambda: not connection.alive))
        again, fresh = pool.acquire(open_)
        assert fresh
        assert query(again, "SELECT 1") == ((1,),)
        pool.release(again)
        assert (pool.in_use, pool.idle) == (0, 1)
        pool.close()

    run(main)


def test_faults_of_every_kind_leave_the_accounting_exact(
    run: Any, params: Any, mariadb: MariaDB
) -> None:
    limit, seed = 6, random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    wrong = []
    peak = 0

    async def main() -> None:
        nonlocal peak
        pool = make_pool(4, 2, pool_timeout=20)

        def use(number: int, fault: str, delay: float) -> None:
            nonlocal peak
            with greentor.timeout(delay if fault == "deadline" else None):
                connection, _ = pool.acquire(lambda: driver.connect(**params))
                peak = max(peak, pool.in_use + pool.idle)
                try:
                    if fault == "transaction":
                        connection.begin()
                    rows = query(connection, "SELECT %s, SLEEP(%s)", number, delay)
                    if rows != ((number, 0),):
                        wrong.append((number, rows))
                    if fault == "error":
                        query(connection, "no sql")
                    elif fault == "unread":
                        cursor = connection.cursor(pymysql.cursors.SSCursor)
                        cursor.execute("SELECT seq FROM seq_1_to_10000")
                        cursor.fetchone()
                    elif fault == "close":
                        connection.close()
                finally:
                    pool.release(connection, force=fault == "force")

        kinds = ["transaction", "error", "unread", "close", "force", "deadline", "cancel"]
        tasks = []
        for number in range(400):
            fault = dice.choice([*kinds, *["none"] * 7])
            task = spawn(use, number, fault, dice.choice([0, 0.001, 0.01]))
            tasks.append(task)
            if fault == "cancel":
                asyncio.get_running_loop().call_later(dice.random() * 0.5, task.cancel)
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        for result in results:
            assert result is None or isinstance(
                result,
                asyncio.CancelledError | bridge.DeadlineExceeded | pymysql.err.ProgrammingError,
            ), result
        assert not wrong
        assert peak <= limit
        assert (pool.in_use, pool.waiting) == (0, 0)
        assert pool.idle <= 4
        assert len(pool._state.entries) == pool.idle
        pool.close()

    run(main)
    wait_until(lambda: not mariadb.processlist())
