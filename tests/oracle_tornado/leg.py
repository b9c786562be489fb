"""One leg, a process of its own: run Tornado's tests and write down every outcome.

Usage: ``python -m tests.oracle_tornado.leg SERVER LOOP RESULT [PATTERN ...]``. With ``front`` every
HTTPServer that a test makes is a `FrontServer`; with ``tornado`` it stays Tornado's.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import sys
import traceback
import unittest
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer

#: those that start an HTTPServer; some exist in newer versions alone
MODULES = (
    "auth_test",
    "circlerefs_test",
    "curl_httpclient_test",
    "gen_test",
    "http1connection_test",
    "httpclient_test",
    "httpserver_test",
    "iostream_test",
    "routing_test",
    "security_corpus_test",
    "simple_httpclient_test",
    "testing_test",
    "web_test",
    "websocket_test",
    "wsgi_test",
)
#: characters of a traceback worth keeping
DETAIL = 4000


class Recorder(unittest.TestResult):
    """Keeps what became of each test."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, tuple[str, str]] = {}

    def _note(self, test: unittest.TestCase, name: str, detail: str = "") -> None:
        if name == "ok":
            self.outcomes.setdefault(test.id(), (name, detail))
        else:
            self.outcomes[test.id()] = name, detail[-DETAIL:]

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "ok")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, "fail", "".join(traceback.format_exception(*err)))

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, "error", "".join(traceback.format_exception(*err)))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, "skip", reason)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.addFailure(test, err)


def substitute() -> list[int]:
    """Put `FrontServer` in the place of Tornado's; return a list whose item counts requests."""
    from greentor.serving.answer import Answer
    from greentor.serving.front_server import FrontServer

    HTTPServer.configure(FrontServer)
    count = [0]
    plain = Answer.__init__

    def counted(self: Answer, *args: Any) -> None:
        count[0] += 1
        plain(self, *args)

    Answer.__init__ = counted  # type: ignore[method-assign]
    return count


def main() -> None:
    """Run the tests as the command line says; write what was seen."""
    server, loop, result, *patterns = sys.argv[1:]
    count = substitute() if server == "front" else [0]
    if loop == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    # As in Tornado's own runner: logs that a test does not expect are a failure.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{pattern}*" for pattern in patterns] or None
    names = [f"tornado.test.{name}" for name in MODULES]
    recorder = Recorder()
    for name in names:
        if importlib.util.find_spec(name) is not None:
            loader.loadTestsFromName(name).run(recorder)
    seen = {"outcomes": recorder.outcomes, "answers": count[0]}
    Path(result).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
