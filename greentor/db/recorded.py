"""A cursor whose queries are counted, and timed while somebody watches: see `greentor.recording`.

What is sent is counted, once it was found that it may be: an ``executemany`` once. When nobody watches, a
usual statement does not come by here: `greentor.db.cursors` counts it.
"""

from __future__ import annotations

from typing import Any

from greentor import recording


class Recorded:
    """Comes between what checks a query and Django's cursor, which sends it."""

    db: Any

    def _execute(self, sql: Any, params: Any, *args: Any) -> Any:
        db = self.db
        recording.query_counts[db.alias] += 1
        if not recording.active:
            return super()._execute(sql, params, *args)  # type: ignore[misc]
        with recording.QueryTimer(db.alias, sql, db.vendor != "mysql"):
            return super()._execute(sql, params, *args)  # type: ignore[misc]

    def _executemany(self, sql: Any, params: Any, *args: Any) -> Any:
        db = self.db
        recording.query_counts[db.alias] += 1
        if not recording.active:
            return super()._executemany(sql, params, *args)  # type: ignore[misc]
        with recording.QueryTimer(db.alias, sql, db.vendor != "mysql"):
            return super()._executemany(sql, params, *args)  # type: ignore[misc]
