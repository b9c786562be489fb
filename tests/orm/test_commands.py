"""Management commands with our ENGINE: from a shell, and called in a greenlet."""

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from greentor import green
from greentor.db.pools import close_pools
from tests.orm.support import Turns, the_pool
from tests.testapp.models import Author, Book

FRESH = "greentor_fresh"


@pytest.fixture
def fresh(mariadb, monkeypatch):
    """`other` is an empty database."""
    mariadb.execute(f"DROP DATABASE IF EXISTS {FRESH}")
    mariadb.create_database(FRESH)
    connections.close_all()
    monkeypatch.setitem(settings.DATABASES["other"], "NAME", FRESH)
    yield
    connections.close_all()
    mariadb.execute(f"DROP DATABASE {FRESH}")


@pytest.fixture(params=["plain", "asyncio", "uvloop"])
def call(request):
    """Return `call(fn)`: run it in a greenlet, where the loop must go on, or without any loop."""
    new_loop = (
        pytest.importorskip(request.param).new_event_loop if request.param != "plain" else None
    )
    if request.param == "plain":
        yield lambda fn: fn()
        connections.close_all()
        return

    def in_greenlet(fn):
        async def main():
            with Turns() as turns:
                result = await green(fn)()
            assert turns.count > 2
            assert the_pool("other").in_use == 0
            close_pools()
            await asyncio.sleep(0)
            return result

        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main())

    yield in_greenlet


def command(name, *args, **kwargs):
    """Call a command on the fresh database and return what it printed."""
    out = io.StringIO()
    call_command(name, *args, stdout=out, **kwargs)
    return out.getvalue()


def tables(mariadb):
    rows = mariadb.execute(
        "SELECT TABLE_NAME AS name FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s", FRESH
    )
    return {row["name"] for row in rows}


def test_migrations_are_applied_shown_and_undone(mariadb, fresh, call):
    def work():
        assert "[ ] 0001_initial" in command("showmigrations", "sessions", database="other")
        command("migrate", database="other", run_syncdb=True, verbosity=0)
        assert "[X] 0001_initial" in command("showmigrations", "sessions", database="other")
        assert "No planned" in command("migrate", database="other", plan=True)
        applied = MigrationRecorder(connections["other"]).applied_migrations()
        command("migrate", "sessions", "zero", database="other", verbosity=0)
        return len(applied)

    assert call(work) > 10
    assert {"auth_user", "testapp_book", "django_migrations"} <= tables(mariadb)
    assert "django_session" not in tables(mariadb)


def test_data_are_dumped_flushed_and_loaded(fresh, call, tmp_path):
    dump = tmp_path / "dump.json"

    def work():
        command("migrate", database="other", run_syncdb=True, verbosity=0)
        author = Author.objects.using("other").create(name="Zoë")
        Book.objects.using("other").create(name="b", author=author, price="1.50")
        command("dumpdata", "testapp", database="other", natural_foreign=True, output=str(dump))
        assert "TRUNCATE" in command("sqlflush", database="other") or "DELETE FROM" in command(
            "sqlflush", database="other"
        )
        command("flush", database="other", interactive=False, verbosity=0)
        assert not Author.objects.using("other").exists()
        command("loaddata", str(dump), database="other", verbosity=0)
        book = Book.objects.using("other").select_related("author").get()
        command("createcachetable", database="other", verbosity=0)
        return book.author.name, str(book.price)

    assert call(work) == ("Zoë", "1.50")
    assert {row["model"] for row in json.loads(dump.read_text())} == {
        "testapp.author",
        "testapp.book",
    }


def test_inspectdb_reads_the_schema(fresh, call):
    def work():
        command("migrate", database="other", run_syncdb=True, verbosity=0)
        return command("inspectdb", "testapp_book", "testapp_cover", database="other")

    source = call(work)
    assert "class TestappBook(models.Model):" in source
    assert "author = models.ForeignKey('TestappAuthor'" in source
    assert "volume = models.OneToOneField('TestappVolume'" in source
    assert "price = models.DecimalField(max_digits=8, decimal_places=2" in source


def test_check_of_a_database_and_creating_a_superuser(django_db_tables, clean_tables, call):
    def work():
        connections["other"].ensure_connection()
        call_command("check", databases=["default", "other"], stdout=io.StringIO())
        call_command(
            "createsuperuser", username="root", email="r@x.org", interactive=False, verbosity=0
        )
        command("sqlmigrate", "sessions", "0001")
        command("clearsessions")
        return get_user_model().objects.get().is_superuser

    assert call(work)


# --- in a process of its own ------------------------------------------------------------------

