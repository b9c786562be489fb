"""Tornado with Django's ORM in a pool of threads, each of which keeps a connection.

As Tornado's guide has it for code that blocks (Coroutines, Calling blocking functions): ``await
IOLoop.current().run_in_executor(...)``, with an executor of our own, as wide as ``--pool``. In Django a
connection belongs to a thread and stays open until somebody closes it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import django
from tornado.ioloop import IOLoop

from bench.peers import options
from bench.peers.tornado_routes import Answering, make_app
from bench.peers.tornado_serving import serve


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--driver", choices=options.DRIVERS, default=options.MYSQLCLIENT)
    given = parser.parse_args()
    options.choose(options.DJANGOS_ENGINE, driver=given.driver)
    django.setup()
    executor = ThreadPoolExecutor(given.pool)  # starts its threads when they are needed

    class Threaded(Answering):
        async def get(self) -> None:
            loop = IOLoop.current()
            self.answer(await loop.run_in_executor(executor, self.work, *self.arguments()))

    serve(lambda: make_app(Threaded), given.port, given.processes)


if __name__ == "__main__":
    main()
