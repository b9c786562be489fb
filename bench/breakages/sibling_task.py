"""Transactions in async code: a sibling's write is lost with the rollback, or survives it.

Outside a request all tasks of Django's async ORM share one thread and one connection; a transaction that one
task opens there is everybody's, so what another task writes meanwhile is lost with its rollback. And a task
that was started within the block goes on after the block was rolled back, and commits on its own.
Documented: Django's docs/topics/async ("Transactions do not yet work in async mode"); the usual recipe,
`AsyncAtomic` below, is asked about in forum.djangoproject.com/t/32745; django-async-backend #11 (the sibling
that loses its write, without an error) and #77 (the one that commits after the rollback).
greentor refuses that one because the request has ended with its failed transaction; in a request that catches
the error and goes on, it would write as well. `asyncio.TaskGroup`, unlike `gather`, ends it with the block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import transaction

from bench.breakages.case import Case, Seen
from bench.breakages.records import fresh, names


class Declined(Exception):
    """Why the order is rolled back."""


class AsyncAtomic:
    """The recipe: `atomic` for Django's async ORM."""

    def __init__(self) -> None:
        self._atomic = transaction.atomic()

    async def __aenter__(self) -> None:
        await sync_to_async(self._atomic.__enter__)()

    async def __aexit__(self, *exc_info: object) -> None:
        await sync_to_async(self._atomic.__exit__)(*exc_info)


@asynccontextmanager
async def atomic() -> AsyncIterator[None]:
    """greentor's: the `atomic` that Django has."""
    with transaction.atomic():
        yield


async def while_another_rolls_back(atomic: Any, task: Any, server: Any) -> Seen:
    """An audit writes its record in a task of its own while an order is in its transaction."""
    ordered, audited = asyncio.Event(), asyncio.Event()

    async def order() -> None:
        async with atomic():
            try:
                await Group.objects.acreate(name=fresh("order"))
            finally:
                ordered.set()
            await audited.wait()
            raise Declined

    async def audit() -> int:
        await ordered.wait()
        try:
            record = await Group.objects.acreate(name=fresh("audit"))
        finally:
            audited.set()
        return int(record.pk)

    outcome = await asyncio.gather(task(order)(), task(audit)(), return_exceptions=True)
    return {
        "the order": repr(outcome[0]),
        "the audit's record has number": (
            repr(outcome[1]) if isinstance(outcome[1], BaseException) else outcome[1]
        ),
        "rows afterwards": names(server),
        "rows that should be there": ["audit"],
    }


async def after_the_rollback(atomic: Any, task: Any, server: Any) -> Seen:
    """An order pays and ships side by side; the payment is declined while the shipping is slow."""
    rolled_back = asyncio.Event()
    shipping: list[asyncio.Task[str]] = []

    async def pay() -> None:
        raise Declined

    async def ship() -> str:
        await rolled_back.wait()
        try:
            await Group.objects.acreate(name=fresh("shipment"))
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}"
        return "committed"

    async def order() -> None:
        async with atomic():
            await Group.objects.acreate(name=fresh("order"))
            shipping.append(asyncio.create_task(ship()))
            await asyncio.gather(pay(), *shipping)

    seen: Seen = {}
    try:
        await task(order)()
    except Declined as exc:
        seen["the order"] = repr(exc)
    rolled_back.set()
    seen["the shipment"] = await shipping[0]
    seen["rows afterwards"] = names(server)
    seen["rows that should be there"] = []
    return seen


def peer(scenario: Any, server: Any) -> Seen:
    """Run it on Django's async ORM."""
    return asyncio.run(scenario(AsyncAtomic, lambda fn: fn, server))


def greentor(scenario: Any, server: Any) -> Seen:
    """Run it in greenlets."""
    from greentor import green

    return asyncio.run(scenario(atomic, green, server))


def broken(seen: Seen) -> bool:
    """Tell whether anything is missing, or there and should not be."""
    return seen["rows afterwards"] != seen["rows that should be there"]


def lost(seen: Seen) -> bool:
    """Tell whether the audit was told that its record is there, and it is not."""
    return isinstance(seen["the audit's record has number"], int) and not seen["rows afterwards"]


def survived(seen: Seen) -> bool:
    """Tell whether a part of what was rolled back is there."""
    return seen["the order"] == "Declined()" and seen["rows afterwards"] == ["shipment"]


def case(what: str, scenario: Any, documented: Any) -> Case:
    return Case(
        what,
        peer_name="Django's async ORM in one asyncio program",
        packages=("Django", "asgiref"),
        peer=partial(peer, scenario),
        greentor=partial(greentor, scenario),
        documented=documented,
        broken=broken,
    )


CASES = [
    case(
        "a task writes while another one's transaction is rolled back",
        while_another_rolls_back,
        lost,
    ),
    case("a task started in a transaction writes after its rollback", after_the_rollback, survived),
]
