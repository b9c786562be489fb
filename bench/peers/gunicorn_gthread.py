"""gunicorn's gthread worker: Django over WSGI in threads, each of which keeps a connection.

By Django's documentation (How to use Django with Gunicorn; Databases, Persistent connections) and
gunicorn's (Settings): ``--threads`` is ``--pool``, CONN_MAX_AGE is None. ``--worker-connections`` leaves
room for 1,000 clients that stay connected, and ``--keep-alive`` is longer than the default's 2 s, which is
meant for clients that are not behind a proxy.
"""

from __future__ import annotations

from bench.peers import options
from bench.peers.gunicorn_command import become_gunicorn


def main() -> None:
    given = options.parser(__doc__).parse_args()
    options.choose(options.DJANGOS_ENGINE)
    become_gunicorn(given, "--worker-class=gthread", f"--threads={given.pool}")


if __name__ == "__main__":
    main()
