"""How both of gunicorn's peers are started."""

from __future__ import annotations

import argparse

from bench.peers import options


def become_gunicorn(given: argparse.Namespace, *arguments: str) -> None:
    """Go on as gunicorn, in this process: it has no access log unless it is told to."""
    options.become(
        "gunicorn",
        "--bind",
        f"127.0.0.1:{given.port}",
        f"--workers={given.processes}",
        "--worker-connections=2000",
        "--keep-alive=75",
        "--log-level=warning",
        "--no-control-socket",
        *arguments,
        "django.core.wsgi:get_wsgi_application()",
    )
