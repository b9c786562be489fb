"""Relations, loaded when they are touched or beforehand: each query parks, on one connection."""

import asyncio

import pytest
from django.contrib.contenttypes.models import ContentType
from django.contrib.contenttypes.prefetch import GenericPrefetch
from django.db import connection, transaction
from django.db.models import Count, Prefetch, prefetch_related_objects
from django.template import Context, Engine

from greentor import green
from greentor.web import BaseRequestHandler
from tests.orm.support import executing, kill, parked, returned, the_pool
from tests.test_web import serving
from tests.testapp.models import (
    Atlas,
    Author,
    Book,
    Cover,
    Note,
    Placing,
    Shelf,
    Tag,
    ThickVolume,
    Volume,
)

pytestmark = pytest.mark.usefixtures("clean_tables", "pool_of_one")


def fill():
    """Three volumes on two shelves, the second within the first; in blocking mode."""
    upper = Shelf.objects.create(name="upper", labels={"floor": 2, "free": [1, 2]})
    lower = Shelf.objects.create(name="lower", parent=upper, labels={"floor": 1})
    upper.next_to.add(lower)
    tags = [Tag.objects.create(word=word) for word in ("old", "red")]
    for n, shelf in enumerate([upper, upper, lower]):
        volume = Volume.objects.create(title=f"volume {n}", pages=n * 600)
        Placing.objects.create(volume=volume, shelf=shelf, position=n)
        volume.tags.set(tags[: n + 1])
        Cover.objects.create(volume=volume, colour=f"colour {n}")
    Note.objects.create(about=upper, text="on the shelf")
    Note.objects.create(about=Volume.objects.get(title="volume 0"), text="on the volume")
    ContentType.objects.clear_cache()
    author = Author.objects.create(name="ann")
    Book.objects.create(name="book", author=author, price=3)


@pytest.fixture(autouse=True)
def _filled(clean_tables):
    fill()
    connection.close()
    yield
    ContentType.objects.clear_cache()


def words(volume):
    return sorted(tag.word for tag in volume.tags.all())


LAZY = {
    "foreign key": (2, lambda: Book.objects.get().author.name == "ann"),
    "reverse foreign key": (2, lambda: [b.name for b in Author.objects.get().books.all()]),
    "the same again": (2, lambda: [(b := Book.objects.get()).author, b.author]),
    "one-to-one": (2, lambda: Cover.objects.get(colour="colour 1").volume.pages == 600),
    "reverse one-to-one": (2, lambda: Volume.objects.get(pages=600).cover.colour == "colour 1"),
    "reverse one-to-one that is not there": (
        2,
        lambda: not hasattr(Volume.objects.get(pages=600), "atlas"),
    ),
    "many-to-many": (2, lambda: words(Volume.objects.get(pages=600)) == ["old", "red"]),
    "reverse many-to-many": (2, lambda: Tag.objects.get(word="red").volumes.count() == 2),
    "many-to-many through a model": (
        2,
        lambda: Shelf.objects.get(name="upper").volumes.count() == 2,
    ),
    "to itself": (2, lambda: Shelf.objects.get(name="lower").parent.name == "upper"),
    "children": (2, lambda: Shelf.objects.get(name="upper").children.get().name == "lower"),
    "symmetrical": (2, lambda: Shelf.objects.get(name="lower").next_to.get().name == "upper"),
    # The content type is asked for once in the process, and was forgotten by the fixture.
    "generic": (3, lambda: Note.objects.get(text="on the shelf").about.name == "upper"),
    "generic relation": (3, lambda: Shelf.objects.get(name="upper").notes.get().object_id),
    "deferred": (2, lambda: Book.objects.defer("price").get().price == 3),
    "only": (2, lambda: Book.objects.only("price").get().name == "book"),
    "parent of a child table": (2, lambda: Atlas.objects.create(title="maps", maps=3).pk),
    "proxy with a manager": (1, lambda: ThickVolume.objects.get().pages == 1200),
    "json key": (1, lambda: Shelf.objects.get(labels__floor=1).name == "lower"),
    "json contains": (1, lambda: Shelf.objects.get(labels__free__contains=[2]).name == "upper"),
    "refreshed": (2, lambda: Book.objects.get().refresh_from_db() is None),
}


@pytest.mark.parametrize("name", LAZY)
def test_a_relation_touched_in_a_greenlet_is_loaded_parked_on_its_connection(run, name):
    queries, touch = LAZY[name]

    @green
    def request():
        with parked(queries):
            assert touch()

    run(request)


