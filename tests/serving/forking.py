"""A program that forks after it has used the ORM: ``python -m tests.serving.forking '{...}'``.

The options: ``database``, an entry of DATABASES; ``loop``; ``where``, whether it forks within a transaction
of a greenlet or outside of the loop; ``actions``, the functions here that one child each calls. It prints
what they returned, and fails if the parent's sessions have changed in whatever way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import django
from django.conf import settings

from app.server import loop_factory

#: of `struct tcp_info`: how many bytes were sent on a connection, by whatever process
BYTES_SENT = slice(200, 208)
TCP_INFO = 11


def query(sql: str, alias: str = "default") -> Any:
    from django.db import connections

    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None


def session() -> Any:
    """Name the session of this scope, and keep it for a moment."""
    from django.db import connection

    import greentor

    if connection.vendor == "mysql":
        return query("SELECT CONNECTION_ID(), @mark := 7, SLEEP(0.05)")[0][0]
    query("SELECT 1")
    greentor.sleep(0.05)
    return id(connection.connection)


async def sessions() -> set[Any]:
    import greentor

    return set(await asyncio.gather(greentor.spawn(session), greentor.spawn(session)))


def sent() -> list[int]:
    """Count the bytes that were sent on each of our connections."""
    import socket

    from greentor.stream import Stream

    counts = []
    for stream in [each for each in gc.get_objects() if type(each) is Stream and each.alive]:
        connected = stream._transport.get_extra_info("socket")
        info = connected.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
        counts.append(int.from_bytes(info[BYTES_SENT], sys.byteorder))
    return sorted(counts)


# What the child does


def leave() -> str:
    return "left"


def query_on_a_loop() -> str:
    """Use the ORM as the parent does, on a loop of its own."""
    import greentor

    async def main() -> int:
        return await greentor.spawn(query, "SELECT COUNT(*) FROM forked")

    with asyncio.Runner(loop_factory=factory) as runner:
        return f"{runner.run(main())[0][0]} rows"


def query_blocking() -> str:
    from django.db import connections

    rows = query("SELECT COUNT(*) FROM forked")[0][0]
    connections.close_all()
    return f"{rows} rows"


def close_all() -> str:
    from django.db import connections

    from greentor.db import close_pools

    connections.close_all()
    close_pools(runner.get_loop())
    return "closed"


def collect() -> str:
    """Drop whatever refers to the parent's connections."""
    from django.db import connections

    from greentor.db import pools

    for entry in pools._loops.values():
        entry.pools.clear()
    for wrapper in connections.all(initialized_only=True):
        wrapper.connection = None
    gc.collect()
    return "collected"


def end_the_interpreter() -> NoReturn:
    print("ended", flush=True)
    sys.exit(0)


def forked(action: Callable[[], str]) -> None:
    """Fork, have the child act, and check that it has said nothing to the server in our name."""
    before = sent()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            print(action(), flush=True)
            status = 0
        except SystemExit:
            if action is end_the_interpreter:
                raise
        except Exception as error:
            print(type(error).__name__, flush=True)
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0, os.waitstatus_to_exitcode(status)
    assert sent() == before, (sent(), before)


def within_a_transaction(actions: list[Callable[[], str]]) -> None:
    from django.db import transaction

    with transaction.atomic():
        query("INSERT INTO forked VALUES (1)")
        for action in actions:
            forked(action)
        assert query("SELECT COUNT(*) FROM forked")[0][0] == 1
        query("INSERT INTO forked VALUES (2)")


def main() -> None:
    global factory, runner
    options = json.loads(sys.argv[1])
    settings.configure(
        DATABASES={"default": options["database"]}, INSTALLED_APPS=["greentor"], USE_TZ=True
    )
    django.setup()
    import greentor

    actions = [globals()[name] for name in options["actions"]]
    factory = loop_factory(options["loop"])
    runner = asyncio.Runner(loop_factory=factory)
    before = runner.run(sessions())
    assert len(before) == 2
    if options["where"] == "within":
        runner.run(greentor.green(within_a_transaction)(actions))
    else:
        runner.run(greentor.green(query)("INSERT INTO forked VALUES (1)"))
        for action in actions:
            forked(action)
        runner.run(greentor.green(query)("INSERT INTO forked VALUES (2)"))
    # Sessions of the server, each as it was left.
    assert runner.run(sessions()) == before
    ((count,),) = runner.run(greentor.green(query)("SELECT COUNT(*) FROM forked"))
    assert count == 2, count
    runner.close()
    print("fine")


if __name__ == "__main__":
    main()
