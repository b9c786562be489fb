"""The pool and the lives of requests under fire: clients vanish, handlers fail, connections are killed.

See `bench.fire.__main__` for what is shown, and docs/under-fire.md for what was seen.
"""
