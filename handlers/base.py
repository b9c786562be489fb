"""What the handlers share: Django templates, JSON, query arguments, answers to errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import BadRequest
from django.core.paginator import EmptyPage, Paginator
from django.db.models import QuerySet
from django.http import Http404
from django.template.loader import render_to_string
from django.utils import timezone
from tornado.escape import json_encode
from tornado.web import HTTPError, RequestHandler

from app.models import AccessRecord
from app.services import access
from app.services.errors import Conflict, Invalid
from greentor.web import STATUS, BaseRequestHandler

STATUS[Conflict] = 409  # before what it is derived from
STATUS[Invalid] = 400

MAX_BODY = 1_000_000  # bytes of JSON
MAX_PAGE, PAGE_SIZE, MAX_PAGE_SIZE = 10_000, 20, 100


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
    """A handler that answers with an HTML page, in an error as well. Each view of it is recorded."""

    #: False where it would spoil what is measured
    recorded = True

    def on_finish(self) -> None:
        """Have the view recorded: by a greenlet of its own, after the answer."""
        request = self.request
        if self.recorded:
            access.record(
                AccessRecord(
                    time=timezone.now(),
                    method=request.method,
                    path=request.path,
                    query=request.query,
                    status=self.get_status(),
                    address=request.remote_ip or "",
                    user_agent=request.headers.get("User-Agent", ""),
                    referrer=request.headers.get("Referer", ""),
                )
            )

    def render_django(self, template: str, **context: Any) -> None:
        """Write a Django template; what it asks the database, it asks in the request's greenlet."""
        self.write(render_to_string(template, context))

    def get_form(self) -> dict[str, str]:
        """Return the fields of the posted form, for a Django form to check; what is not UTF-8 is 400."""
        return {name: self.get_body_argument(name) for name in self.request.body_arguments}

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

    def get_json(self) -> Any:
        """Return the value in the body; raise 413 for a large one, BadRequest for what is not JSON."""
        if len(self.request.body) > MAX_BODY:
            raise HTTPError(413, f"the body may have {MAX_BODY} bytes")
        try:
            value = json.loads(self.request.body.decode(), parse_constant=_refuse)
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair has no UTF-8
        except (ValueError, RecursionError):
            raise BadRequest("the body must be JSON, in UTF-8") from None
        return value

    def write_json(self, value: Any) -> None:
        """Write any value as JSON; Tornado's own `write` takes dictionaries alone."""
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.write(json_encode(value))

    def write_page(self, found: QuerySet[Any, Any], as_dict: Callable[[Any], Any]) -> None:
        """Write the page that `page` and `size` ask for; raise Http404 behind the last one.

        The rows are counted first: no OFFSET goes further than they do.
        """
        number = self.get_integer("page", 1, MAX_PAGE, default=1)
        size = self.get_integer("size", 1, MAX_PAGE_SIZE, default=PAGE_SIZE)
        pages = Paginator(found, size)
        try:
            page = pages.page(number)
        except EmptyPage:
            raise Http404(f"the last page is {pages.num_pages}") from None

        def link(to: int) -> str:
            return f"{self.request.path}?{urlencode({'page': to, 'size': size})}"

        links = {
            "first": link(1),
            "prev": link(number - 1) if page.has_previous() else None,
            "next": link(number + 1) if page.has_next() and number < MAX_PAGE else None,
            "last": link(min(pages.num_pages, MAX_PAGE)),
        }
        self.write_json(
            {
                "items": [as_dict(row) for row in page.object_list],
                "page": number,
                "size": size,
                "pages": pages.num_pages,
                "total": pages.count,
                "links": links,
            }
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write ``{"error": ...}``: what the client can mend, else the name of the status.

        What a service has refused comes with the fields at fault.
        """
        message = self.explain(status_code, **kwargs) or HTTPStatus(status_code).phrase
        refused = kwargs["exc_info"][1].__cause__ if kwargs.get("exc_info") else None
        details = refused.details if isinstance(refused, Invalid) else {}
        if status_code == 405:
            self.set_header("Allow", ", ".join(self.implemented_methods()))
        self.write_json({"error": message, **details})

    @classmethod
    def implemented_methods(cls) -> list[str]:
        """Return the methods that the handler has, in upper case."""
        return [
            name
            for name in cls.SUPPORTED_METHODS
            if getattr(cls, name.lower()) is not getattr(RequestHandler, name.lower())
        ]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class NotFound(PageHandler):
    """Answer for every address that has no route."""

    def prepare(self) -> None:
        raise HTTPError(404)


class JSONNotFound(JSONHandler):
    """Answer for every address of the API that has no route."""

    def prepare(self) -> None:
        raise HTTPError(404)
