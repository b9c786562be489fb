"""What the handlers share: Django templates, JSON, query arguments, answers to errors."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from django.core.exceptions import BadRequest
from django.template.loader import render_to_string
from tornado.escape import json_encode
from tornado.web import HTTPError

from greentor.web import BaseRequestHandler


class Handler(BaseRequestHandler):
    """The base of all handlers here."""

    def get_integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer of the query; raise BadRequest if it is none, or out of its range.

        Without a default the argument is required.
        """
        text = self.get_query_argument(name, "" if default is None else str(default))
        if re.fullmatch("-?[0-9]{1,18}", text) and low <= int(text) <= high:
            return int(text)
        raise BadRequest(f"{name} must be an integer from {low} to {high}")

    def explain(self, status: int, exc_info: Any = None, **kwargs: Any) -> str:
        """Return what an error has to say to the client; nothing of what went wrong inside."""
        error = exc_info[1] if exc_info else None
        if status < 500 and isinstance(error, HTTPError):
            return (error.log_message or "") % error.args
        return ""


class PageHandler(Handler):
    """A handler that answers with an HTML page, in an error as well."""

    def render_django(self, template: str, **context: Any) -> None:
        """Write a Django template; what it asks the database, it asks in the request's greenlet."""
        self.write(render_to_string(template, context))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write the error page; with DEBUG, Tornado's traceback for an error of our own."""
        if status_code >= 500 and self.settings.get("serve_traceback"):
            super().write_error(status_code, **kwargs)
            return
        reason = HTTPStatus(status_code).phrase
        message = self.explain(status_code, **kwargs)
        self.render_django("error.html", status=status_code, reason=reason, message=message)


class JSONHandler(Handler):
    """A handler that answers with JSON, in an error as well."""

    def write_json(self, value: Any) -> None:
        """Write any value as JSON; Tornado's own `write` takes dictionaries alone."""
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.write(json_encode(value))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write ``{"error": ...}``: what the client can mend, else the name of the status."""
        message = self.explain(status_code, **kwargs) or HTTPStatus(status_code).phrase
        self.write_json({"error": message})


class NotFound(PageHandler):
    """Answer for every address that has no route."""

    def prepare(self) -> None:
        raise HTTPError(404)
