"""Django's test cases with a Tornado server: `TestCase` and `TransactionTestCase`.

Invariants
- Each test has an event loop and a server of its own. They run while `fetch` waits, or for as long as an
  ``async def`` test does; in between, the body of the test is ordinary, blocking Django.
- In a `TestCase` requests join the transaction of the test. In a `TransactionTestCase` they borrow
  connections from the pool and commit.
- What a test leaves behind is named, an error of that test, and stopped before the rollback.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import django.test
from asgiref.sync import AsyncToSync
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port, get_async_test_timeout
from tornado.web import Application

from greentor import bridge
from greentor.testing.join import joined, run_body
from greentor.testing.leaks import assert_no_leaks

__unittest = True  # a failure is reported from the test's own line on


class HTTPTestMixin(django.test.SimpleTestCase):
    """A server for the application of `get_app`, in the manner of Tornado's AsyncHTTPTestCase."""

    #: whether the requests join the test's transaction
    join_requests = False
    #: whether a test that leaves a greenlet, a scope or a connection behind is an error
    check_leaks = True

    http_client: AsyncHTTPClient
    _runner: asyncio.Runner
    _port: int | None = None

    def get_app(self) -> Application | None:
        """Return the application to be served. To be overridden; without it there is no `fetch`."""
        return None

    def get_url(self, path: str) -> str:
        """Return the whole address of a path on the test's server."""
        if self._port is None:
            raise TypeError(
                f"{type(self).__qualname__} has no get_app() that returns an Application"
            )
        return f"http://127.0.0.1:{self._port}{path}"

    def fetch(self, path: str, raise_error: bool = False, **kwargs: Any) -> HTTPResponse:
        """Send a request to the server and return its answer, of whatever status.

        ``path`` may be a whole address. The keyword arguments are those of Tornado's HTTPRequest:
        ``method``, ``body``, ``headers``, ``follow_redirects``... With ``raise_error`` true an answer
        of 400 and above is raised. In an ``async def`` test, too, it is called without ``await``.
        """
        url = path if path.lower().startswith(("http://", "https://")) else self.get_url(path)
        kwargs.setdefault("request_timeout", get_async_test_timeout())
        request = HTTPRequest(url, **kwargs)

        async def send() -> HTTPResponse:
            return await self.http_client.fetch(request, raise_error=raise_error)

        if bridge.in_green():
            return bridge.await_(send())
        return self._runner.run(send())

    # --- the test's life: unittest's own hooks, so that setUp() needs no super() ----------------

    def _callSetUp(self) -> None:
        stack = ExitStack()
        self.addCleanup(stack.close)  # after tearDown() and the cleanups of the test
        if self.join_requests:
            stack.enter_context(joined())
        self._runner = stack.enter_context(asyncio.Runner())
        if self.check_leaks:
            stack.enter_context(assert_no_leaks())
        app = self.get_app()
        if app is not None:
            self._runner.run(self._serve(app, stack))
        super()._callSetUp()  # type: ignore[misc]

    async def _serve(self, app: Application, stack: ExitStack) -> None:
        self.http_client = AsyncHTTPClient(force_instance=True)
        sock, self._port = bind_unused_port()
        server = HTTPServer(app)
        server.add_socket(sock)
        stack.callback(lambda: self._runner.run(server.close_all_connections()))
        stack.callback(server.stop)
        stack.callback(self.http_client.close)

    def _callTestMethod(self, method: Callable[[], Any]) -> None:
        # Django has wrapped an async method, to run it on a loop of its own.
        fn = method.awaitable if isinstance(method, AsyncToSync) else method
        if inspect.iscoroutinefunction(fn):
            body = run_body(self.id(), fn)
            self._runner.run(asyncio.wait_for(body, get_async_test_timeout()))
        else:
            super()._callTestMethod(method)  # type: ignore[misc]


class TestCase(HTTPTestMixin, django.test.TestCase):
    """Django's TestCase, whose transaction the requests to its server join.

    The handler sees the rows of the test before they are committed, the test sees the handler's, and all
    is rolled back. ``assertNumQueries`` and ``captureOnCommitCallbacks`` count what handlers do.
    """

    join_requests = True


class TransactionTestCase(HTTPTestMixin, django.test.TransactionTestCase):
    """Django's TransactionTestCase: requests run as in production, on the pool, and commit."""
