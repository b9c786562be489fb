"""The models: a library of books, users, candles, access records, and TechEmpower's two tables."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.core.validators import RegexValidator
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


# Patterns are matched against the whole text; `handlers.openapi` shows the same ones to clients. Names and
# addresses are ASCII, and kept in lower case: then all databases agree on which of them are equal.
USERNAME = r"[A-Za-z0-9_.+-]{1,150}"
EMAIL = (
    r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*"
    r"@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
)
LINE = r"[^\x00-\x1f\x7f]*"


def whole(pattern: str, message: str) -> RegexValidator:
    """Return the validator of a text that must match the pattern from its beginning to its end."""
    return RegexValidator(rf"\A(?:{pattern})\Z", message)


class User(AbstractBaseUser):
    """Someone with a password.

    A model of our own, on Django's base: what Django advises for a new project, as it can still grow later.
    Add `django.contrib.auth` to INSTALLED_APPS, and PermissionsMixin here, once you need permissions.
    """

    username = models.CharField(
        max_length=150,
        unique=True,
        validators=[whole(USERNAME, "Only letters, digits and _ . + - are allowed.")],
    )
    email = models.EmailField(
        unique=True, validators=[whole(EMAIL, "Enter a valid email address, in ASCII.")]
    )
    full_name = models.CharField(
        max_length=150,
        blank=True,
        default="",
        validators=[whole(LINE, "Control characters are not allowed.")],
    )
    joined = models.DateTimeField(auto_now_add=True)
    last_login = None

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS = ("email",)

    objects = BaseUserManager()

    class Meta:
        ordering = ("id",)

    def as_dict(self) -> dict[str, Any]:
        """Return what may be shown."""
        return {
            "id": self.pk,
            "username": self.username,
            "email": self.email,
            "full_name": self.full_name,
            "joined": self.joined.isoformat(),
        }


class Token(models.Model):
    """A cryptocurrency."""

    symbol = models.CharField(max_length=15, unique=True)
    name = models.CharField(max_length=100)

    class Meta:
        ordering = ("symbol",)

    def __str__(self) -> str:
        return self.symbol


class Candle(models.Model):
    """The prices of a token, in US dollars, within an hour."""

    token = models.ForeignKey(Token, models.CASCADE, related_name="candles")
    time = models.DateTimeField()
    open = models.DecimalField(max_digits=20, decimal_places=8)
    high = models.DecimalField(max_digits=20, decimal_places=8)
    low = models.DecimalField(max_digits=20, decimal_places=8)
    close = models.DecimalField(max_digits=20, decimal_places=8)
    volume = models.DecimalField(max_digits=20, decimal_places=2)

    class Meta:
        ordering = ("time",)
        constraints = (models.UniqueConstraint(fields=("token", "time"), name="one_candle"),)

    def __str__(self) -> str:
        return f"{self.token_id} {self.time:%F %R}: {self.close}"


class AccessRecord(models.Model):
    """A page view: who asked for what, and what was answered."""

    time = models.DateTimeField()
    method = models.CharField(max_length=10)
    path = models.CharField(max_length=255, db_index=True)
    query = models.CharField(max_length=1000)
    status = models.PositiveSmallIntegerField()
    address = models.CharField(max_length=45)
    user_agent = models.CharField(max_length=500)
    referrer = models.CharField(max_length=1000)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.status}"

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {
            "id": self.pk,
            "time": self.time.isoformat(),
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "status": self.status,
            "address": self.address,
            "user_agent": self.user_agent,
            "referrer": self.referrer,
        }


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
