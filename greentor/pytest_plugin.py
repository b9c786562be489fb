"""The pytest plugin: brings pytest-django's ``db``, pytest-tornado's client and greenlets together.

- Under ``db`` requests join the transaction of the test; under ``transactional_db`` they run on the pool.
- The body of an ``async def`` test, or of one marked ``gen_test``, runs in a greenlet, on whatever loop it
  is given: it may use the ORM.
- ``greentor_leaks``: a fixture that fails a test which leaves a greenlet, a scope or a connection behind;
  used by all tests with ``greentor_leaks = true`` in the ini-file.

Invariant: neither Django nor a part of greentor that needs it is imported here, and nothing is done unless
the session has loaded them. pytest-django and pytest-tornado need not be installed.
"""

from __future__ import annotations

import functools
import inspect
import sys
import unittest
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import pytest

_uses_db = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "greentor_leaks",
        "Fail each test that leaves a greenlet, a scope or a pooled connection behind.",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "greentor_may_leak: what the test leaves behind is no concern of greentor_leaks.",
    )


def _is_loaded() -> bool:
    """Tell whether Django uses greentor in this session."""
    return "greentor.db.seams" in sys.modules


# --- the database -----------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    result = yield
    if _is_loaded():
        if fixturedef.argname == "_django_db_helper":  # behind ``db`` and the mark
            request.node.stash[_uses_db] = True
            _share(fixturedef, request)
        elif fixturedef.argname == "io_loop":
            _close_with(fixturedef, result)
    return result


def _share(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Have requests join the transaction that the fixture has opened; stop them before it tidies up."""
    from django.db import connections

    from greentor.testing.join import joined
    from greentor.testing.leaks import stopping

    cls = getattr(request, "cls", None)
    if cls is not None and issubclass(cls, unittest.TestCase):
        return  # it opens its transaction by itself, and later
    join = any(connections[alias].in_atomic_block for alias in connections)
    stack = ExitStack()
    stack.enter_context(joined() if join else stopping())
    fixturedef.addfinalizer(stack.close)


def _close_with(fixturedef: pytest.FixtureDef[Any], io_loop: Any) -> None:
    """End what the test has left on its loop, and the pools, before the fixture closes the loop."""
    from greentor.testing.leaks import close_loop, watching

    stack = ExitStack()
    stack.enter_context(watching())
    stack.callback(close_loop, io_loop.asyncio_loop)
    fixturedef.addfinalizer(stack.close)


# --- the body of the test ---------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    if not (_is_loaded() and _is_asynchronous(item) and _may_use_db(item)):
        return (yield)
    assert isinstance(item, pytest.Function)
    original = item.obj
    item.obj = _in_greenlet(original, item.name)
    try:
        return (yield)
    finally:
        item.obj = original


def _is_asynchronous(item: pytest.Item) -> bool:
    """Tell whether the test is a function that some plugin runs on an event loop."""
    if not isinstance(item, pytest.Function):
        return False
    if item.cls is not None and issubclass(item.cls, unittest.TestCase):
        return False
    return inspect.iscoroutinefunction(item.obj) or item.get_closest_marker("gen_test") is not None


def _may_use_db(item: pytest.Item) -> bool:
    """Tell whether the test has the database, or is to be told by pytest-django that it has not."""
    if item.stash.get(_uses_db, False):
        return True
    module = sys.modules.get("pytest_django.plugin")
    key = getattr(module, "blocking_manager_key", None)
    blocker = item.config.stash.get(key, None) if key is not None else None
    return blocker is not None and bool(blocker.is_active)


def _in_greenlet(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    from greentor.testing.join import run_body

    call = fn
    if inspect.isgeneratorfunction(fn):
        from greentor.web.coroutines import stepped

        call = stepped(fn, fn)

    @functools.wraps(fn)
    async def body(*args: Any, **kwargs: Any) -> Any:
        return await run_body(name, call, *args, **kwargs)

    return body


# --- leaks ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _greentor_leaks(request: pytest.FixtureRequest) -> None:
    if request.config.getini("greentor_leaks"):
        request.getfixturevalue("greentor_leaks")


@pytest.fixture
def greentor_leaks(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail a test that leaves a greenlet, a scope or a connection of a pool behind.

    It is judged when the test's server and client are closed, and before its loop and its transaction
    are. What is about to end has a second for it.
    """
    if request.node.get_closest_marker("greentor_may_leak"):
        yield
        return
    if "_django_db_helper" in request.fixturenames or request.node.get_closest_marker("django_db"):
        request.getfixturevalue("_django_db_helper")
    if "io_loop" in request.fixturenames:
        request.getfixturevalue("io_loop")
    from greentor.testing.leaks import Leaked, assert_no_leaks

    message = ""
    try:
        with assert_no_leaks():
            yield
    except Leaked as leaked:
        message = str(leaked)
    if message:
        pytest.fail(message, pytrace=False)
