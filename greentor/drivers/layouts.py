"""The definitions of result sets' columns, known again by their bytes.

To parse those of ten columns takes as long as twenty rows of them, and an application asks the same queries.

Invariants
- What was made of a result set's definitions is kept for all connections, and used again only for the same
  bytes, with the same encoding and the same converters.
- At most `KEPT` are kept, of at most `LARGEST` bytes each and `TOTAL` bytes together. What is made of them
  takes some twenty times as much.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from greentor.drivers.rows import Reader

KEPT = 512
LARGEST = 16 * 1024
TOTAL = 256 * 1024

#: so many bytes suffice for a first guess; definitions are rarely shorter
_BEGINNING = 40


class Layout(NamedTuple):
    """What was made of the definitions of a result set's columns."""

    #: their packets, from the one that tells their number to the EOF packet
    data: bytes
    #: of the connection, when this was made; its converter for each type of column that there is
    encoding: str
    use_unicode: bool
    decoders: tuple[tuple[int, Any], ...]
    #: as PyMySQL keeps them in its result
    fields: list[Any]
    converters: list[Any]
    description: tuple[Any, ...]
    #: what makes a value of each column's bytes
    readers: tuple[Reader, ...]
    #: the sequence number of the packet after the definitions
    number: int

    def fits(self, connection: Any) -> bool:
        """Tell whether a connection decodes and converts as the one did for which this was made."""
        if self.encoding != connection.encoding or self.use_unicode != connection.use_unicode:
            return False
        decoders = connection.decoders
        for kind, converter in self.decoders:  # noqa: SIM110, all() is slower on so few
            if decoders.get(kind) is not converter:
                return False
        return True


_known: dict[tuple[bytes, str, bool], Layout] = {}
#: by the first bytes: the layout that began with them the last time
_latest: dict[bytes, Layout] = {}


def guess(data: bytes, pos: int) -> Layout | None:
    """Return the layout whose bytes stand at ``pos``, if it was the last that began like this."""
    layout = _latest.get(data[pos : pos + _BEGINNING])
    if layout is not None and data.startswith(layout.data, pos):
        return layout
    return None


def find(data: bytes, connection: Any) -> Layout | None:
    """Return the layout of these definitions, if it is known."""
    layout = _known.get((data, connection.encoding, connection.use_unicode))
    if layout is not None and len(data) >= _BEGINNING:
        _latest[data[:_BEGINNING]] = layout
    return layout


def keep(data: bytes, result: Any) -> None:
    """Remember what a result has made of these definitions, which it has just read."""
    if len(data) > LARGEST:
        return
    connection = result.connection
    if len(_known) >= KEPT or sum(len(layout.data) for layout in _known.values()) > TOTAL:
        clear()
    kinds = dict.fromkeys(field.type_code for field in result.fields)
    layout = Layout(
        data,
        connection.encoding,
        connection.use_unicode,
        tuple((kind, connection.decoders.get(kind)) for kind in kinds),
        result.fields,
        result.converters,
        result.description,
        result.readers,
        connection._next_seq_id,
    )
    _known[data, connection.encoding, connection.use_unicode] = layout
    if len(data) >= _BEGINNING:  # else a row comes into the beginning
        _latest[data[:_BEGINNING]] = layout


def clear() -> None:
    """Forget all of them."""
    _known.clear()
    _latest.clear()
