"""`GreenExecutor` in the place of a thread pool: what is called where, in what order, and how it ends."""

import asyncio
import concurrent.futures
import threading
from contextvars import ContextVar, copy_context
from functools import partial

import pytest
from django.db import transaction
from tornado.concurrent import run_on_executor
from tornado.ioloop import IOLoop

import greentor
from greentor import GreenExecutor, NotGreen, bridge
from greentor.db.pools import current_pools
from greentor.web import BaseRequestHandler
from tests.test_web import serving
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")

variable = ContextVar("variable", default="unset")


def count():
    return Author.objects.count()


def create(name, *, fail=False):
    with transaction.atomic():
        Author.objects.create(name=name)
        if fail:
            raise ZeroDivisionError
    return name


def in_use():
    return sum(pool.in_use for pool in current_pools())


class Gate:
    """A function that parks until it is let through, and notes who came."""

    def __init__(self):
        self.came = []
        self.open = asyncio.Event()

    def __call__(self, name=None):
        self.came.append(name)
        greentor.await_(self.open.wait())
        return name


# --- calls ------------------------------------------------------------------------------------


def test_a_code_base_built_on_a_thread_pool_changes_one_line(run):
    """The example of docs/handlers.md."""

    async def main():
        executor = GreenExecutor(8)  # it was ThreadPoolExecutor(8)
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, create, "x") == "x"
        assert await loop.run_in_executor(executor, count) == 1
        await await_until(lambda: in_use() == 0)
        executor.shutdown()

    before = threading.active_count()
    run(main)
    assert threading.active_count() == before


class Legacy(BaseRequestHandler):
    """As a Tornado application has it that keeps the ORM in threads."""

    @run_on_executor(executor="pool")
    def load(self):
        return [bridge.in_green(), count()]

    def initialize(self):
        self.pool = self.settings["executor"]

    async def get(self):
        loop = IOLoop.current()
        self.write({"on": await self.load(), "in": await loop.run_in_executor(self.pool, count)})


def test_what_tornado_has_for_executors_takes_it(run):
    async def main():
        async with serving(Legacy) as served:
            served.server.request_callback.settings["executor"] = GreenExecutor(2)
            assert await served.get() == '{"on": [true, 0], "in": 0}'

    run(main)


def test_each_call_has_a_scope_and_a_connection_of_its_own(run):
    scopes = []

    def work():
        scopes.append(bridge.current_scope())
        return count()

    @greentor.green
    async def caller():
        loop = asyncio.get_running_loop()
        with transaction.atomic():
            Author.objects.create(name="uncommitted")
            found = await asyncio.gather(
                loop.run_in_executor(executor, work), loop.run_in_executor(executor, work)
            )
            transaction.set_rollback(True)
        return found

    async def main():
        nonlocal executor
        executor = GreenExecutor(8)
        scopes.clear()
        assert await caller() == [0, 0]  # as from a thread: it does not see the transaction
        assert len(set(scopes)) == 2
        assert all(scope.closed for scope in scopes)
        assert in_use() == 0

    executor = None
    run(main)


def test_context_variables_are_those_of_a_thread_none_and_to_thread_s_way_works(run):
    def work():
        count()
        seen = variable.get()
        variable.set("of the call")
        return seen, bridge.current_scope() is not None

    @greentor.green
    async def main():
        executor = GreenExecutor(1)
        loop = asyncio.get_running_loop()
        variable.set("of the caller")
        for _ in range(2):
            assert await loop.run_in_executor(executor, work) == ("unset", True)
        call = partial(copy_context().run, work)  # as asyncio.to_thread has it
        assert await loop.run_in_executor(executor, call) == ("of the caller", True)
        assert variable.get() == "of the caller"

    run(main)


def test_exceptions_of_every_kind_reach_the_caller_and_the_transaction_is_rolled_back(run):
    async def async_create(name):
        await Author.objects.acreate(name=name)
        return name

    def stop():
        count()
        raise StopIteration

    def leave():
        raise SystemExit(3)

    async def main():
        executor = GreenExecutor(2)
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, partial(create, "lost", fail=True))
        assert await loop.run_in_executor(executor, count) == 0
        with pytest.raises(RuntimeError, match="StopIteration"):
            await loop.run_in_executor(executor, stop)
        future = executor.submit(leave)
        await await_until(future.done)
        assert isinstance(future.exception(), SystemExit)  # for who asks, and not the loop
        assert await asyncio.wrap_future(executor.submit(async_create, "async")) == "async"
        await greentor.green(Author.objects.all().delete)()

    run(main)


