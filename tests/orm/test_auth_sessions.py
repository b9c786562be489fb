"""Users, sessions and caches, sync and async: in a greenlet without a thread, on its connection."""

import asyncio
from importlib import import_module

import pytest
from django.contrib.auth import (
    aauthenticate,
    aget_user,
    alogin,
    alogout,
    authenticate,
    get_user_model,
    login,
    logout,
)
from django.contrib.auth.models import AnonymousUser, Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.core.management import call_command
from django.db import connection, transaction
from django.http import HttpRequest
from django.test import override_settings

from greentor import green, spawn
from greentor.web import BaseRequestHandler
from tests.orm.support import parked, the_pool
from tests.test_web import serving

pytestmark = pytest.mark.usefixtures("clean_tables", "pool_of_one")

BACKENDS = ["db", "cached_db", "cache"]


@pytest.fixture(scope="session")
def _cache_table(django_db_tables):
    call_command("createcachetable", verbosity=0)
    connection.close()


@pytest.fixture(autouse=True)
def _fresh_caches(_cache_table):
    yield
    caches["default"].clear()
    ContentType.objects.clear_cache()


@pytest.fixture
def ann(clean_tables):
    user = get_user_model().objects.create_user("ann", password="secret")
    connection.close()
    return user


def store(backend):
    return import_module(f"django.contrib.sessions.backends.{backend}").SessionStore


def http_request(session):
    request = HttpRequest()
    request.session = session
    request.META["REMOTE_ADDR"] = "127.0.0.1"
    return request


# --- users ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["db", "cached_db"])
@pytest.mark.parametrize("atomic", [False, True], ids=["autocommit", "atomic"])
def test_async_login_and_logout_are_on_the_connection_of_the_request(run, ann, backend, atomic):
    async def work():
        http = http_request(store(backend)())
        assert await aauthenticate(http, username="ann", password="wrong") is None
        user = await aauthenticate(http, username="ann", password="secret")
        await alogin(http, user)
        await http.session.asave()
        again = http_request(store(backend)(http.session.session_key))
        assert await aget_user(again) == user
        await alogout(again)
        assert isinstance(await aget_user(again), AnonymousUser)
        assert not await store(backend)().aexists(http.session.session_key)

    class Handler(BaseRequestHandler):
        async def get(self):
            if atomic:
                with transaction.atomic():
                    await work()
                    assert connection.in_atomic_block
            else:
                await work()

    async def main():
        async with serving(Handler) as served:
            await served.get()
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_sync_login_and_logout(run, ann):
    @green
    def request():
        http = http_request(store("db")())
        with transaction.atomic():
            user = authenticate(http, username="ann", password="secret")
            with parked():
                login(http, user)
                http.session.save()
                assert user.last_login is not None
                logout(http)
        return Session.objects.count()

    assert run(request) == 0


def test_async_permissions(run, ann):
    @green
    async def request():
        permission = await Permission.objects.aget(codename="add_author")
        group = await Group.objects.acreate(name="writers")
        await group.permissions.aadd(permission)
        user = await get_user_model().objects.aget(username="ann")
        assert not await user.ahas_perm("testapp.add_author")
        await user.groups.aadd(group)
        user = await get_user_model().objects.aget(username="ann")
        with parked():
            assert await user.ahas_perm("testapp.add_author")
            assert await user.ahas_perms(["testapp.add_author"])
            assert await user.ahas_module_perms("testapp")
            assert await user.aget_group_permissions() == {"testapp.add_author"}
            assert await user.aget_user_permissions() == set()
            assert await user.aget_all_permissions() == {"testapp.add_author"}
        # Side by side, in the turns of the helpers.
        user = await get_user_model().objects.aget(username="ann")
        return await asyncio.gather(*(user.ahas_perm("testapp.add_author") for _ in range(5)))

    assert run(request) == [True] * 5


@override_settings(
    PASSWORD_HASHERS=[
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
        "django.contrib.auth.hashers.MD5PasswordHasher",
    ]
)
def test_a_password_that_is_rehashed_at_login_is_saved_on_the_connection_of_the_request(run, ann):
    """`acheck_password` hashes in a thread and calls the setter, which saves, in the greenlet."""

    @green
    async def request():
        with transaction.atomic():
            user = await get_user_model().objects.select_for_update().aget(username="ann")
            assert user.password.startswith("md5$")
            assert await user.acheck_password("secret")
            await user.arefresh_from_db()
            assert user.password.startswith("pbkdf2_sha256$")
            transaction.set_rollback(True)
        await user.arefresh_from_db()
        return user.password

    assert run(request).startswith("md5$")


