"""The differential oracle: Django's own test suite on plain PyMySQL and in a greenlet on a loop.

`python -m tests.oracle` runs both legs and fails for every test that fails in greentor's leg alone.
"""
