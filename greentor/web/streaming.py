"""``data_received``, which Tornado calls from the connection's task, in the scope of its request.

It runs in a helper greenlet: the request's own is parked until the body is there.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greentor import bridge

if TYPE_CHECKING:
    from greentor.web.handler import BaseRequestHandler


def in_scope(data_received: Callable[..., Any]) -> Callable[..., Any]:
    """Make a ``data_received``, sync or async, run on the scope of its request."""

    @functools.wraps(data_received)
    def method(self: BaseRequestHandler, chunk: bytes) -> Any:
        if bridge.in_green():  # an override has called it, and has the turn
            return data_received(self, chunk)
        self._receiving = asyncio.get_running_loop().create_task(
            _receive(data_received, self, chunk), context=self._context.copy()
        )
        return self._receiving

    method._greentor_wrapped = True  # type: ignore[attr-defined]
    return method


async def _receive(
    data_received: Callable[..., Any], handler: BaseRequestHandler, chunk: bytes
) -> None:
    try:
        await bridge.run_green(data_received, handler, chunk)
    except asyncio.CancelledError:
        if handler._interruption is None and not handler._finished:
            raise  # else it was ended with its request, and the connection's task has no part in it
