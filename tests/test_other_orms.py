"""SQLAlchemy and peewee on the driver, in greenlets: the code of docs/other-orms.md."""

import asyncio
import contextlib
import time
from types import SimpleNamespace

import pymysql
import pytest
import sqlalchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import greentor
from greentor import green, spawn
from tests.docs.blocks import load
from tests.waiting import GATE, await_until, wait_until

MANY = 50
DATABASE = "other_orms"
#: far longer than any of these tests
LONG = "SELECT SLEEP(60)"


@pytest.fixture
def server(mariadb):
    """Yield the server with an empty database, and with room for many connections."""
    mariadb.create_database(DATABASE)
    mariadb.execute("SET GLOBAL max_connections = 100")
    yield mariadb
    mariadb.execute(f"SET GLOBAL max_connections = {mariadb.max_connections}")
    for row in ours(mariadb):
        with contextlib.suppress(pymysql.MySQLError):  # it has just ended
            mariadb.execute(f"KILL {row['ID']}")
    wait_until(lambda: not ours(mariadb))


def ours(server):
    return [row for row in server.processlist() if row["DB"] == DATABASE]


def running(server, statement):
    return sum(row["INFO"] == statement for row in ours(server))


def on_sqlalchemy(server, monkeypatch):
    module = load("other-orms.md", "sqlalchemy", monkeypatch)
    module.MYSQL = server.params(DATABASE)

    def add(name, balance, *statements):
        with Session(module.engine) as session, session.begin():
            session.add(module.Account(name=name, balance=balance))
            session.flush()
            for statement in statements:
                session.execute(sqlalchemy.text(statement))

    def balances():
        with Session(module.engine) as session:
            return {a.name: a.balance for a in session.scalars(sqlalchemy.select(module.Account))}

    return SimpleNamespace(module=module, add=add, balances=balances)


def on_peewee(server, monkeypatch):
    module = load("other-orms.md", "peewee", monkeypatch)
    module.database.init(DATABASE, **server.params())

    def add(name, balance, *statements):
        with module.database:
            module.Account.create(name=name, balance=balance)
            for statement in statements:
                module.database.execute_sql(statement)

    def balances():
        with module.database.connection_context():
            return {account.name: account.balance for account in module.Account.select()}

    return SimpleNamespace(module=module, add=add, balances=balances)


@pytest.fixture(params=[on_sqlalchemy, on_peewee], ids=["sqlalchemy", "peewee"])
def orm(request, server, monkeypatch):
    """Return the page's module, `add(name, balance, *statements)` in a transaction, and `balances()`."""
    return request.param(server, monkeypatch)


@pytest.fixture
def alchemy(server, monkeypatch):
    return on_sqlalchemy(server, monkeypatch)


def test_many_transactions_wait_side_by_side(run, orm, server):
    """All are in the server at once; one after the other, the sleeps alone would take 10 s."""

    async def main():
        await orm.module.prepare()
        server.execute("DO GET_LOCK('gate', 0)")
        tasks = [spawn(orm.add, f"{n}", n, GATE, "SELECT SLEEP(0.2)") for n in range(MANY)]
        try:
            await await_until(lambda: running(server, GATE) == MANY, timeout=20)
            assert await green(orm.balances)() == {}  # not one of them has committed
        finally:
            server.execute("DO RELEASE_LOCK('gate')")
        began = time.monotonic()
        await asyncio.gather(*tasks)
        assert time.monotonic() - began < MANY * 0.2 / 2
        assert await green(orm.balances)() == {f"{n}": n for n in range(MANY)}

    run(main)


def test_transactions_that_fight_for_the_same_rows(run, orm):
    async def main():
        await orm.module.prepare()
        await green(orm.add)("anna", 20)
        await green(orm.add)("ben", 0)
        transfers = [orm.module.transfer("anna", "ben", 1) for _ in range(20)]
        await asyncio.gather(*transfers)
        assert await green(orm.balances)() == {"anna": 0, "ben": 20}

    run(main)


