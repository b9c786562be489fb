"""One thread and many queries at once: what ran when, measured and drawn."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from django.db import connection
from django.utils.safestring import SafeString
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.web import HTTPError

import greentor
from app.server import url
from app.timeline import Bar, Timeline, draw
from handlers.base import PageHandler
from handlers.sleep import sleep_in_database

QUERY_MS = 100
LIMIT = 25  # seconds for the whole page


def query(bar: Bar) -> None:
    connection.ensure_connection()  # queues, when all that the pool may open are lent
    with bar:
        sleep_in_database(QUERY_MS)


async def side_by_side(timeline: Timeline, server: str) -> None:
    bars = [timeline.ask(f"query {n}") for n in range(1, 11)]
    await asyncio.gather(*[greentor.spawn(query, bar) for bar in bars])


async def by_turns(timeline: Timeline, server: str) -> None:
    bars = [timeline.ask(f"query {n}") for n in range(1, 5)]
    await asyncio.gather(*map(greentor.green(query), bars))


async def three_at_a_time(timeline: Timeline, server: str) -> None:
    semaphore = asyncio.Semaphore(3)

    async def limited(bar: Bar) -> None:
        async with semaphore:
            await greentor.spawn(query, bar)

    async with asyncio.TaskGroup() as group:
        for n in range(1, 11):
            group.create_task(limited(timeline.ask(f"query {n}")))


async def database_and_http(timeline: Timeline, server: str) -> None:
    async def call(bar: Bar) -> None:
        with bar:
            try:
                await AsyncHTTPClient().fetch(f"{server}echo?token=hello&ms={QUERY_MS}")
            except (OSError, HTTPClientError) as error:
                bar.error = str(error)

    async with asyncio.TaskGroup() as group:
        group.create_task(call(timeline.ask("HTTP 1")))
        group.create_task(call(timeline.ask("HTTP 2")))
        group.create_task(greentor.green(query)(timeline.ask("query 1")))
        await greentor.spawn(query, timeline.ask("query 2"))


@dataclass
class Demo:
    """A function, and what the page says about it."""

    name: str
    title: str
    text: str
    run: Callable[[Timeline, str], Awaitable[None]]

    @property
    def source(self) -> str:
        return inspect.getsource(self.run)


@dataclass
class Chart:
    """A demo that has run."""

    demo: Demo
    timeline: Timeline

    @property
    def svg(self) -> SafeString:
        return draw(self.timeline.bars, self.demo.name, f"Timeline: {self.demo.title}")


DEMOS = [
    Demo(
        "side-by-side",
        "Ten queries side by side",
        "greentor.spawn gives each query a scope of its own, hence a connection of its own: they wait for the"
        " database at the same time. Those for which the pool has no connection left queue.",
        side_by_side,
    ),
    Demo(
        "by-turns",
        "Helpers of one request take turns",
        "greentor.green runs each query in a helper on the scope of the request. A connection answers one"
        " question at a time, so they take turns, in the order in which they asked.",
        by_turns,
    ),
    Demo(
        "semaphore",
        "Three at a time",
        "A semaphore limits how many of ten run at once, so that one page does not take all the"
        " connections of the pool.",
        three_at_a_time,
    ),
    Demo(
        "http",
        "The database and HTTP",
        "A TaskGroup with two calls over HTTP, which this same server answers, a query in a helper of"
        " this request, and one in a scope of its own.",
        database_and_http,
    ),
]


class Concurrency(PageHandler):
    # While it waits for its own HTTP calls, which need a connection, it keeps none.
    hold = "transaction"

    async def get(self) -> None:
        # What the client reached, not what it says in Host: nobody is to choose whom we call.
        server = url(self.request.connection.stream.socket)
        charts: list[Chart] = []
        crowded = False
        try:
            async with asyncio.timeout(LIMIT):
                for demo in DEMOS:
                    charts.append(Chart(demo, Timeline()))
                    await demo.run(charts[-1].timeline, server)
        except* TimeoutError:  # the pool's is one, too; a TaskGroup packs what it raises
            crowded = True
        if crowded:
            raise HTTPError(503, "too many want to see this page at once")
        self.render_django(
            "concurrency.html", charts=charts, query=inspect.getsource(query), ms=QUERY_MS
        )
