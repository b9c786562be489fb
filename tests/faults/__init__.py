"""Faults at every switch point: each place where a session can be parked is struck, and all is looked at.

A session is run again and again, and struck when it parks for the first time, for the second, and so on
until it gets through: an exception is thrown there, the wire is cut, the server falls silent. After each:
no unread byte answers another query, the data is all there or not at all, nothing is leaked, and the
error is the one that was to be expected. `python -m tests.faults` does so at all points in all ways and
prints the count; the tests take a selection.
"""