def test_exception_rolls_back(run, orm):
    async def main():
        await orm.module.prepare()
        await green(orm.add)("anna", 5)
        await green(orm.add)("ben", 0)
        with pytest.raises(ValueError, match="anna has not got 6"):
            await orm.module.transfer("anna", "ben", 6)
        assert await green(orm.balances)() == {"anna": 5, "ben": 0}

    run(main)


def test_cancelled_query_rolls_back_and_discards_its_connection(run, orm, server):
    async def main():
        await orm.module.prepare()
        task = spawn(orm.add, "anna", 1, LONG)
        await await_until(lambda: running(server, LONG) == 1)
        [row] = ours(server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.execute(f"KILL {row['ID']}")  # the server need not have noticed by itself
        await await_until(lambda: not ours(server))
        assert await green(orm.balances)() == {}
        await green(orm.add)("anna", 2)
        assert await green(orm.balances)() == {"anna": 2}

    run(main)


def test_timeout_is_what_is_raised(run, orm):
    def hurried():
        with greentor.timeout(0.1):
            orm.add("anna", 1, LONG)

    async def main():
        await orm.module.prepare()
        with pytest.raises(TimeoutError):
            await green(hurried)()
        assert await green(orm.balances)() == {}

    run(main)


def test_scopes_end_without_a_connection_left(run, orm, server):
    async def main():
        await orm.module.prepare()
        await asyncio.gather(*(spawn(orm.add, f"{n}", n) for n in range(5)))
        await await_until(lambda: not ours(server))

    run(main)


def test_peewee_connection_that_was_left_open_ends_with_its_scope(run, server, monkeypatch):
    module = on_peewee(server, monkeypatch).module

    def leave_open():
        module.database.connect()
        assert len(ours(server)) == 1

    async def main():
        await green(leave_open)()
        assert module.database.is_closed()
        await await_until(lambda: not ours(server))

    run(main)


# What the page says of SQLAlchemy's pools and sessions


def queued(orm, **options):
    creator = orm.module.engine.pool._creator
    return sqlalchemy.create_engine("mysql+pymysql://", creator=creator, **options)


def test_queue_pool_within_its_bound_keeps_connections(run, alchemy, server):
    engine = queued(alchemy, pool_size=4, max_overflow=0)
    ids = set()

    def query(statement="SELECT CONNECTION_ID()"):
        with engine.connect() as connection:
            ids.add(connection.scalar(sqlalchemy.text(statement)))

    async def main():
        await green(query)()
        for _ in range(3):
            await asyncio.gather(*(spawn(query) for _ in range(4)))
        assert len(ids) <= 4
        task = spawn(query, LONG)
        await await_until(lambda: running(server, LONG) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.gather(*(spawn(query) for _ in range(4)))
        assert engine.pool.checkedout() == 0
        await green(engine.dispose)()

    run(main)


def test_queue_pool_that_is_full_holds_the_loop(run, alchemy):
    """Its waiter gives up although the connection would soon have come back."""
    engine = queued(alchemy, pool_size=1, max_overflow=0, pool_timeout=1)

    def keep(connected):
        with engine.connect():
            connected.set()
            greentor.sleep(0.05)

    def wait():
        with engine.connect():
            pass

    async def main():
        connected = asyncio.Event()
        task = spawn(keep, connected)
        await connected.wait()
        with pytest.raises(sqlalchemy.exc.TimeoutError):
            await green(wait)()
        await task
        await green(engine.dispose)()

    run(main)


def test_scoped_session_is_shared_unless_it_has_a_scopefunc(run, alchemy):
    async def main():
        for options, number in (({}, 1), ({"scopefunc": asyncio.current_task}, 3)):
            registry = scoped_session(sessionmaker(alchemy.module.engine), **options)
            tasks = [spawn(registry) for _ in range(3)]
            assert len(set(await asyncio.gather(*tasks))) == number

    run(main)
