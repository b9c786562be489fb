"""Who may look inside: the permission of the status page and of the metrics.

With `STATUS_PASSWORD` whoever knows it, by HTTP Basic authentication, which browsers and Prometheus have;
the name does not matter. Without it everybody while `DEBUG` is on, and nobody otherwise.
"""

from __future__ import annotations

import base64
import hmac

from django.conf import settings
from tornado.web import Finish, HTTPError, RequestHandler


def permitted(handler: RequestHandler) -> bool:
    """Tell whether the client may look inside; ask it for the password, or raise 404 if there is none."""
    if not settings.STATUS_PASSWORD:
        if not settings.DEBUG:
            raise HTTPError(404)
        return True
    given = password(handler.request.headers.get("Authorization", ""))
    if hmac.compare_digest(given, settings.STATUS_PASSWORD.encode()):
        return True
    handler.set_status(401)
    handler.set_header("WWW-Authenticate", 'Basic realm="inside", charset="UTF-8"')
    raise Finish


def password(authorization: str) -> bytes:
    """Return the password in an ``Authorization`` header; empty if it has none."""
    scheme, _, credentials = authorization.partition(" ")
    try:
        decoded = base64.b64decode(credentials, validate=True)
    except ValueError:
        return b""
    return decoded.partition(b":")[2] if scheme.lower() == "basic" else b""
