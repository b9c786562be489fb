"""`greentor.pool` lending real connections to MariaDB."""

import asyncio
import random
from typing import Any

import pymysql
import pytest

import greentor
from greentor import bridge
from greentor.drivers import pymysql as driver
from greentor.pool import Pool, PoolOptions
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

    def close(self, connection: driver.Connection) -> None:
        if not connection._closed:
            connection.close()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def params(request: pytest.FixtureRequest, mariadb: MariaDB) -> dict[str, Any]:
    security: dict[str, Any] = {"ssl_ca": mariadb.ca} if request.param else {"ssl_disabled": True}
    return {**mariadb.params("greentor"), **security}


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
        assert len(pool._opened) == pool.idle
        pool.close()

    run(main)
    wait_until(lambda: not mariadb.processlist())
