"""`BaseRequestHandler`: what works in a handler, and what is whose."""

import asyncio
import contextlib
from contextvars import ContextVar

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import aauthenticate, alogin, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import SynchronousOnlyOperation
from django.core.signals import request_finished, request_started
from django.db import connection, connections, transaction
from django.http import HttpRequest
from django.test import override_settings
from tornado import gen
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.web import Application, RequestHandler, stream_request_body

from greentor import bridge
from greentor.db.pools import current_pools
from greentor.web import BaseRequestHandler, drain
from tests.testapp.models import Author, Counter
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


CLOSED = 599


class Served:
    """A running server, and a client of it."""

    def __init__(self, application):
        [sock] = bind_sockets(0, "127.0.0.1")
        self.port = sock.getsockname()[1]
        self.server = HTTPServer(application)
        self.server.add_sockets([sock])
        self.client = AsyncHTTPClient(force_instance=True, max_clients=500)

    async def fetch(self, path="/", **kwargs):
        """Return the answer, of whatever status; `CLOSED` if there was none, or half of one."""
        request = HTTPRequest(f"http://127.0.0.1:{self.port}{path}", request_timeout=10, **kwargs)
        try:
            return await self.client.fetch(request, raise_error=False)
        except HTTPStreamClosedError:
            return HTTPResponse(request, CLOSED)

    async def get(self, path="/") -> str:
        """Return the body of an answer that must be 200."""
        response = await self.fetch(path)
        assert response.code == 200, (response.code, response.body)
        return response.body.decode()

    async def connect(self, head="GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        """Open a connection of its own, send this, and return (reader, writer)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode())
        return reader, writer


@contextlib.asynccontextmanager
async def serving(*handlers):
    """Serve handler classes at ``/<their name>``, the first one at ``/``, too."""
    routes = [("/", handlers[0]), *((f"/{handler.__name__}", handler) for handler in handlers)]
    served = Served(Application(routes))
    try:
        yield served
        assert await drain(10) == 0
        # What was cancelled, or timed out, has left a query to be killed.
        await await_until(lambda: not any(pool.in_use for pool in current_pools()))
    finally:
        served.client.close()
        served.server.stop()
        await served.server.close_all_connections()


def server_id():
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]


@pytest.fixture
def pool_of_one(monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.3})


# --- verbs ------------------------------------------------------------------------------------


class Sync(BaseRequestHandler):
    def get(self):
        self.write({"count": Author.objects.count()})


class Async(BaseRequestHandler):
    async def get(self):
        await asyncio.sleep(0)
        count = Author.objects.count()
        self.write({"count": count + await Author.objects.acount()})


class Prepared(BaseRequestHandler):
    async def prepare(self):
        self.count = Author.objects.count()
        await asyncio.sleep(0)
        self.count += await Author.objects.acount()

    def get(self):
        self.write({"count": self.count + Author.objects.count()})


class Coroutine(BaseRequestHandler):
    @gen.coroutine
    def prepare(self):
        yield gen.moment
        self.number = server_id()

    @gen.coroutine
    def get(self):
        with transaction.atomic():
            Author.objects.create(name="uncommitted")
            yield gen.sleep(0)
            counts = yield [Author.objects.acount(), Author.objects.acount()]
            named = yield {"a": Author.objects.acount()}
            yield None
            more = yield self.more()
            with pytest.raises(ZeroDivisionError):
                yield self.fail()
            counts += named.values()
            assert server_id() == self.number
            assert asyncio.current_task() is not None
            transaction.set_rollback(True)
        self.write({"count": sum(counts) + more - 4})

    @gen.coroutine
    def more(self):
        yield gen.sleep(0)
        raise gen.Return(1)

    async def fail(self):
        raise ZeroDivisionError

    head = get


class InheritedCoroutine(Coroutine):
    pass


class CoroutineMixin:
    @gen.coroutine
    def get(self):
        yield gen.sleep(0)
        self.write({"count": Author.objects.count()})


class Mixed(CoroutineMixin, BaseRequestHandler):
    pass


@pytest.mark.parametrize(
    "handler",
    [Sync, Async, Prepared, Coroutine, InheritedCoroutine, Mixed],
    ids=lambda h: h.__name__,
)
def test_verbs_of_every_kind_use_the_orm_on_one_connection(run, pool_of_one, handler):
    async def main():
        async with serving(handler) as served:
            for _ in range(3):
                assert await served.get() == '{"count": 0}'
            assert current_pools()[0].idle == 1

    run(main)


