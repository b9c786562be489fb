"""Django's request signals, which are not sent where only Django listens, to no purpose."""

import pytest
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.core.signals import request_finished, request_started
from django.db import OperationalError, connection, connections
from django.test import override_settings

from greentor.web import BaseRequestHandler, drain, signals
from tests.test_web import serving
from tests.testapp.models import Author

pytestmark = pytest.mark.usefixtures("clean_tables")

closed = []


class ClosingCache(LocMemCache):
    def close(self, **kwargs):
        closed.append("closed")


class Count(BaseRequestHandler):
    def get(self):
        self.write(str(Author.objects.count()))


@pytest.fixture
def pings(monkeypatch):
    """Count how often Django asks whether a connection still works."""
    asked = []
    wrapper = type(connections["default"])
    usable = wrapper.is_usable
    monkeypatch.setattr(wrapper, "is_usable", lambda self: asked.append(self) or usable(self))
    return asked


def test_nothing_is_sent_if_only_django_listens(run, monkeypatch):
    sent = []
    for signal in (request_started, request_finished):
        monkeypatch.setattr(signal, "send", lambda sender: sent.append(sender))

    async def main():
        async with serving(Count) as served:
            await served.get()

    run(main)
    assert sent == []


def test_receiver_connected_between_two_requests_hears_the_next_ones(run):
    heard = []

    def receiver(signal, sender, **kwargs):
        heard.append(("started" if signal is request_started else "finished", sender))

    async def main():
        async with serving(Count) as served:
            await served.get()
            for signal in (request_started, request_finished):
                signal.connect(receiver)
            try:
                await served.get()
                assert await drain(5) == 0
            finally:
                for signal in (request_started, request_finished):
                    signal.disconnect(receiver)
            await served.get()

    run(main)
    assert heard == [("started", Count), ("finished", Count)]


def test_connection_that_has_failed_is_looked_at_by_django(run, pings):
    class Failing(BaseRequestHandler):
        def get(self):
            with pytest.raises(OperationalError), connection.cursor() as cursor:
                cursor.execute("SET SESSION no_such_variable = 1")

    async def main():
        async with serving(Failing) as served:
            await served.get()
            assert await drain(5) == 0

    run(main)
    assert len(pings) == 1


def test_connection_that_is_well_is_not(run, pings):
    async def main():
        async with serving(Count) as served:
            await served.get()
            assert await drain(5) == 0

    run(main)
    assert pings == []


def test_cache_that_has_something_to_close_is_closed(run):
    class Cached(BaseRequestHandler):
        def get(self):
            self.write(str(cache.get("nothing")))

    async def main():
        async with serving(Cached) as served:
            await served.get()
            assert await drain(5) == 0

    closed.clear()
    with override_settings(CACHES={"default": {"BACKEND": f"{__name__}.ClosingCache"}}):
        run(main)
    assert closed == ["closed"]
    run(main)
    assert closed == ["closed"]


def test_cache_that_is_misnamed_and_not_used_harms_nobody(run, caplog):
    async def main():
        async with serving(Count) as served:
            await served.get()
            assert await drain(5) == 0

    with override_settings(CACHES={"default": {"BACKEND": "no.such.Cache"}}):
        run(main)
    assert "request_finished" not in caplog.text


def test_names_are_those_of_djangos_receivers():
    import django.core.handlers.base  # noqa: F401  (connects one of them)

    for signal, names in (
        (request_started, signals._STARTED),
        (request_finished, signals._FINISHED),
    ):
        assert {signals._name(entry) for entry in signal.receivers} == names
