"""ATOMIC_REQUESTS: what is committed, what is rolled back, and when the client hears of it."""

import asyncio
import contextlib

import pytest
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from tornado import gen
from tornado.web import Finish, HTTPError, authenticated

from greentor.web import BaseRequestHandler
from tests.test_web import serving
from tests.testapp.models import Author, Counter
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables", "atomic_requests")


@pytest.fixture
def atomic_requests(monkeypatch):
    from django.conf import settings

    monkeypatch.setitem(settings.DATABASES["default"], "ATOMIC_REQUESTS", True)


@pytest.fixture
def names(mariadb):
    """Return what other connections see: the names of the committed authors."""

    def names():
        rows = mariadb.execute("SELECT name FROM greentor.testapp_author ORDER BY id")
        return [row["name"] for row in rows]

    return names


class Writes(BaseRequestHandler):
    """Writes a row, checks that it is in a transaction, and ends as subclasses say."""

    def begin(self):
        assert connection.in_atomic_block
        Author.objects.create(name="written")
        self.write("half an answer")


# --- what commits, what rolls back ------------------------------------------------------------


class Returns(Writes):
    def get(self):
        self.begin()


class Awaits(Writes):
    async def get(self):
        await asyncio.sleep(0)
        self.begin()
        await asyncio.sleep(0)


class Yields(Writes):
    @gen.coroutine
    def get(self):
        yield gen.moment
        self.begin()


class Finishes(Writes):
    def get(self):
        self.begin()
        raise Finish


class FinishesWithAStatus(Writes):
    def get(self):
        self.begin()
        self.set_status(409)
        self.finish()


class SendsError(Writes):
    def get(self):
        self.begin()
        self.send_error(409)


class RendersThenWorksOn(Writes):
    def get(self):
        self.finish("answer")
        self.begin_after_finish()

    def begin_after_finish(self):
        assert connection.in_atomic_block
        Author.objects.create(name="written")


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (Returns, 200),
        (Awaits, 200),
        (Yields, 200),
        (Finishes, 200),
        (FinishesWithAStatus, 409),
        (SendsError, 409),
        (RendersThenWorksOn, 200),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_verb_that_ends_without_an_error_commits(run, names, handler, code):
    async def main():
        async with serving(handler) as served:
            response = await served.fetch()
            assert response.code == code
            if code == 200:
                assert b"answer" in response.body

    run(main)
    assert names() == ["written"]


class Raises(Writes):
    def get(self):
        self.begin()
        raise ZeroDivisionError


class RaisesHTTPError(Writes):
    async def get(self):
        self.begin()
        raise HTTPError(404)


class RaisesPermissionDenied(Writes):
    def get(self):
        self.begin()
        raise PermissionDenied


class RaisesAfterFinish(Writes):
    async def get(self):
        self.begin()
        await self.finish()
        raise ZeroDivisionError


class RaisesAfterFlush(Writes):
    async def get(self):
        self.begin()
        self.set_header("X-Half", "1")
        await self.flush()
        raise ZeroDivisionError


class IsCancelled(Writes):
    async def get(self):
        self.begin()
        self.finish()
        asyncio.current_task().cancel()
        await asyncio.sleep(10)


class MarksItForRollback(Writes):
    def get(self):
        self.begin()
        transaction.set_rollback(True)


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (Raises, 500),
        (RaisesHTTPError, 404),
        (RaisesPermissionDenied, 403),
        (RaisesAfterFinish, 500),
        (RaisesAfterFlush, 500),
        (IsCancelled, 500),
        (MarksItForRollback, 200),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_exception_rolls_back_and_nothing_of_the_answer_is_left(run, names, handler, code):
    async def main():
        async with serving(handler) as served:
            response = await served.fetch()
            assert response.code == code
            if code != 200:
                assert b"half an answer" not in response.body
                assert "X-Half" not in response.headers

    run(main)
    assert names() == []


def test_a_commit_that_fails_is_a_500_without_the_answer(run, mariadb, names):
    class LosesItsConnection(Writes):
        def get(self):
            self.begin()
            self.redirect("/row/that/is/not/there")
            with connection.cursor() as cursor:
                cursor.execute("SELECT CONNECTION_ID()")
                mariadb.execute(f"KILL {cursor.fetchone()[0]}")

    async def main():
        async with serving(LosesItsConnection) as served:
            response = await served.fetch(follow_redirects=False)
            assert response.code == 500
            assert "Location" not in response.headers

    run(main)
    assert names() == []


# --- held back --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["redirect", "finish", "flush", "render"])
def test_the_client_hears_nothing_before_the_commit(run, names, how):

    class Answers(Writes):
        async def get(self):
            self.begin()
            if how == "redirect":
                self.clear()
                self.redirect("/elsewhere")
            elif how == "finish":
                await self.finish()
            elif how == "flush":
                await self.flush()
                self.write(" and the rest")
            else:
                self.render("answer.html")
            self.application.written.set()
            await self.application.go_on.wait()

        def render_string(self, template_name, **kwargs):
            return b"rendered"

    async def main():
        async with serving(Answers) as served:
            application = served.server.request_callback
            application.written, application.go_on = asyncio.Event(), asyncio.Event()
            reader, writer = await served.connect()
            await application.written.wait()
            first = asyncio.ensure_future(reader.read(1))
            # A round trip over the same loop: what had been sent would be there.
            assert (await served.fetch("/missing")).code == 404
            assert not first.done()
            assert names() == []
            application.go_on.set()
            assert await asyncio.wait_for(first, 5) == b"H"
            assert names() == ["written"]
            writer.close()

    run(main)


