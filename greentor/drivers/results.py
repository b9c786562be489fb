"""The answer to one query, read off a `Stream` as PyMySQL's `MySQLResult` reads it, in fewer steps.

Invariants
- What is common and has wholly arrived is read here: an OK packet, column definitions that were seen
  before, plain rows, the end of the rows. Everything else, and all that looks odd, goes through PyMySQL's own
  methods, which take it from the same place.
- Of an unbuffered result no row is read before it is asked for.
- Collected while rows are still to come, a result gives up its connection, and waits for nothing.
"""

from __future__ import annotations

import struct
from typing import Any

from pymysql import converters, err
from pymysql.connections import MySQLResult
from pymysql.constants import CR, SERVER_STATUS

from greentor.drivers import layouts, local_infile
from greentor.drivers.exchange import guarded
from greentor.drivers.layouts import Layout
from greentor.drivers.rows import Reader, make_reader, read_rows

_MORE = SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
_ALL = 1 << 62
_UNKNOWN = (1 << 64) - 1
_CONTINUED = 0xFFFFFF
_OK, _NULL, _EOF = 0x00, 0xFB, 0xFE
_LOCAL_INFILE_REJECTED = 2068  # of the C client
_header = struct.Struct("<I").unpack_from
_ok_status = struct.Struct("<HH").unpack_from
_eof_status = struct.Struct("<hH").unpack_from  # signed, as PyMySQL reads the number of warnings

_BUILT_IN = {
    id(converter) for converter in (*converters.decoders.values(), converters.convert_time)
}


def _number(data: bytes, pos: int) -> tuple[int, int]:
    """Return a length-encoded integer, and where it ends: far off if it is none."""
    first = data[pos]
    if first < _NULL:
        return first, pos + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, _ALL)
    return int.from_bytes(data[pos + 1 : pos + 1 + size], "little"), pos + 1 + size


