"""Django's wrappers on pooled connections: what they cost and leave behind, who may use them."""

import asyncio
import inspect
from contextlib import ExitStack, suppress

import pymysql
import pytest
from django.core.signals import request_finished, request_started
from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models import F
from django.db.transaction import TransactionManagementError
from greenlet import GreenletExit

import greentor
from greentor import green
from greentor.db.mysql.upstream import base as mysql
from greentor.db.pools import DatabasePool, current_pools
from tests.test_seams import called_on_self
from tests.testapp.models import Author, Counter
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


@pytest.fixture(autouse=True)
def _end_abandoned_statements(mariadb):
    """The server notices only seconds later that the client of a SLEEP has gone: it holds locks."""
    yield
    for row in mariadb.processlist():
        if row["COMMAND"] == "Query":
            with suppress(pymysql.err.OperationalError):  # it has just ended
                mariadb.execute(f"KILL CONNECTION {row['ID']}")


def the_pool(alias="default") -> DatabasePool:
    [pool] = [pool for pool in current_pools() if pool.name == alias]
    return pool


def server_id() -> int:
    """Return the server's number of the connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]


def statements(mariadb):
    """Return a function that tells how many statements were sent since it was last called."""
    mariadb.status("Questions")
    first = mariadb.status("Questions")
    own = mariadb.status("Questions") - first  # of the asking itself
    last = first + own

    def since() -> int:
        nonlocal last
        before, last = last, mariadb.status("Questions")
        return last - before - own

    return since


async def parked_in(mariadb, text: str) -> None:
    """Wait until a connection executes a statement with this text."""
    await await_until(
        lambda: any(text in (row["INFO"] or "") for row in mariadb.processlist()), timeout=10
    )


# --- what a request pays ----------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["kept", "new"])
def test_a_request_on_an_open_connection_sends_its_own_statement_alone(run, mariadb, wrapper):
    @green
    def request():
        request_started.send(sender=None)
        Author.objects.count()
        request_finished.send(sender=None)

    async def main():
        await request()
        since = statements(mariadb)
        for _ in range(20):
            if wrapper == "new":
                the_pool().wrappers.clear()
            await request()
        assert since() == 20
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_connection_created_is_sent_for_each_loan_with_the_wrapper_to_equip(run):
    seen = []

    def wrap(execute, *args):
        seen.append("wrapped")
        return execute(*args)

    def receiver(connection, **kwargs):
        seen.append("created")
        connection.execute_wrappers.append(wrap)

    async def main():
        for _ in range(3):
            await green(Author.objects.count)()

    connection_created.connect(receiver)
    try:
        run(main)
    finally:
        connection_created.disconnect(receiver)
    assert seen == ["created", "wrapped"] * 3


def test_a_wrapper_is_reused_by_the_next_request_whatever_closed_the_connection(run):
    @green
    def request(close):
        request_started.send(sender=None)
        Author.objects.count()
        if close:
            connection.close()
        request_finished.send(sender=None)
        return connections["default"]

    async def main():
        return [await request(close) for close in (False, False, True, False)]

    wrappers = run(main)
    assert len(set(map(id, wrappers))) == 1


# --- what a request may leave behind ----------------------------------------------------------


def _wrapper(execute, sql, params, many, context):
    return execute(sql, params, many, context)


def _leave_execute_wrapper():
    connections["default"].execute_wrappers.append(_wrapper)


def _leave_attribute():
    connections["default"].tenant = "somebody"


def _leave_replaced_method():
    wrapper = connections["default"]
    wrapper.cursor = lambda: BaseDatabaseWrapper.cursor(wrapper)


def _leave_debug_cursor():
    connections["default"].force_debug_cursor = True


def _leave_thread_sharing():
    connections["default"].inc_thread_sharing()


def _leave_commit_hook():
    connections["default"].set_autocommit(False)
    connections["default"].run_on_commit.append((set(), pytest.fail, False))


def _leave_atomic():
    transaction.atomic().__enter__()
    Author.objects.create(name="never committed")
    transaction.on_commit(lambda: pytest.fail("ran for a transaction that was rolled back"))


@pytest.mark.parametrize(
    "leave",
    [
        _leave_execute_wrapper,
        _leave_attribute,
        _leave_replaced_method,
        _leave_debug_cursor,
        _leave_thread_sharing,
        _leave_commit_hook,
        _leave_atomic,
    ],
)
def test_a_wrapper_that_was_changed_serves_nobody_else(run, leave):
    @green
    def request(change=None):
        Author.objects.count()
        if change:
            change()
        return connections["default"]

    async def main():
        await request()
        changed = await request()
        assert await request(leave) is changed
        following = await request()
        assert following is not changed
        assert not following.execute_wrappers
        assert not following.force_debug_cursor
        assert not following.allow_thread_sharing
        assert not following.in_atomic_block
        assert following.run_on_commit == []
        assert await green(Author.objects.count)() == 0
        assert the_pool().in_use == 0

    run(main)


def test_the_query_log_of_one_request_is_not_seen_by_the_next(run, settings_debug):
    @green
    def request():
        Author.objects.count()
        return connections["default"], len(connection.queries)

    async def main():
        await request()  # opens the connection, which queries, too
        return [await request() for _ in range(3)]

    answers = run(main)
    assert [count for _, count in answers] == [1, 1, 1]
    assert len({id(wrapper) for wrapper, _ in answers}) == 1


@pytest.fixture
def settings_debug():
    from django.test import override_settings

    with override_settings(DEBUG=True):
        yield


def test_a_scope_that_ends_within_atomic_is_rolled_back(run, mariadb):
    @green
    def request():
        ExitStack().enter_context(transaction.atomic())
        Author.objects.create(name="lost")

    async def main():
        await request()
        assert await green(Author.objects.count)() == 0
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_autocommit_left_off_reaches_nobody(run):
    @green
    def request():
        transaction.set_autocommit(False)
        Author.objects.create(name="lost")
        return server_id()

    @green
    def following():
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@autocommit")
            assert cursor.fetchone() == (1,)
        assert transaction.get_autocommit()
        return Author.objects.count()

    async def main():
        await request()
        assert await following() == 0
        assert the_pool().in_use == 0

    run(main)


# --- who may use a wrapper --------------------------------------------------------------------


def test_a_wrapper_used_by_another_greenlet_is_refused_by_name_before_a_byte_is_sent(run, mariadb):
    async def main():
        handed = asyncio.get_running_loop().create_future()
        done = asyncio.Event()

        async def owner():
            Author.objects.count()
            cursor = connection.cursor()
            handed.set_result((connections["default"], cursor))
            await done.wait()
            return Author.objects.count()

        def thief(use):
            with pytest.raises(DatabaseError) as caught:
                use()
            return str(caught.value)

        task = greentor.spawn(owner)
        wrapper, cursor = await handed
        since = statements(mariadb)
        uses = [
            wrapper.cursor,
            wrapper.commit,
            wrapper.rollback,
            wrapper.close,
            lambda: cursor.execute("SELECT 1"),
            lambda: cursor.executemany("SELECT %s", [(1,)]),
            lambda: cursor.callproc("p"),
        ]
        for use in uses:
            message = await greentor.spawn(thief, use)
            assert "owner" in message
            assert "thief" in message
        assert since() == 0
        done.set()
        assert await task == 0
        assert the_pool().in_use == 0

    run(main)


def test_a_wrapper_used_by_a_thread_is_refused(run):
    @green
    def request():
        Author.objects.count()
        wrapper = connections["default"]

        def use():
            with pytest.raises(DatabaseError, match="was used by a thread outside greenlets"):
                wrapper.cursor()

        greentor.thread(use)
        return Author.objects.count()

    assert run(request) == 0


def test_a_wrapper_kept_beyond_its_request_serves_nobody(run):
    """An object that outlives the request may hold it; it belongs to a later request by then."""

    @green
    def request():
        Author.objects.count()
        return connections["default"]

    def stale(wrapper):
        with pytest.raises(DatabaseError, match=r"stale"):
            wrapper.ensure_connection()
        with pytest.raises(DatabaseError, match=r"stale"), wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert connections["default"] is not wrapper or wrapper.connection is None

    async def main():
        wrapper = await request()
        the_pool().wrappers.clear()  # so that nobody has it now
        await greentor.spawn(stale, wrapper)
        wrapper = await request()
        await greentor.spawn(stale, wrapper)  # it waits to be reused
        assert the_pool().in_use == 0

    run(main)


def test_a_cursor_kept_beyond_its_request_sends_nothing(run, mariadb):
    @green
    def request():
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        return cursor

    @green
    def stale(cursor, connect):
        if connect:
            Author.objects.count()
        with pytest.raises(DatabaseError):
            cursor.execute("INSERT INTO testapp_author (name) VALUES ('stale')")

    async def main():
        cursor = await request()
        await stale(cursor, False)
        assert await green(Author.objects.count)() == 0

    run(main)


def test_a_cursor_of_a_connection_that_was_given_back_sends_nothing(run):
    """Its connection may be lent to another request by now."""

    async def main():
        closed = asyncio.Event()
        lent = asyncio.Event()
        done = asyncio.Event()

        async def first():
            cursor = connection.cursor()
            cursor.execute("SELECT CONNECTION_ID()")
            number = cursor.fetchone()[0]
            connection.close()
            closed.set()
            await lent.wait()
            assert server_id() != number
            with pytest.raises(DatabaseError, match="given back"):
                cursor.execute("INSERT INTO testapp_author (name) VALUES ('in your transaction')")
            with pytest.raises(DatabaseError, match="given back"):
                cursor.executemany("INSERT INTO testapp_author (name) VALUES (%s)", [("x",)])
            done.set()
            return number

        async def second():
            await closed.wait()
            with transaction.atomic():
                number = server_id()
                lent.set()
                await done.wait()
                assert Author.objects.count() == 0
            return number

        numbers = await asyncio.gather(greentor.spawn(first), greentor.spawn(second))
        assert numbers[0] == numbers[1]
        assert await green(Author.objects.count)() == 0

    run(main)


def test_an_iterator_handed_to_another_greenlet_reads_there_on_its_own_connection(run):
    @green
    def request():
        Author.objects.bulk_create(Author(name=str(n)) for n in range(10))
        return Author.objects.order_by("pk").iterator(chunk_size=2)

    async def main():
        rows = await request()
        assert await green(lambda: [author.name for author in rows])() == list("0123456789")
        assert the_pool().in_use == 0

    run(main)


# --- giving back ------------------------------------------------------------------------------


def test_close_gives_the_connection_back(run):
    @green
    def request():
        first = server_id()
        connection.close()
        assert (the_pool().in_use, the_pool().idle) == (0, 1)
        assert server_id() == first
        assert the_pool().in_use == 1

    async def main():
        await request()
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_close_within_atomic_gives_the_connection_back_rolled_back(run):
    """Trap 16: the wrapper must not go on with what somebody else may have by now."""

    @green
    def request():
        with transaction.atomic():
            Author.objects.create(name="lost")
            connection.close()
            assert the_pool().in_use == 0
            with pytest.raises(DatabaseError, match="atomic block"):
                Author.objects.count()
        return Author.objects.count()

    async def main():
        assert await request() == 0
        assert the_pool().in_use == 0

    run(main)


def test_without_a_pool_each_scope_opens_and_closes_its_own_connection(run, mariadb, pool_options):
    pool_options(False)

    async def main():
        numbers = [await green(server_id)() for _ in range(3)]
        assert len(set(numbers)) == 3
        assert current_pools() == []
        await await_until(lambda: not mariadb.processlist())

    connections.close_all()
    run(main)


@pytest.fixture
def pool_options(mariadb, monkeypatch):
    from django.conf import settings

    def set_options(value, alias="default"):
        monkeypatch.setitem(settings.DATABASES[alias]["OPTIONS"], "pool", value)

    return set_options


def test_copies_and_connections_without_a_database_end_with_the_scope(run, mariadb):
    @green
    def request():
        Author.objects.count()
        copy = connection.copy()
        with copy.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert the_pool().in_use == 2
        with connections["default"]._nodb_cursor() as cursor:
            cursor.execute("SELECT DATABASE()")
            assert cursor.fetchone() == (None,)
        return copy

    async def main():
        copy = await request()
        assert the_pool().in_use == 0
        assert copy.connection is None
        assert copy not in the_pool().wrappers
        await await_until(lambda: len(mariadb.processlist()) == the_pool().idle)

    connections.close_all()
    run(main)


def test_connections_of_a_worker_thread_are_closed_when_it_returns(run, mariadb):
    def work():
        Author.objects.create(name="from a thread")
        return server_id()

    @green
    def request():
        with transaction.atomic():
            number = greentor.thread(work)
            assert number != server_id()
            return number

    async def main():
        number = await request()
        await await_until(lambda: number not in [row["ID"] for row in mariadb.processlist()])
        assert await green(Author.objects.count)() == 1

    run(main)


# --- lost, cancelled, killed ------------------------------------------------------------------


def test_a_connection_lost_outside_a_transaction_is_replaced(run, mariadb):
    @green
    async def request():
        first = server_id()
        mariadb.execute(f"KILL CONNECTION {first}")
        wrapper = connections["default"]
        await await_until(
            lambda: not wrapper.make_driver({"AUTOCOMMIT": True}).is_open(wrapper.connection)
        )
        assert server_id() != first

    async def main():
        await request()
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_a_connection_lost_within_a_transaction_is_not_replaced(run, mariadb):
    @green
    async def request():
        with pytest.raises(DatabaseError), transaction.atomic():
            Author.objects.create(name="lost")
            number = server_id()
            mariadb.execute(f"KILL CONNECTION {number}")
            connection = connections["default"].connection
            await await_until(lambda: not connection.alive)
            Author.objects.create(name="alone in a transaction of its own")
        return Author.objects.count()

    async def main():
        assert await request() == 0
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_a_connection_that_died_idle_is_not_lent(run, mariadb):
    async def main():
        number = await green(server_id)()
        mariadb.execute(f"KILL CONNECTION {number}")
        idle = the_pool()._state.idle[0].connection
        await await_until(lambda: not idle.alive)
        assert await green(server_id)() != number
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_cancelled_in_a_transaction_it_is_rolled_back_and_the_connection_discarded(run, mariadb):
    numbers = []

    @green
    def request():
        try:
            with transaction.atomic():
                Author.objects.create(name="lost")
                numbers.append(server_id())
                with connection.cursor() as cursor:
                    cursor.execute("SELECT SLEEP(30) /* cancelled */")
        finally:
            numbers.append(server_id())
            Author.objects.create(name="said in finally")

    async def main():
        task = asyncio.create_task(request())
        await parked_in(mariadb, "cancelled")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert numbers[0] != numbers[1]
        assert await green(lambda: [a.name for a in Author.objects.all()])() == ["said in finally"]
        await await_until(lambda: the_pool().in_use == 0)  # with the one that kills the query

    run(main)


def test_cancelled_in_commit_the_connection_is_discarded_and_all_or_nothing_is_there(run, mariadb):
    async def main():
        await green(Author.objects.count)()
        blocker = pymysql.connect(user="root", unix_socket=mariadb.unix_socket, ssl_disabled=True)
        with blocker, blocker.cursor() as cursor:
            task = asyncio.create_task(with_lock(cursor))
            await parked_in(mariadb, "COMMIT")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await await_until(lambda: the_pool().in_use == 0)  # with the one that kills the query
            cursor.execute("UNLOCK TABLES")
        await await_until(lambda: not any("COMMIT" in str(p) for p in mariadb.processlist()))
        assert await green(Author.objects.count)() in (0, 2)
        assert the_pool().in_use == 0

    @green
    def with_lock(cursor):
        with transaction.atomic():
            Author.objects.create(name="one")
            Author.objects.create(name="two")
            cursor.execute("FLUSH TABLES WITH READ LOCK")  # holds back every commit

    connections.close_all()
    run(main)


def test_cancelled_in_a_transaction_it_does_not_wait_for_another_connection(
    run, mariadb, pool_options
):
    """Django would, to set the autocommit of a connection that it has not got."""
    pool_options({"pool_size": 1, "max_overflow": 0})

    @green
    def first():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(30) /* first */")

    @green
    async def second(hold):
        Author.objects.count()
        await hold

    async def main():
        hold = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(first())
        await parked_in(mariadb, "first")
        waiting = asyncio.create_task(second(hold))
        await await_until(lambda: current_pools() and the_pool().waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        hold.set_result(None)
        await waiting
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_killed_with_greenlet_exit_in_a_transaction_it_is_rolled_back(run):
    @green
    def request():
        with transaction.atomic():
            Author.objects.create(name="lost")
            raise GreenletExit

    async def main():
        with pytest.raises(asyncio.CancelledError):
            await request()
        assert await green(Author.objects.count)() == 0
        assert the_pool().in_use == 0

    run(main)


def test_a_row_lock_is_waited_for_without_holding_the_loop(run):
    async def main():
        locked = asyncio.Event()
        release = asyncio.Event()

        @green
        async def first():
            with transaction.atomic():
                Counter.objects.select_for_update().get(name="c")
                locked.set()
                await release.wait()
                Counter.objects.update(n=F("n") + 1)

        @green
        async def second():
            await locked.wait()
            with transaction.atomic():
                Counter.objects.select_for_update().get(name="c")
                Counter.objects.update(n=F("n") + 1)

        await green(Counter.objects.create)(name="c")
        tasks = [asyncio.create_task(first()), asyncio.create_task(second())]
        await locked.wait()
        release.set()
        await asyncio.gather(*tasks)
        assert (await green(Counter.objects.get)(name="c")).n == 2

    run(main)


# --- transactions -----------------------------------------------------------------------------


def test_on_commit_savepoints_and_durable_mean_what_they_mean(run):
    @green
    def request():
        ran = []
        with transaction.atomic(durable=True):
            Author.objects.create(name="kept")
            transaction.on_commit(lambda: ran.append(Author.objects.count()))
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                Author.objects.create(name="lost")
                transaction.on_commit(lambda: ran.append("lost"))
                raise ZeroDivisionError
            with pytest.raises(RuntimeError, match="durable"), transaction.atomic(durable=True):
                pass
            assert ran == []
        return ran, [author.name for author in Author.objects.all()]

    assert run(request) == ([1], ["kept"])


def test_a_transaction_that_is_broken_refuses_further_queries(run):
    @green
    def request():
        with transaction.atomic():
            with suppress(DatabaseError), transaction.mark_for_rollback_on_error():
                connection.cursor().execute("SELECT nonsense")
            with pytest.raises(TransactionManagementError, match="until the end of the 'atomic'"):
                Author.objects.count()
        return Author.objects.count()

    assert run(request) == 0


def test_transactions_of_two_aliases_are_two(run):
    @green
    def request():
        with transaction.atomic():
            with transaction.atomic(using="other"):
                Author.objects.using("other").create(name="kept")
            Author.objects.create(name="lost")
            transaction.set_rollback(True)
        return Author.objects.count(), Author.objects.using("other").count()

    async def main():
        assert await request() == (0, 1)
        assert [pool.in_use for pool in current_pools()] == [0, 0]

    run(main)


def test_the_isolation_level_of_the_options_holds_on_every_connection(run, mariadb, monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "isolation_level", "serializable")

    @green
    def level():
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@tx_isolation, SLEEP(0.02)")
            return cursor.fetchone()[0]

    async def main():
        for _ in range(2):
            levels = await asyncio.gather(*(level() for _ in range(3)))
            assert set(levels) == {"SERIALIZABLE"}

    run(main)


# --- what is done in a greenlet in place of Django's own methods ------------------------------


def test_upstream_methods_that_are_not_called_in_greenlets_do_what_is_done_there():
    """They are guarded against event loops, which costs an exception each time."""
    assert called_on_self(BaseDatabaseWrapper.cursor.__wrapped__) == ["_cursor"]
    ensure = BaseDatabaseWrapper.ensure_connection.__wrapped__
    assert called_on_self(ensure) == ["connect"]
    assert "if self.in_atomic_block and self.closed_in_transaction:" in inspect.getsource(ensure)
    create = mysql.DatabaseWrapper.create_cursor.__wrapped__
    assert [line.strip() for line in inspect.getsource(create).splitlines()[-2:]] == [
        "cursor = self.connection.cursor()",
        "return CursorWrapper(cursor)",
    ]
    broken = inspect.getsource(BaseDatabaseWrapper.validate_no_broken_transaction)
    assert "if self.needs_rollback:" in broken
    health = inspect.getsource(BaseDatabaseWrapper.close_if_health_check_failed)
    assert "or not self.health_check_enabled" in health
    assert "or self.health_check_done" in health


@pytest.mark.usefixtures("clean_tables")
def test_what_others_put_over_ensure_connection_is_asked_also_on_an_open_connection(
    run, monkeypatch
):
    # So do Django's SimpleTestCase and pytest-django, to refuse queries.
    assert BaseDatabaseWrapper.ensure_connection.__qualname__ == (
        "BaseDatabaseWrapper.ensure_connection"
    )
    asked = []

    @green
    def main():
        assert Author.objects.count() == 0
        mine = connections["default"].ensure_connection

        def patched(self):
            asked.append(self.connection is not None)
            mine()

        monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", patched)
        assert Author.objects.count() == 0
        connection.close()
        assert Author.objects.count() == 0
        monkeypatch.undo()
        assert Author.objects.count() == 0

    run(main)
    assert asked == [True, False]
