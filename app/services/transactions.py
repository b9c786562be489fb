"""Transactions that are run again when the database asks for it.

Of two transactions that wait for each other's rows InnoDB rolls one back, whole: nobody did anything wrong,
and the second time it works.

    for attempt in attempts():
        with attempt, transaction.atomic():
            ...

reads the same in sync and in async code; `retried` does it for a function. What is run again must have no
effect but on the database.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import uniform
from typing import ParamSpec, TypeVar

from django.db import OperationalError, transaction

import greentor

P = ParamSpec("P")
T = TypeVar("T")

#: MySQL's and MariaDB's ER_LOCK_DEADLOCK and ER_CHECKREAD: "try restarting transaction"
RESTART = (1213, 1020)
TRIES = 5


def attempts() -> Iterator[AbstractContextManager[None]]:
    """Yield what to run a transaction in, until that went well; the last one lets its error out."""
    done = False

    @contextmanager
    def attempt(number: int) -> Iterator[None]:
        nonlocal done
        try:
            yield
        except OperationalError as error:
            if error.args[0] not in RESTART or number == TRIES:
                raise
            # Those who met in this one should not meet in the next.
            greentor.sleep(uniform(0, 0.02 * number))
        else:
            done = True

    for number in range(1, TRIES + 1):
        yield attempt(number)
        if done:
            return


def retried(fn: Callable[P, T]) -> Callable[P, T]:
    """Run the function in a transaction of its own, the outermost one, with `attempts`."""

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in attempts():
            with attempt, transaction.atomic(durable=True):
                return fn(*args, **kwargs)
        raise AssertionError("unreachable")

    return run
