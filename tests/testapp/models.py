"""The models that tests work on."""

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