def test_at_most_max_workers_are_at_work_and_the_others_begin_in_their_order(run):
    async def main():
        executor, gate = GreenExecutor(2), Gate()
        futures = [executor.submit(gate, number) for number in range(6)]
        await await_until(lambda: len(gate.came) == 2)
        for _ in range(5):
            await asyncio.sleep(0)
        assert gate.came == [0, 1]
        assert [future.running() for future in futures] == [True, True, *[False] * 4]
        gate.open.set()
        results = await asyncio.gather(*map(asyncio.wrap_future, futures))
        assert results == gate.came == list(range(6))

    run(main)


# --- from where -------------------------------------------------------------------------------


def test_threads_submit_to_the_loop_and_may_block_on_the_result(run):
    async def main():
        executor = GreenExecutor(4, loop=asyncio.get_running_loop())

        def in_a_thread(number):
            assert executor.submit(bridge.in_green).result(10)
            with pytest.raises(ZeroDivisionError):
                executor.submit(create, "lost", fail=True).result(10)
            return list(executor.map(create, [f"{number}a", f"{number}b"], timeout=10))

        calls = [asyncio.to_thread(in_a_thread, number) for number in range(3)]
        assert await asyncio.gather(*calls) == [[f"{n}a", f"{n}b"] for n in range(3)]
        assert await asyncio.to_thread(executor.submit(count).result, 10) == 6
        assert await asyncio.to_thread(executor.shutdown) is None
        await greentor.green(Author.objects.all().delete)()

    run(main)


def test_sync_code_in_a_greenlet_waits_for_results_by_parking(run):
    def work(executor, gate):
        assert list(executor.map(create, ["a", "b"])) == ["a", "b"]
        future = executor.submit(gate, "late")
        with pytest.raises(TimeoutError):
            future.result(0.01)
        with pytest.raises(TimeoutError):
            future.exception(0.01)
        gate.open.set()
        assert future.result(5) == "late"
        assert isinstance(executor.submit(create, "x", fail=True).exception(), ZeroDivisionError)
        executor.submit(create, "left")
        executor.shutdown()
        assert count() == 3
        Author.objects.all().delete()

    async def main():
        await greentor.green(work)(GreenExecutor(2), Gate())

    run(main)


def test_a_coroutine_that_would_block_the_loop_for_a_result_is_told_the_remedy(run):
    async def main():
        executor = GreenExecutor(2)
        future = executor.submit(count)
        with pytest.raises(NotGreen, match=r"asyncio\.wrap_future"):
            future.result()
        with pytest.raises(NotGreen):
            list(executor.map(create, ["a", "b"]))
        assert await asyncio.wrap_future(future) == 0
        assert future.result() == 0
        async with executor:
            pass
        await greentor.green(Author.objects.all().delete)()

    run(main)


def test_without_a_loop_it_says_what_is_missing(run):
    executor = GreenExecutor()
    with pytest.raises(RuntimeError, match=r"needs an event loop.*GreenExecutor\(loop="):
        executor.submit(count)

    async def main():
        assert await asyncio.wrap_future(executor.submit(count)) == 0

    run(main)
    with pytest.raises(RuntimeError, match="loop of this GreenExecutor is closed"):
        executor.submit(count)
    with pytest.raises(ValueError, match="max_workers"):
        GreenExecutor(0)


def test_one_executor_serves_one_loop_after_the_other_and_two_at_once():
    executor = GreenExecutor(1)

    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        first = loop.run_in_executor(executor, gate, "x")
        await await_until(lambda: gate.came)
        barrier.wait(10)  # the bound is a loop's own: both are at work
        gate.open.set()
        assert await first == "x"
        return await loop.run_in_executor(executor, count)

    barrier = threading.Barrier(1)
    for _ in range(2):
        assert asyncio.run(main()) == 0
    barrier = threading.Barrier(2)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        both = [threads.submit(asyncio.run, main()) for _ in range(2)]
        assert [each.result(20) for each in both] == [0, 0]


