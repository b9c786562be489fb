"""The reference application: Django's models, templates and settings, served by Tornado."""
