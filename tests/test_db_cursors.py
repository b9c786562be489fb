"""The short way of a usual statement: what it leaves out, and who is on the long one."""

import functools
import inspect
import re

import pymysql
import pytest
from django.apps import apps
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.db.backends.utils import CursorWrapper
from django.db.transaction import TransactionManagementError
from pymysql.cursors import Cursor

import greentor
from greentor import green, recording
from greentor.db.mysql.upstream import base as mysql
from greentor.db.recorded import Recorded
from greentor.drivers.cursors import BufferedCursor
from greentor.patched import original
from tests.test_seams import called_on_self
from tests.testapp.models import Author

pytestmark = pytest.mark.usefixtures("clean_tables")


def test_upstream_methods_that_a_usual_statement_passes_by_do_what_is_done_in_their_place():
    assert called_on_self(CursorWrapper.execute) == ["_execute_with_wrappers"]
    wrappers = inspect.getsource(CursorWrapper._execute_with_wrappers)
    assert "for wrapper in reversed(self.db.execute_wrappers):" in wrappers
    execute = inspect.getsource(CursorWrapper._execute)
    body = execute[execute.index("if not apps.ready") :]
    assert re.findall(r"self\.\w+(?:\.\w+)*", body) == [
        "self.APPS_NOT_READY_WARNING_MSG",
        "self.db.validate_no_broken_transaction",
        "self.db.wrap_database_errors",
        "self.cursor.execute",
        "self.cursor.execute",
    ]


@pytest.mark.parametrize(
    ("sql", "error", "code"),
    [
        ("INSERT INTO testapp_author (id, name) VALUES (1, NULL)", IntegrityError, 1048),
        ("SELECT nothing FROM nowhere", ProgrammingError, 1146),
        ("SELECT nothing", OperationalError, 1054),
        (
            "INSERT INTO testapp_author (id, name) VALUES (99999999999999999999, '')",
            DataError,
            1264,
        ),
    ],
)
def test_statement_that_fails_raises_as_in_a_thread(run, sql, error, code):
    def fail():
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql)
            except DatabaseError as exc:
                return type(exc), exc.args, type(exc.__cause__), connection.errors_occurred
        raise AssertionError(sql)

    @green
    def in_greenlet():
        return fail()

    inside = run(in_greenlet)
    assert inside[0] is error
    assert inside[1][0] == code
    assert inside == fail()
    connection.close()


def test_statement_in_a_broken_transaction_is_refused_before_it_is_sent(run, mariadb):
    @green
    def main():
        with transaction.atomic():
            Author.objects.create(name="first")
            with connection.cursor() as cursor:
                transaction.set_rollback(True)
                sent = connection.connection._next_seq_id, cursor.cursor.cursor._executed
                with pytest.raises(TransactionManagementError):
                    cursor.execute("SELECT 1")
                assert (connection.connection._next_seq_id, cursor.cursor.cursor._executed) == sent

    run(main)


def test_cursor_that_was_opened_outside_greenlets_is_refused_in_one_before_it_blocks_the_loop(run):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        sent = cursor.cursor.cursor._executed

        @green
        def main():
            with pytest.raises(DatabaseError, match="was opened outside greenlets"):
                cursor.execute("SELECT 2")

        run(main)
        assert cursor.cursor.cursor._executed == sent
        cursor.execute("SELECT 3")
        assert cursor.fetchone() == (3,)
    connection.close()


@pytest.mark.parametrize(
    "who",
    [
        "execute_wrapper",
        "recorder",
        "hold",
        "not ready",
        "execute",
        "_execute",
        "_execute_with_wrappers",
    ],
)
def test_who_is_to_see_a_statement_sees_it(run, monkeypatch, who):
    seen = []

    def patch(cls, name):
        method = getattr(cls, name)

        @functools.wraps(method)
        def seeing(self, sql, *args, **kwargs):
            seen.append(sql)
            return method(self, sql, *args, **kwargs)

        monkeypatch.setattr(cls, name, seeing)

    @green
    def main():
        with connection.cursor() as cursor:
            patch(Recorded, "_execute")  # which is on the long way only
            cursor.execute("SELECT 1")
            assert seen == []
            if who in ("execute", "_execute", "_execute_with_wrappers"):
                monkeypatch.undo()
                patch(CursorWrapper, who)  # as a tracer does, or a cache
                cursor.execute("SELECT 2")
            elif who == "execute_wrapper":
                with connection.execute_wrapper(lambda execute, *args: execute(*args)):
                    cursor.execute("SELECT 2")
            elif who == "recorder":
                recording.start()
                try:
                    cursor.execute("SELECT 2")
                finally:
                    recording.stop()
            elif who == "not ready":
                monkeypatch.setattr(apps, "ready", False)
                with pytest.warns(RuntimeWarning, match="during app initialization"):
                    cursor.execute("SELECT 2")
            assert cursor.fetchall() == (((1 if who == "hold" else 2),),)
        if who == "hold":
            connection.close()
            with greentor.hold("transaction"), connection.cursor() as cursor:
                cursor.execute("SELECT 2")

    run(main)
    assert seen == ["SELECT 2"]


