"""The Django application ``greentor``: installs the seams and looks at the settings at start-up."""

from __future__ import annotations

import logging

from django.apps import AppConfig
from django.core import checks as django_checks

logger = logging.getLogger("greentor")


class GreentorConfig(AppConfig):
    name = "greentor"
    verbose_name = "greentor"

    def ready(self) -> None:
        from greentor import checks, recording, watchdog
        from greentor.bridge import running
        from greentor.db import seams

        seams.install()
        checks.check_databases()
        django_checks.register(checks.check_blocking)
        for sentence in checks.blocking():
            logger.warning(sentence)
        options = checks.options()
        if (limit := options["block_warning"]) is not None:
            running.scope_hooks.append(watchdog.scope_hook(limit))
        if options["record"]:
            running.scope_hooks.append(recording.scope_hook())