def test_head_options_and_unknown_verbs(run):
    class Verbs(BaseRequestHandler):
        def head(self):
            self.set_header("X-Count", str(Author.objects.count()))

        async def options(self):
            self.set_header("X-Count", str(await Author.objects.acount()))
            self.set_status(204)

    async def main():
        async with serving(Verbs, Coroutine) as served:
            response = await served.fetch(method="HEAD")
            assert (response.code, response.headers["X-Count"]) == (200, "0")
            response = await served.fetch(method="OPTIONS")
            assert (response.code, response.headers["X-Count"]) == (204, "0")
            assert (await served.fetch("/Coroutine", method="HEAD")).code == 200
            assert (await served.fetch()).code == 405
            response = await served.fetch(method="BREW", allow_nonstandard_methods=True)
            assert response.code == 405

    run(main)


def test_the_orm_is_refused_in_a_plain_tornado_handler(run):
    class Plain(RequestHandler):
        async def get(self):
            with pytest.raises(SynchronousOnlyOperation, match=r"Plain\.get|_execute"):
                Author.objects.count()
            self.write("refused")

    async def main():
        async with serving(Plain) as served:
            assert await served.get() == "refused"

    run(main)


def test_get_current_user_templates_and_arguments_are_of_the_greenlet(run):
    class Users(BaseRequestHandler):
        def get_current_user(self):
            return Author.objects.create(name="user")

        def get_template_namespace(self):
            return {**super().get_template_namespace(), "authors": Author.objects.all()}

        def get(self):
            assert self.current_user.pk
            from tornado.template import Template

            page = Template("{% for author in authors %}{{ author.name }} {% end %}")
            self.finish(page.generate(**self.get_template_namespace()))

    async def main():
        async with serving(Users) as served:
            assert await served.get() == "user "

    run(main)


# --- a body as a stream -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_streamed_body_is_received_on_the_connection_of_the_request(run, pool_of_one, kind):
    received = []

    class Base(BaseRequestHandler):
        def prepare(self):
            self.transaction = contextlib.ExitStack()
            self.transaction.enter_context(transaction.atomic())
            self.number = server_id()

        def put(self):
            count = Counter.objects.count()
            transaction.set_rollback(True)
            self.transaction.close()
            self.write({"in": count, "after": Counter.objects.count()})

        def store(self, chunk):
            assert server_id() == self.number
            assert bridge.current_scope().name == "PUT /"
            Counter.objects.create(name=f"{Counter.objects.count()}", n=len(chunk))
            received.append(chunk)

    @stream_request_body
    class SyncBody(Base):
        def data_received(self, chunk):
            self.store(chunk)

    @stream_request_body
    class AsyncBody(Base):
        async def data_received(self, chunk):
            await asyncio.sleep(0)
            self.store(chunk)
            assert await Counter.objects.acount()

    async def main():
        received.clear()
        async with serving(SyncBody if kind == "sync" else AsyncBody) as served:
            reader, writer = await served.connect(
                "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            sent = 0
            for chunk in ("one", "two", "three"):
                sent += len(chunk)
                writer.write(f"{len(chunk):x}\r\n{chunk}\r\n".encode())
                await await_until(lambda sent=sent: sum(map(len, received)) == sent)
            writer.write(b"0\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            assert (
                await reader.readexactly(len('{"in": 3, "after": 0}')) == b'{"in": 3, "after": 0}'
            )
            writer.close()

    run(main)


# --- signals, contexts ------------------------------------------------------------------------


def test_request_signals_are_sent_in_the_greenlet_of_their_request(run):
    events = []

    def started(sender, **kwargs):
        events.append(("started", sender, bridge.current_scope().name))
        Author.objects.count()

    def finished(sender, **kwargs):
        events.append(("finished", sender, bridge.current_scope().name))
        Author.objects.count()

    class Signals(BaseRequestHandler):
        def get(self):
            events.append(("get", len(connection.queries)))
            self.finish("early")
            Author.objects.count()
            events.append(("got", len(connection.queries)))

    async def main():
        async with serving(Signals) as served:
            for _ in range(2):
                await served.get()
                assert await drain(5) == 0

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        with override_settings(DEBUG=True):
            run(main)
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)
    one = [
        ("started", Signals, "GET /"),
        ("get", events[1][1]),
        ("got", events[1][1] + 1),
        ("finished", Signals, "GET /"),
    ]
    assert events[:4] == one
    assert events[4:] == [one[0], ("get", 1), ("got", 2), one[3]]  # no connection to open now


