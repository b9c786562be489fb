"""`listen`: the listening sockets of each process.

On Linux every process has a socket of its own on the same port (``SO_REUSEPORT``), and the kernel spreads
connections over them by a hash. On a socket that all of them share, whoever wakes first takes all that
wait: of 64 keep-alive connections two processes had 2 and 62. All sockets are opened before the first
fork and stay open in the parent: what reaches that of a crashed process waits there for its successor,
instead of being reset. Other systems do not spread by ``SO_REUSEPORT``: there the processes share one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from socket import socket

from tornado.netutil import bind_sockets

#: connections that the kernel keeps until they are accepted; it may have a lower limit of its own
BACKLOG = 1024

_SPREADS = sys.platform == "linux"


def listen(port: int, address: str | None, processes: int) -> list[list[socket]]:
    """Return a list of sockets for each process; one for each address that ``address`` stands for.

    Raise OSError, with a message that names address and port, if that is impossible.
    """
    spread = processes > 1 and _SPREADS
    opened: list[list[socket]] = []
    try:
        if spread and port:
            # With SO_REUSEPORT one could join, unnoticed, those who listen there already.
            close(bind_sockets(port, address))
        opened.append(bind_sockets(port, address, backlog=BACKLOG, reuse_port=spread))
        port_given = opened[0][0].getsockname()[1]
        while len(opened) < processes:
            opened.append(
                bind_sockets(port_given, address, backlog=BACKLOG, reuse_port=True)
                if spread
                else opened[0]
            )
    except OSError as error:
        for sockets in opened:
            close(sockets)
        where = f"{address} port {port}" if address else f"port {port}"
        raise OSError(f"cannot listen on {where}: {error.strerror}") from error
    return opened


def close(sockets: Iterable[socket]) -> None:
    """Close this process's copies of the sockets."""
    for each in sockets:
        each.close()
