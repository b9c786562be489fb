"""Database drivers that park the greenlet instead of blocking the event loop. No Django in here."""
