"""The options of a pool: what ``OPTIONS["pool"]`` of a database may hold, and whether it makes sense.

Invariants
- What `PoolOptions.parse` returns can be worked with as it is; what cannot is refused, by name.
- ``reset`` and ``leak_warning`` are looked at by those who use a pool, not by the pool itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

#: when a session is reset by the server before its connection is lent again
RESETS = ("auto", "always", "never")

_WHOLE = ("pool_size", "max_overflow", "min_size", "max_waiting")
_SWITCHES = ("pool_pre_ping", "echo")
#: -1 stands for "never" or "no limit"
_UNLIMITED = ("pool_recycle", "max_idle", "max_waiting")


@dataclass(frozen=True)
class PoolOptions:
    """The options of a pool, as they stand in ``OPTIONS["pool"]``."""

    #: connections that are kept open when idle
    pool_size: int = 10
    #: further connections that may be opened under load, and are closed when given back
    max_overflow: int = 10
    #: seconds to wait for a connection before `greentor.pool.PoolTimeout`
    pool_timeout: float = 30
    #: seconds after which a connection is replaced, less up to a tenth; -1 for never
    pool_recycle: float = 3600
    #: ask the server for a sign of life before an idle connection is lent
    pool_pre_ping: bool = False
    #: connections that `greentor.pool.Pool.warm` opens, and that ``max_idle`` leaves open
    min_size: int = 0
    #: seconds after which a connection that nobody uses is closed; -1 for never
    max_idle: float = -1
    #: how many may wait at once; further ones are refused (`greentor.pool.PoolFull`); -1 for no limit
    max_waiting: int = -1
    #: have the server reset a session when a statement changed it ("auto"), "always" or "never"
    reset: str = "auto"
    #: seconds after which a connection that is still lent is reported; None or 0 for never
    leak_warning: float | None = 60
    #: log every checkout and check-in
    echo: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, Any], others: Collection[str] = ()) -> PoolOptions:
        """Check a mapping and return its options; raise ValueError naming the one that is wrong.

        ``others`` may stand in it as well, and are not looked at.
        """
        known = {field.name for field in fields(cls)}.union(others)
        own = {name: value for name, value in options.items() if name not in others}
        if unknown := sorted(set(options) - known):
            raise ValueError(
                f"unknown pool option {', '.join(map(repr, unknown))}; "
                f"known are {', '.join(sorted(known))}"
            )
        for name, value in own.items():
            _check_type(name, value)
        result = cls(**own)
        result._check()
        return result

    @property
    def limit(self) -> int:
        """The most connections that may be open at once."""
        return self.pool_size + self.max_overflow

    def _check(self) -> None:
        if self.pool_size < 0 or self.max_overflow < 0 or self.limit < 1:
            raise ValueError(
                "pool_size and max_overflow must not be negative, nor both 0: "
                f"got {self.pool_size} and {self.max_overflow}"
            )
        if not 0 <= self.min_size <= self.pool_size:
            raise ValueError(
                f"min_size must be between 0 and pool_size, which is {self.pool_size}: "
                f"got {self.min_size}"
            )
        for name in ("pool_timeout", "leak_warning"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative: got {getattr(self, name)}")
        for name in _UNLIMITED:
            if (value := getattr(self, name)) < 0 and value != -1:
                raise ValueError(f"{name} must not be negative, or -1 for no limit: got {value}")


def _check_type(name: str, value: Any) -> None:
    if name in _SWITCHES:
        if not isinstance(value, bool):
            raise ValueError(f"pool option {name!r} must be True or False, not {value!r}")
    elif name == "reset":
        if value not in RESETS:
            choices = ", ".join(map(repr, RESETS))
            raise ValueError(f"pool option 'reset' must be one of {choices}, not {value!r}")
    elif name == "leak_warning" and value is None:
        pass
    elif isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else (int, float)):
        kind = "a whole number" if name in _WHOLE else "a number"
        raise ValueError(f"pool option {name!r} must be {kind}, not {value!r}")
    elif math.isnan(value):
        raise ValueError(f"pool option {name!r} must be a number, not nan")