SETTINGS = """
    SECRET_KEY = "x"
    USE_TZ = True
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    INSTALLED_APPS = ["greentor", "shop"]
    DATABASES = {{
        "default": {{
            "ENGINE": "greentor.db.mysql",
            "NAME": "greentor_shop",
            "OPTIONS": {{"pool": {{"pool_size": 2}}, "charset": "utf8mb4"}},
            **{server!r},
        }}
    }}
"""

MODELS = """
    from django.db import models

    class Item(models.Model):
        name = models.CharField(max_length=100, unique=True)
"""

TESTS = """
    import asyncio

    from django.db import connection
    from django.test import TestCase, TransactionTestCase
    from greentor import green
    from shop.models import Item

    class InATransaction(TestCase):
        @classmethod
        def setUpTestData(cls):
            Item.objects.create(name="there")

        def test_sync(self):
            Item.objects.create(name="a")
            self.assertEqual(Item.objects.count(), 2)
            self.assertTrue(connection.settings_dict["NAME"].startswith("test_greentor_shop"))

        async def test_async(self):
            await Item.objects.acreate(name="a")
            self.assertEqual(await Item.objects.acount(), 2)

    class WithCommits(TransactionTestCase):
        def test_greenlets_see_what_was_committed_in_the_test_database(self):
            Item.objects.create(name="committed")

            async def main():
                return await asyncio.gather(*(green(Item.objects.count)() for _ in range(5)))

            self.assertEqual(asyncio.run(main()), [1] * 5)
"""


@contextmanager
def project(path, mariadb):
    """Write a small project there; yield a function that runs its ``manage.py``."""
    server = {
        "HOST": mariadb.host,
        "PORT": mariadb.port,
        "USER": mariadb.user,
        "PASSWORD": mariadb.password,
    }
    (path / "shop").mkdir()
    files = {
        "shop/__init__.py": "",
        "shop/settings.py": SETTINGS.format(server=server),
        "shop/models.py": MODELS,
        "shop/tests.py": TESTS,
    }
    for name, text in files.items():
        (path / name).write_text(textwrap.dedent(text))
    mariadb.create_database("greentor_shop")

    def manage(*args, text=""):
        """Return the status and the output."""
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "django", *args],
            cwd=path,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": "."},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(text, timeout=60)
        except subprocess.TimeoutExpired:
            # Without tblib a test that fails in a worker of Django's makes it wait for ever.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(output)
        return process.returncode, output

    try:
        yield manage
    finally:
        for name in databases(mariadb):
            mariadb.execute(f"DROP DATABASE {name}")


def databases(mariadb):
    rows = mariadb.execute("SHOW DATABASES LIKE %s", "%greentor_shop%")
    return {name for row in rows for name in row.values()}


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_projects_tests_run_on_a_test_database_that_is_gone_afterwards(
    mariadb, tmp_path, parallel
):
    if parallel > 1 and not (shutil.which("mysqldump") and shutil.which("mysql")):
        pytest.skip("Django clones databases with mysqldump, which is not installed")
    with project(tmp_path, mariadb) as manage:
        status, output = manage("test", "--noinput", f"--parallel={parallel}")
        assert status == 0, output
        assert "Ran 3 tests" in output
        assert "OK" in output
        assert databases(mariadb) == {"greentor_shop"}


def test_makemigrations_and_migrate_from_the_shell(mariadb, tmp_path):
    with project(tmp_path, mariadb) as manage:
        for args in ["makemigrations", "shop"], ["migrate"], ["makemigrations", "--check"]:
            status, output = manage(*args)
            assert status == 0, output
        code = "from shop.models import Item; Item.objects.create(name='a'); print(Item.objects.count())"
        status, output = manage("shell", "-c", code)
        assert (status, output[-2:]) == (0, "1\n"), output


def test_dbshell_is_given_where_the_database_is(mariadb):
    client = connections["default"].client
    args, env = client.settings_to_cmd_args_env(connections["default"].settings_dict, ["-e", "x"])
    assert args[0] == "mysql"
    assert {f"--user={mariadb.user}", f"--host={mariadb.host}", f"--port={mariadb.port}"} < set(
        args
    )
    assert args[-3:] == ["greentor", "-e", "x"]
    assert env == {"MYSQL_PWD": mariadb.password}
    assert not any("password" in arg for arg in args)  # other users see the arguments


@pytest.mark.skipif(shutil.which("mysql") is None, reason="no mysql client is installed")
def test_dbshell_runs(mariadb, tmp_path):
    with project(tmp_path, mariadb) as manage:
        status, output = manage("dbshell", text="SELECT CONCAT('a', DATABASE());\n")
        assert status == 0, output
        assert "agreentor_shop" in output
