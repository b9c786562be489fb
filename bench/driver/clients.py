"""How each driver asks: one connection or many, one process, and nothing but its public interface.

Every one is told the same: utf8mb4, autocommit, no TLS; and does the same for each query: a cursor,
`execute`, `fetchall`, and the cursor's end. `repeat` is the same function for a blocking driver and for ours.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from bench.driver.workloads import Workload

BLOCKING = ("PyMySQL", "mysqlclient")
ASYNC = ("aiomysql", "asyncmy")
OURS = "greentor"
DRIVERS = (OURS, *BLOCKING, *ASYNC)

#: by driver, what to import; and what it calls the parameters that they do not agree on
MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("greentor.drivers.pymysql", {"ssl_disabled": True}),
    "PyMySQL": ("pymysql", {"ssl_disabled": True}),
    "mysqlclient": ("MySQLdb", {"ssl_mode": "DISABLED"}),
    "aiomysql": ("aiomysql", {"ssl": None}),
    "asyncmy": ("asyncmy", {"ssl": None}),
}

#: asked on each connection's first use: the same for all, or the comparison is off
SESSION = (
    "SELECT @@character_set_client, @@character_set_connection, @@character_set_results, @@autocommit,"
    " (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS"
    " WHERE VARIABLE_NAME = 'SSL_CIPHER')"
)
EXPECTED_SESSION = [("utf8mb4", "utf8mb4", "utf8mb4", 1, "")]


class Client(Protocol):
    """A driver with its connections."""

    def ask(self, sql: str, args: Any = None) -> tuple[int, list[Any]]:
        """Run a statement; return the number of rows that it touched, and the rows."""

    def measure(self, workload: Workload, flight: int, count: int) -> float:
        """Send the statement ``count`` times, ``flight`` at a time; return CPU seconds."""

    def close(self) -> None: ...


def available(names: list[str]) -> list[str]:
    """Return those of these drivers or loops that are installed; say of each other one why it is not."""
    found = []
    for name in names:
        try:
            importlib.import_module(MODULES[name][0] if name in MODULES else name)
        except ImportError as exc:
            print(f"{name} is skipped: {exc}")
        else:
            found.append(name)
    return found


def open_client(driver: str, loop: str, params: dict[str, Any]) -> Client:
    """Return the client of a driver on a loop; ``params`` are those of `MariaDB.params`."""
    name, security = MODULES[driver]
    module = importlib.import_module(name)
    params = {**params, **security, "charset": "utf8mb4", "autocommit": True}
    if driver == "aiomysql":
        params["db"] = params.pop("database")
    if driver in BLOCKING:
        return Blocking(lambda: module.connect(**params))
    if driver == OURS:
        return Greenlets(loop, lambda: module.connect(**params))
    return Async(loop, lambda: module.connect(**params))


def repeat(connection: Any, workload: Workload, count: int) -> None:
    """Ask ``count`` times, one after the other."""
    sql, args, rows = workload.sql, workload.args, workload.rows
    for _ in range(count):
        with connection.cursor() as cursor:
            cursor.execute(sql, args)
            if rows and len(cursor.fetchall()) != rows:
                raise AssertionError("a row is missing")


def ask(connection: Any, sql: str, args: Any) -> tuple[int, list[Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.rowcount, list(cursor.fetchall()) if cursor.description else []


class Blocking:
    """One connection; however many queries are to be in flight, they go one after the other."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.connection = connect()

    def ask(self, sql: str, args: Any = None) -> tuple[int, list[Any]]:
        return ask(self.connection, sql, args)

    def measure(self, workload: Workload, flight: int, count: int) -> float:
        repeat(self.connection, workload, _warm_up(count, 1))
        gc.collect()
        start = time.process_time()
        repeat(self.connection, workload, count)
        return time.process_time() - start

    def close(self) -> None:
        self.connection.close()


class Looping:
    """Connections that share an event loop, each used by one task."""

    def __init__(self, loop: str, connect: Callable[[], Any]) -> None:
        self.connect = connect
        self.connections: list[Any] = []
        self.runner = asyncio.Runner(loop_factory=loop_factory(loop))

    async def open(self) -> Any:
        return await self.connect()

    async def repeat(self, connection: Any, workload: Workload, count: int) -> None:
        raise NotImplementedError

    async def ask_one(self, connection: Any, sql: str, args: Any) -> tuple[int, list[Any]]:
        raise NotImplementedError

    def ask(self, sql: str, args: Any = None) -> tuple[int, list[Any]]:
        answer: tuple[int, list[Any]] = self.runner.run(self._ask(sql, args))
        return answer

    async def _ask(self, sql: str, args: Any) -> tuple[int, list[Any]]:
        await self._open(1)
        return await self.ask_one(self.connections[0], sql, args)

    def measure(self, workload: Workload, flight: int, count: int) -> float:
        return self.runner.run(self._measure(workload, flight, count))

    async def _measure(self, workload: Workload, flight: int, count: int) -> float:
        await self._open(flight)
        await self._repeat(workload, flight, _warm_up(count, flight))
        gc.collect()
        start = time.process_time()
        await self._repeat(workload, flight, count)
        return time.process_time() - start

    async def _repeat(self, workload: Workload, flight: int, count: int) -> None:
        each = shares(count, flight)
        await asyncio.gather(
            *(
                self.repeat(connection, workload, share)
                for connection, share in zip(self.connections, each, strict=False)
            )
        )

    async def _open(self, count: int) -> None:
        while len(self.connections) < count:
            self.connections.append(await self.open())

    def close(self) -> None:
        self.runner.run(self.close_all())
        self.runner.close()

    async def close_all(self) -> None:
        raise NotImplementedError


class Greenlets(Looping):
    """Ours: a blocking program in each greenlet."""

    async def open(self) -> Any:
        from greentor.bridge import run_green

        return await run_green(self.connect)

    async def repeat(self, connection: Any, workload: Workload, count: int) -> None:
        from greentor.bridge import run_green

        await run_green(repeat, connection, workload, count)

    async def ask_one(self, connection: Any, sql: str, args: Any) -> tuple[int, list[Any]]:
        from greentor.bridge import run_green

        answer: tuple[int, list[Any]] = await run_green(ask, connection, sql, args)
        return answer

    async def close_all(self) -> None:
        from greentor.bridge import run_green

        for connection in self.connections:
            await run_green(connection.close)


class Async(Looping):
    """aiomysql and asyncmy, whose interfaces are the same."""

    async def repeat(self, connection: Any, workload: Workload, count: int) -> None:
        sql, args, rows = workload.sql, workload.args, workload.rows
        for _ in range(count):
            async with connection.cursor() as cursor:
                await cursor.execute(sql, args)
                if rows and len(await cursor.fetchall()) != rows:
                    raise AssertionError("a row is missing")

    async def ask_one(self, connection: Any, sql: str, args: Any) -> tuple[int, list[Any]]:
        async with connection.cursor() as cursor:
            await cursor.execute(sql, args)
            return cursor.rowcount, list(await cursor.fetchall()) if cursor.description else []

    async def close_all(self) -> None:
        for connection in self.connections:
            await connection.ensure_closed()


def shares(count: int, flight: int) -> list[int]:
    """Divide ``count`` queries among ``flight`` connections."""
    return [count // flight + (index < count % flight) for index in range(flight)]


def _warm_up(count: int, flight: int) -> int:
    return max(count // 10, flight)


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop of that name."""
    if loop == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop
