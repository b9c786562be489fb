"""`max_concurrency`: so many run, the others wait in order, and whoever gives up leaves no gap."""

import asyncio

import pytest
from tornado.httputil import HTTPServerRequest, RequestStartLine
from tornado.web import stream_request_body

import greentor
from greentor.web import BaseRequestHandler, admission, drain
from greentor.web.admission import Queue
from tests.test_web import serving
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


class Unconnected:
    """In place of the connection of a request that is driven by hand."""

    context = None

    def set_close_callback(self, callback):
        pass


class Gate:
    """What the handlers of a test wait for, and who has come so far."""

    def __init__(self):
        self.opened = asyncio.Event()
        self.begun = []
        self.running = self.most = 0

    def handler(self, limit=None, **attributes):
        """Return a handler that says its number, and waits until the gate is open."""
        gate = self

        class Gated(BaseRequestHandler):
            max_concurrency = limit

            async def get(self):
                gate.running += 1
                gate.most = max(gate.most, gate.running)
                gate.begun.append(self.get_query_argument("n", ""))
                try:
                    await gate.opened.wait()
                    self.write({"authors": await Author.objects.acount()})
                finally:
                    gate.running -= 1

        return type("Gated", (Gated,), attributes)


def asking(served, count, path="/", first=0):
    """Return the tasks of requests, each begun after the one before has come in."""
    return [asyncio.create_task(served.fetch(f"{path}?n={n}")) for n in range(first, first + count)]


async def come_in(served, gate, count, path="/"):
    """Send requests one after the other, so that their order is known; return their tasks."""
    tasks = []
    for n in range(count):
        before = len(gate.begun) + admission.waiting
        tasks += asking(served, 1, path, first=n)
        await await_until(lambda before=before: len(gate.begun) + admission.waiting > before)
    return tasks


def limit_application(served, limit):
    served.server.request_callback.settings["max_concurrency"] = limit


def test_so_many_run_and_the_others_wait_in_order_without_a_greenlet(run):
    async def main():
        gate = Gate()
        async with serving(gate.handler()) as served:
            limit_application(served, 3)
            tasks = await come_in(served, gate, 12)
            told = greentor.stats()
            assert (told.requests, told.queued, told.greenlets) == (3, 9, 3)
            assert await drain(0.01) == 12  # they are not forgotten at the end of a program
            gate.opened.set()
            assert {task.code for task in await asyncio.gather(*tasks)} == {200}
            assert gate.begun == [str(n) for n in range(12)]
            assert gate.most == 3
            assert greentor.stats().queued == 0

    run(main)


@pytest.mark.parametrize("verb_fails", [False, True])
def test_a_turn_ends_with_its_request_however_that_ends(run, verb_fails):
    class Ends(BaseRequestHandler):
        max_concurrency = 1

        def get(self):
            Author.objects.count()
            if verb_fails:
                raise ZeroDivisionError

    async def main():
        async with serving(Ends) as served:
            answers = await asyncio.gather(*asking(served, 20))
            assert {answer.code for answer in answers} == {500 if verb_fails else 200}

    run(main)


def test_a_handler_with_a_number_of_its_own_keeps_nobody_else_waiting(run):
    async def main():
        gate, other = Gate(), Gate()
        other.opened.set()
        Slow = type("Slow", (gate.handler(2),), {})
        Free = type("Free", (gate.handler(0),), {})
        Shares = type("Shares", (other.handler(),), {})
        async with serving(Slow, Free, Shares) as served:
            limit_application(served, 1)
            slow = await come_in(served, gate, 5)
            assert (gate.running, admission.waiting) == (2, 3)
            free = await come_in(served, gate, 4, "/Free")
            assert (gate.running, admission.waiting) == (6, 3)
            assert {a.code for a in await asyncio.gather(*asking(served, 5, "/Shares"))} == {200}
            assert other.most == 1
            gate.opened.set()
            assert {a.code for a in await asyncio.gather(*slow, *free)} == {200}

    run(main)


