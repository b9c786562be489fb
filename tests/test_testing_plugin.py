"""The pytest plugin in the projects of others: the example of docs/testing.md, and what may go wrong.

Each project is written to a directory of its own and tested by a pytest of its own.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "testing.md"


def blocks():
    """Return the files that the document consists of: their text by their path."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(r"^```(?:python|ini)\n# (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request):
    """Return what the settings of a project say of its database, if not what the document says."""
    if request.param == "sqlite":
        return ""
    server = request.getfixturevalue("mariadb")
    settings = {
        "ENGINE": "greentor.db.mysql",
        "NAME": "shop",
        "HOST": server.host,
        "PORT": server.port,
        "USER": server.user,
        "PASSWORD": server.password,
        "OPTIONS": {"ssl_disabled": True},
    }
    return f"DATABASES = {{'default': {settings!r}}}\n"


@pytest.fixture
def project(pytester, monkeypatch):
    """Write the document's project; return `project(**files)`, which runs pytest in it."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    for path, text in blocks().items():
        pytester.path.joinpath(path).parent.mkdir(exist_ok=True)
        pytester.path.joinpath(path).write_text(text, encoding="utf-8")
    pytester.path.joinpath("shop/__init__.py").touch()

    def run(*arguments, **modules):
        for name, text in modules.items():
            pytester.path.joinpath(f"{name}.py").write_text(textwrap.dedent(text))
        names = [f"{name}.py" for name in modules if name.startswith("test")]
        return pytester.runpytest_subprocess("-p", "no:randomly", *names, *arguments)

    return run


# --- the example ------------------------------------------------------------------------------


def test_example_of_the_documentation_passes(project, pytester, database):
    with pytester.path.joinpath("shop/settings.py").open("a") as settings:
        settings.write(database)
    found = project("tests/test_books.py", "shop/tests.py")
    found.assert_outcomes(passed=10)
    assert "Error" not in found.stdout.str()


def test_example_passes_under_manage_py_test(project, pytester, database):
    with pytester.path.joinpath("shop/settings.py").open("a") as settings:
        settings.write(database)
    command = [sys.executable, "-W", "error", "-m", "django", "test", "--noinput"]
    ended = subprocess.run(
        [*command, "--settings", "shop.settings", "--pythonpath", "."],
        cwd=pytester.path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Ran 4 tests" in ended.stderr


# --- what goes wrong --------------------------------------------------------------------------

HEAD = """
    import asyncio

    import greentor
    import pytest
    from shop.models import Book

"""


def test_test_without_the_mark_gets_the_error_of_pytest_django(project):
    found = project(
        test_x=HEAD
        + """
    def test_sync():
        Book.objects.count()

    @pytest.mark.gen_test
    async def test_async():
        Book.objects.count()

    @pytest.mark.gen_test
    async def test_handler(http_client, base_url):
        assert (await http_client.fetch(base_url + "/books/", raise_error=False)).code == 500
        assert False, "to see the log"
    """
    )
    found.assert_outcomes(failed=3)
    assert (
        len(
            re.findall(
                "^(?:E +)?RuntimeError: Database access not allowed", found.stdout.str(), re.M
            )
        )
        == 3
    )


def test_tests_that_fail_and_tests_that_pass_leave_no_rows(project):
    found = project(
        test_x=HEAD
        + """
    pytestmark = pytest.mark.gen_test

    @pytest.mark.parametrize("fails", [True, False, True, False])
    async def test_rows(db, http_client, base_url, fails):
        assert Book.objects.count() == 0
        await http_client.fetch(base_url + "/books/", method="POST", body="name=x")
        assert Book.objects.count() == 1
        assert not fails

    @pytest.mark.parametrize("fails", [True, False, True, False])
    async def test_commits(transactional_db, http_client, base_url, fails):
        assert Book.objects.count() == 0
        await http_client.fetch(base_url + "/books/", method="POST", body="name=x")
        assert not fails

    @pytest.mark.django_db
    def test_none():
        assert Book.objects.count() == 0
    """
    )
    found.assert_outcomes(passed=5, failed=4)
    found.stdout.fnmatch_lines(["*assert not True"])


def test_leak_fails_its_test_and_no_other(project):
    found = project(
        test_x=HEAD
        + """
    def poll():
        Book.objects.count()
        greentor.sleep(100)

    async def leak():
        greentor.spawn(poll)
        await asyncio.sleep(0.1)

    pytestmark = pytest.mark.gen_test

    async def test_leaks(transactional_db):
        await leak()

    async def test_leaks_joined(db):
        await leak()

    @pytest.mark.greentor_may_leak
    async def test_may_leak(transactional_db):
        await leak()

    async def test_clean(transactional_db):
        assert Book.objects.count() == 0
    """
    )
    found.assert_outcomes(passed=4, errors=2)
    found.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leaks_joined*",
            "the test has left behind:",
            "- the spawned task 'poll', parked in poll (*test_x.py:11)",
            "*ERROR at teardown of test_leaks *",
            "the test has left behind:",
            "- the spawned task 'poll', parked in poll (*test_x.py:11)",
            "- a connection of 'default', held by 'poll'",
        ]
    )


# --- other plugins, or none -------------------------------------------------------------------


def test_body_is_in_a_greenlet_whoever_runs_it(project):
    found = project(
        "-p", "no:tornado",
        conftest="""
    import asyncio
    import inspect
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(pyfuncitem):
        if inspect.iscoroutinefunction(pyfuncitem.obj):
            names = pyfuncitem._fixtureinfo.argnames
            asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
            return True
    """,
        test_x=HEAD
        + """
    async def test_joined(db):
        Book.objects.create(name="x")
        assert await greentor.spawn(Book.objects.count) == 1
        await asyncio.gather(Book.objects.acreate(name="y"), Book.objects.acreate(name="z"))

    class TestClass:
        async def test_method(self, transactional_db):
            Book.objects.create(name="x")
            assert await greentor.spawn(Book.objects.count) == 1

    @greentor.green
    async def test_green(db):
        assert Book.objects.count() == 0

    @greentor.green
    def test_green_and_sync(db):
        assert Book.objects.count() == 0
    """,
    )  # fmt: skip
    found.assert_outcomes(passed=4)


def test_session_without_django_is_left_alone(pytester, monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(
        """
    import asyncio, sys
    import greentor
    import pytest

    def test_nothing_is_imported():
        assert "greentor.pytest_plugin" in sys.modules
        assert [name for name in sys.modules if name.partition(".")[0] == "django"] == []
        assert "greentor.db" not in sys.modules

    @pytest.mark.gen_test
    async def test_body_is_a_plain_coroutine():
        assert not greentor.in_green()

    @pytest.mark.gen_test
    async def test_leaks(greentor_leaks):
        greentor.spawn(greentor.sleep, 100)
        await asyncio.sleep(0)

    def test_still_nothing():
        assert "django" not in sys.modules
    """
    )
    found = pytester.runpytest_subprocess("-p", "no:django", "-p", "no:randomly")
    found.assert_outcomes(passed=4, errors=1)
    found.stdout.fnmatch_lines(["- the spawned task 'sleep', parked in *"])


def test_works_without_pytest_django(project, pytester):
    pytester.path.joinpath("pytest.ini").write_text(
        "[pytest]\npythonpath = .\ngreentor_leaks = true\n"
    )
    found = project(
        "-p", "no:django",
        conftest="""
    import os
    import django
    import pytest

    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    django.setup()

    from django.core.management import call_command
    from shop.application import make_app

    call_command("migrate", run_syncdb=True, verbosity=0)

    @pytest.fixture
    def app():
        return make_app()
    """,
        test_x=HEAD
        + """
    from greentor.testing import TestCase
    from shop.application import make_app

    @pytest.mark.gen_test
    async def test_handler(http_client, base_url):
        answer = await http_client.fetch(base_url + "/books/")
        assert answer.body == b'{"books": []}'

    class BooksTest(TestCase):
        def get_app(self):
            return make_app()

        def test_joined(self):
            Book.objects.create(name="x")
            assert self.fetch("/books/").body == b'{"books": ["x"]}'
            assert self.fetch("/books/", method="POST", body="name=y").code == 201

        def test_again(self):
            assert self.fetch("/books/").body == b'{"books": []}'
    """,
    )  # fmt: skip
    found.assert_outcomes(passed=3)


# --- the reference application ----------------------------------------------------------------


def test_reference_application_through_the_joined_client(pytester, monkeypatch, database, mariadb):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "app.settings")
    monkeypatch.setenv("DATA_DIR", str(pytester.path))
    if database:
        login = f"{mariadb.user}:{mariadb.password}@{mariadb.host}:{mariadb.port}"
        monkeypatch.setenv("DATABASE_URL", f"mysql://{login}/app")
    else:
        monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\ngreentor_leaks = true\n")
    pytester.makepyfile(
        """
    import asyncio
    import json
    import pytest
    from app.application import make_app
    from app.models import Author, Book, Fortune, World
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    pytestmark = pytest.mark.gen_test

    @pytest.fixture
    def app():
        return make_app()

    @pytest.fixture
    def book(db):
        author = Author.objects.create(name="Frank Herbert")
        for name in ("Dune", "Dune Messiah"):
            book = Book.objects.create(name=name, author=author, published=1965, price="9.99")
        return book

    @pytest.fixture
    def fetch(http_client, base_url):
        return lambda path: http_client.fetch(base_url + path, raise_error=False)

    async def test_list_asks_no_more_for_more_books(book, fetch):
        counts = []
        for name in ("Children of Dune", "God Emperor of Dune"):
            with CaptureQueriesContext(connection) as queries:
                page = await fetch("/books/")
            counts.append(len(queries))
            assert page.code == 200
            assert b"Dune Messiah" in page.body and b"Frank Herbert" in page.body
            Book.objects.create(name=name, author=book.author, published=1976, price="9.99")
        assert counts[0] == counts[1] > 0

    async def test_page_of_a_book(book, fetch):
        page = await fetch(book.get_absolute_url())
        assert page.code == 200
        assert b"Dune Messiah" in page.body

    async def test_unknown_book(book, fetch):
        assert (await fetch(f"/books/detail/{book.pk + 1}")).code == 404

    async def test_fortunes_are_escaped_and_sorted(db, fetch):
        Fortune.objects.create(id=1, message="<script>")
        page = (await fetch("/fortunes")).body.decode()
        assert page.index("&lt;script&gt;") < page.index("Additional fortune")
        assert Fortune.objects.count() == 1

    @pytest.mark.parametrize("transaction", [
        pytest.param(False, marks=pytest.mark.django_db),
        pytest.param(True, marks=pytest.mark.django_db(transaction=True)),
    ])
    async def test_updates_are_seen(fetch, transaction):
        World.objects.bulk_create(World(id=i, randomnumber=0) for i in range(1, World.COUNT + 1))
        answers = await asyncio.gather(*(fetch("/updates?queries=2") for _ in range(3)))
        for answer in answers:
            assert answer.code == 200, answer.body
        last = {row["id"]: row["randomNumber"] for row in json.loads(answers[-1].body)}
        assert World.objects.exclude(randomnumber=0).count() >= 2
    """
    )
    found = pytester.runpytest_subprocess("-p", "no:randomly", "-W", "ignore")
    found.assert_outcomes(passed=6)