def test_asyncio_refuses_it_as_the_default_executor():
    """uvloop does not: there, whatever goes to a thread in order not to block would block the loop."""

    async def main():
        with pytest.raises(TypeError):
            asyncio.get_running_loop().set_default_executor(GreenExecutor())

    asyncio.run(main())


# --- cancelling -------------------------------------------------------------------------------


def test_cancelling_drops_what_waits_and_leaves_what_is_at_work_to_its_end(run):
    async def main():
        executor, gate = GreenExecutor(1), Gate()
        loop = asyncio.get_running_loop()

        def work():
            gate("work")
            return create("kept")

        at_work = loop.run_in_executor(executor, work)
        waiting = loop.run_in_executor(executor, create, "never")
        last = executor.submit(gate, "last")
        await await_until(lambda: gate.came)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(at_work, 0.01)
        waiting.cancel()
        assert not last.running()
        gate.open.set()
        assert await asyncio.wrap_future(last) == "last"
        assert gate.came == ["work", "last"]
        names = await greentor.green(lambda: list(Author.objects.values_list("name", flat=True)))()
        assert names == ["kept"]
        assert in_use() == 0
        await greentor.green(Author.objects.all().delete)()

    run(main)


def test_the_end_of_the_loop_gives_every_future_an_end(mariadb):
    futures = []

    async def main():
        executor, gate = GreenExecutor(1), Gate()

        def work():
            with transaction.atomic():
                create("lost")
                gate()

        futures.extend([executor.submit(work), executor.submit(create, "never")])
        await await_until(lambda: gate.came)

    def wait():
        with pytest.raises(concurrent.futures.CancelledError):
            futures[0].result(10)
        return "told"

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        asyncio.run(main())
        assert thread.submit(wait).result(10) == "told"
    assert asyncio.run(greentor.green(count)()) == 0
    assert mariadb.execute("SELECT trx_id FROM information_schema.innodb_trx") == []


# --- shutdown ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_refuses_new_calls_and_lets_old_ones_end(run, cancel):
    async def main():
        executor, gate = GreenExecutor(1), Gate()
        futures = [executor.submit(gate, number) for number in range(3)]
        await await_until(lambda: gate.came)
        with pytest.raises(RuntimeError, match=r"3 calls are left.*block the event loop"):
            executor.shutdown(cancel_futures=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(count)
        executor.shutdown(wait=False, cancel_futures=cancel)
        assert [future.cancelled() for future in futures] == [False, cancel, cancel]
        gate.open.set()
        await asyncio.to_thread(executor.shutdown)  # blocks that thread until they have ended
        assert gate.came == ([0] if cancel else [0, 1, 2])
        executor.shutdown()  # nothing is left, and nothing blocks

    run(main)


def test_async_with_waits_and_with_in_a_greenlet_parks(run):
    def in_a_greenlet(gate):
        with GreenExecutor(1) as executor:
            futures = [executor.submit(gate, number) for number in range(3)]
            asyncio.get_running_loop().call_later(0.01, gate.open.set)
        assert all(future.done() for future in futures)

    async def main():
        gate = Gate()
        async with GreenExecutor(1) as executor:
            futures = [executor.submit(gate, number) for number in range(3)]
            asyncio.get_running_loop().call_later(0.01, gate.open.set)
        assert all(future.done() for future in futures)
        await greentor.green(in_a_greenlet)(Gate())

    run(main)


def test_a_call_that_waits_for_the_end_of_its_own_executor_is_refused(run):
    async def main():
        executor = GreenExecutor(2)
        future = executor.submit(executor.shutdown)
        with pytest.raises(RuntimeError, match="its own GreenExecutor"):
            await asyncio.wrap_future(future)

    run(main)


def test_shutdown_after_the_loop_hangs_nobody():
    executor = GreenExecutor(1)
    futures = []

    async def main():
        gate = Gate()
        futures.extend(executor.submit(gate, number) for number in range(3))
        await await_until(lambda: gate.came)

    asyncio.run(main())
    executor.shutdown()
    assert all(future.done() for future in futures)
