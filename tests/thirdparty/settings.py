"""Django's settings for the trial: everything installed at once, on a private MariaDB."""

SECRET_KEY = "thirdparty"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["*"]
SITE_ID = 1
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.thirdparty.urls"
STATIC_URL = "/static/"
SILENCED_SYSTEM_CHECKS = ["guardian.W001"]
GREENTOR = {"block_warning": None}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.sites",
    "django.contrib.staticfiles",
    "greentor",
    "debug_toolbar",
    "django_filters",
    "guardian",
    "mptt",
    "rest_framework",
    "reversion",
    "simple_history",
    "taggit",
    "treebeard",
    "tests.thirdparty",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    "django.contrib.auth.hashers.BCryptSHA256PasswordHasher",
    "django.contrib.auth.hashers.Argon2PasswordHasher",
]

# Host and port are filled in when the server runs.
DATABASES = {
    "default": {
        "ENGINE": "greentor.db.mysql",
        "NAME": "thirdparty",
        "OPTIONS": {"pool": {"pool_size": 8, "max_overflow": 0}, "ssl_disabled": True},
    }
}
