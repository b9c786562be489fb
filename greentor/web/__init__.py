"""Tornado on greenlets: requests, websockets, and what is around them."""

from greentor.web.draining import drain
from greentor.web.handler import RETRY_AFTER, STATUS, BaseRequestHandler
from greentor.web.status import StatusHandler
from greentor.web.websocket import GreenWebSocketHandler, close_websockets

__all__ = [
    "RETRY_AFTER",
    "STATUS",
    "BaseRequestHandler",
    "GreenWebSocketHandler",
    "StatusHandler",
    "close_websockets",
    "drain",
]
