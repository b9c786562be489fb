"""The breakages that users of other systems meet first; ``bench.breakages`` shows each on its peer.

The scenarios are the ones that run there.
"""

import pytest
from django.conf import settings
from django.contrib.auth.models import Group

from bench.breakages import cancelled_transaction, shared_wrapper, sibling_task
from bench.breakages.serving import answers_to
from bench.breakages.too_many_connections import make_handler, quick_query, slow_query
from greentor import green
from greentor.db.pools import current_pools
from greentor.web import drain
from tests.test_web import serving
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


@pytest.fixture
def database(monkeypatch):
    """Return a function that changes the settings of the database, its pool included."""

    def change(*, pool, conn_max_age=0):
        monkeypatch.setitem(settings.DATABASES["default"], "CONN_MAX_AGE", conn_max_age)
        monkeypatch.setitem(settings.DATABASES["default"]["OPTIONS"], "pool", pool)

    return change


@pytest.fixture
def opened(mariadb):
    """Return a function that tells how many connections were opened at once, at most, by now."""
    mariadb.execute("FLUSH STATUS")
    before = mariadb.status("Max_used_connections")
    return lambda: mariadb.status("Max_used_connections") - before


# --- 1. too many connections ------------------------------------------------------------------


def test_a_flood_of_requests_is_served_on_the_connections_of_the_pool(run, database, opened):
    database(pool={"pool_size": 8, "max_overflow": 0, "pool_timeout": 30})

    async def main():
        async with serving(make_handler(slow_query)) as served:
            assert await answers_to(served.port, 60, 60) == {"answered 200": 60}
        assert opened() <= 8

    run(main)


def test_requests_one_after_the_other_need_one_connection_whatever_its_age(run, database, opened):
    database(pool={"pool_size": 8, "max_overflow": 0}, conn_max_age=60)

    async def main():
        async with serving(make_handler(quick_query)) as served:
            assert await answers_to(served.port, 100, 1) == {"answered 200": 100}
        assert opened() <= 1

    run(main)


# --- 2. Tornado and Django leak ---------------------------------------------------------------


@pytest.mark.parametrize("pool", [False, {"pool_size": 2, "max_overflow": 6}])
def test_after_the_answers_no_connection_is_open_but_the_idle_ones_of_the_pool(
    run, database, mariadb, pool
):
    database(pool=pool)
    kept = pool["pool_size"] if pool else 0
    before = {row["ID"] for row in mariadb.processlist()}

    def new():
        return {row["ID"] for row in mariadb.processlist()} - before

    async def main():
        async with serving(make_handler(slow_query)) as served:
            assert await answers_to(served.port, 8, 8) == {"answered 200": 8}
            assert await drain(5) == 0
            await await_until(lambda: len(new()) == kept)
            assert [pool.in_use for pool in current_pools()] == ([0] if pool else [])

    run(main)


# --- 4. a wrapper that crosses greenlets ------------------------------------------------------


def test_a_connection_in_the_hands_of_another_greenlet_answers_its_owner_alone(run, mariadb):
    seen = run(shared_wrapper.greenlets, mariadb)
    refused = seen.pop("not shared, the guest gets")
    assert refused.startswith("DatabaseError: the connection 'default' belongs to greenlets.")
    assert "owner and was used by greenlets.<locals>.guest" in refused
    refused = seen.pop("shared, the guest gets")
    assert refused.startswith("ConcurrentUseError: writing refused to the greenlet of ")
    assert "owner) is waiting on this connection" in refused
    assert seen == {
        "shared, the owner gets": "the owner's",
        "asking 'mine', the owner then gets": "mine",
    }


# --- 8. cancelled in mid-transaction ----------------------------------------------------------


async def assert_the_pool_serves_on():
    """What the cancelled one held is gone, and the next one is served."""
    [pool] = current_pools()
    await await_until(lambda: pool.in_use == 0)  # the abandoned query is killed on that slot
    await green(Group.objects.create)(name="next")
    assert await green(Group.objects.count)() == 1


def test_a_transaction_cancelled_in_a_query_is_rolled_back(run, mariadb):
    async def main():
        seen = await cancelled_transaction.cancelled_query(green, mariadb)
        assert seen == {"the transfer": "CancelledError", "rows afterwards": []}
        await assert_the_pool_serves_on()

    run(main)


def test_a_transaction_that_times_out_in_a_write_leaves_no_lock_and_no_half_packet(run, mariadb):
    async def main():
        seen = await cancelled_transaction.interrupted_write(mariadb)
        assert seen == {
            "the greenlet": "ended with DeadlineExceeded",
            "its rows": "free",
            "rows afterwards": [],
        }
        await assert_the_pool_serves_on()

    run(main)


# --- 11. transactions in async code -----------------------------------------------------------


def test_a_row_written_beside_a_transaction_is_not_lost_with_its_rollback(run, mariadb):
    seen = run(sibling_task.while_another_rolls_back, sibling_task.atomic, green, mariadb)
    assert seen["the order"] == "Declined()"
    assert seen["rows afterwards"] == ["audit"]


def test_a_task_of_a_transaction_that_failed_its_request_commits_nothing_afterwards(run, mariadb):
    seen = run(sibling_task.after_the_rollback, sibling_task.atomic, green, mariadb)
    assert seen["the order"] == "Declined()"
    assert seen["the shipment"].startswith("ScopeClosed: ")
    assert seen["rows afterwards"] == []
