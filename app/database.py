"""From a `DATABASE_URL`, or a `REPLICA_URL`, to an entry of Django's `DATABASES`.

dj-database-url does the reading. What is added here: greentor's engines, and the pool's options,
which may stand in the query: ``mysql://user:password@host:3306/name?pool_size=8&max_overflow=0``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from greentor import holding
from greentor.pool.options import RESETS

MYSQL = "greentor.db.mysql"
SQLITE = "greentor.db.sqlite3"

for scheme in ("mysql", "mariadb"):
    dj_database_url.register(scheme, MYSQL)(dj_database_url.apply_ssl_ca)
dj_database_url.register("sqlite", SQLITE)(dj_database_url.default_to_in_memory_db)


def boolean(text: str) -> bool:
    """Read what people write for yes and no; raise ValueError for anything else."""
    value = text.strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def hold(text: str) -> str:
    """Read how long a request keeps its connection; raise ValueError for what greentor does not know."""
    return holding.check(text, "hold")


def leak_warning(text: str) -> float | None:
    """Read a number of seconds, or "off"."""
    return None if text.strip().lower() == "off" else float(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return what reads one of these words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return read


POOL_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "pool_size": (int, "an integer"),
    "max_overflow": (int, "an integer"),
    "pool_timeout": (float, "a number of seconds"),
    "max_waiting": (int, "an integer"),
    "pool_recycle": (float, "a number of seconds"),
    "pool_pre_ping": (boolean, "true or false"),
    "min_size": (int, "an integer"),
    "max_idle": (float, "a number of seconds"),
    "reset": (one_of(*RESETS), "auto, always or never"),
    "leak_warning": (leak_warning, "a number of seconds or off"),
    "hold": (hold, "request or transaction"),
    "echo": (boolean, "true or false"),
}


def parse(url: str, variable: str = "DATABASE_URL") -> dict[str, Any]:
    """Return the settings of one database; raise ImproperlyConfigured saying what is wrong, and where."""
    try:
        return _parse(url)
    except ValueError as error:
        raise ImproperlyConfigured(f"{variable}: {error}") from None


def _parse(url: str) -> dict[str, Any]:
    base, _, query = url.partition("?")
    pool: dict[str, Any] = {}
    rest = []
    for part in filter(None, query.split("&")):
        ((name, value),) = parse_qsl(part, keep_blank_values=True)
        if name in POOL_OPTIONS:
            pool[name] = pool_option(name, value)
        else:
            rest.append(part)
    config = dict(dj_database_url.parse("?".join(filter(None, [base, "&".join(rest)]))))
    if pool:
        if config["ENGINE"] not in (MYSQL, SQLITE):
            raise ValueError(f"{config['ENGINE']} takes no {', '.join(pool)}")
        config.setdefault("OPTIONS", {}).setdefault("pool", pool)
        if config["OPTIONS"]["pool"] is not pool:
            raise ValueError(f"pool and {', '.join(pool)} exclude each other")
    return config


def pool_option(name: str, text: str) -> Any:
    """Convert one option of the pool to its type."""
    convert, expected = POOL_OPTIONS[name]
    try:
        return convert(text)
    except ValueError:
        raise ValueError(f"{name} must be {expected}, not {text!r}") from None
