"""One SSL context for each configuration: PyMySQL builds one a connection, which takes 18 ms of CPU."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

from greentor.stream import Stream

#: by configuration: what its files looked like, and the context made of them
_contexts: dict[tuple[Any, ...], tuple[Any, SharedContext]] = {}


class SharedContext:
    """An SSL context that several connections share, for sockets and streams alike."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def wrap_socket(self, sock: Any, server_hostname: str | None = None) -> Any:
        if isinstance(sock, Stream):
            return sock.start_tls(self.context, server_hostname)
        return self.context.wrap_socket(sock, server_hostname=server_hostname)


def shared(options: Any, make: Callable[[Any], ssl.SSLContext]) -> SharedContext:
    """Return the context of PyMySQL's ``ssl`` options, made anew if one of its files was replaced."""
    if isinstance(options, ssl.SSLContext):
        return SharedContext(options)
    key = tuple(sorted((name, repr(value)) for name, value in options.items()))
    named = [path for name in ("ca", "capath", "cert", "key") if (path := options.get(name))]
    files = [_identity(path) for path in named]
    made = _contexts.get(key)
    if made is None or made[0] != files or None in files:
        made = _contexts[key] = (files, SharedContext(make(options)))
    return made[1]


def _identity(path: Any) -> Any:
    """Tell a file from the one that it was replaced by."""
    try:
        stat = os.stat(path)
    except (OSError, TypeError):
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
