"""gunicorn's gevent worker: Django over WSGI in greenlets, PyMySQL on gevent's sockets.

By gunicorn's documentation (Design, Async workers; Settings): the worker patches the standard library
before it loads the application, and needs a driver in Python, which then yields while it waits. A greenlet
serves a client as long as that stays connected. To Django it is a thread: with ``--persistent``
(CONN_MAX_AGE is None) each client has a connection of its own, else (0, the default) each request opens one.
Nothing bounds their number but the number of clients. ``--pool`` is not looked at.
"""

from __future__ import annotations

from bench.peers import options
from bench.peers.gunicorn_command import become_gunicorn


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument(
        "--persistent", action="store_true", help="a connection per client, not per request"
    )
    given = parser.parse_args()
    options.choose(options.DJANGOS_ENGINE, driver=options.PYMYSQL, persistent=given.persistent)
    become_gunicorn(given, "--worker-class=gevent")


if __name__ == "__main__":
    main()
