"""`greentor.testing.TestCase` and `TransactionTestCase`: Django's, with a server."""

import asyncio
import unittest

import pytest
from django.db import connection, transaction
from tornado.escape import json_decode
from tornado.httpclient import HTTPClientError
from tornado.web import Application

import greentor
from greentor import testing
from greentor.db.pools import current_pools
from greentor.testing import leaks
from greentor.web import BaseRequestHandler
from tests.testapp.models import Author


class Authors(BaseRequestHandler):
    def get(self):
        self.write({"names": names()})

    async def post(self):
        with transaction.atomic():
            author = await Author.objects.acreate(name=self.get_argument("name"))
            transaction.on_commit(lambda: committed.append(author.name))
            await asyncio.sleep(float(self.get_argument("seconds", "0")))


class Pools(BaseRequestHandler):
    def get(self):
        Author.objects.count()
        self.write({"lent": [pool.in_use for pool in current_pools()]})


committed = []


def names(using="default"):
    authors = Author.objects.using(using).order_by("pk")
    return list(authors.values_list("name", flat=True))


def rows(mariadb, base="greentor"):
    return [row["name"] for row in mariadb.execute(f"SELECT name FROM {base}.testapp_author")]


class Served:
    def get_app(self):
        return Application([("/authors", Authors), ("/pools", Pools)])

    def fetch_json(self, path):
        return json_decode(self.fetch(path, raise_error=True).body)


class Joined(Served, testing.TestCase):
    """These run as they are: each would fail if a test before it had left something."""

    databases = ("default", "other")

    @classmethod
    def setUpTestData(cls):
        Author.objects.all().delete()  # what tests in other files have committed
        cls.author = Author.objects.create(name="of the class")
        Author.objects.using("other").all().delete()
        Author.objects.using("other").create(name="there")

    def setUp(self):  # without super()
        Author.objects.create(name="of setUp")

    def test_request_sees_what_the_class_and_the_test_have_made(self):
        with self.assertNumQueries(1):
            answer = self.fetch_json("/authors")
        assert answer == {"names": ["of the class", "of setUp"]}

    def test_test_sees_what_a_request_has_written(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            assert self.fetch("/authors", method="POST", body="name=Emma").code == 200
        assert len(callbacks) == 1
        assert committed.pop() == "Emma"
        assert names() == ["of the class", "of setUp", "Emma"]

    def test_pool_has_no_part_in_it(self):
        assert self.fetch_json("/pools") == {"lent": []}

    async def test_async_test_runs_in_a_greenlet(self):
        with transaction.atomic():
            await Author.objects.acreate(name="of the test")
            answer = self.fetch_json("/authors")
        assert answer == {"names": ["of the class", "of setUp", "of the test"]}
        assert names("other") == ["there"]

    def test_answers_of_errors_are_returned_or_raised(self):
        assert self.fetch("/nowhere").code == 404
        with pytest.raises(HTTPClientError):
            self.fetch(self.get_url("/nowhere"), raise_error=True)


class Real(Served, testing.TransactionTestCase):
    def setUp(self):
        Author.objects.all().delete()

    def test_requests_run_on_the_pool_and_commit(self):
        Author.objects.create(name="of the test")
        assert self.fetch("/authors", method="POST", body="name=Emma").code == 200
        assert committed.pop() == "Emma"
        assert self.fetch_json("/pools") == {"lent": [1]}
        assert names() == ["of the test", "Emma"]

    async def test_async_test_has_a_scope_of_its_own(self):
        Author.objects.create(name="of the test")
        with transaction.atomic():
            Author.objects.create(name="not committed")
            assert self.fetch_json("/authors") == {"names": ["of the test"]}


class WithoutServer(testing.TestCase):
    def test_fetch_says_what_is_missing(self):
        with pytest.raises(TypeError, match=r"WithoutServer has no get_app\(\)"):
            self.fetch("/")

    async def test_needs_none(self):
        assert (await Author.objects.acreate(name="x")).pk


# --- what failing tests say and leave ---------------------------------------------------------


def run(cls):
    """Run a TestCase by unittest and return its problems by the names of the tests."""
    cls.__test__ = True
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(cls).run(result)
    return {test.id().rpartition(".")[2]: text for test, text in result.failures + result.errors}


@pytest.mark.usefixtures("clean_tables")
def test_tests_that_fail_say_where_and_leave_nothing(mariadb, caplog):
    class Failing(Served, testing.TestCase):
        @classmethod
        def setUpTestData(cls):
            Author.objects.create(name="of the class")

        def test_a_fails(self):
            self.fetch("/authors", method="POST", body="name=a")
            self.fail("on purpose")

        async def test_b_fails_in_async_code(self):
            with transaction.atomic():
                self.fetch("/authors", method="POST", body="name=b")
                self.fail("on purpose")

        async def test_c_takes_too_long(self):
            with transaction.atomic():
                await Author.objects.acreate(name="c")
                await asyncio.sleep(100)

        def test_d_passes(self):
            assert names() == ["of the class"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASYNC_TEST_TIMEOUT", "0.2")
        problems = run(Failing)
    assert list(problems) == [
        "test_a_fails", "test_b_fails_in_async_code", "test_c_takes_too_long",
    ]  # fmt: skip
    for name in ("test_a_fails", "test_b_fails_in_async_code"):
        assert 'self.fail("on purpose")' in problems[name]
        assert "greentor/testing/cases.py" not in problems[name]
    assert "TimeoutError" in problems["test_c_takes_too_long"]
    assert rows(mariadb) == []
    assert not connection.in_atomic_block


@pytest.mark.usefixtures("clean_tables")
def test_what_a_test_leaves_behind_is_its_failure(mariadb, monkeypatch):
    monkeypatch.setattr(leaks, "GRACE", 0.02)

    class Leaking(Served, testing.TestCase):
        def test_a_client_gives_up(self):
            with pytest.raises(HTTPClientError):
                body = "name=x&seconds=100"
                self.fetch("/authors", method="POST", body=body, request_timeout=0.1)

        def test_b_finds_nothing_of_it(self):
            assert names() == []

    class Allowed(Leaking):
        check_leaks = False

    assert run(Allowed) == {}
    problems = run(Leaking)
    assert list(problems) == ["test_a_client_gives_up"]
    assert "the greenlet of 'POST /authors', parked in Authors.post (" in problems.popitem()[1]
    assert rows(mariadb) == []


@pytest.mark.usefixtures("clean_tables")
def test_transaction_that_is_left_open_does_not_hold_up_the_flush(mariadb, monkeypatch):
    monkeypatch.setattr(leaks, "GRACE", 0.02)

    class Leaking(Served, testing.TransactionTestCase):
        def test_leaves_a_transaction(self):
            def parks():
                with transaction.atomic():
                    Author.objects.create(name="x")
                    greentor.sleep(100)

            async def begin():
                greentor.spawn(parks)
                await asyncio.sleep(0.1)

            self._runner.run(begin())

    (text,) = run(Leaking).values()
    assert "the spawned task" in text
    assert "a connection of 'default', held by" in text
    assert rows(mariadb) == []


@pytest.mark.usefixtures("clean_tables")
def test_get_app_that_fails_is_an_error_of_the_test():
    class Broken(testing.TestCase):
        def get_app(self):
            raise LookupError("no application")

        def test_x(self):
            raise AssertionError("not reached")

    assert "LookupError: no application" in run(Broken)["test_x"]
    assert not connection.in_atomic_block
