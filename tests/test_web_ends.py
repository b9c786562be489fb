"""Every way in which a request can end: its client has an answer, its connections are given back.

`serving` asserts at its end that no request is at work and no connection is checked out.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
import socket

import pytest
from django.conf import settings
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.signals import request_finished, request_started
from django.db import connection, transaction
from django.http import Http404
from django.shortcuts import get_object_or_404
from greenlet import GreenletExit
from tornado.web import Finish, HTTPError, stream_request_body

import greentor
from greentor.db import pools
from greentor.db.pools import current_pools
from greentor.web import BaseRequestHandler, drain
from tests.test_web import CLOSED, Sync, serving
from tests.testapp.models import Author
from tests.waiting import await_until, wait_until

pytestmark = pytest.mark.usefixtures("clean_tables")


def leave_transaction_open():
    contextlib.ExitStack().enter_context(transaction.atomic())
    Author.objects.create(name="lost")


class Returns(BaseRequestHandler):
    def get(self):
        Author.objects.count()


class FinishesEarlyThenQueries(BaseRequestHandler):
    def get(self):
        Author.objects.count()
        self.finish("early")
        with transaction.atomic():
            Author.objects.create(name="after the answer")
            Author.objects.all().delete()


class FinishesEarlyThenFails(BaseRequestHandler):
    async def get(self):
        Author.objects.count()
        await self.finish("early")
        leave_transaction_open()
        raise ZeroDivisionError


class OverridesOnFinish(BaseRequestHandler):
    def get(self):
        leave_transaction_open()

    def on_finish(self):
        pass  # no super()


class QueriesOnFinish(BaseRequestHandler):
    def get(self):
        pass

    def on_finish(self):
        Author.objects.count()


class FailsOnFinish(BaseRequestHandler):
    def get(self):
        leave_transaction_open()

    def on_finish(self):
        raise ZeroDivisionError


class Redirects(BaseRequestHandler):
    def get(self):
        Author.objects.count()
        self.redirect("/elsewhere")


class Raises(BaseRequestHandler):
    def get(self):
        leave_transaction_open()
        raise ZeroDivisionError


class RaisesFinish(BaseRequestHandler):
    def get(self):
        leave_transaction_open()
        raise Finish("finished")


class RaisesHTTPError(BaseRequestHandler):
    async def get(self):
        leave_transaction_open()
        raise HTTPError(418, "100% %s")


class RaisesCancelledError(BaseRequestHandler):
    async def get(self):
        leave_transaction_open()
        raise asyncio.CancelledError


class AwaitsWhatIsCancelled(BaseRequestHandler):
    async def get(self):
        leave_transaction_open()
        task = asyncio.create_task(asyncio.sleep(10))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task


class CancelsItself(BaseRequestHandler):
    async def get(self):
        leave_transaction_open()
        asyncio.current_task().cancel()
        await asyncio.sleep(10)


class CancelsItselfThenReturns(BaseRequestHandler):
    def get(self):
        leave_transaction_open()
        asyncio.current_task().cancel()
        self.write("returned")


class RaisesGreenletExit(BaseRequestHandler):
    def get(self):
        leave_transaction_open()
        raise GreenletExit


class RaisesGreenletExitAsync(BaseRequestHandler):
    async def get(self):
        leave_transaction_open()
        await asyncio.sleep(0)
        raise GreenletExit


class RaisesGreenletExitInPrepare(BaseRequestHandler):
    def prepare(self):
        leave_transaction_open()
        raise GreenletExit


class TimesOut(BaseRequestHandler):
    def get(self):
        with greentor.timeout(0.02), connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(0.3)")


class BreaksItsConnection(BaseRequestHandler):
    def get(self):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("KILL CONNECTION_ID()")


class Missing(BaseRequestHandler):
    def get(self):
        get_object_or_404(Author, name="100% %s %d")


class RaisesHttp404(BaseRequestHandler):
    def get(self):
        leave_transaction_open()
        raise Http404("no 100% %s %d such")


class RaisesHttp404Bare(BaseRequestHandler):
    def get(self):
        raise Http404


class RaisesPermissionDenied(BaseRequestHandler):
    def get(self):
        raise PermissionDenied("50% %s")


class RaisesBadRequest(BaseRequestHandler):
    async def get(self):
        raise BadRequest("50% %s")


class RaisesSuspiciousOperation(BaseRequestHandler):
    def prepare(self):
        raise SuspiciousOperation("50% %s")


class QueriesInWriteError(BaseRequestHandler):
    def get(self):
        leave_transaction_open()
        raise Http404("x")

    def write_error(self, status_code, **kwargs):
        self.finish(f"{status_code} {Author.objects.count()} {kwargs['exc_info'][0].__name__}")


class FailsInWriteError(BaseRequestHandler):
    def get(self):
        leave_transaction_open()
        raise Http404("x")

    def write_error(self, status_code, **kwargs):
        raise ZeroDivisionError


class FinishesInPrepare(BaseRequestHandler):
    def prepare(self):
        Author.objects.count()
        self.finish("prepared")

    def get(self):
        raise AssertionError("the request was finished in prepare()")


class FailsInPrepare(BaseRequestHandler):
    async def prepare(self):
        leave_transaction_open()
        raise ZeroDivisionError


class HasNoGet(BaseRequestHandler):
    def post(self):
        pass


class FlushesThenRaises(BaseRequestHandler):
    async def get(self):
        self.set_header("Content-Length", "1000")
        self.write("half")
        await self.flush()
        leave_transaction_open()
        raise ZeroDivisionError


class FlushesChunksThenRaises(BaseRequestHandler):
    async def get(self):
        self.write("half")  # in chunks: an orderly end would pass for that of a whole answer
        await self.flush()
        raise Http404("x")


class FlushesThenGreenletExit(BaseRequestHandler):
    async def get(self):
        self.write("half")
        await self.flush()
        leave_transaction_open()
        raise GreenletExit


class FlushesThenCancelled(BaseRequestHandler):
    async def get(self):
        self.write("half")
        await self.flush()
        leave_transaction_open()
        asyncio.current_task().cancel()
        await asyncio.sleep(10)


ENDS = {
    Returns: 200,
    FinishesEarlyThenQueries: 200,
    FinishesEarlyThenFails: 200,
    OverridesOnFinish: 200,
    QueriesOnFinish: 200,
    FailsOnFinish: 200,
    Redirects: 302,
    Raises: 500,
    RaisesFinish: 200,
    RaisesHTTPError: 418,
    RaisesCancelledError: 500,
    AwaitsWhatIsCancelled: 500,
    CancelsItself: 500,
    CancelsItselfThenReturns: 200,
    RaisesGreenletExit: 500,
    RaisesGreenletExitAsync: 500,
    RaisesGreenletExitInPrepare: 500,
    TimesOut: 504,
    BreaksItsConnection: 500,
    Missing: 404,
    RaisesHttp404: 404,
    RaisesHttp404Bare: 404,
    RaisesPermissionDenied: 403,
    RaisesBadRequest: 400,
    RaisesSuspiciousOperation: 400,
    QueriesInWriteError: 404,
    FailsInWriteError: 404,
    FinishesInPrepare: 200,
    FailsInPrepare: 500,
    HasNoGet: 405,
    FlushesThenRaises: CLOSED,
    FlushesChunksThenRaises: CLOSED,
    FlushesThenGreenletExit: CLOSED,
    FlushesThenCancelled: CLOSED,
}


@pytest.mark.parametrize("handler", ENDS, ids=lambda handler: handler.__name__)
def test_the_client_has_an_answer_and_the_connections_are_given_back(run, handler):
    finished = []

    def receiver(sender, **kwargs):
        finished.append(sender)

    async def main():
        async with serving(Sync, handler) as served:
            for _ in range(2):
                response = await served.fetch(f"/{handler.__name__}", follow_redirects=False)
                assert response.code == ENDS[handler], (response.code, response.body)
            assert await drain(5) == 0
            # A moment for the side connection that kills what timed out.
            await await_until(lambda: [pool.in_use for pool in current_pools()] in ([], [0]))
            if handler is not CancelsItselfThenReturns:  # the cancel strikes at the rollback
                assert finished == [handler] * 2
            assert await served.get("/Sync") == '{"count": 0}'

    request_finished.connect(receiver)
    try:
        run(main)
    finally:
        request_finished.disconnect(receiver)


def test_a_database_that_cannot_be_reached_is_503_for_as_long(run, monkeypatch):
    async def main():
        async with serving(Sync) as served:
            with monkeypatch.context() as patch, socket.socket() as nobody_listens:
                nobody_listens.bind(("127.0.0.1", 0))
                port = nobody_listens.getsockname()[1]
                patch.setitem(settings.DATABASES["default"], "PORT", port)
                for _ in range(2):
                    response = await served.fetch("/Sync")
                    assert response.code == 503
                    assert response.headers["Retry-After"] == "1"
            assert await served.get("/Sync") == '{"count": 0}'

    run(main)


REFUSED = [
    handler
    for handler, status in ENDS.items()
    if status in (400, 403, 404) and handler is not RaisesHttp404Bare
]


def test_one_error_out_of_a_task_group_is_answered_as_itself(run):
    class Groups(BaseRequestHandler):
        async def get(self):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.find())

        async def find(self):
            await Author.objects.acount()
            raise Http404

    async def main():
        async with serving(Groups) as served:
            assert (await served.fetch()).code == 404

    run(main)


@pytest.mark.parametrize("handler", REFUSED, ids=lambda handler: handler.__name__)
def test_the_reason_is_logged_as_it_stands(run, handler, caplog):
    async def main():
        async with serving(handler) as served:
            await served.fetch()

    with caplog.at_level(logging.WARNING, logger="tornado.general"):
        run(main)
    message = next(r.getMessage() for r in caplog.records if r.name == "tornado.general")
    if handler is Missing:
        assert "No Author matches the given query." in message
    elif "%" in inspect.getsource(handler):
        assert "0% %s" in message
    assert "%%" not in message


def test_write_error_sees_the_status_and_the_database(run):
    async def main():
        async with serving(QueriesInWriteError) as served:
            response = await served.fetch()
            assert response.body == b"404 1 HTTPError"  # still in the transaction

    run(main)


def test_a_body_that_does_not_parse_is_400(run):
    class Form(BaseRequestHandler):
        def post(self):
            raise AssertionError("the body was bad")

    async def main():
        async with serving(Form) as served:
            response = await served.fetch(
                method="POST", body=b"x", headers={"Content-Type": "multipart/form-data"}
            )
            assert response.code == 400

    run(main)


def test_a_receiver_of_request_started_that_fails_is_500(run):
    def receiver(sender, **kwargs):
        Author.objects.count()
        raise ZeroDivisionError

    async def main():
        async with serving(Returns) as served:
            assert (await served.fetch()).code == 500

    request_started.connect(receiver)
    try:
        run(main)
    finally:
        request_started.disconnect(receiver)


def test_a_receiver_of_request_finished_that_fails_harms_nobody(run, caplog):
    def receiver(sender, **kwargs):
        Author.objects.count()
        raise ZeroDivisionError

    async def main():
        async with serving(Returns) as served:
            for _ in range(3):
                assert (await served.fetch()).code == 200

    request_finished.connect(receiver)
    try:
        run(main)
    finally:
        request_finished.disconnect(receiver)
    assert "a receiver of request_finished failed" in caplog.text


def test_a_client_that_goes_cancels_nothing_and_leaves_nothing(run):
    """As in Tornado: the handler runs to its end, and `on_connection_close` is called."""
    events = []

    class Slow(BaseRequestHandler):
        def get(self):
            with transaction.atomic():
                Author.objects.create(name="kept")
                parked.set()
                greentor.await_(gone.wait())
            events.append(Author.objects.count())
            self.write("to nobody")

        def on_connection_close(self):
            super().on_connection_close()
            gone.set()

    async def main():
        nonlocal parked, gone
        parked, gone = asyncio.Event(), asyncio.Event()
        async with serving(Slow, Sync) as served:
            _, writer = await served.connect()
            await parked.wait()
            writer.transport.abort()
            assert await drain(5) == 0
            assert events == [1]
            assert await served.get("/Sync") == '{"count": 1}'

    parked = gone = None
    run(main)


@pytest.mark.parametrize("when", ["head", "body", "stream"])
def test_a_client_that_goes_before_its_request_is_complete_leaves_nothing(run, when):
    class Whole(BaseRequestHandler):
        def prepare(self):
            Author.objects.count()

        def put(self):
            raise AssertionError("the body never came")

    @stream_request_body
    class Streamed(Whole):
        def data_received(self, chunk):
            Author.objects.count()
            received.set()

    async def main():
        nonlocal received
        received = asyncio.Event()
        async with serving(Streamed if when == "stream" else Whole) as served:
            head = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
            _, writer = await served.connect(head[:20] if when == "head" else head + "begun")
            if when == "stream":
                await received.wait()
                assert current_pools()[0].in_use == 1
            else:
                await writer.drain()
            writer.transport.abort()
            assert await drain(5) == 0
            await await_until(lambda: not any(pool.in_use for pool in current_pools()))

    received = None
    run(main)


@pytest.mark.parametrize("error", [ZeroDivisionError, GreenletExit, Http404])
def test_data_received_that_fails_ends_its_request(run, error):
    @stream_request_body
    class Streamed(BaseRequestHandler):
        def prepare(self):
            leave_transaction_open()

        def put(self):
            self.write("never")

        def data_received(self, chunk):
            Author.objects.count()
            raise error

    async def main():
        async with serving(Sync, Streamed) as served:
            response = await served.fetch("/Streamed", method="PUT", body=b"x")
            assert response.code != 200
            assert await drain(5) == 0
            assert await served.get("/Sync") == '{"count": 0}'

    run(main)


def test_the_task_of_a_request_cancelled_from_outside_answers_and_rolls_back(run, mariadb):
    tasks = []

    class Slow(BaseRequestHandler):
        def get(self):
            tasks.append(asyncio.current_task())
            with transaction.atomic(), connection.cursor() as cursor:
                Author.objects.create(name="lost")
                cursor.execute("SELECT SLEEP(30) /* cancelled from outside */")

    async def main():
        async with serving(Slow, Sync) as served:
            answer = asyncio.create_task(served.fetch())
            await await_until(
                lambda: any("from outside" in (row["INFO"] or "") for row in mariadb.processlist())
            )
            tasks[0].cancel()
            assert (await answer).code == 500
            assert await served.get("/Sync") == '{"count": 0}'
            for row in mariadb.processlist():
                if "from outside" in (row["INFO"] or ""):
                    mariadb.execute(f"KILL {row['ID']}")

    run(main)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_system_exit_ends_the_program_and_leaves_nothing_to_the_next_loop(mariadb):
    """Tornado raises it again at the end of `asyncio.run`, which then closes nothing in order."""

    class Exits(BaseRequestHandler):
        def get(self):
            leave_transaction_open()
            raise SystemExit(3)

    async def main():
        async with serving(Sync, Exits) as served:
            await served.get("/Sync")
            await served.fetch("/Exits")

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert asyncio.run(greentor.green(Author.objects.count)()) == 0
    assert pools._loops == {}
    gc.collect()
    wait_until(lambda: not mariadb.processlist())
