"""The six tests of the TechEmpower Framework Benchmarks, by their rules.

Every row is read by a query of its own. Computing an ``ETag`` would be a waste for answers that
are seldom the same twice, so there is none.
"""

from __future__ import annotations

from operator import attrgetter
from random import randint, sample

from django.db import transaction

from app.models import Fortune, World
from handlers.base import JSONHandler, PageHandler

MAX_QUERIES = 500


class WorldHandler(JSONHandler):
    """What the tests on the table ``world`` share."""

    def compute_etag(self) -> None:
        return None

    def get_queries(self) -> int:
        """Return ``queries``, brought into 1 to 500; what is no number counts as 1."""
        try:
            queries = int(self.get_query_argument("queries", "1"))
        except ValueError:
            return 1
        return min(max(queries, 1), MAX_QUERIES)

    def write_worlds(self, worlds: list[World]) -> None:
        self.write_json([world.as_dict() for world in worlds])


class JSON(JSONHandler):
    def compute_etag(self) -> None:
        return None

    def get(self) -> None:
        self.write_json({"message": "Hello, World!"})


class Plaintext(PageHandler):
    recorded = False

    def compute_etag(self) -> None:
        return None

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.write("Hello, World!")


class SingleQuery(WorldHandler):
    def get(self) -> None:
        world = World.objects.get(pk=randint(1, World.COUNT))
        self.write_json(world.as_dict())


class MultipleQueries(WorldHandler):
    def get(self) -> None:
        ids = (randint(1, World.COUNT) for _ in range(self.get_queries()))
        self.write_worlds([World.objects.get(pk=id) for id in ids])


class Updates(WorldHandler):
    """Read and change as many rows; in the order of their ids, so that no two requests deadlock."""

    def get(self) -> None:
        ids = sorted(sample(range(1, World.COUNT + 1), self.get_queries()))
        worlds = [World.objects.get(pk=id) for id in ids]
        with transaction.atomic():
            for world in worlds:
                world.randomnumber = randint(1, World.COUNT)
                world.save(update_fields=["randomnumber"])
        self.write_worlds(worlds)


class Fortunes(PageHandler):
    recorded = False

    def compute_etag(self) -> None:
        return None

    def get(self) -> None:
        fortunes = list(Fortune.objects.all())
        fortunes.append(Fortune(id=0, message="Additional fortune added at request time."))
        fortunes.sort(key=attrgetter("message"))
        self.render_django("fortunes.html", fortunes=fortunes)
