"""ENGINE greentor.db.sqlite3."""
