"""Tornado alone: a handler that sleeps on the event loop, and asks no database.

A ceiling, and nothing to be compared with: what its HTTP server reaches on this machine is more than whatever
runs on it, and asks a database, too, can reach. The application is that of the other peers on Tornado.
"""

from __future__ import annotations

import asyncio

from tornado.web import Application

from bench.peers import options, pages
from bench.peers.tornado_routes import SLEEP, Answering, plain_routes
from bench.peers.tornado_serving import serve


class Sleeping(Answering):
    async def get(self) -> None:
        [ms] = self.arguments()
        await asyncio.sleep(ms / 1000)
        self.answer(self.work(ms))


def make_app() -> Application:
    slept = {"work": lambda ms: pages.dumps({"ms": ms})}
    return Application([*plain_routes(), ("/sleep", Sleeping, {**SLEEP, **slept})])


def main() -> None:
    given = options.parser(__doc__).parse_args()
    serve(make_app, given.port, given.processes)


if __name__ == "__main__":
    main()
