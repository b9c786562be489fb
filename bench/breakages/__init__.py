"""The documented breakages of others: each shown on the peer that it was reported for, then on greentor.

    python -m bench.breakages [name ...]

A script is a module with `CASES`; its docstring says what happens, why, and where it is documented. A case
runs the same scenario on both sides, each in a process of its own on an empty database, and prints what was
seen. The peers live in a virtual environment of their own below ``.cache/``.
"""

#: in the order in which a reader meets them
SCRIPTS = (
    "too_many_connections",
    "wsgi_container",
    "shared_wrapper",
    "cancelled_transaction",
    "sibling_task",
)
