"""`FrontServer`: a server that reads plain requests with httptools, and leaves all others to Tornado.

Tornado parses HTTP in Python, by regular expressions, on a stream of its own: that is more than a third of a
small request's CPU time. Here a request that is plain (HTTP/1, a head and a small body of a known length) is
parsed by llhttp, in C, and handed to the same application, by the same interface, as Tornado does.

Invariants
- There is one implementation of what is rare, and it is Tornado's: TLS, upgrades to websockets, ``Expect``,
  chunked and large bodies, and whatever llhttp or Tornado refuses. Such a connection is handed over, with all
  its unanswered bytes, to Tornado's HTTP1ServerConnection, and stays there.
- What is answered here is answered with the same bytes.
- The server, not a timer for each connection, looks for those beyond ``idle_connection_timeout``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from contextvars import Context
from typing import Any, cast

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream

from greentor.serving.front import Front
from greentor.serving.server import Server
from greentor.serving.upstream import put_back

#: bodies up to this size are read here
WHOLE = 64 * 1024
#: seconds between two looks for idle connections, at most
LOOK = 30.0


class FrontServer(Server):
    """Tornado's HTTPServer, with all its options, and what `Server` adds; plain requests go faster."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._fronts: set[Front] = set()
        self._look: asyncio.TimerHandle | None = None
        params = self.conn_params
        assert params.header_timeout is not None  # an hour by default
        self._longest = params.header_timeout
        limits = (params.max_body_size, self.max_buffer_size or None)
        #: bytes of the largest body that is read here: below any limit, and at once if it has a time limit
        self.largest = min(WHOLE, next((each for each in limits if each is not None), WHOLE))
        if params.body_timeout is not None:
            self.largest = 0

    def handle_stream(  # type: ignore[override]  # TCPServer's may return an awaitable
        self, stream: IOStream, address: Any
    ) -> Awaitable[None] | None:
        if isinstance(stream, SSLIOStream):
            super().handle_stream(stream, address)
            return None
        front = Front(self, stream, address)
        self._fronts.add(front)
        self._connections.add(cast(Any, front))
        if self._look is None:
            self._look_later()
        return self._connect(front, stream.socket)

    async def _connect(self, front: Front, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: front, connection)
        except BaseException as exc:
            front.connection_lost(None)
            connection.close()
            if not isinstance(exc, OSError):  # the client has gone
                raise

    def forget(self, front: Front) -> None:
        """Take note that a connection is lost, or no longer the front's."""
        self._fronts.discard(front)
        self._connections.discard(cast(Any, front))

    def resume(self, connection: socket.socket, read: bytes) -> IOStream:
        """Return a stream of Tornado's that begins with what was read."""
        stream = IOStream(
            connection,
            max_buffer_size=self.max_buffer_size,
            read_chunk_size=self.read_chunk_size,
        )
        put_back(stream, read)
        return stream

    def leave_to_tornado(self, stream: IOStream, address: Any) -> None:
        """Have Tornado serve a connection from here on."""
        HTTPServer.handle_stream(self, stream, address)

    def detached(self, stream: IOStream) -> None:
        """Take note of a connection that a handler has taken over: `end` waits for it."""
        self._detached.add(stream)

    def close_idle(self, fresh_too: bool) -> None:
        super().close_idle(fresh_too)
        for front in list(self._fronts):
            front.close_if_idle(fresh_too)

    def _look_later(self) -> None:
        # In a context of its own: it is set from within whatever context accepts.
        seconds = min(LOOK, self._longest / 4)
        self._look = asyncio.get_running_loop().call_later(
            seconds, self._close_timed_out, context=Context()
        )

    def _close_timed_out(self) -> None:
        self._look = None
        longest = asyncio.get_running_loop().time() - self._longest
        for front in list(self._fronts):
            if 0 < front.idle_since < longest:
                front.abort()
        if self._fronts:
            self._look_later()
