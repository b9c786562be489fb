"""What waits for somebody else: HTTP, processes, time, CPU, queues."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import queue
import subprocess
import tempfile
import time
import urllib.request
from functools import partial

import bcrypt
import httpx
import requests
import urllib3
from django.contrib.auth.hashers import check_password, make_password

import greentor
from tests.thirdparty import services
from tests.thirdparty.measure import BLOCKS, DELAY, THREAD, probe


def url():
    return f"http://127.0.0.1:{services.port('http')}/"


http = partial(
    probe, "waiting for others", expect=BLOCKS, setup=services.needs("http"), thread=True
)
ASYNC_HTTP = "Tornado's `AsyncHTTPClient`, or " + THREAD


@http("requests", "requests", advice=ASYNC_HTTP)
def sync_requests():
    assert requests.get(url(), timeout=5).text == "ok"


@http("httpx, `Client`", "httpx", advice="`httpx.AsyncClient`, or " + THREAD)
def sync_httpx():
    assert httpx.get(url(), timeout=5).text == "ok"


@http("urllib3", "urllib3", advice=ASYNC_HTTP)
def sync_urllib3():
    assert urllib3.request("GET", url()).data == b"ok"


@http("`urllib.request`", advice=ASYNC_HTTP)
def sync_urllib():
    assert urllib.request.urlopen(url()).read() == b"ok"


@probe(
    "waiting for others",
    "httpx, `AsyncClient`",
    "httpx",
    setup=services.needs("http"),
    advice="`await`, or `greentor.await_()` in sync code",
)
async def async_httpx():
    # Beside it: it loads the certificates of authorities in 0.2 s of CPU, unless told not to.
    async with httpx.AsyncClient(verify=False) as client:
        assert (await client.get(url())).text == "ok"


@probe(
    "waiting for others",
    "Tornado's `AsyncHTTPClient`",
    "tornado",
    setup=services.needs("http"),
    advice="`await`, or `greentor.await_()` in sync code",
)
def async_tornado():
    from tornado.httpclient import AsyncHTTPClient

    assert greentor.await_(AsyncHTTPClient().fetch(url())).body == b"ok"


@probe(
    "waiting for others",
    "`time.sleep`",
    expect=BLOCKS,
    thread=True,
    advice="`greentor.sleep`, or `await asyncio.sleep`",
)
def time_sleep():
    time.sleep(DELAY)


@probe("waiting for others", "`greentor.sleep`")
def green_sleep():
    greentor.sleep(DELAY)


@probe(
    "waiting for others",
    "`subprocess.run`",
    expect=BLOCKS,
    thread=True,
    advice="`asyncio.create_subprocess_exec`, or " + THREAD,
)
def subprocess_run():
    subprocess.run(["sleep", str(DELAY)], check=True)


@probe("waiting for others", "`asyncio.create_subprocess_exec`")
async def async_subprocess():
    process = await asyncio.create_subprocess_exec("sleep", str(DELAY))
    assert await process.wait() == 0


@probe("waiting for others", "logging to streams and files", advice="short writes on the loop")
def local_logging():
    with tempfile.NamedTemporaryFile() as file:
        log_with(logging.FileHandler(file.name))
        assert file.read().count(b"\n") == 100


@probe(
    "waiting for others",
    "logging by `SMTPHandler`, so Django's `AdminEmailHandler`",
    expect=BLOCKS,
    setup=services.needs("smtp"),
    advice="`QueueHandler` with a `QueueListener`",
)
def smtp_logging():
    address = ("127.0.0.1", services.port("smtp"))
    log_with(logging.handlers.SMTPHandler(address, "a@example.com", ["b@example.com"], "s"), 1)


@probe("waiting for others", "logging by `QueueHandler`", setup=services.needs("smtp"))
def queue_logging():
    records = queue.SimpleQueue()
    address = ("127.0.0.1", services.port("smtp"))
    slow = logging.handlers.SMTPHandler(address, "a@example.com", ["b@example.com"], "s")
    listener = logging.handlers.QueueListener(records, slow)
    listener.start()
    log_with(logging.handlers.QueueHandler(records), 1)
    greentor.thread(listener.stop)


def log_with(handler, times=100):
    logger = logging.Logger("thirdparty")
    logger.addHandler(handler)
    for n in range(times):
        logger.info("record %d", n)
    handler.close()


@probe(
    "waiting for others",
    "password hashers of Django (PBKDF2, bcrypt, Argon2)",
    "bcrypt",
    "argon2-cffi",
    advice="greentor runs them in a thread by itself",
)
def hashers():
    for hasher in ("pbkdf2_sha256", "bcrypt_sha256", "argon2"):
        password = make_password("secret", hasher=hasher)
        assert check_password("secret", password)


@probe(
    "waiting for others",
    "`bcrypt.hashpw`, as any CPU work",
    "bcrypt",
    expect=BLOCKS,
    thread=True,
    advice=THREAD + "; for pure Python, a process pool",
)
def raw_bcrypt():
    assert bcrypt.hashpw(b"secret", bcrypt.gensalt(14))


@probe(
    "waiting for others",
    "Celery, `delay` to a broker on the network",
    "celery",
    expect=BLOCKS,
    setup=services.needs("redis"),
    thread=True,
    advice="`greentor.thread(task.delay, ...)`, in `transaction.on_commit` as ever",
)
def celery_delay():
    from celery import Celery

    broker = f"redis://127.0.0.1:{services.port('redis')}/2"
    app = Celery("thirdparty", broker=broker, set_as_current=False)

    @app.task
    def add(x, y):
        return x + y

    assert add.delay(1, 2).id
