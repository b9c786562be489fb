"""`StatusHandler`: who sees it, what it shows, and that it neither waits nor leaves anything behind."""

import asyncio
import contextlib
import json
import re

import pytest
from django.contrib.auth import get_user, login
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import HttpRequest
from django.test import override_settings
from django.utils.functional import SimpleLazyObject
from tornado.web import Application, RequestHandler, url
from tornado.websocket import websocket_connect

import greentor
from greentor import recording
from greentor.db.pools import current_pools
from greentor.web import BaseRequestHandler, GreenWebSocketHandler, StatusHandler, feed
from greentor.web.metrics import MetricsHandler
from greentor.web.routes import route_of
from tests.noise import undisturbed
from tests.test_stats import clean_recording  # noqa: F401
from tests.test_web import Served
from tests.waiting import GATE, await_until

pytestmark = pytest.mark.usefixtures("clean_tables", "clean_recording")

PATH = "/-/greentor"
EVENTS = {"Accept": "text/event-stream"}
ACCEPTS = ["text/html,*/*;q=0.8", "text/event-stream", "application/json"]


class Sleep(BaseRequestHandler):
    def get(self, seconds="0"):
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(%s), 'hunter2'", [float(seconds)])


class Gate(BaseRequestHandler):
    def get(self):
        with connection.cursor() as cursor:
            cursor.execute(GATE)


def allow(handler):
    return True


@contextlib.asynccontextmanager
async def serving(permission=allow):
    """Serve the page and `Sleep`; at the end nobody may be left who watches."""
    options = {} if permission is None else {"permission": permission}
    routes = [
        (PATH, StatusHandler, options),
        ("/metrics", MetricsHandler, options),
        ("/sleep/([0-9.]+)", Sleep),
        ("/gate", Gate),
        ("/socket", Socket),
    ]
    served = Served(Application(routes))
    try:
        yield served
    finally:
        served.client.close()
        served.server.stop()
        await asyncio.wait_for(served.server.close_all_connections(), 5)
        await await_until(lambda: not feed.current_feed().watchers)
        assert recording._watchers == 0


@contextlib.asynccontextmanager
async def watching(served):
    """Watch the events: yield what waits for the next one and returns it."""
    head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    reader, writer = await served.connect(head)
    reader._limit = 2**22

    async def next_event():
        while not (line := await asyncio.wait_for(reader.readline(), 10)).startswith(b"data: "):
            assert line, "the stream has ended"
        return json.loads(line[6:])

    try:
        yield next_event
    finally:
        writer.close()
        await writer.wait_closed()


# --- who sees it ------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize(
    ("permission", "debug", "status"),
    [
        (None, False, 404),
        (lambda handler: False, True, 403),
        (lambda handler: None, True, 403),
    ],
)
def test_it_is_hidden_from_who_may_not_see_it(run, accept, permission, debug, status):
    async def main():
        async with serving(permission) as served:
            for path in (PATH, "/metrics"):
                answer = await served.fetch(path, headers={"Accept": accept})
                assert answer.code == status
                assert b"pid" not in answer.body
            assert not recording.active

    with override_settings(DEBUG=debug):
        run(main)


def denies(handler):
    raise PermissionDenied


async def denies_later(handler):
    await asyncio.sleep(0)
    return False


def asks_the_database(handler):
    return User.objects.filter(username=handler.get_query_argument("user", "")).exists()


async def asks_the_database_in_async_code(handler):
    return await User.objects.filter(username="nobody").aexists()


@pytest.mark.parametrize(
    "permission", [denies, denies_later, asks_the_database, asks_the_database_in_async_code]
)
def test_a_permission_may_raise_wait_or_query(run, permission):
    async def main():
        async with serving(permission) as served:
            assert (await served.fetch(PATH)).code == 403
            await greentor.green(User.objects.create)(username="admin")
            allowed = await served.fetch(f"{PATH}?user=admin")
            assert allowed.code == (200 if permission is asks_the_database else 403)
            assert not any(pool.in_use for pool in current_pools())

    run(main)


