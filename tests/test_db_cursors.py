"""The short way of a usual statement: what it leaves out, and who is on the long one."""

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
    transaction,
)
from django.db.backends.utils import CursorWrapper
from django.db.transaction import TransactionManagementError
from pymysql.cursors import Cursor

import greentor
from greentor import green, recording
from greentor.drivers.cursors import BufferedCursor
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


@pytest.mark.parametrize("who", ["execute_wrapper", "recorder", "hold", "not ready"])
def test_who_is_to_see_a_statement_sees_it(run, monkeypatch, who):
    seen = []
    monkeypatch.setattr(
        CursorWrapper,
        "_execute_with_wrappers",
        lambda self, *args, _was=CursorWrapper._execute_with_wrappers, **kwargs: (
            seen.append(args[0]) or _was(self, *args, **kwargs)
        ),
    )

    @green
    def main():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert seen == []
            if who == "execute_wrapper":
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
        assert mine.escape(value) == pymysql.connections.Connection.escape(mine, value)
        if type(value) is int:
            assert mine.escape(value, {int: lambda *_: "mapped"}) == "mapped"
            mine.encoders = {**mine.encoders, int: lambda *_: "of the application"}
            assert mine.escape(value) == "of the application"
            mine._force_close()

    run(main)
