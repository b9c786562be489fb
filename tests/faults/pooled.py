"""Requests of Django on a pool, struck like the session on the driver, beside one that is left in peace.

What a strike leaves in the pool is looked at from the next borrower's side: all that the pool would lend is
borrowed at once, and must answer its own question, outside any transaction. A cancelled query is killed
from a side connection (`kill_on_cancel`), which must hit nobody else's.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from pymysql.cursors import SSCursor

import greentor
from greentor import bridge
from greentor.db.pools import close_pools, current_pools
from tests.faults.harness import (
    SILENCE,
    Report,
    Wire,
    name_of,
    outcome,
    restore,
    run_on,
    strike_all,
)
from tests.faults.session import LONG, check
from tests.faults.strikes import Strike, Target
from tests.faults.watching import Watch
from tests.mariadb import MariaDB
from tests.proxy import Proxy
from tests.testapp.models import Author
from tests.waiting import await_until

SIZE = 2
DIRECT = Wire("TCP")


def request(target: Target) -> None:
    """Write and read in a transaction; then leave rows unread outside of one. Runs in a greenlet."""
    with greentor.timeout(LONG) as target.limit:
        with transaction.atomic():
            Author.objects.create(name=target.token)
            # Long enough that the server is still at work on it when told to stop.
            check(ask("SELECT %s FROM (SELECT SLEEP(0.05)) AS a_while", target.token), target.token)
            with transaction.atomic():
                Author.objects.create(name=target.token)
            with closing(some_rows()) as rows:
                read(rows, target.token)
            check(Author.objects.filter(name=target.token).count(), 2)
            target.phase = "committing"
        target.phase = "after"
        with connection.cursor() as cursor:  # behind Django's back: only the pool can end it
            cursor.execute("START TRANSACTION")
            Author.objects.create(name="of nobody")
            greentor.sleep(0)
            cursor.execute("ROLLBACK")
        rows = some_rows()
        read(rows, target.token)  # struck here, it is given back with rows unread
        rows.close()
        check(ask("SELECT %s", target.token), target.token)


def some_rows() -> SSCursor:
    connection.ensure_connection()
    return connection.connection.cursor(SSCursor)


def read(rows: SSCursor, token: str) -> None:
    """Be parked, for another reason than a query, while rows are unread."""
    rows.execute("SELECT seq, %s FROM seq_1_to_20", (token,))
    for n in range(1, 4):
        check(rows.fetchone(), (n, token))
        greentor.sleep(0)


def ask(sql: str, *args: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchone()[0]


async def neighbour(until: asyncio.Event) -> list[str]:
    """Ask on the same pool, over and over, and return what was answered wrongly."""
    wrong = []
    sql = "SELECT %s FROM (SELECT SLEEP(0.002)) AS a_while"
    while not until.is_set():
        token = secrets.token_hex(8)
        try:
            answer = await bridge.run_in_scope("neighbour", ask, sql, token)
        except Exception as exc:
            wrong.append(f"the neighbour got {exc!r}")
            break
        if answer != token:
            wrong.append(f"the neighbour was answered {answer!r}")
        await asyncio.sleep(0)
    return wrong


async def next_borrowers() -> list[str]:
    """Borrow all that the pool lends, at once; return what was answered wrongly."""
    waiting = 0
    together = asyncio.Event()

    def borrow() -> list[str]:
        nonlocal waiting
        token = secrets.token_hex(8)
        answers = [ask("SELECT %s", token), ask("SELECT @@in_transaction")]
        waiting += 1
        if waiting == SIZE:
            together.set()
        greentor.await_(together.wait())
        return [] if answers == [token, 0] else [f"the next borrower was answered {answers}"]

    found = await asyncio.gather(
        *(asyncio.wait_for(bridge.run_in_scope("next", borrow), 10) for _ in range(SIZE)),
        return_exceptions=True,
    )
    wrong = [what for answers in found if isinstance(answers, list) for what in answers]
    return wrong + [f"the next borrower got {exc!r}" for exc in found if isinstance(exc, Exception)]


def killing() -> bool:
    """Whether an abandoned query is still to be killed."""
    return any(task.get_name().startswith("killing") for task in asyncio.all_tasks())


async def wrong_pool(target: Target) -> list[str]:
    """Wait until the pool has got everything back; return what is wrong with it."""
    for pool in current_pools():
        try:
            await await_until(lambda pool=pool: (pool.in_use, pool.waiting) == (0, 0))
        except AssertionError:
            return [f"{pool!r}"]
    return await next_borrowers()


def wrong_rows(server: MariaDB, database: str, target: Target, completed: bool) -> list[str]:
    [row] = server.execute("SELECT COUNT(*) AS n FROM testapp_author", database=database)
    if row["n"]:
        server.execute("DELETE FROM testapp_author", database=database)
    allowed = {"before": [0], "committing": [0, 2], "after": [2]}[target.phase]
    wrong = [] if row["n"] in allowed else [f"{row['n']} rows in phase {target.phase!r}"]
    if completed and target.phase != "after":
        wrong.append(f"no error, though it ended in phase {target.phase!r}")
    return wrong


def drive_pool(
    server: MariaDB,
    loop: str,
    wire: Wire,
    strikes: Sequence[Strike],
    warm: bool = False,
    every: int = 1,
    first: int = 1,
) -> Report:
    """Strike the request at its points, its pool cold or warm; Django's default database is the server's."""
    config = settings.DATABASES["default"]
    before = {**config, "OPTIONS": dict(config["OPTIONS"])}
    state = "warm" if warm else "cold"
    report = Report(f"pool, {state}, {loop}, {wire.name}, {name_of(strikes)}")

    async def main(proxy: Proxy | None) -> None:
        # The wire strikes everybody on it: there is nobody beside to be left in peace.
        alone = any(strike.wire for strike in strikes)
        config["OPTIONS"]["pool"] = {"pool_size": SIZE, "max_overflow": 0, "pool_timeout": 10}
        if proxy is not None:
            config["PORT"] = proxy.port
        if any(strike.name == "wire silent" for strike in strikes):
            limits = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), SILENCE)
            config["OPTIONS"].update(limits)

        async def one(strike: Strike, number: int) -> Any:
            target = Target(number, proxy)
            watch.begin()
            wrong = await next_borrowers() if warm else []
            over = asyncio.Event()
            # With as many as it has connections, the pool is one to queue for.
            count = 0 if alone else SIZE if warm else 1
            beside = [asyncio.create_task(neighbour(over)) for _ in range(count)]
            exc = await outcome(target, strike, bridge.run_in_scope("request", request, target))
            restore(proxy)
            await await_until(lambda: not killing())
            over.set()
            for answers in await asyncio.gather(*beside):
                wrong += answers
            wrong += await wrong_pool(target)
            close_pools()
            wrong += await watch.settled()
            wrong += wrong_rows(server, config["NAME"], target, exc is None)
            return target, exc, wrong

        with Watch(server, proxy) as watch:
            await strike_all(report, strikes, one, every, first)

    try:
        run_on(loop, main, server, wire, any(strike.wire for strike in strikes))
    finally:
        config.update(before)
    return report
