"""Tornado with greentor: the same handlers as those that block, on `BaseRequestHandler`.

As its README and docs/deployment.md have it: ``greentor.serving.serve``, the engine ``greentor.db.mysql``
with a pool of ``--pool`` connections, ``warm_pools`` before the first request, and no more requests at once
than there are connections.
"""

from __future__ import annotations

import sys

import django

from bench.peers import options


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--http", choices=("tornado", "httptools"), default="tornado")
    given = parser.parse_args()
    options.choose(options.GREEN_ENGINE, pool=given.pool)
    django.setup()

    from tornado.web import Application

    from app.server import loop_factory
    from bench.peers.tornado_routes import Blocking, make_app
    from greentor.db import warm_pools
    from greentor.serving import serve
    from greentor.web import BaseRequestHandler

    class Green(Blocking, BaseRequestHandler):
        """Blocks its greenlet, and not the loop."""

    async def make() -> Application:
        await warm_pools()
        return make_app(Green, Green, max_concurrency=given.pool)

    sys.exit(
        serve(
            make,
            given.port,
            "127.0.0.1",
            processes=given.processes,
            loop_factory=loop_factory(given.loop),
            http=given.http,
        )
    )


if __name__ == "__main__":
    main()
