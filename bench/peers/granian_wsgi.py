"""granian: Django over WSGI, with an HTTP server in Rust and a pool of Python threads.

By its documentation (README: Backpressure): where clients keep their connections, ``--backpressure``, which
limits connections, must exceed their number, and what bounds the work is ``--blocking-threads``, here
``--pool``. Each of the threads keeps a connection to the database (CONN_MAX_AGE is None).
"""

from __future__ import annotations

from bench.peers import options


def main() -> None:
    given = options.parser(__doc__).parse_args()
    options.choose(options.DJANGOS_ENGINE)
    options.become(
        "granian",
        "--interface=wsgi",
        "--host=127.0.0.1",
        f"--port={given.port}",
        f"--workers={given.processes}",
        f"--blocking-threads={given.pool}",
        "--backlog=2048",
        "--backpressure=2048",
        "--no-ws",
        "--log-level=error",
        "--factory",
        "django.core.wsgi:get_wsgi_application",
    )


if __name__ == "__main__":
    main()
