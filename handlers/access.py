"""The access records: who viewed what. `app.services.access` writes them."""

from __future__ import annotations

from app.models import AccessRecord
from app.services.access import count_by_path
from handlers.base import JSONHandler


class AccessRecords(JSONHandler):
    def get(self) -> None:
        self.write_page(AccessRecord.objects.all(), AccessRecord.as_dict)


class Paths(JSONHandler):
    """How often each path was viewed."""

    def get(self) -> None:
        self.write_page(count_by_path(), lambda row: row | {"last": row["last"].isoformat()})
