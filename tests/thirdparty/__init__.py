"""What works in a greenlet, what blocks the loop, what won't: third-party things, really tried.

    python -m tests.thirdparty            # try all, and fail if one is not as it is said to be
    python -m tests.thirdparty caches     # one group
    python -m tests.thirdparty --write    # ... and put the tables into docs/what-works.md

It makes an environment of its own, .cache/thirdparty, from requirements.txt. What needs a program that
is not there (redis-server, memcached, the headers of mysqlclient) is shown as skipped. It is no part of
`make test`: these projects move without us.
"""