def test_a_subclass_without_a_number_of_its_own_has_a_queue_of_its_own(run):
    async def main():
        gate = Gate()
        base = gate.handler(1)
        First, Second = type("First", (base,), {}), type("Second", (base,), {})
        async with serving(First, Second) as served:
            tasks = await come_in(served, gate, 2, "/First")
            tasks += await come_in(served, gate, 2, "/Second")
            assert (gate.running, admission.waiting) == (2, 2)
            gate.opened.set()
            await asyncio.gather(*tasks)

    run(main)


def test_a_request_whose_time_is_up_in_the_queue_is_answered_and_leaves_it(run):
    async def main():
        gate = Gate()
        gated = gate.handler()
        Hurried = type("Hurried", (gated,), {"request_timeout": 0.05})
        async with serving(gated, Hurried) as served:
            limit_application(served, 1)
            [first] = await come_in(served, gate, 1)
            answer = await served.fetch("/Hurried?n=hurried")
            assert answer.code == 504
            assert admission.waiting == 0
            assert gate.begun == ["0"]
            [second] = await come_in(served, gate, 1)
            gate.opened.set()
            assert [a.code for a in await asyncio.gather(first, second)] == [200, 200]

    run(main)


def test_a_client_that_leaves_the_queue_is_logged_and_costs_no_turn(run):
    logged = []

    async def main():
        gate = Gate()
        async with serving(gate.handler(1, cancel_on_disconnect=True)) as served:
            settings = served.server.request_callback.settings
            settings["log_function"] = lambda handler: logged.append(handler.get_status())
            [first] = await come_in(served, gate, 1)
            _, writer = await served.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await await_until(lambda: admission.waiting == 1)
            writer.transport.abort()
            await await_until(lambda: admission.waiting == 0)
            [third] = await come_in(served, gate, 1)
            gate.opened.set()
            assert [a.code for a in await asyncio.gather(first, third)] == [200, 200]
            assert gate.begun == ["0", "0"]

    run(main)
    assert sorted(logged) == [200, 200, 499]


def test_a_body_that_is_streamed_waits_for_its_turn(run):
    chunks = []

    @stream_request_body
    class Uploads(BaseRequestHandler):
        max_concurrency = 1

        def data_received(self, chunk):
            chunks.append(chunk)

        def put(self):
            self.write({"authors": Author.objects.count()})

    async def main():
        async with serving(Uploads) as served:
            head = "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
            first, writer = await served.connect(head + "be")
            await await_until(lambda: chunks)
            second, other = await served.connect(head + "whole")
            await await_until(lambda: admission.waiting == 1)
            assert b"".join(chunks) == b"be"
            writer.write(b"gun")
            assert b" 200 " in await first.readline()
            assert b" 200 " in await second.readline()
            assert b"".join(chunks) == b"begunwhole"
            for each in (writer, other):
                each.close()
                await each.wait_closed()

    run(main)


def test_a_streamed_body_whose_time_is_up_in_the_queue_is_answered(run):
    @stream_request_body
    class Uploads(BaseRequestHandler):
        request_timeout = 0.05

        def data_received(self, chunk):
            raise AssertionError("nobody has begun")

        def put(self):
            raise AssertionError("nobody has begun")

    async def main():
        gate = Gate()
        async with serving(gate.handler(), Uploads) as served:
            limit_application(served, 1)
            [first] = await come_in(served, gate, 1)
            answer = await served.fetch("/Uploads", method="PUT", body=b"whole")
            assert answer.code == 504
            gate.opened.set()
            assert (await first).code == 200

    run(main)


async def enter(queue):
    if not queue.enter():
        await queue.wait(asyncio.get_running_loop())


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_turn_given_to_who_is_ended_in_the_same_moment_is_not_lost(run, end):
    async def main():
        queue = Queue(1)
        loop = asyncio.get_running_loop()
        await enter(queue)
        asked = queue.wait(loop)
        turn = asked.send(None)
        queue.leave(loop)
        assert turn.done()
        assert queue.free == 0
        if end == "close":
            asked.close()
        else:
            with pytest.raises(asyncio.CancelledError):
                asked.throw(asyncio.CancelledError())
        assert queue.free == 1
        assert admission.waiting == 0

    run(main)


