"""What others have put in the place of a method: tracers and caches patch those of drivers and of Django.

Where greentor takes a shorter way than through a method, it looks each time whether that is still its
author's.
"""

from __future__ import annotations

import sys
from typing import Any


def original(cls: type, name: str) -> Any:
    """Return a method of ``cls`` as its author wrote it; None if somebody has replaced it by now.

    A replacement may pass itself off as the method (`functools.wraps`), but its code is of another file.
    """
    method = cls.__dict__.get(name)
    code = getattr(method, "__code__", None)
    if code is None or code.co_filename != sys.modules[cls.__module__].__file__:
        return None
    return method
