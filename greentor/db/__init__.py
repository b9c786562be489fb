"""What Django sees: the seams, the connection handler's store, and the engines.

Engines: ``greentor.db.mysql``, ``greentor.db.sqlite3``. Importing this package changes nothing; the
seams are installed by ``INSTALLED_APPS = ["greentor", ...]`` or with the first engine that is loaded.
"""

from greentor.db.pools import close_pools
from greentor.db.warming import warm_pools

__all__ = ["close_pools", "warm_pools"]
