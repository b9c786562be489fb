"""What ends an exchange with the server before its end: the connection, too.

PyMySQL's parsing of a malformed packet raises whatever Python does (struct.error, IndexError, AssertionError)
and leaves the connection open in the middle of an answer. Here it is closed, and an error of the DB-API
raised.

Invariants
- Only an ERR packet, with which the server itself ends its answer, leaves a connection open.
- What the application's own code raises (a converter, an auth plugin, a cancel) is raised as it is.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, TypeVar

from pymysql import err
from pymysql.constants import CR

from greentor.bridge import NotGreen
from greentor.stream import ConcurrentUseError

#: the most that a packet may hold with all its continuations, in bytes: the largest ``max_allowed_packet``
#: that a server can be given
LARGEST_PACKET = 1 << 30

#: raised before anything was read or written: the connection is somebody else's
REFUSED = (ConcurrentUseError, NotGreen)

_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    IndexError,
    NameError,  # UnboundLocalError
    TypeError,
    ValueError,  # Unicode's, too
    struct.error,
)

F = TypeVar("F", bound=Callable[..., Any])


def guarded(read: F) -> F:
    """Have a method of a connection, or of a result, close the connection when it is interrupted."""

    @functools.wraps(read)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = getattr(self, "connection", self)  # of which a result lets go at its end
        try:
            return read(self, *args, **kwargs)
        except BaseException as exc:
            end_exchange(connection, exc)
            raise

    return method  # type: ignore[return-value]


def end_exchange(connection: Any, exc: BaseException) -> None:
    """Close the connection, unless ``exc`` leaves it open.

    Raise OperationalError for a malformed packet; everything else is to be raised as it is.
    """
    if isinstance(exc, err.MySQLError):
        # Said by us; anything else was said by the server, with an ERR packet.
        if exc.args and exc.args[0] == CR.CR_COMMANDS_OUT_OF_SYNC:
            connection._force_close()
        return
    if isinstance(exc, REFUSED):
        return
    connection._force_close()
    if (
        not isinstance(exc, _MALFORMED)
        or isinstance(exc, OSError)  # a refused certificate is a ValueError, too
        or exc is connection.application_error
    ):
        return
    raise err.OperationalError(
        CR.CR_MALFORMED_PACKET, f"malformed packet from the server: {type(exc).__name__}: {exc}"
    ) from exc
