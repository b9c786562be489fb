"""One leg, a process of its own: run Django's ``runtests.py`` and write down every outcome.

Usage: ``python leg.py CONFIG.json``. With ``"greenlet": true`` the suite runs inside one greenlet
on a running loop, otherwise as from the command line. The results are JSON lines: ``total``,
``start`` and ``done`` per test, ``loop error``, ``ticks``, and ``end``, without which the leg died.

Invariants
- Nothing of this project but greentor itself can be imported by the suite: several of its
  directories carry names that a project uses, too.
- Only the outermost test runner records; the suite tests runners as well, and those stay Django's.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import json
import os
import runpy
import sys
import time
import unittest
from collections.abc import Callable
from typing import Any

Write = Callable[..., None]

#: characters of a traceback worth keeping
DETAIL = 6000


def recording(
    base: type[unittest.TextTestResult], write: Write, at_end: Callable[[], None]
) -> type[unittest.TextTestResult]:
    """Return a result class that writes one line per test, and calls ``at_end`` after each."""

    class Result(base):  # type: ignore[misc, valid-type]
        _test: Any = None
        _began: float
        _notes: list[tuple[str, str]]

        def startTest(self, test: Any) -> None:
            self._test, self._began, self._notes = test, time.perf_counter(), []
            write("start", id=test.id())
            super().startTest(test)

        def stopTest(self, test: Any) -> None:
            super().stopTest(test)
            if self._test is test:
                self._test = None
                at_end()
                self._done(test, self._notes, time.perf_counter() - self._began)

        def _note(self, test: Any, outcome: str, detail: str = "") -> None:
            if self._test is test:
                self._notes.append((outcome, detail))
            else:  # setUpClass, tearDownModule and the like
                self._done(test, [(outcome, detail)], 0.0)

        def _done(self, test: Any, notes: list[tuple[str, str]], seconds: float) -> None:
            outcomes = [outcome for outcome, _ in notes] or ["ok"]
            worst = next((o for o in ("error", "fail") if o in outcomes), outcomes[0])
            detail = "\n".join(detail for _, detail in notes)[-DETAIL:]
            write("done", id=test.id(), outcome=worst, detail=detail, seconds=round(seconds, 3))

        def addError(self, test: Any, err: Any) -> None:
            self._note(test, "error", self._exc_info_to_string(err, test))
            super().addError(test, err)

        def addFailure(self, test: Any, err: Any) -> None:
            self._note(test, "fail", self._exc_info_to_string(err, test))
            super().addFailure(test, err)

        def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
            if err is not None:
                outcome = "fail" if issubclass(err[0], test.failureException) else "error"
                text = self._exc_info_to_string(err, test)
                self._note(test, outcome, f"{subtest._subDescription()}\n{text}")
            super().addSubTest(test, subtest, err)

        def addSkip(self, test: Any, reason: str) -> None:
            if getattr(test, "test_case", None) is not self._test or self._test is None:
                self._note(test, "skip", reason)  # and not for one of its subtests
            super().addSkip(test, reason)

        def addExpectedFailure(self, test: Any, err: Any) -> None:
            self._note(test, "expected failure")
            super().addExpectedFailure(test, err)

        def addUnexpectedSuccess(self, test: Any) -> None:
            self._note(test, "fail", "unexpected success")
            super().addUnexpectedSuccess(test)

    return Result


def hook(apps: list[str], write: Write, at_end: Callable[[], None]) -> None:
    """Have the next runner that ``runtests.py`` asks for record, and install further apps."""
    import django
    import django.test.utils
    from django.conf import settings

    get_runner, setup = django.test.utils.get_runner, django.setup

    def recording_runner(*args: Any) -> Any:
        django.test.utils.get_runner = get_runner
        base: Any = get_runner(*args)

        class Runner(base):  # type: ignore[misc]
            def get_resultclass(self) -> Any:
                base = super().get_resultclass() or unittest.TextTestResult
                return recording(base, write, at_end)

            def run_suite(self, suite: Any, **kwargs: Any) -> Any:
                count, apps = suite.countTestCases(), len(settings.INSTALLED_APPS)
                write("total", count=count, apps=apps)
                return super().run_suite(suite, **kwargs)

        return Runner

    def setup_with_apps() -> None:
        django.setup = setup
        settings.INSTALLED_APPS.extend(apps)  # the list that runtests.py has just put there
        setup()

    django.test.utils.get_runner = recording_runner  # type: ignore[assignment]
    django.setup = setup_with_apps  # type: ignore[assignment]


def run(config: dict[str, Any], write: Write, at_end: Callable[[], None] = lambda: None) -> int:
    """Run the suite and return what it would have exited with."""
    hook(config["apps"], write, at_end)
    sys.argv = ["runtests.py", "--settings", config["settings"], "--parallel=1", "--noinput"]
    sys.argv += config["labels"]
    try:
        runpy.run_path("runtests.py", run_name="__main__")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    return 0


async def run_in_greenlet(config: dict[str, Any], write: Write) -> int:
    """Run the suite in one greenlet, and count how often the loop could do something else."""
    from greentor import await_, green, in_green

    ticks = 0

    def cancel_tasks() -> None:
        """End what a test has left on the loop, as the loop of its own would that it has elsewhere."""
        if tasks := asyncio.all_tasks() - ours:
            for task in tasks:
                task.cancel()
            await_(asyncio.wait(tasks))

    def body() -> int:
        if not in_green():
            raise RuntimeError("the suite is not in a greenlet")
        return run(config, write, cancel_tasks)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: write("loop error", detail=repr(context)))
    ticker = loop.create_task(tick())
    ours = asyncio.all_tasks()
    try:
        return await green(body)()
    finally:
        ticker.cancel()
        write("ticks", count=ticks)


def main() -> int:
    """Set the stage that the configuration asks for, and run."""
    with open(sys.argv[1]) as file:
        config = json.load(file)
    faulthandler.enable()  # whoever watches sends SIGABRT if nothing happens any more
    os.chdir(config["tests"])
    sys.path[:1] = [config["tests"]]
    if config["preload"]:
        # Before the loop, as a program's set-up does. A few tests then ask MySQLdb for its version.
        importlib.import_module(config["preload"])
        sys.modules.setdefault("MySQLdb", importlib.import_module("pymysql"))
    with open(config["results"], "w", buffering=1) as results:

        def write(event: str, **fields: Any) -> None:
            results.write(json.dumps({"event": event, **fields}) + "\n")

        in_greenlet = config["greenlet"]
        code = asyncio.run(run_in_greenlet(config, write)) if in_greenlet else run(config, write)
        write("end", code=code)
    return code


if __name__ == "__main__":
    sys.exit(main())
