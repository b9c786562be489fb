"""A DatabaseWrapper that crosses greenlets: refused by thread numbers, or answers in the wrong hands.

A greenlet hands its connection to another. Under gevent Django refuses that by two "thread ids"; told to
share (`inc_thread_sharing`, the advice given for that error), it lets the second greenlet write its question
while the first waits for an answer, and from then on each question gets the answer to the one before.
Documented: gunicorn #293, #879, #927, #2252 and dj-geventpool #10 for the refusal; PyMySQL #414, #422, #606
("Packet sequence number wrong", "threads may share the module, but not connections") for the sharing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from django.db import connection, connections

from bench.breakages.case import Case, Seen
from bench.breakages.records import is_running
from tests.waiting import await_until, wait_until

#: what the owner asks while the guest comes in
SLOW = "SELECT SLEEP(0.5), 'the owner''s'"


def query(wrapper: Any, sql: str) -> str:
    """Return the last column that the database answers with, or the error."""
    try:
        with wrapper.cursor() as cursor:
            cursor.execute(sql)
            return str(cursor.fetchone()[-1])
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


def peer(server: Any) -> Seen:
    """Do it with gevent greenlets, in a process that gevent has patched."""
    import gevent

    def guest(wrapper: Any) -> str:
        return query(wrapper, "SELECT 'the guest''s'")

    def guest_in_between(wrapper: Any) -> str:
        wait_until(lambda: is_running(server, SLOW))
        return guest(wrapper)

    def owner() -> Seen:
        wrapper = connections["default"]
        connection.ensure_connection()
        seen = {"not shared, the guest gets": gevent.spawn(guest, wrapper).get()}
        wrapper.inc_thread_sharing()
        other = gevent.spawn(guest_in_between, wrapper)
        seen["shared, the owner gets"] = query(wrapper, SLOW)
        seen["shared, the guest gets"] = other.get()
        seen["asking 'mine', the owner then gets"] = query(wrapper, "SELECT 'mine'")
        return seen

    return dict(gevent.spawn(owner).get())


def greentor(server: Any) -> Seen:
    return asyncio.run(greenlets(server))


async def greenlets(server: Any) -> Seen:
    """Do it with greentor's."""
    import greentor

    def guest(wrapper: Any) -> str:
        return query(wrapper, "SELECT 'the guest''s'")

    async def guest_in_between(wrapper: Any) -> str:
        await await_until(lambda: is_running(server, SLOW))
        return guest(wrapper)

    @greentor.green
    async def owner() -> Seen:
        wrapper = connections["default"]
        connection.ensure_connection()
        seen = {"not shared, the guest gets": await greentor.spawn(guest, wrapper)}
        wrapper.inc_thread_sharing()
        try:
            other = greentor.spawn(guest_in_between, wrapper)
            seen["shared, the owner gets"] = query(wrapper, SLOW)
            seen["shared, the guest gets"] = await other
            seen["asking 'mine', the owner then gets"] = query(wrapper, "SELECT 'mine'")
        finally:
            wrapper.dec_thread_sharing()
        return seen

    return await owner()


def documented(seen: Seen) -> bool:
    """Tell whether the owner got the guest's answer, once the wrapper that is refused was shared."""
    return (
        "objects created in a thread" in seen["not shared, the guest gets"]
        and seen["asking 'mine', the owner then gets"] == "the guest's"
    )


def broken(seen: Seen) -> bool:
    """Tell whether the owner got anything but its own answers."""
    return (
        seen["shared, the owner gets"] != "the owner's"
        or seen["asking 'mine', the owner then gets"] != "mine"
    )


CASES = [
    Case(
        "a greenlet hands its connection to another, which asks while the first waits",
        peer_name="Django in gevent greenlets, with PyMySQL",
        packages=("gevent", "Django", "PyMySQL"),
        peer=peer,
        greentor=greentor,
        documented=documented,
        broken=broken,
        gevent=True,
    )
]