def is_admin(handler):
    """The example of docs/observability.md."""
    request = HttpRequest()
    request.session = SessionStore(handler.get_cookie("sessionid"))
    return get_user(request).is_superuser


def test_django_s_sessions_can_decide(run):
    @greentor.green
    def log_in(name, **kwargs):
        user = User.objects.create_user(name, **kwargs)
        request = HttpRequest()
        request.session = SessionStore()
        user.backend = "django.contrib.auth.backends.ModelBackend"
        login(request, user)
        request.session.save()
        return {"Cookie": f"sessionid={request.session.session_key}"}

    async def main():
        async with serving(is_admin) as served:
            cookies = [{}, {"Cookie": "sessionid=nonsense"}, await log_in("user")]
            for cookie in cookies:
                assert (await served.fetch(PATH, headers=cookie)).code == 403
            admin = await log_in("admin", is_superuser=True)
            assert (await served.fetch(PATH, headers=admin)).code == 200

    run(main)


@override_settings(DEBUG=True)
def test_with_debug_it_is_there(run):
    async def main():
        async with serving(None) as served:
            assert "<title>greentor" in await served.get(PATH)

    run(main)


@pytest.mark.parametrize("accept", [*ACCEPTS[:1], ACCEPTS[2]])
def test_what_it_shows_is_stored_nowhere_and_given_to_no_other_site(run, accept):
    async def main():
        async with serving() as served:
            headers = {"Accept": accept, "Origin": "http://elsewhere.example"}
            return (await served.fetch(PATH, headers=headers)).headers

    headers = run(main)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Etag" not in headers
    assert not [name for name in headers if name.startswith("Access-Control")]


def test_the_page_needs_nothing_from_elsewhere_and_its_script_is_its_own(run):
    async def main():
        async with serving() as served:
            first, second = await served.fetch(PATH), await served.fetch(PATH)
            return first.headers["Content-Security-Policy"], first.body.decode(), second

    policy, page, second = run(main)
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    [nonce] = set(re.findall("'nonce-([^']+)'", policy))
    assert set(re.findall('nonce="([^"]+)"', page)) == {nonce}
    assert nonce not in second.headers["Content-Security-Policy"]
    assert re.findall(r"\b(?:https?:)?//[\w.]+", page) == [
        "http://www.w3.org"
    ]  # of SVG, not fetched
    assert not re.search(r"\b(src|srcset|@import|url\()", page)
    assert "innerHTML" not in page


# --- what it shows ----------------------------------------------------------------------------


def test_events_show_load_as_it_comes_and_goes(run):
    async def main():
        async with serving() as served, watching(served) as next_event:
            assert (await next_event())["rates"]["requests"] == 0
            await asyncio.gather(*[served.get("/sleep/0.01") for _ in range(20)])
            busy = await next_event()
            quiet = await next_event()
            return busy, quiet

    undisturbed(lambda: _shows_load(*run(main)), 0.1)  # which moves load to another second


def _shows_load(busy, quiet):
    assert busy["rates"]["requests"] == pytest.approx(20, rel=0.3)
    assert busy["rates"]["queries"]["default"] >= 15
    assert busy["latency"]["count"] == 20
    assert 0.01 <= busy["latency"]["p50"] <= 1
    assert busy["lag"]["count"] > 5
    assert [(r["route"], r["method"], r["status"]) for r in busy["routes"]] == [
        ("/sleep/([0-9.]+)", "GET", 200)
    ]
    assert quiet["rates"]["requests"] == 0
    assert quiet["latency"]["count"] == 20  # of some seconds
    assert quiet["pools"]["default"]["in_use"] == 0


