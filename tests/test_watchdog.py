"""The watchdog names the code that holds the loop, once, and ends with the loop."""

import asyncio
import gc
import logging
import threading
import time

import pytest

import greentor
from greentor import green, watchdog
from greentor.bridge import running
from tests.noise import undisturbed
from tests.waiting import await_until, wait_until

LIMIT = 0.15
#: of the machine, which the watchdog cannot tell from code that holds the loop
STALL = LIMIT / 3


@pytest.fixture
def watched(monkeypatch, caplog):
    """Watch every loop from its first scope on."""
    caplog.set_level(logging.WARNING, logger="greentor.watchdog")
    hooks = [*running.scope_hooks, watchdog.scope_hook(LIMIT * 1000)]
    monkeypatch.setattr(running, "scope_hooks", hooks)
    return caplog


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "greentor-watchdog"]


def reports(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "greentor.watchdog"]


def test_code_that_holds_the_loop_is_named_once(run, watched):
    @green
    def my_culprit():
        time.sleep(0.4)

    async def main():
        await my_culprit()
        await await_until(lambda: reports(watched))

    def once():
        watched.clear()
        run(main)
        [report] = reports(watched)
        return report

    report = undisturbed(once, STALL)
    assert "held for more than 150 ms" in report
    assert "in my_culprit" in report
    assert "time.sleep(0.4)" in report


def test_each_time_is_reported(run, watched):
    @green
    def first_culprit():
        time.sleep(0.4)

    @green
    def second_culprit():
        time.sleep(0.4)

    async def main():
        await first_culprit()
        await asyncio.sleep(0.05)
        await second_culprit()
        await await_until(lambda: len(reports(watched)) == 2)

    def measure():
        watched.clear()
        run(main)
        first, second = reports(watched)
        assert "in first_culprit" in first
        assert "in second_culprit" in second

    undisturbed(measure, STALL)


def test_it_is_silent_while_the_loop_runs(run, watched):
    @green
    async def request():
        for _ in range(20):
            greentor.sleep(0.02)
            time.sleep(0.01)
        greentor.thread(time.sleep, 0.3)
        await asyncio.sleep(0.3)

    def silent():
        watched.clear()
        run(request)
        assert reports(watched) == []

    undisturbed(silent, STALL)


def test_it_is_silent_while_the_loop_does_not_run(watched):
    @green
    def request():
        pass

    with asyncio.Runner() as runner:
        runner.run(request())
        time.sleep(3 * LIMIT)
        runner.run(request())
    assert reports(watched) == []


def test_it_ends_with_its_loop(run, watched):
    before = set(watchdogs())

    @green
    def request():
        pass

    async def main():
        await asyncio.gather(*(request() for _ in range(5)))
        assert len(set(watchdogs()) - before) == 1

    run(main)
    wait_until(lambda: not set(watchdogs()) - before, timeout=2)


def test_it_ends_with_a_loop_that_was_closed_while_it_waited_for_a_sign_of_life(watched):
    before = set(watchdogs())
    loop = asyncio.new_event_loop()

    @green
    def request():
        pass

    loop.run_until_complete(request())
    [dog] = set(watchdogs()) - before
    wait_until(lambda: not dog._alive.is_set())  # asked, and nobody there to answer
    loop.close()
    dog.join(2)
    assert not dog.is_alive()


def test_it_does_not_keep_the_loop(watched):
    before = set(watchdogs())
    loop = asyncio.new_event_loop()

    @green
    def request():
        pass

    loop.run_until_complete(request())
    assert set(watchdogs()) - before
    loop.close()
    del loop
    gc.collect()
    wait_until(lambda: not set(watchdogs()) - before, timeout=2)
