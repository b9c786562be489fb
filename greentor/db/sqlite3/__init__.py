"""ENGINE ``greentor.db.sqlite3``: Django's SQLite backend, which waits for locks without blocking."""