def test_a_context_variable_of_a_request_is_seen_by_its_queries_and_by_no_other_request(run):
    variable = ContextVar("variable", default="unset")
    seen = []

    def observe(execute, sql, params, many, context):
        seen.append(variable.get())
        return execute(sql, params, many, context)

    class Context(BaseRequestHandler):
        def prepare(self):
            assert variable.get() == "unset"
            self.token = variable.set(self.get_argument("value"))

        async def get(self):
            seen.clear()
            with connection.execute_wrapper(observe):
                Author.objects.count()
                await asyncio.sleep(0)
                Author.objects.count()
                await Author.objects.acount()
                await asyncio.create_task(Author.objects.acount())
            self.write(" ".join(seen))
            if self.get_argument("value") != "0":
                variable.reset(self.token)

    async def main():
        async with serving(Sync, Context) as served:
            await served.get("/Sync")
            reader, writer = await served.connect("")
            for value in range(4):  # on one connection, kept alive
                writer.write(f"GET /Context?value={value} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(7) == " ".join(4 * str(value)).encode()
            writer.close()

    run(main)


def test_transactions_of_requests_at_once_are_apart(run):
    class Transfer(BaseRequestHandler):
        async def post(self):
            with transaction.atomic():
                Author.objects.create(name=self.get_argument("name"))
                await asyncio.sleep(0)
                await asyncio.gather(Author.objects.acount(), Author.objects.acount())
                if int(self.get_argument("name")) % 2:
                    transaction.set_rollback(True)

    async def main():
        async with serving(Transfer, Sync) as served:
            posts = [served.fetch(f"/?name={n}", method="POST", body=b"") for n in range(100)]
            assert {response.code for response in await asyncio.gather(*posts)} == {200}
            assert await served.get("/Sync") == '{"count": 50}'
            names = {int(a.name) for a in await bridge.green(lambda: list(Author.objects.all()))()}
            assert names == set(range(0, 100, 2))

    run(main)


def test_alogin_under_select_for_update_in_a_request(run, pool_of_one):
    User = get_user_model()

    class Login(BaseRequestHandler):
        async def post(self):
            http = HttpRequest()
            http.session = SessionStore()
            with transaction.atomic():
                await User.objects.select_for_update().aget(username="ann")
                user = await aauthenticate(http, username="ann", password="secret")
                await alogin(http, user)
                await http.session.asave()
            self.write(http.session.session_key)

    async def main():
        await bridge.green(User.objects.create_user)("ann", password="secret")
        async with serving(Login) as served:
            response = await served.fetch(method="POST", body=b"")
            assert response.code == 200
            session = SessionStore(response.body.decode())
            assert await bridge.green(lambda: session["_auth_user_id"])()

    run(main)


def test_more_requests_than_connections_take_turns(run, monkeypatch, mariadb):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 4, "max_overflow": 0, "pool_timeout": 10})

    class Nested(BaseRequestHandler):
        async def get(self):
            with transaction.atomic():
                first = server_id()
                numbers = await asyncio.gather(*(sync_to_async(server_id)() for _ in range(3)))
                assert {first, *numbers, await bridge.green(server_id)()} == {first}
            self.write("one")

    async def main():
        async with serving(Nested) as served:
            answers = await asyncio.gather(*(served.get() for _ in range(60)))
            assert answers == ["one"] * 60
            await await_until(lambda: len(mariadb.processlist()) == 4)

    connections.close_all()
    run(main)


def test_an_empty_pool_is_503_with_retry_after(run, pool_of_one):
    class Hold(BaseRequestHandler):
        async def get(self):
            Author.objects.count()
            holding.set()
            await release.wait()
            self.write("held")

    class Page(BaseRequestHandler):
        def get(self):
            self.write({"count": Author.objects.count()})

        def write_error(self, status_code, **kwargs):
            self.finish(f"{status_code} {self._headers.get('Retry-After')}")

    async def main():
        nonlocal holding, release
        holding, release = asyncio.Event(), asyncio.Event()
        async with serving(Hold, Sync, Page) as served:
            held = asyncio.create_task(served.get())
            await holding.wait()
            response = await served.fetch("/Sync")
            assert (response.code, response.headers["Retry-After"]) == (503, "1")
            response = await served.fetch("/Page")
            assert (response.code, response.body) == (503, b"503 1")
            release.set()
            assert await held == "held"
            assert await served.get("/Sync") == '{"count": 0}'

    holding = release = None
    run(main)


def test_drain_waits_for_requests_in_flight_and_counts_those_that_do_not_end(run):
    class Hold(BaseRequestHandler):
        async def get(self):
            self.finish("early")
            await release.wait()
            Author.objects.count()

    async def main():
        nonlocal release
        release = asyncio.Event()
        async with serving(Hold) as served:
            assert await drain(0.01) == 0
            await asyncio.gather(*(served.get() for _ in range(3)))
            assert await drain(0.01) == 3
            waiting = asyncio.create_task(drain(10))
            await asyncio.sleep(0)
            assert not waiting.done()
            release.set()
            assert await waiting == 0

    release = None
    run(main)


def test_a_client_error_type_is_what_the_client_sees(run):
    """The helper of these tests: an answer that is not 200 must not pass for one."""

    async def main():
        async with serving(Sync) as served:
            with pytest.raises(HTTPClientError):
                await served.client.fetch(f"http://127.0.0.1:{served.port}/nowhere")
            with pytest.raises(AssertionError):
                await served.get("/nowhere")

    run(main)
