"""Rows of MySQL's text protocol, read from the bytes that have arrived, many at a time.

PyMySQL makes an object of each packet, reads each header by itself, and decodes before it converts. Here the
plain rows that lie in a buffer are read in one loop. Whatever is not plain (the end, an error, a packet of
16 MiB, anything malformed, a converter that raises) is left in place, for PyMySQL's own code to judge.

Invariants
- Same values, same types as PyMySQL's. Only its own converters are replaced by faster ones, and those only
  where they agree; a user's converter is called with what PyMySQL would call it with.
- Nothing here reads from a connection, waits, or raises.

The format: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from struct import Struct
from typing import Any

from pymysql import converters

Reader = Callable[[bytes], Any]

_header = Struct("<I").unpack_from  # length of the packet in three bytes, its number in the fourth
_NULL = 0xFB
_TWO_BYTES = 0xFC
_THREE_BYTES = 0xFD
_NOT_A_ROW = 0xFE  # and above: an end, an error, or a value that fills more than one packet
_CONTINUED = 0xFFFFFF

#: what a server sends, with zeros for all digits: `fromisoformat` takes more than PyMySQL's converters
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_DATE = b"0000-00-00"
_DATETIMES = {b"0000-00-00 00:00:00"} | {
    b"0000-00-00 00:00:00." + b"0" * digits for digits in range(1, 7)
}
_TIMES = {b"00:00:00", b"000:00:00", b"-00:00:00", b"-000:00:00"}
_MINUS = ord("-")
_new_datetime = datetime.datetime.fromisoformat
_new_date = datetime.date.fromisoformat
_new_timedelta = datetime.timedelta


def read_rows(
    data: bytes, pos: int, number: int, readers: tuple[Reader, ...], rows: list[Any], most: int
) -> tuple[int, int]:
    """Append the rows that lie in ``data`` from ``pos`` on to ``rows``, at most ``most`` of them.

    ``number`` is the sequence number that the next packet must have. Return the position of the first packet
    that was not read and the number that it must have.
    """
    size = len(data)
    try:
        while most and size - pos > 4:
            (head,) = _header(data, pos)
            at = pos + 4
            length = head & _CONTINUED
            end = at + length
            if end > size or length == _CONTINUED or head >> 24 != number or data[at] >= _NOT_A_ROW:
                break
            row: list[Any] = []
            for read in readers:
                first = data[at]
                at += 1
                if first < _NULL:
                    stop = at + first
                elif first == _NULL:
                    row.append(None)
                    continue
                elif first == _TWO_BYTES:
                    stop = at + 2 + data[at] + (data[at + 1] << 8)
                    at += 2
                elif first == _THREE_BYTES:
                    stop = at + 3 + data[at] + (data[at + 1] << 8) + (data[at + 2] << 16)
                    at += 3
                else:
                    return pos, number
                row.append(read(data[at:stop]))
                at = stop
            if at != end:
                break
            rows.append(tuple(row))
            pos = end
            number = (number + 1) & 255
            most -= 1
    except Exception:  # the same will be raised by PyMySQL, unless the row was cut wrongly
        pass
    return pos, number


def make_reader(encoding: str | None, converter: Callable[[Any], Any] | None) -> Reader:
    """Return what makes of a column's bytes what PyMySQL would: decoded, then converted."""
    if converter is None:
        return _decoder(encoding) if encoding else bytes
    if encoding is None:
        return converter
    if encoding == "ascii":
        for known, reader in _FASTER:
            if converter is known:
                return reader
    decode = _decoder(encoding)
    return lambda value: converter(decode(value))


def _decoder(encoding: str) -> Reader:
    if encoding in ("utf8", "utf-8"):
        return bytes.decode
    return lambda value: value.decode(encoding)


def _decimal(value: bytes) -> Decimal:
    return Decimal(value.decode("ascii"))


def _datetime(value: bytes) -> Any:
    text = value.decode("ascii")
    if value.translate(_ZEROS) in _DATETIMES:
        try:
            return _new_datetime(text)
        except ValueError:  # a zero date, or 30 February: PyMySQL returns the text
            pass
    return converters.convert_datetime(text)


def _date(value: bytes) -> Any:
    text = value.decode("ascii")
    if value.translate(_ZEROS) == _DATE:
        try:
            return _new_date(text)
        except ValueError:
            pass
    return converters.convert_date(text)


def _timedelta(value: bytes) -> Any:
    shape = value.translate(_ZEROS)
    if shape in _TIMES:
        hours, minutes, seconds = value.split(b":")
        if shape[0] != _MINUS:
            return _new_timedelta(0, int(hours) * 3600 + int(minutes) * 60 + int(seconds))
        return _new_timedelta(0, int(hours) * 3600 - int(minutes) * 60 - int(seconds))
    return converters.convert_timedelta(value.decode("ascii"))


#: PyMySQL's converters, and what returns the same for what a server sends
_FASTER: tuple[tuple[Any, Reader], ...] = (
    (int, int),
    (float, float),
    (Decimal, _decimal),
    (converters.convert_datetime, _datetime),
    (converters.convert_date, _date),
    (converters.convert_timedelta, _timedelta),
)
