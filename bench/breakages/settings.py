"""Django's settings of a child, the same for both sides but for DATABASES, which its parent hands over.

The parent, which loads the scripts but asks nothing, has none.
"""

import json
import os

DATABASES = {"default": json.loads(os.environ.get("BREAKAGES_DATABASE", "{}"))}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
if DATABASES["default"].get("ENGINE", "").startswith("greentor."):
    INSTALLED_APPS.insert(0, "greentor")
# The tables come from the models as they are, without a dozen migrations.
MIGRATION_MODULES = {"auth": None, "contenttypes": None}
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]  # sets Content-Length
ALLOWED_HOSTS = ["127.0.0.1"]
SECRET_KEY = "breakages"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None  # everything to stderr, see `child`
