"""Caches, file storages and email."""

from __future__ import annotations

import io
import tempfile
from functools import partial

from django.core.cache import caches
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.core.mail import EmailMessage, get_connection
from django.core.management import call_command
from django.db import connections
from django.test.utils import override_settings

import greentor
from tests.thirdparty import services
from tests.thirdparty.measure import BLOCKS, THREAD, probe

CACHES = {
    "locmem": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "db": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache"},
    "file": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache"},
    "redis": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
    "django_redis": {"BACKEND": "django_redis.cache.RedisCache"},
    "pymemcache": {"BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache"},
}


def use_cache(name):
    config = dict(CACHES[name])
    if name == "file":
        config["LOCATION"] = tempfile.gettempdir() + "/greentor-thirdparty"
    elif "redis" in name:
        config["LOCATION"] = f"redis://127.0.0.1:{services.port('redis')}/1"
    elif name == "pymemcache":
        config["LOCATION"] = f"127.0.0.1:{services.port('memcached')}"
    with override_settings(CACHES={"default": config}):
        cache = caches["default"]
        cache.set("a", [1])
        assert cache.get("a") == [1], cache.get("a")
        assert cache.get_or_set("b", lambda: 2) == 2
        cache.close()


def cache_probe(name, thing, *packages, **kwargs):
    probe("caches", thing, *packages, **kwargs)(partial(use_cache, name))


def make_cache_table():
    with override_settings(CACHES={"default": CACHES["db"]}):
        call_command("createcachetable", verbosity=0)
    connections.close_all()


cache_probe("locmem", "`LocMemCache`", advice="one for the process, as under WSGI")
cache_probe(
    "db",
    "`DatabaseCache`",
    setup=make_cache_table,
    advice="its queries park, on the request's connection and in its transaction",
)
cache_probe("file", "`FileBasedCache`", advice="short disk accesses on the loop")
for name, thing, package, server in [
    ("redis", "`RedisCache` of Django with redis-py", "redis", "redis"),
    ("django_redis", "django-redis", "django-redis", "redis"),
    ("pymemcache", "`PyMemcacheCache` with pymemcache", "pymemcache", "memcached"),
]:
    cache_probe(
        name,
        thing,
        package,
        expect=BLOCKS,
        setup=services.needs(server),
        thread=True,
        advice="`greentor.thread(cache.get, key)`",
    )


@probe(
    "caches",
    "`redis.asyncio`",
    "redis",
    setup=services.needs("redis"),
    advice="`await`, or `greentor.await_()`",
)
def async_redis():
    import redis.asyncio

    async def main():
        async with redis.asyncio.Redis(port=services.port("redis")) as client:
            await client.set("c", "3")
            assert await client.get("c") == b"3"

    greentor.await_(main())


# --- files and mail ---------------------------------------------------------------------------


@probe(
    "files and mail", "`FileSystemStorage`", advice="short disk accesses; large files: " + THREAD
)
def file_system_storage():
    with tempfile.TemporaryDirectory() as directory:
        storage = FileSystemStorage(directory)
        name = storage.save("a.txt", ContentFile(b"x" * 100_000))
        with storage.open(name) as file:
            assert len(file.read()) == 100_000


@probe(
    "files and mail",
    "django-storages on S3, with boto3",
    "django-storages",
    "boto3",
    expect=BLOCKS,
    setup=services.needs("http"),
    thread=True,
    advice="`greentor.thread(storage.save, name, content)`",
)
def s3_storage():
    from storages.backends.s3 import S3Storage

    storage = S3Storage(
        bucket_name="bucket",
        access_key="a",
        secret_key="b",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{services.port('http')}",
    )
    assert storage.save("a.txt", ContentFile(b"x")) == "a.txt"


def send_mail(backend, **options):
    connection = get_connection(backend, **options)
    assert EmailMessage("s", "b", "a@example.com", ["b@example.com"], connection=connection).send()


@probe(
    "files and mail",
    "email, SMTP backend",
    expect=BLOCKS,
    setup=services.needs("smtp"),
    thread=True,
    advice="`greentor.thread(mail.send)`; in a function for `greentor.spawn`, if nobody is to wait",
)
def smtp_mail():
    send_mail(
        "django.core.mail.backends.smtp.EmailBackend", host="127.0.0.1", port=services.port("smtp")
    )


@probe("files and mail", "email, console, file and locmem backends")
def local_mail():
    send_mail("django.core.mail.backends.console.EmailBackend", stream=io.StringIO())
    with tempfile.TemporaryDirectory() as directory:
        send_mail("django.core.mail.backends.filebased.EmailBackend", file_path=directory)
    send_mail("django.core.mail.backends.locmem.EmailBackend")