EARLY = {
    "select_related": (
        1,
        Cover.objects.select_related("volume"),
        lambda covers: [cover.volume.title for cover in covers],
    ),
    "select_related, reverse": (
        1,
        Volume.objects.select_related("cover", "atlas"),
        lambda volumes: [volume.cover.colour for volume in volumes],
    ),
    "prefetch_related": (
        3,
        Volume.objects.prefetch_related("tags", "placing_set"),
        lambda volumes: [(words(volume), list(volume.placing_set.all())) for volume in volumes],
    ),
    "nested": (
        4,
        Shelf.objects.prefetch_related("children__volumes__tags"),
        lambda shelves: [
            words(v) for s in shelves for child in s.children.all() for v in child.volumes.all()
        ],
    ),
    "Prefetch with a query of its own": (
        3,
        Shelf.objects.prefetch_related(
            Prefetch(
                "volumes", Volume.objects.filter(pages__gt=0).prefetch_related("tags"), "thick"
            )
        ),
        lambda shelves: [words(v) for shelf in shelves for v in shelf.thick],
    ),
    "a slice of each": (
        2,
        Shelf.objects.prefetch_related(
            Prefetch("placing_set", Placing.objects.order_by("-position")[:1], "last")
        ),
        lambda shelves: [placing.position for shelf in shelves for placing in shelf.last],
    ),
    "generic": (
        5,
        Note.objects.prefetch_related(
            GenericPrefetch("about", [Shelf.objects.all(), Volume.objects.only("title")])
        ),
        lambda notes: [str(note.about) for note in notes],
    ),
    "generic relation": (
        3,
        Shelf.objects.prefetch_related("notes"),
        lambda shelves: [len(shelf.notes.all()) for shelf in shelves],
    ),
    "annotated": (
        1,
        Shelf.objects.annotate(n=Count("volumes")).order_by("-n"),
        lambda shelves: [shelf.n for shelf in shelves],
    ),
}


@pytest.mark.parametrize("name", EARLY)
def test_what_is_loaded_beforehand_costs_no_further_query(run, name):
    queries, queryset, touch = EARLY[name]

    @green
    def request():
        with parked(queries):
            return touch(queryset.all())

    assert run(request)


def test_relations_changed_in_a_greenlet_are_changed(run):
    @green
    def request():
        with parked():
            volume = Volume.objects.get(title="volume 0")
            volume.tags.add(Tag.objects.get(word="red"), through_defaults={})
            volume.tags.remove(Tag.objects.get(word="old"))
            assert words(volume) == ["red"]
            volume.tags.set([Tag.objects.create(word="new")])
            assert words(volume) == ["new"]
            volume.tags.clear()
            upper = Shelf.objects.get(name="upper")
            upper.volumes.add(volume, through_defaults={"position": 9})
            upper.notes.create(text="another")
            upper.children.get_or_create(name="third")
            upper.next_to.get_or_create(name="fourth")
            assert upper.next_to.count() == upper.children.count() == upper.notes.count() == 2
            upper.delete()  # collects what depends on it, and deletes that
        assert Shelf.objects.get().name == "fourth"
        assert Placing.objects.count() == 0
        assert [note.text for note in Note.objects.all()] == ["on the volume"]

    run(request)


def test_prefetching_into_objects_that_are_there_parks(run):
    @green
    def request():
        volumes = list(Volume.objects.all())
        with parked(2):
            prefetch_related_objects(volumes, "tags", "cover")
            return [(words(volume), volume.cover.colour) for volume in volumes]

    assert len(run(request)) == 3


def test_a_template_rendered_in_a_handler_loads_as_it_goes(run):
    template = Engine().from_string(
        "{% for s in shelves %}{{ s.name }}:{% for v in s.volumes.all %}{{ v.cover.colour }},"
        "{% endfor %}{{ s.parent.name }};{% endfor %}"
    )

    class Page(BaseRequestHandler):
        def get(self):
            with transaction.atomic(), parked(7):
                shelves = Shelf.objects.order_by("-name")
                self.write(template.render(Context({"shelves": shelves})))

    async def main():
        async with serving(Page) as served:
            pages = await asyncio.gather(*(served.get() for _ in range(3)))
            assert set(pages) == {"upper:colour 0,colour 1,;lower:colour 2,upper;"}

    run(main)


def test_an_object_loaded_by_one_request_loads_its_relations_on_the_connection_of_another(run):
    """Objects carry no connection: they may be handed on, as between threads."""

    @green
    def load():
        return Book.objects.get(), Volume.objects.get(title="volume 2")

    @green
    def use(book, volume):
        with parked(3):
            assert (book.author.name, words(volume)) == ("ann", ["old", "red"])
            volume.save()

    async def main():
        await use(*await load())
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_cancelled_in_a_prefetch_leaves_no_half_loaded_relation_and_no_connection(run, mariadb):
    lock = Tag.objects.raw("SELECT id, word, SLEEP(30) FROM testapp_tag /* half way */")

    @green
    def request(volumes):
        for volume in volumes:
            volume.tags.all()
        prefetch_related_objects(volumes, "cover", Prefetch("placing_set", to_attr="places"))
        list(lock)
        prefetch_related_objects(volumes, "tags")

    async def main():
        volumes = await green(lambda: list(Volume.objects.all()))()
        task = asyncio.create_task(request(volumes))
        await executing(mariadb, "half way")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kill(mariadb, "half way")
        await returned()
        loaded = await green(lambda: [(len(v.places), words(v), v.cover.pk) for v in volumes])()
        assert [names for _, names, _ in loaded] == [["old"], ["old", "red"], ["old", "red"]]

    run(main)
