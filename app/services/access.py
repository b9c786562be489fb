"""Access records, written after the answer, and in bulk.

Invariants
- A view costs its request a place in a queue and nothing else: one greenlet writes for all of them, so
  that a thousand views at once do not ask the pool for a thousand connections.
- The greenlet is there as long as something is to be written. What comes in while it writes is its next
  batch: the more there is to do, the less each record costs.
- No failure reaches a request. A batch that cannot be written is tried again, `TRIES` times in all, and
  then given up, with a log entry; so is what comes in while `MAX_PENDING` records are waiting.
- `flush` waits, at the end of the process, until everything is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice

from django.db.models import Count, Max, QuerySet

import greentor
from app.models import AccessRecord

#: as many as can be written without holding the event loop for more than some milliseconds
BATCH = 100
MAX_PENDING = 20_000
TRIES = 5
PAUSE = 1  # seconds, before a batch is tried again

logger = logging.getLogger("app.access")

_pending: deque[AccessRecord] = deque()
_writer: asyncio.Task[None] | None = None


def record(view: AccessRecord) -> None:
    """Have a view written soon; texts are cut to the length of their columns. It never waits."""
    global _writer
    if len(_pending) >= MAX_PENDING:
        logger.error("a page view is lost: %d are waiting already", len(_pending))
        return
    for field in AccessRecord._meta.concrete_fields:
        if field.max_length is not None:
            setattr(view, field.attname, getattr(view, field.attname)[: field.max_length])
    _pending.append(view)
    if _writer is None or _writer.done():
        _writer = greentor.spawn(_write)


async def flush(timeout: float) -> int:
    """Wait until everything is written, at most ``timeout`` seconds; return how many records are left."""
    try:
        async with asyncio.timeout(timeout):
            while _writer is not None and not _writer.done():
                await asyncio.wait([_writer])
    except TimeoutError:
        pass
    return len(_pending)


def count_by_path() -> QuerySet[AccessRecord, dict[str, object]]:
    """Return how often each path was viewed, and when last, the most viewed first."""
    counts = AccessRecord.objects.values("path").annotate(views=Count("id"), last=Max("time"))
    return counts.order_by("-views", "path")


def _write() -> None:
    global _writer
    try:
        while _pending:
            batch = list(islice(_pending, BATCH))
            _write_batch(batch)
            for _ in batch:
                _pending.popleft()
    finally:
        # Now, not when its task has ended: what comes in between would wait for the next view.
        _writer = None


def _write_batch(batch: list[AccessRecord]) -> None:
    for tries_left in reversed(range(TRIES)):
        try:
            AccessRecord.objects.bulk_create(batch)
            return
        except Exception as error:
            logger.warning("%d page views could not be written: %r", len(batch), error)
        if tries_left:
            greentor.sleep(PAUSE)
    logger.error("%d page views are lost", len(batch))
