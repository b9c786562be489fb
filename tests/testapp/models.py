"""The models that tests work on."""

from typing import ClassVar

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models


class Author(models.Model):
    """A writer of books."""

    name = models.CharField(max_length=100)

    def __str__(self):
        return self.name


class Book(models.Model):
    """A book, found by its unique name."""

    name = models.CharField(max_length=100, unique=True)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return self.name


class Counter(models.Model):
    """A named number, to be counted up under contention."""

    name = models.CharField(max_length=100, unique=True)
    n = models.IntegerField(default=0)

    def __str__(self):
        return f"{self.name}: {self.n}"


# --- for the tests of what the ORM does with relations --------------------------------------------


class Note(models.Model):
    """A remark on anything."""

    text = models.CharField(max_length=100)
    # Without a constraint: an app without migrations has its tables before those that have some.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_id = models.PositiveBigIntegerField()
    about = GenericForeignKey()

    def __str__(self):
        return self.text


class Shelf(models.Model):
    """A shelf, within another one, next to others."""

    name = models.CharField(max_length=100)
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")
    next_to = models.ManyToManyField("self")
    labels = models.JSONField(default=dict)
    notes = GenericRelation(Note)

    def __str__(self):
        return self.name


class Volume(models.Model):
    """What stands on shelves; `Placing` knows where."""

    title = models.CharField(max_length=100)
    pages = models.IntegerField(default=0)
    shelves = models.ManyToManyField(Shelf, through="Placing", related_name="volumes")
    tags = models.ManyToManyField("Tag", related_name="volumes")

    def __str__(self):
        return self.title


class Placing(models.Model):
    """A volume's place on a shelf."""

    volume = models.ForeignKey(Volume, models.CASCADE)
    shelf = models.ForeignKey(Shelf, models.CASCADE)
    position = models.IntegerField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["shelf", "position"], name="one_volume_a_place")
        ]

    def __str__(self):
        return f"{self.shelf_id}/{self.position}"


class Tag(models.Model):
    """A word that describes volumes."""

    word = models.CharField(max_length=100, unique=True)

    def __str__(self):
        return self.word


class Cover(models.Model):
    """The one cover of a volume."""

    volume = models.OneToOneField(Volume, models.CASCADE, related_name="cover")
    colour = models.CharField(max_length=100)

    def __str__(self):
        return self.colour


class Atlas(Volume):
    """A volume with maps: a table of its own, joined."""

    maps = models.IntegerField(default=0)


class ThickManager(models.Manager):
    """Volumes of many pages."""

    def get_queryset(self):
        return super().get_queryset().filter(pages__gte=1000)


class ThickVolume(Volume):
    """The same rows, those of many pages."""

    objects = ThickManager()

    class Meta:
        proxy = True
