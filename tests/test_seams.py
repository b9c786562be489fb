"""The seams into Django and asgiref: what each does, and that upstream still is as they expect."""

import ast
import asyncio
import contextvars
import inspect
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import ClassVar

import asgiref.sync
import django.db.backends.mysql
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import hashers
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.test import override_settings
from django.utils import asyncio as django_asyncio
from greenlet import getcurrent

import greentor
from greentor import green
from greentor.db import handler, seams
from greentor.db.wrapper import CONNECT_ASSIGNS, GreenWrapper
from tests.testapp.models import Author, Book
from tests.waiting import await_until

ROOT = Path(__file__).parent.parent
BACKEND = Path(django.db.backends.mysql.__path__[0])


def assigned_on_self(function) -> set[str]:
    """Return the names of the attributes of `self` that a method assigns."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def called_on_self(function) -> list[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return [
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "self"
    ]


# --- upstream is as the seams expect ----------------------------------------------------------


def test_upstream_connect_assigns_what_a_warm_wrapper_is_given():
    assert assigned_on_self(BaseDatabaseWrapper.connect) == set(CONNECT_ASSIGNS)
    assert set(CONNECT_ASSIGNS) <= assigned_on_self(GreenWrapper._attach)


def test_upstream_connect_calls_what_an_open_connection_does_not_need_again():
    assert called_on_self(BaseDatabaseWrapper.connect) == [
        "check_settings",
        "get_connection_params",
        "get_new_connection",
        "set_autocommit",
        "init_connection_state",
    ]


def test_upstream_close_leaves_it_to_close_to_part_from_the_connection():
    assert "_close" in called_on_self(BaseDatabaseWrapper.close)
    assert assigned_on_self(BaseDatabaseWrapper.close) == {
        "run_on_commit",
        "closed_in_transaction",
        "needs_rollback",
        "connection",
    }


def test_upstream_wrappers_ask_who_uses_them_before_they_send_anything():
    """`GreenWrapper` checks in these two methods alone."""
    for name in ("commit", "rollback", "close", "_prepare_cursor", "savepoint"):
        method = getattr(BaseDatabaseWrapper, name)
        assert "validate_thread_sharing" in called_on_self(method), name
    for name in ("_execute", "_executemany", "callproc"):
        source = inspect.getsource(getattr(CursorWrapper, name))
        assert source.index("validate_no_broken_transaction()") < source.index("self.cursor."), name


def test_upstream_keeps_its_wrappers_on_the_handler_instance():
    source = inspect.getsource(type(connections).__mro__[1])
    assert "self._connections" in source
    assert "self.create_connection(alias)" in source
    assert type(connections._connections) is handler.ConnectionStore
    assert connections.create_connection is handler.create_connection
    from django.db import connection

    assert models.query.connections is connections
    assert connection._connections is connections


def test_upstream_async_unsafe_reads_the_name_that_is_replaced():
    inner = django_asyncio.async_unsafe(lambda: None)
    assert inner.__globals__ is vars(django_asyncio)
    assert "get_running_loop" in inner.__code__.co_names
    assert django_asyncio.get_running_loop is seams.get_running_loop


def test_upstream_asgiref_objects_call_the_method_that_is_replaced():
    assert "__call__" in vars(asgiref.sync.SyncToAsync)
    assert "__call__" in vars(asgiref.sync.AsyncToSync)
    assert asgiref.sync.SyncToAsync.__call__ is seams.sync_to_async_call
    assert asgiref.sync.AsyncToSync.__call__ is seams.async_to_sync_call
    made = sync_to_async(len)
    assert type(made) is asgiref.sync.SyncToAsync
    assert {"func", "_thread_sensitive", "_executor"} <= set(vars(made))

    async def coroutine():
        pass

    made = async_to_sync(coroutine)
    assert type(made) is asgiref.sync.AsyncToSync
    assert {"awaitable", "force_new_loop"} <= set(vars(made))
    for cls in (asgiref.sync.SyncToAsync, asgiref.sync.AsyncToSync):
        assert "self.__call__" in inspect.getsource(cls.__get__)


def test_upstream_hashing_asks_the_name_that_is_replaced():
    names = {
        name
        for function in (hashers.make_password, hashers.verify_password, hashers.identify_hasher)
        for name in function.__code__.co_names
    }
    assert "get_hasher" in names
    assert "get_hasher" in hashers.make_password.__code__.co_names
    assert "get_hasher" in hashers.verify_password.__code__.co_names
    assert hashers.get_hasher.__wrapped__.__module__ == hashers.__name__


def test_upstream_mysql_modules_that_need_mysqldb_are_these_two():
    def imports(path) -> set[str]:
        tree = ast.parse(path.read_text())
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
        return {name.partition(".")[0] for name in names}

    modules = {path.stem for path in BACKEND.glob("*.py") if "MySQLdb" in imports(path)}
    assert modules == {"base", "introspection"}
    for path in BACKEND.glob("*.py"):
        if path.stem != "__init__":
            module = getattr(sys.modules["greentor.db.mysql.django"], path.stem)
            assert (module.__name__ == f"django.db.backends.mysql.{path.stem}") == (
                path.stem not in modules
            )


def test_mysqlclient_stays_what_it_is_installed_or_not():
    program = """
        import sys, types
        if sys.argv[1] == "installed":
            fake = types.ModuleType("MySQLdb")
            sys.modules["MySQLdb"] = fake
        import django
        from django.conf import settings
        settings.configure(
            DATABASES={"default": {"ENGINE": "greentor.db.mysql", "NAME": "x"}},
            INSTALLED_APPS=["greentor"],
        )
        django.setup()
        from django.db import connection
        assert connection.Database.__name__ == "pymysql", connection.Database
        assert connection.introspection.data_types_reverse
        found = [name for name in sys.modules if name.partition(".")[0] == "MySQLdb"]
        if sys.argv[1] == "installed":
            assert found == ["MySQLdb"] and sys.modules["MySQLdb"] is fake
        else:
            assert found == []
        import django.db.backends.mysql.features
        assert isinstance(connection.features, django.db.backends.mysql.features.DatabaseFeatures)
        assert "django.db.backends.mysql.base" not in sys.modules
    """
    for installed in ("installed", "absent"):
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), installed], cwd=ROOT, check=True
        )


def test_a_seam_that_upstream_no_longer_has_is_named(monkeypatch):
    monkeypatch.delattr(django_asyncio, "get_running_loop")
    with pytest.raises(seams.SeamError, match="get_running_loop"):
        seams.probe()


# --- where the ORM may be used ----------------------------------------------------------------


def test_the_orm_is_refused_in_a_coroutine_naming_the_line(run, clean_tables):
    @green
    def make():
        author = Author.objects.create(name="x")
        Book.objects.create(name="book", author=author)

    async def plain():
        await make()
        book = await Book.objects.aget(name="book")
        with pytest.raises(SynchronousOnlyOperation) as caught:
            print(book.author.name)  # a lazy load
        message = str(caught.value)
        assert "print(book.author.name)  # a lazy load" in message
        assert f"{__file__}:" in message
        assert "main" in message  # the coroutine
        assert "greentor.spawn" in message
        with pytest.raises(SynchronousOnlyOperation, match=r"Author\.objects\.count\(\)"):
            Author.objects.count()
        await sync_to_async(connections.close_all)()  # in asgiref's thread, where aget() was

    run(plain)


def test_the_orm_is_refused_in_a_callback_of_the_loop(run, clean_tables):
    async def main():
        outcome = asyncio.get_running_loop().create_future()

        def callback():
            try:
                outcome.set_result(Author.objects.count())
            except BaseException as exc:
                outcome.set_exception(exc)

        asyncio.get_running_loop().call_soon(callback)
        with pytest.raises(SynchronousOnlyOperation, match="callback of the event loop"):
            await outcome

    run(main)


def test_the_orm_is_ordinary_in_a_plain_thread(run, clean_tables):
    seen = {}

    def work():
        try:
            seen["count"] = Author.objects.count()
            seen["stream"] = connections["default"].connection._stream
        finally:
            connections.close_all()

    async def main():
        thread = threading.Thread(target=work)
        thread.start()
        await await_until(lambda: not thread.is_alive())

    run(main)
    assert seen == {"count": 0, "stream": None}


def test_django_allow_async_unsafe_is_respected(clean_tables, monkeypatch):
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def plain():
        return Author.objects.count()

    assert asyncio.run(plain()) == 0
    connections.close_all()


def test_the_async_orm_in_a_plain_coroutine_is_djangos_own(run, clean_tables):
    async def plain():
        threads = set()
        await sync_to_async(lambda: threads.add(threading.get_ident()))()
        assert await Author.objects.acount() == 0
        await sync_to_async(connections.close_all)()
        assert threads != {threading.get_ident()}

    run(plain)


# --- asgiref ----------------------------------------------------------------------------------


def test_thread_sensitive_functions_run_in_the_greenlet_that_awaits_them(run):
    @green
    async def request():
        async def child():
            return await sync_to_async(lambda: (getcurrent(), threading.get_ident()))()

        current, ident = await sync_to_async(lambda: (getcurrent(), threading.get_ident()))()
        assert (current, ident) == (getcurrent(), threading.get_ident())
        helper, ident = await asyncio.create_task(child())
        assert helper is not getcurrent()
        assert ident == threading.get_ident()

    run(request)


@pytest.mark.parametrize("where", ["greenlet", "child task"])
def test_functions_that_are_not_thread_sensitive_run_in_a_thread(run, where):
    @green
    async def request():
        async def ask():
            return await sync_to_async(threading.get_ident, thread_sensitive=False)()

        ident = await (ask() if where == "greenlet" else asyncio.create_task(ask()))
        assert ident != threading.get_ident()

    run(request)


def test_a_cancelled_child_task_does_not_keep_the_turn(run, clean_tables):
    @green
    async def request():
        tasks = [asyncio.create_task(Author.objects.acount()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await asyncio.gather(Author.objects.acount(), Author.objects.acount())

    assert run(request) == [0, 0]


def test_async_to_sync_is_stepped_in_the_greenlet(run):
    @green
    def request():
        async def work(value):
            await asyncio.sleep(0)
            return value, getcurrent(), asyncio.current_task()

        assert async_to_sync(work)(1) == (1, getcurrent(), asyncio.current_task())

        class Worker:
            @async_to_sync
            async def method(self, value):
                return self, value

        worker = Worker()
        assert worker.method(2) == (worker, 2)

        async def fail():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async_to_sync(fail)()

    run(request)


def test_async_to_sync_with_a_loop_of_its_own_runs_in_a_thread(run):
    @green
    async def request():
        async def work():
            return asyncio.get_running_loop(), threading.get_ident()

        loop, ident = async_to_sync(work, force_new_loop=True)()
        assert loop is not asyncio.get_running_loop()
        assert ident != threading.get_ident()

    run(request)


def test_async_to_sync_in_a_coroutine_is_refused_as_ever(run):
    async def main():
        async def work():
            pass

        with pytest.raises(RuntimeError, match="You cannot use AsyncToSync"):
            async_to_sync(work)()

    run(main)


def test_functions_with_a_context_of_their_own_may_park_in_it_together(run):
    """`Context.run` cannot be entered twice, and a parked greenlet is still inside."""
    variable = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, "theirs")

    async def main():
        gate = asyncio.get_running_loop().create_future()
        inside = []

        def work(n):
            inside.append(variable.get())
            if n < 2:
                greentor.await_(asyncio.shield(gate))
            inside.append(variable.get())
            return n

        @green
        async def request(n):
            return await sync_to_async(work, context=context)(n)

        tasks = [asyncio.create_task(request(n)) for n in range(2)]
        await await_until(lambda: len(inside) == 2)
        assert await request(2) == 2
        gate.set_result(None)
        assert await asyncio.gather(*tasks) == [0, 1]
        assert set(inside) == {"theirs"}

    run(main)


def test_a_function_with_a_context_of_its_own_leaves_what_it_sets_there(run):
    variable = contextvars.ContextVar("variable", default="unset")
    context = contextvars.copy_context()

    @green
    async def request():
        def work():
            greentor.sleep(0)
            variable.set("set")

        await sync_to_async(work, context=context)()
        assert variable.get() == "unset"
        assert context[variable] == "set"

    run(request)


def test_a_function_with_a_context_of_its_own_is_on_the_connection_of_its_request(
    run, clean_tables
):
    @green
    async def request():
        def work():
            return connections["default"], Author.objects.count()

        context = contextvars.copy_context()
        other = contextvars.Context()
        for chosen in (context, other):
            wrapper, count = await sync_to_async(work, context=chosen)()
            assert (wrapper, count) == (connections["default"], 0)

    run(request)


# --- passwords --------------------------------------------------------------------------------


class SlowHasher(hashers.PBKDF2PasswordHasher):
    """Takes its time, and notes where it does."""

    iterations = 200_000
    threads: ClassVar[set[int]] = set()

    def encode(self, password, salt, iterations=None):
        self.threads.add(threading.get_ident())
        return super().encode(password, salt, iterations)


def test_passwords_are_hashed_off_the_loop(run):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        @green
        async def request():
            encoded = hashers.make_password("secret")
            assert hashers.check_password("secret", encoded)
            assert not hashers.check_password("wrong", encoded)
            return await hashers.acheck_password("secret", encoded)

        ticker = asyncio.create_task(tick())
        assert await request()
        ticker.cancel()
        assert ticks > 10  # in some 0.3 s
        assert threading.get_ident() not in SlowHasher.threads

    with override_settings(PASSWORD_HASHERS=[f"{__name__}.SlowHasher"]):
        run(main)


def test_outside_greenlets_hashers_are_djangos():
    assert type(hashers.get_hasher()) is hashers.MD5PasswordHasher
    assert hashers.check_password("x", hashers.make_password("x"))
