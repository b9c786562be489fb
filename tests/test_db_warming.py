"""`warm_pools`: what a pool has opened before anybody asked is as good as what it opens later."""

import asyncio
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection, connections
from django.db.backends.signals import connection_created

from greentor import green
from greentor.db import warm_pools
from greentor.db.pools import current_pools
from tests.mariadb import MariaDB
from tests.waiting import await_until


@pytest.fixture
def warmed(django_db_tables: None, monkeypatch: Any) -> None:
    """Have the default database's pool open three connections when it is asked to."""
    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 5, "max_overflow": 0, "min_size": 3})


@green
def sessions() -> list[int]:
    """Return the ids of this user's sessions on the server."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() ORDER BY ID"
        )
        return [id_ for (id_,) in cursor.fetchall()]


@green
def sleep_and_tell(seconds: float) -> tuple[int, int, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(%s), CONNECTION_ID(), @@autocommit, @@time_zone", [seconds])
        return cursor.fetchone()[1:]


def test_warmed_connections_are_lent_and_as_good_as_others(run: Any, warmed: Any) -> None:
    async def main() -> None:
        assert await warm_pools() == 3
        [pool] = [pool for pool in current_pools() if pool.name == "default"]
        assert (pool.idle, pool.in_use) == (3, 0)
        before = await sessions()
        answers = await asyncio.gather(*(sleep_and_tell(0.1) for _ in range(5)))
        ids = {id_ for id_, *_ in answers}
        assert len(ids) == 5
        assert len(ids & set(before)) == 3
        assert len({answer[1:] for answer in answers}) == 1  # the state of their sessions
        assert await warm_pools() == 0

    run(main)


def test_query_on_a_warmed_connection_is_ended_by_a_cancel(
    run: Any, warmed: Any, mariadb: MariaDB
) -> None:
    def asleep() -> int:
        rows = mariadb.execute("SHOW FULL PROCESSLIST")
        return sum("SLEEP(30" in str(row["Info"]) for row in rows)

    async def main() -> None:
        assert await warm_pools() == 3
        task = asyncio.create_task(sleep_and_tell(30))
        await await_until(asleep)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await await_until(lambda: not asleep(), 3)  # in 5 s the server would notice by itself

    run(main)


def test_borrower_of_a_warmed_connection_is_told_of_it(run: Any, warmed: Any) -> None:
    seen = []

    def receiver(connection: Any, **kwargs: Any) -> None:
        seen.append(connection)

    async def main() -> None:
        await warm_pools()
        seen.clear()

        @green
        def ask() -> Any:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            return connections["default"]

        assert await ask() is seen[0]

    connection_created.connect(receiver)
    try:
        run(main)
    finally:
        connection_created.disconnect(receiver)


def test_server_that_is_away_is_an_error_and_leaves_nothing_lent(
    run: Any, warmed: Any, monkeypatch: Any
) -> None:
    async def main() -> None:
        with pytest.raises(OperationalError):
            await warm_pools()
        assert all(pool.in_use == pool.idle == 0 for pool in current_pools())

    monkeypatch.setitem(settings.DATABASES["default"], "PORT", 1)
    run(main)


def test_without_min_size_nothing_is_opened(run: Any) -> None:
    async def main() -> None:
        assert await warm_pools() == 0

    run(main)
