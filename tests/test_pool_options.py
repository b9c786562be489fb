"""`greentor.pool.options`: what ``OPTIONS["pool"]`` may hold."""

import dataclasses
import re
from typing import Any

import pytest

from greentor.pool import PoolOptions

NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 5}, "unknown pool option 'size'; known are echo, leak_warning, max_idle,"),
        ({"max_size": 2, "min": 1}, "unknown pool option 'max_size', 'min'; known"),
        ({"pool_size": "8"}, "pool option 'pool_size' must be a whole number, not '8'"),
        ({"pool_size": 2.5}, "'pool_size' must be a whole number, not 2.5"),
        ({"max_overflow": True}, "'max_overflow' must be a whole number, not True"),
        ({"pool_timeout": None}, "'pool_timeout' must be a number, not None"),
        ({"pool_timeout": -1}, "pool_timeout must not be negative: got -1"),
        ({"pool_timeout": NAN}, "'pool_timeout' must be a number, not nan"),
        ({"pool_recycle": "1h"}, "'pool_recycle' must be a number, not '1h'"),
        ({"pool_recycle": -2}, "pool_recycle must not be negative, or -1 for no limit: got -2"),
        ({"pool_recycle": NAN}, "'pool_recycle' must be a number, not nan"),
        ({"pool_pre_ping": 1}, "'pool_pre_ping' must be True or False, not 1"),
        ({"min_size": 11}, "min_size must be between 0 and pool_size, which is 10: got 11"),
        ({"min_size": -1}, "min_size must be between 0 and pool_size, which is 10: got -1"),
        ({"min_size": 1.0}, "'min_size' must be a whole number, not 1.0"),
        ({"max_idle": -0.5}, "max_idle must not be negative, or -1 for no limit: got -0.5"),
        ({"max_idle": None}, "'max_idle' must be a number, not None"),
        ({"max_waiting": -2}, "max_waiting must not be negative, or -1 for no limit: got -2"),
        ({"max_waiting": 0.5}, "'max_waiting' must be a whole number, not 0.5"),
        ({"reset": "often"}, "'reset' must be one of 'auto', 'always', 'never', not 'often'"),
        ({"reset": True}, "'reset' must be one of 'auto', 'always', 'never', not True"),
        ({"reset": ["auto"]}, "'reset' must be one of 'auto', 'always', 'never', not ['auto']"),
        ({"leak_warning": -1}, "leak_warning must not be negative: got -1"),
        ({"leak_warning": "1m"}, "'leak_warning' must be a number, not '1m'"),
        ({"echo": 1}, "pool option 'echo' must be True or False, not 1"),
        ({"pool_size": 0, "max_overflow": 0}, "nor both 0: got 0 and 0"),
        ({"pool_size": -1}, "must not be negative"),
        ({"max_overflow": -1}, "must not be negative"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_by_name(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        PoolOptions.parse(options)


@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": 0, "max_overflow": 3, "pool_timeout": 0.5, "pool_recycle": -1, "echo": True},
        {"pool_timeout": 0, "pool_recycle": 0, "max_idle": 0, "max_waiting": 0, "leak_warning": 0},
        {"pool_timeout": float("inf"), "pool_recycle": float("inf"), "leak_warning": None},
        {"pool_size": 4, "min_size": 4, "max_idle": 60.5, "max_waiting": 100},
        {"pool_pre_ping": True, "reset": "always", "leak_warning": 2.5, "max_idle": -1},
    ],
    ids=str,
)
def test_a_right_option_is_taken_as_it_is(options: Any) -> None:
    parsed = PoolOptions.parse(options)
    defaults = dataclasses.asdict(PoolOptions())
    assert dataclasses.asdict(parsed) == {**defaults, **options}
    assert parsed.limit == parsed.pool_size + parsed.max_overflow


def test_the_defaults() -> None:
    assert dataclasses.asdict(PoolOptions.parse({})) == {
        "pool_size": 10,
        "max_overflow": 10,
        "pool_timeout": 30,
        "pool_recycle": 3600,
        "pool_pre_ping": False,
        "min_size": 0,
        "max_idle": -1,
        "max_waiting": -1,
        "reset": "auto",
        "leak_warning": 60,
        "echo": False,
    }
