"""Tornado's own tests on `FrontServer`: ``python -m tests.oracle_tornado``."""