def test_on_finish_runs_after_the_commit(run, names):
    seen = []

    class Finishes(Writes):
        def get(self):
            self.begin()
            self.finish()
            assert self._finished

        def on_finish(self):
            seen.append((names(), connection.in_atomic_block))

    async def main():
        seen.clear()
        async with serving(Finishes) as served:
            await served.get()

    run(main)
    assert seen == [(["written"], False)]


def test_on_commit_hooks_run_before_the_answer_is_sent(run):
    class Hooks(Writes):
        def get(self):
            self.begin()
            transaction.on_commit(lambda: self.write(", and the hook's"))

    async def main():
        async with serving(Hooks) as served:
            assert await served.get() == "half an answer, and the hook's"

    run(main)


def test_a_second_finish_and_a_write_after_it_are_refused_as_ever(run):
    errors = []

    class FinishesTwice(Writes):
        def get(self):
            self.finish("once")
            for call in (self.finish, lambda: self.write("more"), lambda: self.render("x.html")):
                with pytest.raises(RuntimeError) as info:
                    call()
                errors.append(str(info.value))

    async def main():
        errors.clear()
        async with serving(FinishesTwice) as served:
            assert await served.get() == "once"

    run(main)
    assert errors == [
        "finish() called twice",
        "Cannot write() after finish()",
        "Cannot render() after finish()",
    ]


def test_a_client_that_goes_in_the_middle_changes_nothing_about_the_commit(run, names):
    class Parks(Writes):
        async def get(self):
            self.begin()
            self.finish()
            self.application.parked.set()
            await self.application.gone.wait()

        def on_connection_close(self):
            self.application.gone.set()

    async def main():
        async with serving(Parks) as served:
            application = served.server.request_callback
            application.parked, application.gone = asyncio.Event(), asyncio.Event()
            _, writer = await served.connect()
            await application.parked.wait()
            writer.close()
            await await_until(lambda: names() == ["written"])

    run(main)


# --- who is in, who is out --------------------------------------------------------------------


class OptsOut(BaseRequestHandler):
    atomic_requests = False

    def get(self):
        self.write(str(connection.in_atomic_block))


class NonAtomicVerb(BaseRequestHandler):
    @transaction.non_atomic_requests
    def get(self):
        self.write(str(connection.in_atomic_block))

    def post(self):
        self.get()


@transaction.non_atomic_requests
class NonAtomicClass(BaseRequestHandler):
    @authenticated
    async def get(self):
        self.write(str(connection.in_atomic_block))

    def get_current_user(self):
        return True


class NonAtomicCoroutine(BaseRequestHandler):
    @transaction.non_atomic_requests
    @gen.coroutine
    def get(self):
        yield gen.moment
        self.write(str(connection.in_atomic_block))


class OtherAlias(BaseRequestHandler):
    @transaction.non_atomic_requests(using="other")
    def get(self):
        self.write(str(connection.in_atomic_block))


class PrepareIsOutside(BaseRequestHandler):
    def prepare(self):
        self.inside = connection.in_atomic_block

    def get(self):
        assert connection.in_atomic_block
        self.write(str(self.inside))


@pytest.mark.parametrize(
    ("handler", "inside"),
    [
        (OptsOut, False),
        (NonAtomicVerb, False),
        (NonAtomicClass, False),
        (NonAtomicCoroutine, False),
        (OtherAlias, True),
        (PrepareIsOutside, False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_handlers_opt_out_by_attribute_or_by_djangos_decorator(run, handler, inside):
    async def main():
        async with serving(handler) as served:
            assert await served.get() == str(inside)

    run(main)


def test_another_verb_of_a_handler_with_a_non_atomic_one_is_atomic(run):
    async def main():
        async with serving(NonAtomicVerb) as served:
            response = await served.fetch(method="POST", body=b"")
            assert response.body == b"True"

    run(main)


def test_every_atomic_alias_is_rolled_back_together(run, mariadb, monkeypatch):
    from django.conf import settings

    monkeypatch.setitem(settings.DATABASES["other"], "ATOMIC_REQUESTS", True)

    class WritesToBoth(BaseRequestHandler):
        def get(self):
            Counter.objects.create(name="default")
            Counter.objects.using("other").create(name="other")
            raise HTTPError(400)

    async def main():
        async with serving(WritesToBoth) as served:
            assert (await served.fetch()).code == 400

    run(main)
    for name in ("greentor", "greentor_other"):
        assert not mariadb.execute(f"SELECT * FROM {name}.testapp_counter")


def test_a_verb_that_is_not_there_opens_no_transaction(run, mariadb, monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.2})

    class Holds(BaseRequestHandler):
        async def get(self):
            self.application.holding.set()
            await self.application.go_on.wait()

    async def main():
        async with serving(Holds) as served:
            application = served.server.request_callback
            application.holding, application.go_on = asyncio.Event(), asyncio.Event()
            holder = asyncio.ensure_future(served.fetch())
            await application.holding.wait()
            # The only connection is taken: a verb that exists gets none.
            assert (await served.fetch(method="PUT", body=b"")).code == 405
            assert (await served.fetch()).code == 503
            application.go_on.set()
            assert (await holder).code == 200

    run(main)


def test_nested_atomic_blocks_are_savepoints_of_the_requests_transaction(run, names):
    class Nests(BaseRequestHandler):
        def get(self):
            Author.objects.create(name="outer")
            with contextlib.suppress(ZeroDivisionError), transaction.atomic():
                Author.objects.create(name="inner")
                raise ZeroDivisionError
            with pytest.raises(RuntimeError, match="durable"), transaction.atomic(durable=True):
                pass

    async def main():
        async with serving(Nests) as served:
            await served.get()

    run(main)
    assert names() == ["outer"]