def test_running_requests_show_where_they_stand_without_parameters(run):
    async def main():
        async with serving() as served, watching(served) as next_event:
            requests = [asyncio.ensure_future(served.get("/sleep/3.25?token=q")) for _ in range(3)]
            while not (running := (event := await next_event())["running"]):
                assert not any(request.done() for request in requests), "over, and not seen"
            for pool in current_pools():
                pool.close()
            await asyncio.gather(*requests)
            return event, running

    event, running = undisturbed(lambda: run(main), 0.3)  # longer, and they are over
    assert event["requests"] == event["greenlets"] == 3
    [group] = running
    assert group["count"] == 3
    assert group["name"] == "GET /sleep/3.25"
    assert group["handler"].endswith("test_status.Sleep")
    assert group["waits_for"] == "the database"
    assert group["sql"] == "SELECT SLEEP(%s), '…'"
    assert 0.1 < group["seconds"] < 4
    assert group["stack"][-1]["function"] == "Sleep.get"
    assert "cursor.execute" in group["stack"][-1]["source"]
    assert "token" not in json.dumps(event)


def test_looking_for_the_request_does_not_wake_what_is_lazy(run):
    woken = []

    async def method(self):
        await greentor.green(greentor.sleep)(5)

    async def main():
        lazy = SimpleLazyObject(lambda: woken.append(1) or 1)
        task = asyncio.ensure_future(method(lazy))
        await asyncio.sleep(0)
        assert greentor.stats().greenlets == 1
        assert feed.running(asyncio.get_running_loop()) == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main)
    assert not woken


class Socket(GreenWebSocketHandler):
    def on_message(self, message):
        with connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(%s)", [float(message)])
        self.write_message("done")


def test_a_message_of_a_websocket_shows_where_it_stands(run):
    async def main():
        async with serving() as served, watching(served) as next_event:
            socket = await websocket_connect(f"ws://127.0.0.1:{served.port}/socket")
            await socket.write_message("2.25")
            answer = asyncio.ensure_future(socket.read_message())
            while not (running := (await next_event())["running"]):
                assert not answer.done(), "over, and not seen"
            assert await asyncio.wait_for(answer, 9) == "done"
            socket.close()
            assert await asyncio.wait_for(socket.read_message(), 9) is None
            return running

    [group] = undisturbed(lambda: run(main), 0.3)  # longer, and it is over
    assert group["seconds"] is None
    assert "on_message" in group["name"]
    assert group["handler"].endswith("test_status.Socket")
    assert (group["waits_for"], group["sql"]) == ("the database", "SELECT SLEEP(%s)")


def test_all_watchers_share_one_timer(run, monkeypatch):
    described = []
    describe = feed.describe
    monkeypatch.setattr(feed, "describe", lambda *args: described.append(1) or describe(*args))
    ticks = []
    tick = feed.Feed._tick
    monkeypatch.setattr(feed.Feed, "_tick", lambda *args: ticks.append(1) or tick(*args))

    async def main():
        async with serving() as served:
            async with watching(served) as first, watching(served) as second:
                times = [[(await each())["time"] for _ in range(2)] for each in (first, second)]
                assert set(times[0]) & set(times[1])
                assert len(described) <= 3
                assert len(ticks) <= len(described) * 11
            await await_until(lambda: not feed.current_feed()._timer_set)
            count = len(described)
            async with watching(served) as again:
                await again()
            return count

    count = run(main)
    assert 0 < count < len(described)


# --- under fire -------------------------------------------------------------------------------


