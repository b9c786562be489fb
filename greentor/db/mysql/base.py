"""The DatabaseWrapper of ENGINE ``greentor.db.mysql``."""

from __future__ import annotations

import inspect
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import cached_property
from pymysql.constants import SERVER_STATUS

from greentor import bridge
from greentor.db import handler, seams
from greentor.db.mysql.connection import PooledConnection
from greentor.db.mysql.kill import QueryKiller
from greentor.db.mysql.residue import LASTS
from greentor.db.mysql.session import MySQLSession
from greentor.db.mysql.streaming import StreamingMixin
from greentor.db.mysql.upstream import base
from greentor.db.pools import DatabasePool, find_pool, pool_hold, pool_options
from greentor.db.wrapper import GreenWrapper
from greentor.drivers import pymysql as driver

_DjangoWrapper = base.DatabaseWrapper


class ConnectionDriver:
    """What a pool needs to know of PyMySQL connections."""

    def __init__(self, autocommit: bool) -> None:
        self._autocommit = autocommit
        self._clean_status = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT if autocommit else 0

    def is_open(self, connection: PooledConnection) -> bool:
        return connection.alive

    def is_clean(self, connection: PooledConnection) -> bool:
        return (
            connection.server_status & _STATUS == self._clean_status
            and not connection.left
            and connection.quiet
        )

    def reset(self, connection: PooledConnection) -> None:
        if not connection.quiet or connection.left & LASTS:
            return
        if connection.left:
            connection.reset_session()
        else:  # also where no transaction seems to be open: to switch autocommit on is to commit
            connection.rollback()
        connection.autocommit(self._autocommit)

    def ping(self, connection: PooledConnection, timeout: float) -> None:
        connection.owner = bridge.current_green("a ping").frame.scope
        before, connection._read_timeout = connection._read_timeout, timeout
        try:
            connection.ping(reconnect=False)
        finally:
            connection._read_timeout = before

    def close(self, connection: PooledConnection) -> None:
        if not connection._closed:
            connection.close()


_STATUS = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT | SERVER_STATUS.SERVER_STATUS_IN_TRANS
_drivers = {autocommit: ConnectionDriver(autocommit) for autocommit in (True, False)}


class DatabaseWrapper(StreamingMixin, GreenWrapper, _DjangoWrapper):  # type: ignore[misc,valid-type]
    """Django's MySQL wrapper on greentor's PyMySQL connections."""

    session_class = MySQLSession
    cursor_wrapper = base.CursorWrapper

    @staticmethod
    def make_driver(settings: dict[str, Any]) -> ConnectionDriver:
        return _drivers[bool(settings["AUTOCOMMIT"])]

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        for name in ("pool", "kill_on_cancel"):
            params.pop(name, None)
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> driver.Connection:
        if not bridge.in_green():
            return driver.connect(**conn_params)
        return PooledConnection(**conn_params)

    def _opened(self, pool: DatabasePool, connection: Any) -> None:
        if self.settings_dict["OPTIONS"].get("kill_on_cancel", True):
            killer = pool.memo.get("query_killer")
            if killer is None:
                killer = pool.memo["query_killer"] = QueryKiller(pool, self)
            connection.on_abandoned = killer.abandon

    def connect_kept(self, pool: DatabasePool, patience: float) -> bool:
        """Do as ``pool.acquire_kept``; return whether that took one of the kept slots."""
        connection, fresh, took = pool.acquire_kept(self._open, patience)
        self._borrowed(pool, connection, fresh)
        return took

    def _is_connected(self) -> bool:
        return self.connection is not None and self.connection.alive

    def is_usable(self) -> bool:
        if self.connection is None:
            return False
        try:
            # Before PyMySQL 1.2 the default is to reconnect silently, which loses the session.
            self.connection.ping(reconnect=False)
        except self.Database.Error:
            return False
        return True

    @cached_property
    def mysql_server_data(self) -> dict[str, Any]:
        # Asked once for each pool, not for each wrapper.
        upstream = _DjangoWrapper.mysql_server_data.func
        if not bridge.in_green():
            return dict(upstream(self))
        loop = bridge.current_green("a query").loop
        pool = find_pool(loop, self.alias, self.settings_dict, self.make_driver)
        if pool is None:
            return dict(upstream(self))
        if "mysql_server_data" not in pool.memo:
            pool.memo["mysql_server_data"] = upstream(self)
        return dict(pool.memo["mysql_server_data"])


def check_options(alias: str, settings: dict[str, Any]) -> None:
    """Raise ImproperlyConfigured for an option that neither the pool, Django nor PyMySQL knows."""
    pool_options(alias, settings)
    pool_hold(alias, settings)
    options = settings.get("OPTIONS", {})
    level = options.get("isolation_level")
    if level and str(level).lower() not in (levels := sorted(_DjangoWrapper.isolation_levels)):
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']['isolation_level'] must be one of {levels} or None, "
            f"not {level!r}"
        )
    known = set(inspect.signature(driver.Connection.__init__).parameters) - {"self"}
    known |= {"pool", "isolation_level", "kill_on_cancel", "stream_iterator"}
    if unknown := sorted(set(options) - known):
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]['OPTIONS']: unknown option {', '.join(map(repr, unknown))}; known "
            "are 'pool', 'isolation_level', 'kill_on_cancel', 'stream_iterator', and the arguments of "
            "pymysql.connect()"
        )
    for name in ("kill_on_cancel", "stream_iterator"):
        if not isinstance(value := options.get(name, False), bool):
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}]['OPTIONS'][{name!r}] must be True or False, not {value!r}"
            )


handler.register_engine("greentor.db.mysql", DatabaseWrapper)
seams.install()
