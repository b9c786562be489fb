"""`drain`: what is at work in greenlets, for a shutdown to wait for.

Requests are entered here while their greenlets run, and so are websockets while one of their methods does:
a socket that is merely open is not at work.
"""

from __future__ import annotations

import asyncio

from greentor.bridge.running import spawned

_at_work: set[object] = set()
_idle: list[asyncio.Future[None]] = []


def enter(what: object) -> None:
    """Count ``what`` among those that `drain` waits for."""
    _at_work.add(what)


def leave(what: object) -> None:
    """Count it no more."""
    _at_work.discard(what)
    if not _at_work:
        while _idle:
            idle = _idle.pop()
            if not idle.done():
                idle.set_result(None)


async def drain(timeout: float, *, spawned: bool = False) -> int:
    """Wait until no request and no message of a websocket is at work, at most ``timeout`` seconds.

    Return how many still are: call it between stopping the server and closing its connections. With
    ``spawned`` true, wait for what `greentor.spawn` has started, too, and count it; a task that is
    meant to run for ever must have been ended before.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        await _wait_for_idle(deadline)
        left = _spawned_here() if spawned else set()
        if not left or asyncio.get_running_loop().time() >= deadline:
            return len(_at_work) + len(left)
        await asyncio.wait(left, timeout=deadline - asyncio.get_running_loop().time())


async def _wait_for_idle(deadline: float) -> None:
    if not _at_work:
        return
    loop = asyncio.get_running_loop()
    idle = loop.create_future()
    _idle.append(idle)
    try:
        await asyncio.wait_for(idle, max(deadline - loop.time(), 0))
    except TimeoutError:
        pass
    finally:
        if idle in _idle:
            _idle.remove(idle)


def _spawned_here() -> set[asyncio.Task[object]]:
    """Return the spawned tasks of the running loop, without the one that asks."""
    loop = asyncio.get_running_loop()
    here = {task for task in spawned if task.get_loop() is loop and not task.done()}
    return here - {asyncio.current_task()}
