"""Test handlers together with the database: the requests of a test join its transaction.

For unittest and ``manage.py test``: `TestCase`, `TransactionTestCase`. For pytest the plugin
`greentor.pytest_plugin` does the same under pytest-django's ``db``. See docs/testing.md.

The names are imported when they are asked for: of these modules `leaks` alone does without Django.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greentor.testing.cases import TestCase, TransactionTestCase
    from greentor.testing.join import JoinedConnectionBusy, joined
    from greentor.testing.leaks import Leaked, assert_no_leaks

__all__ = [
    "JoinedConnectionBusy",
    "Leaked",
    "TestCase",
    "TransactionTestCase",
    "assert_no_leaks",
    "joined",
]

_HOME = {
    "JoinedConnectionBusy": "join",
    "Leaked": "leaks",
    "TestCase": "cases",
    "TransactionTestCase": "cases",
    "assert_no_leaks": "leaks",
    "joined": "join",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
