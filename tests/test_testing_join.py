"""Joined tests: requests that work inside the transaction of their test, and what they cannot do."""

import asyncio
import contextlib
import threading

import pytest
from django.db import connection, connections, transaction
from tornado.escape import json_decode
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application

import greentor
from greentor.db.pools import current_pools
from greentor.testing import join, joined
from greentor.web import BaseRequestHandler
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.usefixtures("greentor_leaks", "emptied"),
    pytest.mark.parametrize("io_loop", ["asyncio", "uvloop"], indirect=True),
]


@pytest.fixture
def rows(mariadb):
    """Return what other connections see: the names of the committed authors."""

    def rows():
        return [row["name"] for row in mariadb.execute("SELECT name FROM greentor.testapp_author")]

    return rows


@pytest.fixture(autouse=True)
def emptied(io_loop, clean_tables, rows):
    """The tables are as empty after the test as before it."""
    yield
    assert rows() == []


@pytest.fixture
def left():
    """After the test, which asks for this before its database, the thread is out of the transaction."""
    yield
    assert not connection.in_atomic_block
    assert not connection.savepoint_ids


def names():
    return list(Author.objects.order_by("pk").values_list("name", flat=True))


# --- the handlers -----------------------------------------------------------------------------

committed = []
request_local = greentor.local()


class Authors(BaseRequestHandler):
    def get(self):
        self.write({"names": names()})

    def post(self):
        author = Author.objects.create(name=self.get_argument("name"))
        transaction.on_commit(lambda: committed.append(author.name))


class Held(Authors):
    hold = "transaction"


class InAtomic(BaseRequestHandler):
    """Makes a row inside ``atomic`` and parks there; fails if it is to."""

    async def post(self):
        with transaction.atomic():
            await Author.objects.acreate(name=self.get_argument("name"))
            self.settings["parked"].append(asyncio.current_task())
            await self.settings["gate"].wait()
            if self.get_argument("fail", ""):
                raise ValueError("after a row was made")
        self.write("made")


class Calls(BaseRequestHandler):
    """Calls another handler over HTTP, inside ``atomic`` if it is to."""

    async def get(self):
        with transaction.atomic() if self.get_argument("atomic", "") else contextlib.nullcontext():
            await Author.objects.acreate(name="caller")
            url = f"http://{self.request.host}/{self.get_argument('path', 'Authors')}"
            answer = await AsyncHTTPClient().fetch(url, raise_error=False)
        self.set_status(answer.code)
        self.write(answer.body)


class Spawns(BaseRequestHandler):
    async def get(self):
        with transaction.atomic():
            Author.objects.create(name="mine")
            await asyncio.gather(
                greentor.spawn(Author.objects.create, name="spawned"),
                greentor.spawn(Author.objects.create, name="spawned"),
            )
            self.write({"names": names()})


class InThread(BaseRequestHandler):
    def get(self):
        self.write({"names": greentor.thread(names)})


class Local(BaseRequestHandler):
    def get(self):
        request_local.count = getattr(request_local, "count", 0) + 1
        self.write({"count": request_local.count})


class Other(BaseRequestHandler):
    def get(self):
        self.write({"count": Author.objects.using("other").count()})


