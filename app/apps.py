from django.apps import AppConfig


class ReferenceConfig(AppConfig):
    """Register the models and migrations of the reference application."""

    name = "app"
    verbose_name = "Reference application"
