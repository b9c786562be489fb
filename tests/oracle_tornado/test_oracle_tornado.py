"""Tornado's own tests pass on `FrontServer` as they do on Tornado's server."""

import importlib.util

import pytest

from tests.oracle_tornado.__main__ import compare


@pytest.mark.skipif(
    importlib.util.find_spec("tornado.test") is None,
    reason="Tornado is installed without its tests",
)
def test_no_test_of_tornados_fails_on_the_front_alone() -> None:
    assert compare("asyncio") == 0
