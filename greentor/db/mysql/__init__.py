"""ENGINE ``greentor.db.mysql``: Django's MySQL backend on cooperative PyMySQL connections."""
