"""Django's settings of the peers, from the environment that `bench.peers.options.choose` has set.

- `BENCH_DATABASE`: the parameters of the database, as JSON
- `BENCH_ENGINE`: Django's, or greentor's; none for a peer that has another ORM: it renders templates only
- `BENCH_DRIVER`: mysqlclient, or PyMySQL in its place
- `BENCH_POOL`: how many connections greentor's pool has
- `BENCH_CONN_MAX_AGE`: in seconds; empty for connections that are kept
- `BENCH_URLS`: the views, for those who serve through Django's WSGI or ASGI
"""

import os
from pathlib import Path

import app
from bench.peers import options

INSTALLED_APPS: list[str] = []
DATABASES = {}

engine, driver = os.environ.get("BENCH_ENGINE"), os.environ.get("BENCH_DRIVER")
if engine:
    given = options.database()
    INSTALLED_APPS = ["app"]
    DATABASES["default"] = {
        "ENGINE": engine,
        "HOST": given["host"],
        "PORT": given["port"],
        "USER": given["user"],
        "PASSWORD": given["password"],
        "NAME": given["database"],
    }
if engine == options.GREEN_ENGINE:
    INSTALLED_APPS.insert(0, "greentor")
    size = int(os.environ["BENCH_POOL"])
    DATABASES["default"]["OPTIONS"] = {
        "ssl_disabled": True,
        "pool": {"pool_size": size, "max_overflow": 0},
    }
elif engine:
    age = os.environ.get("BENCH_CONN_MAX_AGE")
    DATABASES["default"]["CONN_MAX_AGE"] = int(age) if age else None
    if driver == options.PYMYSQL:
        import pymysql

        pymysql.install_as_MySQLdb()
        DATABASES["default"]["OPTIONS"] = {"ssl_disabled": True}
    else:
        DATABASES["default"]["OPTIONS"] = {"ssl_mode": "DISABLED"}

AUTH_USER_MODEL = "app.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(app.__file__).parent / "templates"],
    }
]
STATIC_URL = "/static/"

# For WSGI and ASGI.
ROOT_URLCONF = os.environ.get("BENCH_URLS", "bench.peers.django_sync")
MIDDLEWARE: list[str] = []
ALLOWED_HOSTS = ["127.0.0.1"]
SECRET_KEY = "bench"

DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

LOGGING_CONFIG = None  # warnings and errors go to stderr, nothing else anywhere
