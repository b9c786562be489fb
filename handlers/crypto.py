"""The technical indicators of a cryptocurrency."""

from __future__ import annotations

from app.services import crypto
from handlers.base import JSONHandler

MAX_LIMIT = 500
MAX_PERIOD = 200


class TechnicalIndicators(JSONHandler):
    async def get(self, symbol: str) -> None:
        limit = self.get_integer("limit", 1, MAX_LIMIT, default=100)
        period = self.get_integer("period", 2, MAX_PERIOD, default=20)
        rsi_period = self.get_integer("rsi_period", 2, MAX_PERIOD, default=14)
        token = await crypto.find_token(symbol)
        candles = await crypto.compute_indicators(
            token, limit=limit, period=period, rsi_period=rsi_period
        )
        self.write_json({"symbol": token.symbol, "name": token.name, "candles": candles})
