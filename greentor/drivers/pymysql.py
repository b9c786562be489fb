"""PyMySQL, cooperative: its own `Connection`, on a `greentor.stream.Stream` when opened in a greenlet.

Invariants
- Opened in a greenlet, a connection waits by parking it; opened elsewhere it is plain blocking PyMySQL,
  and so it stays.
- Every exception that interrupts a read or a write closes the connection, and so does one in the middle of
  an answer (a converter's): what is unread would be taken for the answer to the next query.
- What PyMySQL does from ``__del__`` never waits here: an unread result is dropped with its connection.
- One SSL context for each configuration: PyMySQL builds one for each connection (18 ms of CPU).
- A forked child closes its copy of the socket and says nothing to the server.

What this relies on of PyMySQL's private names stands in `greentor.drivers.upstream`.
"""

from __future__ import annotations

import struct
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pymysql
from pymysql import err
from pymysql.connections import MAX_PACKET_LEN
from pymysql.connections import Connection as PyMySQLConnection
from pymysql.constants import COMMAND, CR, SERVER_STATUS
from pymysql.converters import escape_int
from pymysql.cursors import Cursor, SSCursor

from greentor import bridge, process
from greentor.connecting import open_stream
from greentor.drivers import tls
from greentor.drivers.cursors import abandoning, buffered
from greentor.drivers.exchange import LARGEST_PACKET, REFUSED, end_exchange, guarded
from greentor.drivers.results import Result
from greentor.stream import ConcurrentUseError, Stream

_command_header = struct.Struct("<iB").pack


class Abandoned(NamedTuple):
    """A query whose answer nobody waits for any more, and which the server still works on."""

    #: the connection's id in the server
    id: int
    #: our end of its socket: host and port, or an empty string for a unix socket
    address: Any


