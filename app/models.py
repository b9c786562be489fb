"""The models: a library of books, and the two tables of the TechEmpower benchmarks."""

from __future__ import annotations

from django.db import models


class Author(models.Model):
    name = models.CharField(max_length=100, unique=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Book(models.Model):
    name = models.CharField(max_length=200, unique=True)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    published = models.PositiveSmallIntegerField("year of publication")
    price = models.DecimalField(max_digits=8, decimal_places=2)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return f"/books/detail/{self.pk}"


class World(models.Model):
    """A row with a random number; there are `World.COUNT` of them, numbered from 1."""

    COUNT = 10_000

    id = models.PositiveIntegerField(primary_key=True)
    randomnumber = models.IntegerField()

    class Meta:
        db_table = "world"

    def __str__(self) -> str:
        return f"{self.id}: {self.randomnumber}"

    def as_dict(self) -> dict[str, int]:
        """Return the row as the benchmark wants to see it."""
        return {"id": self.id, "randomNumber": self.randomnumber}


class Fortune(models.Model):
    id = models.PositiveIntegerField(primary_key=True)
    message = models.CharField(max_length=2048)

    class Meta:
        db_table = "fortune"

    def __str__(self) -> str:
        return self.message
