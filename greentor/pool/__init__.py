"""A bounded, fair pool of anything that a `Driver` describes, for the greenlets of one event loop.

`pool` lends, and knows who waits; `state` keeps the books, without I/O, clock or loop; `driver` does what is
done to one connection; `upkeep` sees to those that nobody uses; `options` and `stats` are what they say.
"""

from greentor.pool.driver import Driver
from greentor.pool.options import PoolOptions
from greentor.pool.pool import Pool, PoolClosed, PoolFull, PoolTimeout
from greentor.pool.stats import PoolStats

__all__ = ["Driver", "Pool", "PoolClosed", "PoolFull", "PoolOptions", "PoolStats", "PoolTimeout"]
