"""Database engines: greentor's own, and Django's on a server that does not answer."""

from __future__ import annotations

from django.db import connections
from django.db.utils import DatabaseError

from tests.thirdparty import services
from tests.thirdparty.measure import BLOCKS, DELAY, THREAD, Skip, probe


def engine(name, thing, *packages):
    def try_():
        settings = {
            "ENGINE": f"django.db.backends.{name}",
            "NAME": "x",
            "USER": "x",
            "PASSWORD": "x",
            "HOST": "127.0.0.1",
            "PORT": str(services.port("silent")),
        }
        connections.settings["trial"] = {
            **connections.settings["default"],
            **settings,
            "OPTIONS": {},
        }
        if name == "oracle":
            connections.settings["trial"].update(NAME=f"127.0.0.1:{settings['PORT']}/x", HOST="")
        try:
            connections["trial"].ensure_connection()
        except DatabaseError:
            pass  # the impostor hung up
        finally:
            del connections["trial"]
            del connections.settings["trial"]

    def setup():
        services.start("silent")
        try:
            __import__(f"django.db.backends.{name}.base")
        except Exception as exc:
            raise Skip(f"{thing}: {exc}") from exc

    probe(
        "engines",
        thing,
        *packages,
        expect=BLOCKS,
        setup=setup,
        thread=True,
        advice="the start-up log says so; for a query now and then, " + THREAD,
    )(try_)


@probe("engines", "`greentor.db.mysql`, on PyMySQL", "PyMySQL")
def green_engine():
    with connections["default"].cursor() as cursor:
        cursor.execute(f"SELECT SLEEP({DELAY})")


engine("mysql", "`django.db.backends.mysql` with mysqlclient", "mysqlclient")
engine("postgresql", "`django.db.backends.postgresql` with psycopg", "psycopg")
engine("oracle", "`django.db.backends.oracle` with oracledb", "oracledb")