class ServerId(BaseRequestHandler):
    """Answers with the number of its connection, when as many requests as are asked for have come."""

    async def get(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID()")
            (number,) = cursor.fetchone()
        self.settings["parked"].append(number)
        await await_until(lambda: len(self.settings["parked"]) == int(self.get_argument("of")))
        self.write({"id": number})


@pytest.fixture
def app(io_loop):
    handlers = [
        Authors, Held, InAtomic, Calls, Spawns, InThread, Local, Other, ServerId,
    ]  # fmt: skip
    routes = [(f"/{handler.__name__}", handler) for handler in handlers]
    return Application(routes, parked=[], gate=asyncio.Event())


@pytest.fixture
def fetch(http_client, base_url):
    """Return `await fetch(path, **arguments of the form)`: the answer, of whatever status."""

    async def fetch(path, **form):
        options = {}
        if form:
            body = "&".join(f"{name}={value}" for name, value in form.items())
            options = {"method": "POST", "body": body}
        return await http_client.fetch(f"{base_url}/{path}", raise_error=False, **options)

    return fetch


# --- one transaction --------------------------------------------------------------------------


@pytest.fixture
def author(db):
    return Author.objects.create(name="of a fixture")


async def test_request_sees_rows_that_nobody_has_committed(author, fetch, rows):
    Author.objects.create(name="of the test")
    assert json_decode((await fetch("Authors")).body) == {"names": ["of a fixture", "of the test"]}
    assert rows() == []


async def test_test_sees_what_a_request_has_written_and_both_are_rolled_back(db, fetch, rows):
    assert (await fetch("Authors", name="Emma")).code == 200
    assert await Author.objects.aget(name="Emma")
    assert rows() == []


@pytest.mark.django_db
def test_generator_of_pytest_tornado_may_use_the_orm(fetch):
    Author.objects.create(name="first")
    answer = yield fetch("Authors")
    assert json_decode(answer.body) == {"names": ["first"]}
    assert Author.objects.count() == 1


async def test_queries_are_counted_across_requests(db, fetch, django_assert_num_queries):
    with django_assert_num_queries(3):
        await fetch("Authors", name="Emma")
        await fetch("Authors")
        assert Author.objects.count() == 1


async def test_callbacks_of_a_request_are_captured(db, fetch, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        await fetch("Authors", name="Emma")
        assert committed == []
    assert len(callbacks) == 1
    assert committed.pop() == "Emma"


async def test_request_works_inside_an_atomic_block_of_the_test(db, fetch):
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        Author.objects.create(name="first")
        await fetch("Authors", name="second")
        assert names() == ["first", "second"]
        raise ZeroDivisionError
    assert names() == []


async def test_handler_that_raises_inside_atomic_leaves_nothing(author, app, fetch):
    app.settings["gate"].set()
    assert (await fetch("InAtomic", name="lost", fail=1)).code == 500
    assert names() == ["of a fixture"]


async def test_atomic_requests_nest_as_savepoints(db, fetch, app, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    app.settings["gate"].set()
    assert (await fetch("Authors", name="kept")).code == 200
    assert (await fetch("InAtomic", name="lost", fail=1)).code == 500
    assert names() == ["kept"]


async def test_hold_transaction_gives_no_connection_of_the_test_back(author, fetch):
    assert (await fetch("Held", name="second")).code == 200
    assert json_decode((await fetch("Held")).body) == {"names": ["of a fixture", "second"]}
    assert connection.in_atomic_block


async def test_cancelled_request_undoes_its_own_writes_only(author, app, fetch):
    request = asyncio.ensure_future(fetch("InAtomic", name="cancelled"))
    await await_until(lambda: app.settings["parked"])
    app.settings["parked"][0].cancel()
    assert (await request).code == 500
    assert names() == ["of a fixture"]


async def test_local_is_not_seen_by_the_next_request(db, fetch):
    answers = [json_decode((await fetch("Local")).body) for _ in range(2)]
    assert answers == [{"count": 1}, {"count": 1}]


async def test_thread_has_a_connection_of_its_own(author, fetch):
    assert json_decode((await fetch("InThread")).body) == {"names": []}


async def test_loop_of_another_thread_has_no_part_in_it(author):
    seen = []

    def work():
        seen.append(asyncio.run(greentor.green(names)()))

    worker = threading.Thread(target=work)
    worker.start()
    await asyncio.get_running_loop().run_in_executor(None, worker.join)
    assert seen == [[]]


# --- several databases ------------------------------------------------------------------------


@pytest.mark.django_db(databases=["default", "other"])
async def test_two_databases_are_joined(fetch, mariadb):
    await Author.objects.using("other").acreate(name="there")
    assert json_decode((await fetch("Other")).body) == {"count": 1}
    assert mariadb.execute("SELECT * FROM greentor_other.testapp_author") == []


async def test_database_that_the_test_did_not_ask_for_is_refused(db, fetch, caplog):
    assert (await fetch("Other")).code == 500
    assert "Database queries to 'other' are not allowed in this test" in caplog.text


# --- turns ------------------------------------------------------------------------------------


async def test_concurrent_transactions_do_not_undo_each_other(db, app, fetch):
    requests = [
        asyncio.ensure_future(fetch("InAtomic", name=name, **options))
        for name, options in [("a", {"fail": 1}), ("b", {}), ("c", {"fail": 1}), ("d", {})]
    ]
    await await_until(lambda: app.settings["parked"])
    app.settings["gate"].set()
    assert [answer.code for answer in await asyncio.gather(*requests)] == [500, 200, 500, 200]
    assert set(names()) == {"b", "d"}


async def test_test_waits_for_the_transaction_of_a_request(db, app, fetch):
    request = asyncio.ensure_future(fetch("InAtomic", name="undone", fail=1))
    await await_until(lambda: app.settings["parked"])
    asyncio.get_running_loop().call_later(0.05, app.settings["gate"].set)
    Author.objects.create(name="of the test")
    assert names() == ["of the test"]
    assert (await request).code == 500


async def test_requests_outside_atomic_run_side_by_side(db, fetch):
    answers = await asyncio.gather(*(fetch("ServerId?of=5") for _ in range(5)))
    assert len({json_decode(answer.body)["id"] for answer in answers}) == 1


async def test_handler_may_call_another_one(db, fetch):
    assert json_decode((await fetch("Calls")).body) == {"names": ["caller"]}


async def test_handler_without_queries_has_nobody_to_wait_for(db, fetch):
    assert json_decode((await fetch("Calls?atomic=1&path=Local")).body) == {"count": 1}


async def test_wait_without_end_is_refused_by_name(db, fetch, monkeypatch, caplog):
    monkeypatch.setattr(join, "TURN_TIMEOUT", 0.1)
    assert (await fetch("Calls?atomic=1")).code == 500
    [error] = [r.exc_info[1] for r in caplog.records if r.name == "tornado.application"]
    assert isinstance(error, greentor.testing.JoinedConnectionBusy)
    assert "GET /Authors waited 0.1 s for the connection 'default'" in str(error)
    assert f"GET /Calls is inside transaction.atomic(), parked in Calls.get ({__file__}" in str(
        error
    )
    assert "django_db(transaction=True)" in str(error)
    assert names() == ["caller"]


async def test_what_a_request_spawns_inside_atomic_does_not_wait_for_it(db, fetch):
    answer = await fetch("Spawns")
    assert json_decode(answer.body) == {"names": ["mine", "spawned", "spawned"]}


@pytest.mark.greentor_may_leak
async def test_request_that_is_parked_at_the_end_is_undone_before_the_rollback(
    left, db, app, http_client, base_url
):
    request = http_client.fetch(f"{base_url}/InAtomic", method="POST", body="name=x")
    request.add_done_callback(lambda request: request.exception())
    await await_until(lambda: app.settings["parked"])


@pytest.mark.greentor_may_leak
async def test_test_that_fails_inside_atomic_leaves_nothing(left, db, request):
    request.node.add_marker(pytest.mark.xfail(raises=ZeroDivisionError, strict=True))
    with transaction.atomic():
        Author.objects.create(name="x")
        greentor.spawn(greentor.sleep, 100)
        raise ZeroDivisionError


# --- tests with real commits ------------------------------------------------------------------


async def test_transactional_test_commits_for_real(transactional_db, fetch, rows):
    Author.objects.create(name="of the test")
    assert rows() == ["of the test"]
    await fetch("Authors", name="Emma")
    assert rows() == ["of the test", "Emma"]
    assert committed.pop() == "Emma"
    assert [(pool.name, pool.in_use) for pool in current_pools()] == [("default", 1)]


async def test_requests_of_a_transactional_test_have_connections_each(transactional_db, fetch):
    answers = await asyncio.gather(*(fetch("ServerId?of=5") for _ in range(5)))
    assert len({json_decode(answer.body)["id"] for answer in answers}) == 5


async def test_calls_inside_atomic_work_in_a_transactional_test(transactional_db, fetch):
    assert json_decode((await fetch("Calls?atomic=1")).body) == {"names": []}
    assert names() == ["caller"]


@pytest.mark.greentor_may_leak
async def test_parked_transaction_does_not_hold_up_the_flush(
    transactional_db, app, http_client, base_url
):
    request = http_client.fetch(f"{base_url}/InAtomic", method="POST", body="name=x")
    request.add_done_callback(lambda request: request.exception())
    await await_until(lambda: app.settings["parked"])


# --- misuse -----------------------------------------------------------------------------------


async def test_joining_inside_a_greenlet_is_refused(transactional_db):
    with pytest.raises(RuntimeError, match="outside greenlets"), joined():
        pass
