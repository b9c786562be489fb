"""What a service refuses, with the fields at fault; `handlers.base` makes answers of it."""

from __future__ import annotations

from typing import Any

Fields = dict[str, list[str]]


class Invalid(Exception):
    """What was sent cannot be used. `details` are for the client: "fields", or "items" of a list."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class Conflict(Invalid):
    """What was sent is right in itself, but at odds with what is there."""
