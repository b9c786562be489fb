"""A client of the application's JSON routes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.app.server import Response, Server


def send(server: Server, method: str, path: str, value: Any = None) -> Response:
    """Send a value as JSON, bytes as they are, and return the answer."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    connection = server.connect()
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def send_at_once(server: Server, method: str, path: str, values: list[Any]) -> list[Response]:
    """Send all values at the same time, on a connection each."""
    with ThreadPoolExecutor(len(values)) as executor:
        return list(executor.map(lambda value: send(server, method, path, value), values))
