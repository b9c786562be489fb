"""`warm_pools`: connections that are open before the first request asks for one.

Invariants
- A connection is opened as a request's would be, session and all, and counts against the bound of its pool.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from django.db import connections

from greentor import bridge
from greentor.db.pools import DatabasePool, find_pool
from greentor.db.wrapper import GreenWrapper


async def warm_pools() -> int:
    """Open connections until ``min_size`` are open in each pool of the running event loop.

    Return how many were opened. Call it when the program starts, on the loop that will serve. Raise what
    the first attempt raised if ``min_size`` connections to a database cannot be had.
    """
    loop = asyncio.get_running_loop()
    opened = 0
    for alias in connections.settings:
        settings = connections.settings[alias]
        wrapper = type(connections).create_connection(connections, alias)
        if isinstance(wrapper, GreenWrapper):
            pool = find_pool(loop, alias, settings, wrapper.make_driver)
            if pool is not None and pool.options.min_size:
                opened += await pool.warm(partial(_open, pool, alias))
    return opened


def _open(pool: DatabasePool, alias: str) -> Any:
    wrapper = type(connections).create_connection(connections, alias)
    assert isinstance(wrapper, GreenWrapper)
    wrapper.enter_scope(bridge.check_alive("warming a pool").frame.scope)
    return wrapper.open_for(pool)
