"""What `greentor.drivers` relies on of PyMySQL: a new version that has it otherwise fails here."""

import ast
import inspect
from types import ModuleType
from typing import Any

import pymysql
import pytest
from pymysql import converters
from pymysql.connections import Connection, MySQLResult
from pymysql.cursors import Cursor

from greentor.drivers import cursors, exchange, layouts, local_infile, results, rows, upstream
from greentor.drivers import pymysql as driver
from tests.mariadb import MariaDB
from tests.test_seams import called_on_self

MODULES = (driver, exchange, layouts, local_infile, results)


def test_every_name_of_a_connection_exists_and_is_used(mariadb: MariaDB) -> None:
    connection = pymysql.connect(**mariadb.params("greentor"))
    try:
        assert {name for name in upstream.CONNECTION if not hasattr(connection, name)} == set()
    finally:
        connection.close()
    assert names(*MODULES) >= upstream.CONNECTION


def test_every_name_of_a_result_exists_and_is_used() -> None:
    result = MySQLResult(None)
    result.fields, result.converters = [], []
    assert {name for name in upstream.RESULT if not hasattr(result, name)} == set()
    assert names(results) >= upstream.RESULT


def test_every_name_of_a_cursor_exists_and_is_used() -> None:
    cursor = Cursor(None)
    assert {name for name in upstream.CURSOR if not hasattr(cursor, name)} == set()
    assert names(cursors) >= upstream.CURSOR
    used = names(cursors) - {"__init__", "__del__"}
    assert used & private(Cursor) <= upstream.CURSOR


def test_cursor_of_pymysql_executes_as_ours_does() -> None:
    # Ours leaves out the looking for further results where there are none.
    assert called_on_self(Cursor.execute)[:1] == ["nextset"]
    assert set(called_on_self(Cursor.execute)) <= {"nextset", "mogrify", "_mogrify", "_query"}
    assert called_on_self(Cursor._query) == ["_get_db", "_clear_result", "_do_get_result"]
    assert called_on_self(Cursor.close) == ["nextset"]
    assert called_on_self(Cursor.nextset) == ["_nextset"]
    assert "if not current_result.has_next:" in inspect.getsource(Cursor._nextset)


def test_every_private_name_that_is_used_is_listed() -> None:
    used = names(*MODULES)
    theirs = private(Connection) | private(MySQLResult)
    assert used & theirs <= upstream.CONNECTION | upstream.RESULT


def test_result_starts_as_that_of_pymysql() -> None:
    # Ours has class attributes in the place of what PyMySQL's __init__ sets.
    connection = object()
    theirs = vars(MySQLResult(connection))
    ours = results.Result(connection)
    assert {name: getattr(ours, name) for name in theirs} == theirs


@pytest.mark.parametrize("converter", [known for known, _ in rows._FASTER])
def test_converter_that_is_replaced_is_one_of_pymysql(converter: Any) -> None:
    assert converter in converters.decoders.values()


def names(*modules: ModuleType) -> set[str]:
    """Return every attribute of anything, and every function, in the source of the modules."""
    found = set()
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.FunctionDef):
                found.add(node.name)
    return found


def private(cls: type) -> set[str]:
    """Return the private names that a class defines, or that its methods set."""
    found = {name for name in vars(cls) if name.startswith("_") and not name.endswith("__")}
    for node in ast.walk(ast.parse(inspect.getsource(cls))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if name.startswith("_") and not name.endswith("__")}
