"""From a DATABASE_URL to Django's settings, without a database; and the migrations."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest
from django.core.exceptions import ImproperlyConfigured

from app import database
from greentor.db.pools import pool_options
from greentor.pool import PoolOptions
from tests.app.server import ROOT


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
def test_a_mysql_url_is_taken_apart(scheme):
    config = database.parse(f"{scheme}://us%40er:p%23w@db.example:3307/books")
    assert config["ENGINE"] == "greentor.db.mysql"
    assert (config["USER"], config["PASSWORD"]) == ("us@er", "p#w")
    assert (config["HOST"], config["PORT"], config["NAME"]) == ("db.example", 3307, "books")
    assert "OPTIONS" not in config


def test_pool_options_get_their_types_and_the_others_stay():
    config = database.parse(
        "mysql://u:p@h/n?pool_size=8&max_overflow=0&pool_timeout=2.5&pool_recycle=-1&echo=true"
        "&hold=transaction&unix_socket=%2Frun%2Fdb.sock&connect_timeout=5&ssl-ca=%2Fca.pem&charset=utf8mb4"
    )
    assert config["OPTIONS"] == {
        "pool": {
            "pool_size": 8,
            "max_overflow": 0,
            "pool_timeout": 2.5,
            "pool_recycle": -1,
            "hold": "transaction",
            "echo": True,
        },
        "unix_socket": "/run/db.sock",
        "connect_timeout": 5,
        "ssl": {"ca": "/ca.pem"},
        "charset": "utf8mb4",
    }


def test_every_option_of_the_pool_can_stand_in_the_url():
    assert set(database.POOL_OPTIONS) == {field.name for field in fields(PoolOptions)} | {"hold"}
    for option in fields(PoolOptions):
        text = "off" if option.default is None else str(option.default)
        config = database.parse(f"mysql://u:p@h/n?{option.name}={text}")
        assert config["OPTIONS"]["pool"] == {option.name: option.default}
        pool_options("default", config)
    off = database.parse("mysql://u:p@h/n?leak_warning=off&pool_pre_ping=yes")["OPTIONS"]["pool"]
    assert off == {"leak_warning": None, "pool_pre_ping": True}


def test_the_pool_can_be_turned_off():
    assert database.parse("mysql://u:p@h/n?pool=false")["OPTIONS"] == {"pool": False}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:////var/lib/books.sqlite3", "/var/lib/books.sqlite3"),
        ("sqlite:///books.sqlite3", "books.sqlite3"),
        ("sqlite://:memory:", ":memory:"),
    ],
)
def test_sqlite(url, name):
    config = database.parse(url)
    assert (config["ENGINE"], config["NAME"]) == ("greentor.db.sqlite3", name)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://h/n?pool_size=many", "pool_size must be an integer, not 'many'"),
        ("mysql://h/n?pool_size=", "pool_size must be an integer, not ''"),
        ("mysql://h/n?pool_size", "pool_size must be an integer, not ''"),
        ("mysql://h/n?max_overflow=1.5", "max_overflow must be an integer, not '1.5'"),
        ("mysql://h/n?pool_timeout=soon", "pool_timeout must be a number of seconds"),
        ("mysql://h/n?hold=ever", "hold must be request or transaction, not 'ever'"),
        ("mysql://h/n?reset=often", "reset must be auto, always or never, not 'often'"),
        ("mysql://h/n?leak_warning=no", "leak_warning must be a number of seconds or off"),
        ("mysql://h/n?echo=2", "echo must be true or false, not '2'"),
        ("mysql://h/n?pool=false&pool_size=3", "pool and pool_size exclude each other"),
        ("postgres://h/n?pool_size=3", "takes no pool_size"),
        ("oracel://h/n", "oracel"),
        ("mysql://h:port/n", "not a valid url"),
        ("nonsense", "DATABASE_URL"),
    ],
)
def test_what_is_wrong_is_named(url, named):
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL") as caught:
        database.parse(url)
    assert named in str(caught.value)


def test_the_migrations_make_what_the_models_say(tmp_path):
    environ = os.environ | {"DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "app.settings"}
    for name in ("DATABASE_URL", "REPLICA_URL"):
        environ.pop(name, None)
    command = [sys.executable, "-W", "error", "-m", "django", "makemigrations", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "No changes detected\n", "")