class Connection(PyMySQLConnection):  # type: ignore[misc]
    """PyMySQL's connection; takes all that PyMySQL takes, and raises what it raises."""

    #: called when a wait for an answer was interrupted, by a cancel or a timeout; it must not wait
    on_abandoned: Callable[[Connection, Abandoned], None] | None = None

    _pid = -1
    _stream: Stream | None = None
    _result: Any = None
    _logging_in = False
    _command_follows = False  # what is written next begins a command
    _packet_size = 0  # of the one being read, so far
    #: what a converter of the application raised last
    application_error: BaseException | None = None

    def connect(self, sock: Any = None) -> None:
        """Connect, in a greenlet without blocking the loop.

        ``connect_timeout`` limits each wait until the login is complete, TLS included, where PyMySQL
        limits the TCP connect alone and could wait for ever for a server that accepts and is silent.
        """
        self._pid = process.pid
        self._stream = None
        if sock is not None or not bridge.in_green():
            super().connect(sock)
            return
        self._closed = False
        try:
            self._stream = stream = open_stream(
                self.host,
                self.port,
                unix_socket=self.unix_socket,
                bind_address=self.bind_address,
                timeout=self.connect_timeout,
            )
        except bridge.DeadlineExceeded:
            raise
        except OSError as exc:
            raise self._connect_error(exc) from exc
        if self.unix_socket:
            self.host_info = "Localhost via UNIX socket"
            self._secure = True
        else:
            self.host_info = f"socket {self.host}:{self.port}"
        self._logging_in = True
        try:
            super().connect(stream)
        except err.OperationalError as exc:
            if isinstance(
                cause := getattr(exc, "original_exception", None), bridge.DeadlineExceeded
            ):
                raise cause from None
            raise
        finally:
            self._logging_in = False

    def _connect_error(self, exc: OSError) -> err.OperationalError:
        error = err.OperationalError(
            CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server on {self.host!r} ({exc})"
        )
        error.original_exception = exc
        error.traceback = traceback.format_exc()
        return error

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        return tls.shared(sslp, super()._create_ssl_ctx)

    # --- bytes --------------------------------------------------------------------------------

    def _fill(self, size: int) -> None:
        """Have at least ``size`` bytes in the stream's ``data``, from its ``pos`` on."""
        stream: Any = self._stream
        if len(stream.data) - stream.pos >= size:
            return
        stream.timeout = self._limit(self._read_timeout) if self._logging_in else self._read_timeout
        try:
            complete = stream.fill(size)
        except BaseException as exc:
            message = f"Lost connection to MySQL server during query ({exc})"
            self._abandon_query(exc)
            self._interrupted(exc, CR.CR_SERVER_LOST, message)
            raise
        if not complete:
            self._force_close()
            raise err.OperationalError(
                CR.CR_SERVER_LOST, "Lost connection to MySQL server during query"
            )

    def _read_bytes(self, num_bytes: int) -> bytes:
        stream = self._stream
        if stream is None:
            return cast(bytes, super()._read_bytes(num_bytes))
        self._packet_size += num_bytes
        if self._packet_size > LARGEST_PACKET:
            self._force_close()
            raise err.OperationalError(
                CR.CR_NET_PACKET_TOO_LARGE, f"a packet of more than {LARGEST_PACKET} bytes"
            )
        self._fill(num_bytes)
        return stream.read(num_bytes)

    def _write_bytes(self, data: bytes) -> None:
        stream = self._stream
        if self._command_follows and stream is not None:
            self._command_follows = False
            if stream.unread:
                self._check_unasked(stream)
        try:
            if stream is None:
                super()._write_bytes(data)
            else:
                limit = self._write_timeout
                stream.timeout = self._limit(limit) if self._logging_in else limit
                stream.sendall(data)
        except BaseException as exc:
            message = f"MySQL server has gone away ({exc!r})"
            self._interrupted(exc, CR.CR_SERVER_GONE_ERROR, message)
            raise

    def _abandon_query(self, exc: BaseException) -> None:
        """Tell that the server may still be at work on what nobody waits for any more."""
        lost = isinstance(exc, OSError) and not isinstance(exc, TimeoutError)
        misused = isinstance(exc, REFUSED)
        stream = self._stream
        if stream is None or self.on_abandoned is None or self._logging_in or lost or misused:
            return
        self.on_abandoned(self, Abandoned(self.thread_id(), stream.address))

    def _limit(self, timeout: float | None) -> float | None:
        """Return the limit of each wait during the login."""
        limit: float = self.connect_timeout
        return limit if timeout is None else min(timeout, limit)

    def _interrupted(self, exc: BaseException, code: int, message: str) -> None:
        """Close the connection, unless nothing was done yet; raise what PyMySQL would."""
        if isinstance(exc, REFUSED):
            return
        self._force_close()
        if isinstance(exc, OSError) and not isinstance(exc, bridge.DeadlineExceeded):
            raise err.OperationalError(code, message) from exc

    # --- exchanges ----------------------------------------------------------------------------

    def _execute_command(self, command: int, sql: Any) -> None:
        stream = self._stream
        before = self._result
        if isinstance(sql, str):
            sql = sql.encode(self.encoding)
        if (
            stream is None
            or self._sock is None
            or len(sql) >= MAX_PACKET_LEN - 1
            or (before is not None and (before.unbuffered_active or before.has_next))
        ):
            if stream is not None:
                self._command_follows = True
                sql = memoryview(sql)  # of which PyMySQL's pieces are no copies
            super()._execute_command(command, sql)
            return
        if stream.unread:
            self._check_unasked(stream)
        self._result = None
        self._write_bytes(_command_header(len(sql) + 1, command) + sql)
        self._next_seq_id = 1

    def escape(self, obj: Any, mapping: Any = None) -> Any:
        """Return a value as it is written in SQL."""
        # A number, of all parameters the most common, by one call in place of three.
        encoders = self.encoders
        if (
            type(obj) is int
            and (mapping is None or mapping is encoders)
            and encoders.get(int) is escape_int
        ):
            return str(obj)
        return super().escape(obj, mapping)

    def _check_unasked(self, stream: Stream) -> None:
        """Refuse to go on if there is something that nobody has asked for: it would be the next answer."""
        stream.fill(min(4, stream.unread))
        # With number 0 the server says why it hangs up: that is for who reads the answer.
        if stream.alive and stream.data[stream.pos :][3:4] != b"\0":
            self._force_close()
            raise err.OperationalError(
                CR.CR_COMMANDS_OUT_OF_SYNC, "the server has sent more than it was asked for"
            )

    def _read_result(self, unbuffered: bool) -> Result:
        result = Result(self)
        try:  # not `guarded`: a parked greenlet would have two frames more
            if unbuffered:
                result.init_unbuffered_query()
            else:
                result.read()
        except BaseException as exc:
            end_exchange(self, exc)
            raise
        return result

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        if self._stream is None:
            return super()._read_query_result(unbuffered)
        self._result = None
        self._result = result = self._read_result(unbuffered)
        if result.server_status is not None:
            self.server_status = result.server_status
        return result.affected_rows

    def show_warnings(self) -> Any:
        """Return the rows of ``SHOW WARNINGS``."""
        if self._stream is None:
            return super().show_warnings()
        self._execute_command(COMMAND.COM_QUERY, "SHOW WARNINGS")
        return self._read_result(False).rows

    def _read_packet(self, *args: Any) -> Any:
        self._packet_size = 0
        return self._parse_packet(*args)

    @guarded
    def _parse_packet(self, *args: Any) -> Any:
        return super()._read_packet(*args)

    @guarded
    def _read_ok_packet(self) -> Any:
        return super()._read_ok_packet()

    @guarded
    def _get_server_information(self) -> None:
        super()._get_server_information()

    def _request_authentication(self) -> None:
        if self.user is None or self._auth_plugin_map:  # the application's errors
            super()._request_authentication()
        else:
            self._log_in()

    @guarded
    def _log_in(self) -> None:
        super()._request_authentication()

    # --- the end of a connection --------------------------------------------------------------

    def close(self) -> None:
        """Send QUIT and close. Outside a greenlet, and after a fork, just close."""
        if self._closed:
            raise err.Error("Already closed")
        stream = self._stream
        if self._pid != process.pid:
            self._closed = True
            self._force_close()
        elif stream is None:
            super().close()
        else:
            self._closed = True
            if stream.alive and stream.quiet and stream.local:
                stream.send_last(b"\x01\x00\x00\x00\x01")  # COM_QUIT
            self._force_close()

    def __del__(self) -> None:
        # Not a plain ``_force_close``: a parked peer, another thread or no loop must not matter.
        if self._sock is not None:
            self._force_close()

    def cursor(self, cursor: Any = None) -> Any:
        """Create a cursor; of an unbuffered one that is collected unread the connection is closed."""
        cls = cursor or self.cursorclass
        if cls is Cursor:
            return Cursor(self) if self._stream is None else buffered(self)
        if self._stream is not None and isinstance(cls, type) and issubclass(cls, SSCursor):
            cls = abandoning(cls)
        return super().cursor(cls)

    # --- what a pool asks ---------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the connection is usable, as far as can be told without asking the server."""
        if self._sock is None or self._pid != process.pid:
            return False
        return self._stream is None or self._stream.alive

    @property
    def in_transaction(self) -> bool:
        return bool(self.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    @property
    def quiet(self) -> bool:
        """Whether no result is half read and nobody waits for one."""
        result = self._result
        return (result is None or not (result.unbuffered_active or result.has_next)) and (
            self._stream is None or self._stream.quiet
        )


def connect(**kwargs: Any) -> Connection:
    """Open a connection; the arguments are those of ``pymysql.connect``."""
    return Connection(**kwargs)


# The rest of the DB-API module, so that this one can stand in for PyMySQL.
apilevel = pymysql.apilevel
threadsafety = pymysql.threadsafety
paramstyle = pymysql.paramstyle
Warning = pymysql.Warning
Error = pymysql.Error
InterfaceError = pymysql.InterfaceError
DatabaseError = pymysql.DatabaseError
DataError = pymysql.DataError
OperationalError = pymysql.OperationalError
IntegrityError = pymysql.IntegrityError
InternalError = pymysql.InternalError
ProgrammingError = pymysql.ProgrammingError
NotSupportedError = pymysql.NotSupportedError

__all__ = [
    "ConcurrentUseError",
    "Connection",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]
