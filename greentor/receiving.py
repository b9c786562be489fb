"""What the connections of an event loop receive into: one buffer for all, one after the other.

asyncio allocates 256 KiB for each ``recv`` of a Protocol, by mmap, which costs as much as the system call. A
BufferedProtocol it asks where to put the bytes.

Invariants
- What is in the buffer is lost with the loop's next callback: who receives takes it out at once.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

#: receive so many bytes in one go
RECEIVE_SIZE = 256 * 1024

_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return what all the loop's connections receive into."""
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(RECEIVE_SIZE))
    return buffer