class Result(MySQLResult):  # type: ignore[misc]
    """A result that reads from a stream."""

    # What PyMySQL's __init__ sets, which takes as long as the reading of a row.
    affected_rows: Any = None
    insert_id: Any = None
    server_status: Any = None
    warning_count = 0
    message: Any = None
    field_count = 0
    description: Any = None
    rows: Any = None
    has_next: Any = None
    unbuffered_active = False
    #: what makes a value of each column's bytes
    readers: tuple[Reader, ...] = ()

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def read(self) -> None:
        try:
            if not self._read_head():
                super().read()
            elif self.description is not None:
                self._read_rowdata_packet()
        finally:
            self.connection = None

    def init_unbuffered_query(self) -> None:
        if not self._read_head():
            super().init_unbuffered_query()
        elif self.description is None:
            self.connection = None
        else:
            self.affected_rows = _UNKNOWN  # as PyMySQL says
            self.unbuffered_active = True

    # --- the first packets --------------------------------------------------------------------

    def _read_head(self) -> bool:
        """Read an OK packet or columns; return False if that is left to PyMySQL."""
        connection = self.connection
        stream = connection._stream
        connection._fill(4)
        (head,) = _header(stream.data, stream.pos)
        end = 4 + (head & _CONTINUED)
        if head >> 24 != connection._next_seq_id or end == 4:
            return False
        if len(stream.data) - stream.pos < end:
            connection._fill(end)
        first = stream.data[stream.pos + 4]
        if first == _OK:
            return self._read_ok(stream, stream.pos + end)
        if end == 5 and first < _NULL:
            self._read_columns(stream, first)
            return True
        return False

    def _read_ok(self, stream: Any, end: int) -> bool:
        data: bytes = stream.data
        pos: int = stream.pos + 5
        if end - pos < 6:
            return False
        affected, pos = _number(data, pos)
        inserted, pos = _number(data, pos)
        if pos > end - 4:
            return False
        self.affected_rows = affected
        self.insert_id = inserted
        self.server_status, self.warning_count = _ok_status(data, pos)
        self.message = data[pos + 4 : end]
        self.has_next = self.server_status & _MORE
        self.connection._next_seq_id = (self.connection._next_seq_id + 1) & 255
        stream.advance(end)
        return True

    def _read_columns(self, stream: Any, count: int) -> None:
        """Read the packet of which the first byte says ``count``, and the definitions of as many columns."""
        connection = self.connection
        self.field_count = count
        layout = layouts.guess(stream.data, stream.pos)
        if layout is not None and layout.fits(connection):
            self._use(stream, layout)
            return
        size = self._wait_for_columns(stream, count)
        data = stream.data[stream.pos : stream.pos + size]
        layout = layouts.find(data, connection)
        if layout is not None and layout.fits(connection):
            self._use(stream, layout)
            return
        stream.advance(stream.pos + 5)
        connection._next_seq_id = (connection._next_seq_id + 1) & 255
        self._get_descriptions()
        if size:
            layouts.keep(data, self)

    def _use(self, stream: Any, layout: Layout) -> None:
        self.fields = layout.fields
        self.converters = layout.converters
        self.description = layout.description
        self.readers = layout.readers
        self.connection._next_seq_id = layout.number
        stream.advance(stream.pos + len(layout.data))

    def _get_descriptions(self) -> None:
        super()._get_descriptions()
        self.readers = tuple(make_reader(*pair) for pair in self.converters)

    def _wait_for_columns(self, stream: Any, count: int) -> int:
        """Return how many bytes they have, from the first packet on; 0 if one of them is odd."""
        end = 5
        while count >= 0:  # and the EOF packet after them
            while len(stream.data) - stream.pos < end + 5:
                self.connection._fill(end + 5)
            at: int = stream.pos + end
            (head,) = _header(stream.data, at)
            length = head & _CONTINUED
            if length == _CONTINUED or not length or (stream.data[at + 4] >= _EOF and count):
                return 0
            end += 4 + length
            count -= 1
        if len(stream.data) - stream.pos < end:
            self.connection._fill(end)
        return end

    # --- rows ---------------------------------------------------------------------------------

    def _read_rowdata_packet(self) -> None:
        rows: list[Any] = []
        while self._read_some(rows, _ALL):
            pass
        self.connection = None
        self.affected_rows = len(rows)
        self.rows = tuple(rows)

    @guarded
    def _finish_unbuffered_query(self) -> None:
        super()._finish_unbuffered_query()

    @guarded
    def _read_rowdata_packet_unbuffered(self) -> Any:
        if not self.unbuffered_active:
            return None
        rows: list[Any] = []
        if not self._read_some(rows, 1):
            self.unbuffered_active = False
            self.connection = None
            self.rows = None
            return None
        self.affected_rows = 1
        self.rows = tuple(rows)
        return rows[0]

    def _read_some(self, rows: list[Any], most: int) -> bool:
        """Append rows; return whether more may come. With ``most`` 1 there is one if there may."""
        connection = self.connection
        stream = connection._stream
        connection._fill(4)
        (head,) = _header(stream.data, stream.pos)
        length = head & _CONTINUED
        if len(stream.data) - stream.pos < length + 4 and length < _CONTINUED:
            connection._fill(length + 4)
        data: bytes = stream.data
        before = len(rows)
        number: int = connection._next_seq_id
        pos, number = read_rows(data, stream.pos, number, self.readers, rows, most)
        connection._next_seq_id = number
        more = len(rows) > before
        if len(data) - pos > 8 and not (more and most == 1):
            (head,) = _header(data, pos)
            if head == 5 | number << 24 and data[pos + 4] == _EOF:
                self.warning_count, status = _eof_status(data, pos + 5)
                # PyMySQL keeps the status of an OK packet alone: a SELECT may have begun a transaction.
                connection.server_status = status
                self.has_next = status & _MORE
                connection._next_seq_id = (number + 1) & 255
                stream.advance(pos + 9)
                return False
        stream.advance(pos)
        return more or self._read_odd(rows)

    def _read_odd(self, rows: list[Any]) -> bool:
        """Do as `_read_some`, for one packet, in PyMySQL's way."""
        packet = self.connection._read_packet()
        if self._check_packet_is_eof(packet):
            return False
        rows.append(self._read_row_from_packet(packet))
        return True

    def _read_row_from_packet(self, packet: Any) -> Any:
        row = []
        for encoding, converter in self.converters:
            try:
                value = packet.read_length_coded_string()
            except IndexError:
                break  # fewer values than columns: PyMySQL takes that, see its #434
            if value is not None:
                value = self._convert(value, encoding, converter)
            row.append(value)
        return tuple(row)

    def _convert(self, value: bytes, encoding: str | None, converter: Any) -> Any:
        known = converter is None or id(converter) in _BUILT_IN
        try:
            decoded = value if encoding is None else value.decode(encoding)
            if known:
                return decoded if converter is None else converter(decoded)
        except (ArithmeticError, TypeError, ValueError) as exc:
            self.connection._force_close()
            raise err.DataError(
                CR.CR_MALFORMED_PACKET, f"the server sent a value that cannot be read: {exc}"
            ) from exc
        try:
            return converter(decoded)
        except Exception as exc:
            self.connection.application_error = exc
            raise

    def _read_load_local_packet(self, first_packet: Any) -> None:
        if self.connection._local_infile:
            self._read_ok_packet(local_infile.send_local_file(self.connection, first_packet))
        else:
            self.connection._force_close()
            raise err.OperationalError(
                _LOCAL_INFILE_REJECTED, "the server asks for a local file, and local_infile is off"
            )

    # --- the end of a result ------------------------------------------------------------------

    def abandon(self) -> None:
        """Close, without waiting, the connection that has rows for nobody."""
        connection = self.connection
        if self.unbuffered_active:
            self.unbuffered_active = False
            if connection is not None:
                connection._force_close()

    def __del__(self) -> None:
        self.abandon()
