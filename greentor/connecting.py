"""Opening a `Stream` from a greenlet: by TCP or by a unix socket, within a time.

Invariants
- Whatever ends the wait, no socket is left behind, and no task.
- A deadline of the caller's is a `DeadlineExceeded`; a connection that takes too long an OSError, as from a
  blocking socket.
"""

from __future__ import annotations

import asyncio
from contextvars import Context

from greentor import bridge
from greentor.stream import Stream


def open_stream(
    host: str,
    port: int,
    *,
    unix_socket: str | None = None,
    bind_address: str | None = None,
    timeout: float | None = None,
) -> Stream:
    """Connect from a greenlet, by unix socket or else by TCP, within ``timeout`` seconds.

    Raise OSError (TimeoutError included) if that fails.
    """
    loop = bridge.check_alive("connecting").loop
    stream = Stream(loop)
    local_addr = (bind_address, 0) if bind_address is not None else None

    async def connect() -> None:
        async with asyncio.timeout(timeout):
            if unix_socket:
                await loop.create_unix_connection(lambda: stream, unix_socket)
            else:
                await loop.create_connection(lambda: stream, host, port, local_addr=local_addr)

    # A task of its own, so that a deadline reaches it as a cancel: asyncio takes any OSError, and that is
    # one, for the failure of one address and tries the next.
    task = loop.create_task(connect(), context=Context())
    try:
        bridge.wait(task, "connecting")
    except BaseException as exc:
        stream.close()
        if not loop.is_closed():
            task.cancel()
        if isinstance(exc, TimeoutError) and not isinstance(exc, bridge.DeadlineExceeded):
            raise TimeoutError("timed out") from exc
        raise
    return stream
