"""Which process this is: `pid`, kept up to date through forks.

``os.getpid()`` is a system call, and connections compare it several times in each request.
"""

import os

pid = os.getpid()


def _after_fork() -> None:
    global pid
    pid = os.getpid()


os.register_at_fork(after_in_child=_after_fork)
