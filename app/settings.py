"""Django's settings. What differs from place to place comes from the environment.

- `DATABASE_URL`: the database, see `app.database`; by default an SQLite file in the data directory
- `REPLICA_URL`: a replica of it, which is read from, see `app.routers`; none by default
- `DATA_DIR`: the data directory, by default `data/` beside this package
- `DEBUG`: 1 for tracebacks in the browser and reloading when a file changes; off by default
- `STATUS_PASSWORD`: shows `/-/greentor` and `/-/metrics` to who knows it; without it they need DEBUG
- `SECRET_KEY`: by default a new one for every process
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from app import database

APP_DIR = Path(__file__).resolve().parent
DATA_DIR = Path(os.environ.get("DATA_DIR") or APP_DIR.parent / "data")

try:
    DEBUG = database.boolean(os.environ.get("DEBUG") or "off")
except ValueError as error:
    raise ImproperlyConfigured(f"DEBUG must be 1 or 0, not {error}") from None

STATUS_PASSWORD = os.environ.get("STATUS_PASSWORD", "")

SECRET_KEY = os.environ.get("SECRET_KEY") or get_random_secret_key()

INSTALLED_APPS = ["greentor", "app"]

AUTH_USER_MODEL = "app.User"

if url := os.environ.get("DATABASE_URL"):
    DATABASES = {"default": database.parse(url)}
else:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    DATABASES = {"default": {"ENGINE": database.SQLITE, "NAME": DATA_DIR / "app.sqlite3"}}

if url := os.environ.get("REPLICA_URL"):
    DATABASES["replica"] = database.parse(url, "REPLICA_URL")
    DATABASES["replica"]["TEST"] = {"MIRROR": "default"}  # tests find there what they have written
    DATABASE_ROUTERS = ["app.routers.ReplicaRouter"]

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [APP_DIR / "templates"],
    }
]

STATIC_URL = "/static/"
STATIC_ROOT = APP_DIR / "static"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

LOGGING_CONFIG = None  # app.server sets logging up