def test_creating_users_and_superusers(run):
    User = get_user_model()

    @green
    async def request():
        with transaction.atomic():
            await User.objects.acreate_user("carl", password="x")
            await User.objects.acreate_superuser("root", password="x")
            await asyncio.gather(*(User.objects.acreate_user(f"user {n}") for n in range(3)))
            assert (await User.objects.aget_by_natural_key("root")).is_superuser
            transaction.set_rollback(True)
        return await User.objects.acount()

    assert run(request) == 0


# --- sessions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_async_sessions(run, backend):
    @green
    async def request():
        session = store(backend)()
        await session.aset("n", 1)
        await session.aupdate({"m": 2})
        await session.asave()
        key = session.session_key
        assert await session.aexists(key)
        session = store(backend)(key)
        assert (await session.aget("n"), await session.apop("m")) == (1, 2)
        assert await session.asetdefault("k", 3) == 3
        assert sorted([name for name, _ in await session.aitems()]) == ["k", "n"]
        await session.aset_expiry(600)
        assert await session.aget_expiry_age() == 600
        await session.asave()
        await session.acycle_key()
        await session.asave()
        assert session.session_key != key
        assert not await session.aexists(key)
        assert await store(backend)(session.session_key).ahas_key("n")
        await session.aset_test_cookie()
        assert await session.atest_cookie_worked()
        await session.aflush()
        return await session.ais_empty() if hasattr(session, "ais_empty") else session.is_empty()

    assert run(request)


@pytest.mark.parametrize("backend", ["db", "cached_db"])
def test_a_session_is_part_of_the_transaction_that_it_is_saved_in(run, backend):
    @green
    async def request():
        session = store(backend)()
        with transaction.atomic():
            await session.aset("n", 1)
            await session.asave()
            assert await Session.objects.acount() == 1
            transaction.set_rollback(True)
        return Session.objects.count()

    assert run(request) == 0


def test_a_session_deleted_by_another_request_is_not_brought_back(run, pool_options):
    pool_options(pool_size=2, max_overflow=0, pool_timeout=2)

    async def main():
        session = store("db")()
        await green(session.asave)()

        @green
        async def request():
            mine = store("db")(session.session_key)
            await mine.aset("n", 1)
            await asyncio.create_task(other())
            with pytest.raises(UpdateError):
                await mine.asave()

        async def other():
            await spawn(store("db")(session.session_key).aflush)

        await request()
        assert await green(Session.objects.count)() == 0

    run(main)


def test_two_requests_that_save_one_session_at_once_both_succeed(run, pool_options):
    pool_options(pool_size=2, max_overflow=0, pool_timeout=2)

    async def main():
        session = store("db")()
        await green(session.asave)()
        both = asyncio.Barrier(2)

        @green
        async def request(n):
            mine = store("db")(session.session_key)
            await mine.aset("n", n)
            await both.wait()
            await mine.asave()

        await asyncio.gather(request(1), request(2))
        assert await green(store("db")(session.session_key).aget)("n") in (1, 2)

    run(main)


# --- caches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["default", "database"])
def test_async_caches(run, alias):
    @green
    async def request():
        cache = caches[alias]
        with parked() as sent:
            await cache.aset("a", 1)
            assert await cache.aget("a") == 1
            assert await cache.aincr("a") == 2
            assert await cache.adecr("a") == 1
            assert not await cache.aadd("a", 9)
            assert await cache.aget_or_set("b", lambda: 5) == 5
            await cache.aset_many({"c": 3, "d": 4})
            assert await cache.aget_many(["c", "d", "e"]) == {"c": 3, "d": 4}
            assert await cache.ahas_key("c")
            assert await cache.atouch("c", 60)
            await cache.adelete_many(["c", "d"])
            assert await cache.adelete("a")
            await cache.aclear()
            assert cache.get("b") is None
        return len(sent)

    assert (run(request) > 10) is (alias == "database")


def test_the_database_cache_is_on_the_connection_of_the_request_and_in_its_transaction(run):
    @green
    async def request():
        with transaction.atomic():
            await caches["database"].aset("a", 1)
            assert caches["database"].get("a") == 1
            transaction.set_rollback(True)
        return await caches["database"].aget("a")

    assert run(request) is None
