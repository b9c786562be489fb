"""One leg, a process of its own: run the suite by pytest and write down every outcome.

Usage: ``python leg.py CONFIG.json``. The configuration's ``driver`` is ``plain``, ``greenlet`` or
``blocking``. With ``greenlet`` each test, its set-up and its tear-down included, runs in a greenlet and
scope of its own on one event loop; what is imported before the tests is not in a greenlet.

Invariant: all of `pymysql` but `pymysql.tests` is the installed one.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pymysql
import pymysql.connections
import pytest
from _pytest.runner import runtestprotocol

#: characters of a traceback worth keeping
DETAIL = 4000
#: from the best to the worst; a test has up to three reports, and one more for each subtest
ORDER = ("ok", "skip", "expected failure", "fail", "error")


class Recorder:
    """A pytest plugin that keeps the worst that was said of each test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report, "error" if report.failed and report.when != "call" else "")

    def pytest_collectreport(self, report: Any) -> None:
        if not report.passed:
            self._note(report, "error" if report.failed else "")

    def _note(self, report: Any, name: str) -> None:
        if not name:
            name = {"passed": "ok", "failed": "fail", "skipped": "skip"}[report.outcome]
            if report.skipped and hasattr(report, "wasxfail"):
                name = "expected failure"
        test = report.nodeid.replace(".py::", ".").replace("::", ".").replace("/", ".")
        known = self.outcomes.get(test, ("ok", ""))
        if test not in self.outcomes or ORDER.index(name) > ORDER.index(known[0]):
            self.outcomes[test] = name, str(report.longrepr or "")[-DETAIL:]


class InGreenlets:
    """A pytest plugin that runs each test in a greenlet on a running loop."""

    def __init__(self, loop: str) -> None:
        self.ticks = 0
        self.errors: list[str] = []
        self._loop = loop
        self._test = ""

    def pytest_sessionstart(self) -> None:
        factory = None
        if self._loop == "uvloop":
            factory = importlib.import_module("uvloop").new_event_loop
        self._runner = asyncio.Runner(loop_factory=factory)
        self._runner.get_loop().set_exception_handler(
            lambda _, context: self.errors.append(f"{self._test}: {context!r}")
        )

    def pytest_sessionfinish(self) -> None:
        self._runner.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool:
        self._test = item.nodeid
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._runner.run(self._protocol(item, nextitem))
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    async def _protocol(self, item: Any, nextitem: Any) -> None:
        from greentor import green

        ticker = asyncio.create_task(self._tick())
        try:
            await green(runtestprotocol)(item, nextitem=nextitem)
        finally:
            ticker.cancel()
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), ticker}:
            self.errors.append(f"{self._test}: left {task!r}")
            task.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.ticks += 1


def substitute() -> Counter[str]:
    """Put our connection in the place of PyMySQL's; count what is opened, and how."""
    from greentor import in_green
    from greentor.drivers.pymysql import Connection

    plain = pymysql.connections.Connection
    for module in (pymysql, pymysql.connections):
        for name, value in list(vars(module).items()):
            if value is plain:
                setattr(module, name, Connection)
    opened: Counter[str] = Counter()
    connect = Connection.connect

    def counted(self: Any, sock: Any = None) -> None:
        connect(self, sock)
        if in_green() and sock is None:
            opened["cooperative" if self._stream is not None else "blocking in a greenlet"] += 1
        else:
            opened["blocking"] += 1

    Connection.connect = counted
    return opened


def main() -> int:
    """Run the suite as the configuration says; write what was seen."""
    config = json.loads(Path(sys.argv[1]).read_text())
    opened: Counter[str] = Counter()
    if config["driver"] != "plain":
        opened = substitute()
    pymysql.__path__.append(f"{config['suite']}/pymysql")  # after the installed one
    recorder = Recorder()
    plugins: list[Any] = [recorder]
    green = InGreenlets(config["loop"]) if config["driver"] == "greenlet" else None
    if green is not None:
        plugins.append(green)
    arguments = ["-c", config["ini"], "--rootdir", f"{config['suite']}/pymysql/tests"]
    # An exception in a `__del__` fails the test.
    arguments += ["-W", "error::pytest.PytestUnraisableExceptionWarning"]
    arguments += ["-p", "no:cacheprovider", "-o", "faulthandler_timeout=60", "-q"]
    arguments += ["-k", config["select"]]
    code = pytest.main([*arguments, f"{config['suite']}/pymysql/tests"], plugins)
    result = {
        "version": pymysql.__version__,
        "exit": int(code),
        "outcomes": recorder.outcomes,
        "opened": opened,
        "ticks": green.ticks if green is not None else 0,
        "errors": green.errors if green is not None else [],
    }
    Path(config["result"]).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
