"""uvicorn: Django over ASGI, with the async views of `bench.peers.django_async`.

By uvicorn's documentation (Settings) uvloop and httptools are taken where they are installed. By Django's
(How to use Django with Uvicorn; Databases, Persistent connections) persistent connections are to be
disabled under ASGI, and for MySQL Django has no pool: each request has a thread of its own and opens a
connection in it. Nothing bounds their number but that of the requests. ``--pool`` is not looked at.
"""

from __future__ import annotations

from bench.peers import options


def main() -> None:
    given = options.parser(__doc__).parse_args()
    options.choose(options.DJANGOS_ENGINE, persistent=False, urls="bench.peers.django_async")
    options.become(
        "uvicorn",
        "--host=127.0.0.1",
        f"--port={given.port}",
        f"--workers={given.processes}",
        "--loop=uvloop",
        "--http=httptools",
        "--lifespan=off",
        "--no-access-log",
        "--log-level=warning",
        "--factory",
        "django.core.asgi:get_asgi_application",
    )


if __name__ == "__main__":
    main()
