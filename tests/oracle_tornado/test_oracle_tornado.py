"""Tornado's own tests of HTTP pass on `FrontServer` as they do on Tornado's server.

`make oracle` has all of its tests, on both loops.
"""

import importlib.util

import pytest

from tests.oracle_tornado.__main__ import compare


@pytest.mark.skipif(
    importlib.util.find_spec("tornado.test") is None,
    reason="Tornado is installed without its tests",
)
def test_no_test_of_tornados_fails_on_the_front_alone() -> None:
    assert compare("asyncio", ["httpserver_test", "http1connection_test", "websocket_test"]) == 0