def test_it_answers_when_the_pool_is_exhausted(run, mariadb, monkeypatch):
    from django.conf import settings

    options = settings.DATABASES["default"]["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"pool_size": 1, "max_overflow": 0, "pool_timeout": 9})

    async def main():
        async with serving() as served:
            mariadb.execute("DO GET_LOCK('gate', 0)")  # until it has answered
            try:
                requests = [asyncio.ensure_future(served.get("/gate")) for _ in range(3)]
                await await_until(lambda: any(pool.waiting == 2 for pool in current_pools()))
                async with watching(served) as next_event:
                    await served.get(PATH)
                    answer = await served.fetch(PATH, headers={"Accept": ACCEPTS[2]})
                    told = json.loads(answer.body)
                    event = await next_event()
            finally:
                mariadb.execute("DO RELEASE_LOCK('gate')")
            await asyncio.gather(*requests)
            return told["pools"]["default"], event

    told, event = run(main)
    for pool in (told, event["pools"]["default"]):
        assert (pool["in_use"], pool["waiting"]) == (1, 2)
    assert pool["longest_wait"] > 0
    assert {group["waits_for"] for group in event["running"]} == {
        "the database",
        "a connection from the pool 'default'",
    }


def test_a_client_that_is_gone_ends_its_stream(run):
    async def main():
        async with serving() as served:
            before = asyncio.all_tasks()
            for _ in range(3):
                async with watching(served) as next_event:
                    await next_event()
                    assert recording.active
                await await_until(lambda: not feed.current_feed().watchers)
                assert not recording.active
            await await_until(lambda: asyncio.all_tasks() <= before)

    run(main)


def test_a_client_that_does_not_read_is_sent_no_more(run, monkeypatch):
    size = 1_000_000
    monkeypatch.setattr(feed, "INTERVAL", 0.005)
    monkeypatch.setattr(feed, "LOOK", 0.005)
    ticks = []
    monkeypatch.setattr(feed, "describe", lambda *args: ticks.append(1) or "x" * size)

    async def main():
        async with serving() as served:
            head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
            _, writer = await served.connect(head)
            await await_until(lambda: len(ticks) > 60, timeout=30)
            [watcher] = feed.current_feed().watchers
            unsent = len(watcher.request.connection.stream._write_buffer)
            writer.close()
            return unsent

    assert 0 < run(main) < 2 * size


def test_closing_the_server_ends_the_streams(run):
    async def main():
        async with serving() as served, watching(served) as next_event, watching(served):
            await next_event()
            served.server.stop()
            await asyncio.wait_for(served.server.close_all_connections(), 10)
            await await_until(lambda: not feed.current_feed().watchers)

    run(main)


def test_no_shutdown_waits_for_a_stream(run):
    async def main():
        async with serving() as served, watching(served) as next_event:
            await next_event()
            assert greentor.stats().requests == 0
            from greentor.web import drain

            assert await drain(0.01) == 0

    run(main)


# --- routes -----------------------------------------------------------------------------------


class Other(RequestHandler):
    def get(self, *args):
        self.write(route_of(self))


class NotFound(RequestHandler):
    def prepare(self):
        self.finish(route_of(self))


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/one/1", "/one/([0-9]+)"),
        ("/two", "/two"),
        ("/nested/inner", "/nested/inner"),
        ("/nowhere", f"{__name__}.NotFound"),
        ("/added", "/added"),
    ],
)
def test_a_route_is_the_pattern_that_led_there(run, path, route):
    async def main():
        inner = Application([("/nested/inner", type("Inner", (Other,), {}))])
        application = Application(
            [url("/one/([0-9]+)", Other), ("/two", Other), ("/nested/.*", inner)],
            default_handler_class=NotFound,
        )
        application.add_handlers("127.0.0.1", [("/added", type("Added", (Other,), {}))])
        served = Served(application)
        try:
            return await served.get(path)
        finally:
            served.client.close()
            served.server.stop()
            await served.server.close_all_connections()

    assert run(main) == route


def test_a_method_that_a_client_made_up_is_no_method_of_its_own(run):
    async def main():
        recording.watch_for(5)
        async with serving() as served:
            for method in ("MADEUP", "INVENTED"):
                request = f"{method} /sleep/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                reader, writer = await served.connect(request)
                assert b" 405 " in await reader.read(-1)
                writer.close()
        recording._until = 0.0
        return list(recording.request_times)

    assert run(main) == [("/sleep/([0-9.]+)", "other", 405)]
