"""Django's settings for the tests.

The private MariaDB has no port before it runs: the `mariadb` fixture starts it and then fills in
HOST, PORT, USER and PASSWORD. Until then nothing can connect.
"""

SECRET_KEY = "tests"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "greentor",
    "tests.testapp",
]


def _database(name: str) -> dict:
    return {
        "ENGINE": "greentor.db.mysql",
        "NAME": name,
        "OPTIONS": {
            "pool": {"pool_size": 8, "max_overflow": 4, "pool_timeout": 10},
            "ssl_disabled": True,
        },
    }


DATABASES = {"default": _database("greentor"), "other": _database("greentor_other")}

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "database": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "cache",
    },
}
