"""What the sides that serve HTTP share, in the child, and what their watchers share, in the parent."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import Counter
from typing import Any

from tornado.httpserver import HTTPServer

from bench.breakages.case import Child
from bench.client import Client, hammer


def listen() -> socket.socket:
    """Return a socket that listens on a free port, and announce the port to the parent."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)
    sock.setblocking(False)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    return sock


async def serve_tornado(application: Any) -> None:
    """Serve a Tornado application, or what a WSGIContainer makes one of, until the process is ended."""
    HTTPServer(application).add_socket(listen())
    await asyncio.Event().wait()


def serve_uvicorn(application: Any) -> None:
    """Serve an ASGI application until the process is ended."""
    import uvicorn

    sock = listen()
    config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[sock])


def ask(port: int, requests: int, at_once: int) -> dict[str, int]:
    """Send requests for ``/`` and count the answers by their status."""
    return asyncio.run(answers_to(port, requests, at_once))


async def answers_to(port: int, requests: int, at_once: int) -> dict[str, int]:
    """Do it on the running loop."""
    answers: Counter[str] = Counter()

    async def one(client: Client, number: int) -> None:
        status, _ = await client.get("/")
        answers[f"answered {status}"] += 1

    await asyncio.wait_for(hammer(port, requests, at_once, one), 60)
    return dict(sorted(answers.items()))


def errors(child: Child) -> dict[str, str]:
    """Return the error of Django or greentor that a child has logged most often, if any."""
    found = Counter(re.findall(r"^(?:django|greentor)[\w.]*: .*", child.log(), re.MULTILINE))
    [(line, times)] = found.most_common(1) or [("", 0)]
    return {"logged": f"{times} x {line[:150]}"} if times else {}
