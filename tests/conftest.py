"""Fixtures for all tests: one private MariaDB, Django on top of it, and event loops to run on.

Django is set up when this file is loaded, so that test modules may import models. The server starts
with the first test that asks for it:

- `mariadb`: the server itself (`tests.mariadb.MariaDB`), with Django's DATABASES pointing at it.
- `mysql_params`: keyword arguments for `pymysql.connect`.
- `django_db_tables`: the tables of `tests.settings`' databases exist.
- `clean_tables`: they exist and are empty.
- `db` and `transactional_db`: pytest-django's, on the same databases; `greentor_leaks`: the library's own.
- `run`: call an `async def` on asyncio, and again on uvloop.
- `io_loop`: the loop of a test under `@pytest.mark.gen_test`.

A module with Tornado tests defines `app`; `http_server`, `http_client` and `base_url` are
pytest-tornado's.
"""

import asyncio
import importlib.util
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import django
import pytest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop

from greentor.selector import new_event_loop
from tests.mariadb import MariaDB
from tests.waiting import await_until

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

KEPT_TABLES = {"auth_permission", "django_content_type", "django_migrations"}


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """Start the server of this session and point Django at it."""
    from django.conf import settings

    with MariaDB() as server:
        for database in settings.DATABASES.values():
            server.create_database(database["NAME"])
            # In place: Django's wrappers and handlers hold these same dictionaries.
            database.update(
                HOST=server.host, PORT=server.port, USER=server.user, PASSWORD=server.password
            )
        yield server


@pytest.fixture
def mysql_params(mariadb: MariaDB) -> dict[str, Any]:
    """Return what `pymysql.connect` takes to reach Django's default database over TCP."""
    return mariadb.params("greentor")


@pytest.fixture(scope="session")
def django_db_tables(mariadb: MariaDB) -> None:
    """Create the tables, in blocking mode."""
    from django.core.management import call_command
    from django.db import connections

    for alias in connections:
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
    connections.close_all()


#: the modules whose tests leave no greenlet, scope or connection behind, which is checked
CLEAN = {
    "test_atomic_requests",
    "test_db_pools",
    "test_db_scope",
    "test_glocal",
    "test_web",
    "test_web_parts",
}


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> None:
    if request.path.stem in CLEAN:
        request.getfixturevalue("greentor_leaks")


#: the modules whose tests run on Tornado's HTTPServer, and again on `FrontServer`
ON_BOTH = {
    "test_web",
    "test_web_admission",
    "test_web_ends",
    "test_web_parts",
    "test_websocket",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        metafunc.fixturenames.append("_http")
        metafunc.parametrize("_http", ["tornado", "httptools"], indirect=True)


@pytest.fixture
def _http(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have every HTTPServer be of this kind."""
    if request.param == "httptools":
        pytest.importorskip("httptools")
        from greentor.serving.front_server import FrontServer

        HTTPServer.configure(FrontServer)
    yield
    HTTPServer.configure(None)


@pytest.fixture(scope="session", autouse=True)
def _database_access(django_db_blocker: Any) -> Iterator[None]:
    """Let tests use the database without pytest-django's mark: most of them empty its tables themselves."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_tables: None) -> None:
    """Have pytest-django's `db` use the databases of the session, instead of creating others."""


@pytest.fixture
def clean_tables(mariadb: MariaDB, django_db_tables: None) -> None:
    """Empty the tables before the test; a lock that another test left behind is an error."""
    from django.conf import settings

    names = [database["NAME"] for database in settings.DATABASES.values()]
    tables = mariadb.execute(
        "SELECT TABLE_SCHEMA AS base, TABLE_NAME AS name FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA IN %s AND TABLE_NAME NOT IN %s",
        names,
        KEPT_TABLES,
    )
    mariadb.execute(
        "SET STATEMENT lock_wait_timeout = 5, innodb_lock_wait_timeout = 5 FOR"
        " BEGIN NOT ATOMIC SET foreign_key_checks = 0; "
        + "".join(f"DELETE FROM `{table['base']}`.`{table['name']}`; " for table in tables)
        + "SET foreign_key_checks = 1; END"
    )


UVLOOP = pytest.param(
    "uvloop",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
    ),
)


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    elif name == "served":
        loop = new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    loop.set_exception_handler(_report)
    return loop


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), pytest.fail.Exception):
        loop.stop()  # pytest-timeout's, in a signal handler: uvloop would report it and go on


@pytest.fixture(params=["asyncio", UVLOOP])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return `run(fn, *args, **kwargs)`: call `async def fn` on a loop that no task outlives."""

    def run(fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        async def main() -> Any:
            before = asyncio.all_tasks()
            result = await fn(*args, **kwargs)

            def left() -> set[asyncio.Task[Any]]:
                return asyncio.all_tasks() - before

            try:  # one that has just been cancelled needs a moment
                await await_until(lambda: not left(), timeout=5)
            except AssertionError:
                pytest.fail(f"tasks are left pending: {left()}")
            return result

        with asyncio.Runner(loop_factory=partial(_new_loop, request.param)) as runner:
            return runner.run(main())

    return run


@pytest.fixture
def io_loop(request: pytest.FixtureRequest) -> Iterator[IOLoop]:
    """Give Tornado tests their loop, as pytest-tornado does, and leave nothing on it.

    It is the one on which `greentor.serving.serve` runs applications.
    For uvloop: `@pytest.mark.parametrize("io_loop", ["asyncio", "uvloop"], indirect=True)`.
    """
    loop = _new_loop(getattr(request, "param", "served"))
    asyncio.set_event_loop(loop)
    io_loop = IOLoop(make_current=False, asyncio_loop=loop)
    yield io_loop
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    io_loop.close(all_fds=True)
    asyncio.set_event_loop(None)
