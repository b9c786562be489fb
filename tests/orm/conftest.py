"""Fixtures of these tests: nothing lent is left behind, whatever the test did."""

import pytest
from django.conf import settings
from django.db import connections

from tests.orm.support import returned


@pytest.fixture
def run(run):
    """As `run`, and at the end every pool has got everything back."""

    def run_and_count(fn, *args, **kwargs):
        async def main():
            result = await fn(*args, **kwargs)
            await returned()
            return result

        try:
            return run(main)
        finally:
            connections.close_all()  # what the test did outside the loop

    return run_and_count


@pytest.fixture
def pool_options(monkeypatch):
    """Return a function that sets the pool's options of a database."""

    def set_options(alias="default", **options):
        monkeypatch.setitem(settings.DATABASES[alias]["OPTIONS"], "pool", options)

    return set_options


@pytest.fixture
def pool_of_one(pool_options):
    """With one connection in all, whoever opens a second waits for it in vain."""
    for alias in connections:
        pool_options(alias, pool_size=1, max_overflow=0, pool_timeout=2)