def test_a_newcomer_does_not_overtake_who_waits(run):
    async def main():
        queue = Queue(1)
        loop = asyncio.get_running_loop()
        order = []

        async def use(name):
            await enter(queue)
            order.append(name)
            await asyncio.sleep(0)
            queue.leave(loop)

        await enter(queue)
        tasks = [asyncio.create_task(use(name)) for name in "abc"]
        await await_until(lambda: admission.waiting == 3)
        queue.leave(loop)
        assert not queue.enter()  # it is a's, who has not run yet
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]
        assert queue.free == 1

    run(main)


def test_a_turn_given_to_who_is_cancelled_in_the_same_moment_goes_to_the_next(run):
    async def main():
        queue = Queue(1)
        await enter(queue)
        second, third = asyncio.create_task(enter(queue)), asyncio.create_task(enter(queue))
        await await_until(lambda: admission.waiting == 2)
        queue.leave(asyncio.get_running_loop())
        second.cancel()
        await asyncio.wait_for(third, 10)
        assert second.cancelled()
        assert admission.waiting == 0

    run(main)


def test_the_queue_of_a_loop_that_was_closed_holds_up_no_other(run):
    handler = BaseRequestHandler.__new__(BaseRequestHandler)  # whose class alone is looked at

    async def leave():
        queue = admission.queue_for(handler, 1, asyncio.get_running_loop())
        await enter(queue)  # and never ends

    async def go_on():
        queue = admission.queue_for(handler, 1, asyncio.get_running_loop())
        await asyncio.wait_for(enter(queue), 10)
        queue.leave(asyncio.get_running_loop())

    run(leave)
    run(go_on)
    assert len(admission._queues[BaseRequestHandler]) == 1  # that of the closed loop is gone


def test_a_request_that_is_collected_in_the_queue_ends_no_turn_of_another(run):
    async def main():
        queue = Queue(1)
        await enter(queue)
        loop = asyncio.get_running_loop()
        asked = queue.wait(loop)
        asked.send(None)  # parked there
        asked.close()
        assert admission.waiting == 0
        assert queue.free == 0
        queue.leave(loop)
        assert queue.free == 1

    run(main)


def test_a_handler_that_is_closed_in_the_queue_leaves_the_number_of_turns(run):
    async def main():
        gate = Gate()
        async with serving(gate.handler()) as served:
            limit_application(served, 1)
            [first] = await come_in(served, gate, 1)
            application = served.server.request_callback
            [(_, queues)] = [item for item in admission._queues.items() if item[0] is application]
            queue = queues[asyncio.get_running_loop()]
            request = HTTPServerRequest(
                connection=Unconnected(), start_line=RequestStartLine("GET", "/", "HTTP/1.0")
            )
            execution = gate.handler()(application, request)._execute([])
            execution.send(None)
            assert admission.waiting == 1
            execution.close()
            assert admission.waiting == 0
            assert queue.free == 0
            gate.opened.set()
            assert (await first).code == 200
            assert queue.free == 1

    run(main)


@pytest.mark.parametrize("closed", [False, True])
def test_a_turn_that_ends_outside_its_loop_is_passed_on_there_or_dropped(closed):
    loop = asyncio.new_event_loop()
    queue = Queue(1)
    loop.run_until_complete(enter(queue))
    if closed:
        loop.close()
    queue.leave(loop)
    assert queue.free == 0
    if not closed:
        loop.run_until_complete(asyncio.wait_for(enter(queue), 10))
        loop.close()


@pytest.mark.parametrize("limit", [-1, 2.5, "8", True, None], ids=repr)
def test_what_is_no_number_of_requests_is_refused_by_name(run, limit, caplog):
    if limit is not None:
        with pytest.raises(ValueError, match=r"Wrong\.max_concurrency must be a number"):
            type("Wrong", (BaseRequestHandler,), {"max_concurrency": limit})

    async def main():
        gate = Gate()
        gate.opened.set()
        async with serving(gate.handler()) as served:
            limit_application(served, limit)
            answer = await served.fetch("/")
            assert answer.code == (200 if limit is None else 500)

    run(main)
    assert ("max_concurrency must be a number of requests" in caplog.text) == (limit is not None)
