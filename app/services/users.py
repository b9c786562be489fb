"""Users: what is checked before one is written, and how it is written.

Nothing is looked up to see whether a name is free: between that and the INSERT somebody else may take it.
The database's own constraint decides, and what it refused is explained afterwards.

Passwords are hashed before the first query: that takes a quarter of a second, in a thread, and no connection
is kept from the others meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, MinLengthValidator
from django.db import IntegrityError
from django.http import Http404
from django.shortcuts import get_object_or_404

from app.models import User
from app.services.errors import Conflict, Fields, Invalid
from app.services.transactions import retried

REQUIRED = ("username", "email", "password")
FIELDS = (*REQUIRED, "full_name")
UNIQUE = ("username", "email")

MIN_PASSWORD, MAX_PASSWORD = 8, 128
MAX_BULK = 20  # hashing takes so many times a quarter of a second

TAKEN = "A user with this {} already exists."


def create_user(data: Any) -> User:
    """Create a user from a mapping of `FIELDS`; raise Invalid, or Conflict."""
    user = User(**clean(data))
    with _explained([user]):
        retried(user.save)(force_insert=True)
    return user


def create_users(items: Any) -> list[User]:
    """Create all users of a list, or none; the errors name the index and the field."""
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BULK:
        raise Invalid(f"a list of 1 to {MAX_BULK} users is expected")
    checked = [_check(item, REQUIRED) for item in items]
    if any(fields for _, fields in checked):
        raise Invalid("some users are not valid", items=_by_index(f for _, f in checked))
    users = [User(**_hashed(values)) for values, _ in checked]
    with _explained(users, bulk=True):
        return _insert(users)


@retried
def _insert(users: list[User]) -> list[User]:
    User.objects.bulk_create(users)
    # MySQL does not say which ids it has given to them.
    found = User.objects.in_bulk([user.username for user in users], field_name="username")
    return [found[user.username] for user in users]


def update_user(pk: int, data: Any, *, partial: bool) -> User:
    """Change the fields that are given; unless ``partial``, `REQUIRED` must be and others are emptied.

    Raise Http404 if there is no such user, Invalid, or Conflict.
    """
    values = clean(data, partial=partial)
    with _explained([User(pk=pk, **values)]):
        return _update(pk, values)


@retried
def _update(pk: int, values: dict[str, str]) -> User:
    user = get_object_or_404(User.objects.select_for_update(), pk=pk)
    for name, value in values.items():
        setattr(user, name, value)
    user.save(update_fields=values)
    return user


@retried
def delete_user(pk: int) -> None:
    """Delete a user; raise Http404 if there is none."""
    deleted, _ = User.objects.filter(pk=pk).delete()
    if not deleted:
        raise Http404


# --- checking ---------------------------------------------------------------------------------


def clean(data: Any, *, partial: bool = False) -> dict[str, str]:
    """Return what may be written, the password hashed; raise Invalid naming the fields at fault.

    Without ``partial`` all `REQUIRED` fields must be there, and what is missing of the others is emptied.
    """
    values, fields = _check(data, () if partial else REQUIRED)
    if fields:
        raise Invalid("the user is not valid", fields=fields)
    return _hashed(values if partial else {"full_name": "", **values})


def _check(data: Any, required: tuple[str, ...]) -> tuple[dict[str, str], Fields]:
    """Return the values, names in lower case, and what is wrong with them."""
    if not isinstance(data, dict):
        return {}, {"user": ["An object is expected."]}
    values = {}
    errors: Fields = {name: ["This field is required."] for name in required if name not in data}
    for name, value in data.items():
        try:
            values[name] = _check_field(name, value)
        except ValidationError as error:
            errors[name] = error.messages
    return values, errors


def _check_field(name: str, value: Any) -> str:
    if name not in FIELDS:
        raise ValidationError("There is no such field.")
    if not isinstance(value, str):
        raise ValidationError("A string is expected.")
    if name == "password":
        MinLengthValidator(MIN_PASSWORD)(value)
        MaxLengthValidator(MAX_PASSWORD)(value)
    else:
        User._meta.get_field(name).clean(value, None)
    return value.lower() if name in UNIQUE else value


def _hashed(values: dict[str, str]) -> dict[str, str]:
    """Hash the password: in a greenlet that is done in a thread, and the loop goes on."""
    if "password" in values:
        return {**values, "password": make_password(values["password"])}
    return values


# --- what the constraints have refused --------------------------------------------------------


@contextmanager
def _explained(users: list[User], *, bulk: bool = False) -> Iterator[None]:
    """Turn an IntegrityError into a Conflict that names what is taken."""
    try:
        yield
    except IntegrityError as error:
        taken = _find_taken(users)
        if not any(taken):
            raise Conflict("it was taken for a moment; please try again") from error
        if bulk:
            raise Conflict("some users exist already", items=_by_index(taken)) from error
        raise Conflict("the user exists already", fields=taken[0]) from error


def _find_taken(users: list[User]) -> list[Fields]:
    """Return for each user the unique fields whose values are taken, or stand earlier in the list."""
    taken: list[Fields] = [{} for _ in users]
    for name in UNIQUE:
        wanted = [getattr(user, name) for user in users]
        owners = dict(User.objects.filter(**{f"{name}__in": wanted}).values_list(name, "pk"))
        seen = set()
        for user, value, fields in zip(users, wanted, taken, strict=True):
            if value in seen or owners.get(value, user.pk) != user.pk:
                fields[name] = [TAKEN.format(name)]
            seen.add(value)
    return taken


def _by_index(errors: Iterable[Fields]) -> list[dict[str, Any]]:
    return [{"index": i, "fields": fields} for i, fields in enumerate(errors) if fields]