class Retrying(mysql.CursorWrapper):
    """A cursor that an engine puts before the driver's, which takes more than that, and tries twice."""

    def __init__(self, cursor, seen):
        super().__init__(cursor)
        self.seen = seen

    def execute(self, query, args=None):
        self.seen.append(query)
        try:
            return super().execute(query, args)
        except pymysql.err.Error:
            self.seen.append("again")
            return super().execute(query, args)

    def fetchone(self):
        self.seen.append("fetchone")
        return self.cursor.fetchone()


def test_cursor_of_an_engine_is_not_passed_by(run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        type(connections["default"]),
        "create_cursor",
        lambda self, name=None: Retrying(self.connection.cursor(), seen),
    )

    @green
    def main():
        connection.ensure_connection()  # with what it asks by itself
        with connection.cursor() as cursor:
            seen.clear()
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
            assert seen == ["SELECT 1", "fetchone"]
            with pytest.raises(ProgrammingError) as caught:
                cursor.execute("SELECT nothing FROM nowhere")
            assert caught.value.args[0] == 1146
            assert seen[2:] == ["SELECT nothing FROM nowhere", "again"]

    run(main)


@pytest.mark.parametrize("name", ["execute", "_query", "close", "nextset"])
def test_patched_cursor_of_pymysql_is_not_passed_by(run, monkeypatch, name):
    method = getattr(Cursor, name)
    seen = []

    @functools.wraps(method)
    def seeing(self, *args):
        seen.append(name)
        return method(self, *args)

    @green
    def main():
        with connection.cursor() as cursor:
            assert type(cursor.cursor.cursor) is BufferedCursor
            cursor.execute("SELECT 1")
        assert seen == []
        monkeypatch.setattr(Cursor, name, seeing)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 2")
            assert cursor.fetchone() == (2,)
        assert seen

    run(main)


def test_method_that_was_patched_before_it_was_looked_at_is_nobodys_original(monkeypatch):
    assert original(Cursor, "execute") is Cursor.execute
    monkeypatch.setattr(Cursor, "execute", functools.wraps(Cursor.execute)(lambda *args: None))
    assert original(Cursor, "execute") is None
    monkeypatch.setattr(Cursor, "execute", print)
    assert original(Cursor, "execute") is None
    assert original(BufferedCursor, "nextset") is None  # it is inherited


def test_results_of_a_procedure_are_read_before_the_next_statement(run, mariadb):
    mariadb.execute("DROP PROCEDURE IF EXISTS greentor.three")
    mariadb.execute("CREATE PROCEDURE greentor.three() BEGIN SELECT 1; SELECT 2; SELECT 3; END")

    @green
    def main():
        with connection.cursor() as cursor:
            raw = cursor.cursor.cursor
            assert type(raw) is BufferedCursor
            assert isinstance(raw, Cursor)
            cursor.callproc("three")
            assert cursor.fetchall() == ((1,),)
            cursor.execute("SELECT %s + %s", (20, 22))
            assert cursor.fetchall() == ((42,),)
            cursor.callproc("three")
            assert cursor.nextset()
            assert cursor.fetchall() == ((2,),)
        assert raw.connection is None
        with connection.cursor() as cursor:
            cursor.execute("SELECT 4")
            assert cursor.fetchone() == (4,)

    try:
        run(main)
    finally:
        mariadb.execute("DROP PROCEDURE greentor.three")


class Seven(int):
    def __str__(self) -> str:
        return "7 -- seven"


@pytest.mark.parametrize("value", [0, -1, 2**63, True, Seven(7), 1.5, "1' OR 1", b"\x00'", None])
def test_parameters_are_written_as_pymysql_writes_them(run, value):
    @green
    def main():
        connection.ensure_connection()
        mine = connection.connection
        theirs = pymysql.connections.Connection.escape
        assert mine.escape(value) == theirs(mine, value)
        assert mine.escape(value, mine.encoders) == theirs(mine, value, mine.encoders)
        if type(value) is int:
            assert mine.escape(value, {int: lambda *_: "mapped"}) == "mapped"
            mine.encoders = {**mine.encoders, int: lambda *_: "of the application"}
            assert mine.escape(value) == theirs(mine, value)
            assert mine.escape(value, mine.encoders) == "of the application"
            mine._force_close()

    run(main)
