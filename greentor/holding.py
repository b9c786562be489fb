"""``hold``: how long a scope keeps a connection that it has borrowed.

- ``"request"``, the default: from its first query to its end.
- ``"transaction"``: as long as something needs it. Whenever the greenlet waits for something other than the
  database, it is given back, unless an ``atomic`` block, an open cursor, an unread result or session
  state (``SET``, a temporary table, ``GET_LOCK``) holds it.

It is said for a database in ``OPTIONS["pool"]["hold"]``, for a handler by its attribute ``hold``, and for a
block or a function by `hold`; the innermost counts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from greentor import bridge

P = ParamSpec("P")
T = TypeVar("T")

REQUEST = "request"
TRANSACTION = "transaction"


def check(when: object, what: str) -> str:
    """Return ``when`` if it is a way to hold; raise ValueError naming ``what`` if not."""
    if isinstance(when, str) and when in (REQUEST, TRANSACTION):
        return when
    raise ValueError(f"{what} must be {REQUEST!r} or {TRANSACTION!r}, not {when!r}")


class hold:
    """Hold connections per ``"request"`` or per ``"transaction"``, in a ``with`` block or a function.

    ``with greentor.hold("transaction"): ...``, or ``greentor.spawn(greentor.hold("transaction")(fn), ...)``.
    It applies to what the scope borrows from then on; a connection that it has already borrowed to hold
    per request is kept, as nobody has watched what state its session is in. Outside a scope it does nothing.
    """

    def __init__(self, when: str) -> None:
        self.when = check(when, "hold()")
        self._outer: list[str | None] = []

    def __enter__(self) -> hold:
        scope = bridge.current_scope()
        self._outer.append(None if scope is None else scope.hold)
        if scope is not None:
            scope.hold = self.when
        return self

    def __exit__(self, *exc: object) -> None:
        outer = self._outer.pop()
        if (scope := bridge.current_scope()) is not None:
            scope.hold = outer

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Return ``fn``, sync or async, run with it."""
        when = self.when
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with hold(when):
                    return await fn(*args, **kwargs)

            return cast(Callable[P, T], run_async)

        @functools.wraps(fn)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with hold(when):
                return fn(*args, **kwargs)

        return run
