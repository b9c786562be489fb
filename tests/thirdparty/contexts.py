"""What a request keeps for itself: thread-locals, asgiref's locals, context variables."""

from __future__ import annotations

import contextlib
import itertools
import threading
from contextvars import ContextVar
from types import SimpleNamespace

from asgiref.local import Local
from django.utils import timezone, translation

import greentor
from tests.thirdparty.measure import WONT, crossing, probe, together

GROUP = "what a request keeps for itself"
THE_USER = "keep the user in a `ContextVar`, and read that in `save()` or a signal"


class Leak(Exception):
    """One greenlet read what the other one had set."""


def own(read):
    """Raise if a greenlet did not find its own value."""
    if read != ["first", "second"]:
        raise Leak(f"the first of two requests found the value of the {read[0]}")


@probe(GROUP, "`threading.local`", expect=WONT, advice="a `ContextVar` or `greentor.local`")
def thread_local():
    store = threading.local()
    own(crossing(lambda value: setattr(store, "user", value), lambda: store.user))


@probe(GROUP, "`greentor.local`", advice="shared by the tasks of the request; freed at its end")
def greentor_local():
    store = greentor.local()
    own(crossing(lambda value: setattr(store, "user", value), lambda: store.user))


@probe(GROUP, "`contextvars.ContextVar`")
def context_variable():
    variable = ContextVar("user")
    own(crossing(variable.set, variable.get))


@probe(GROUP, "`asgiref.local.Local`", "asgiref")
def asgiref_local():
    for store in (Local(), Local(thread_critical=True)):
        own(crossing(lambda value: setattr(store, "user", value), lambda: store.user))  # noqa: B023


@probe(GROUP, "`translation.activate`, `timezone.activate`")
def django_locals():
    languages = {"first": "de", "second": "fr"}

    def activate(value):
        translation.activate(languages[value])
        timezone.activate({"first": "Asia/Tokyo", "second": "Europe/Rome"}[value])

    def read():
        return translation.get_language(), timezone.get_current_timezone_name()

    assert crossing(activate, read) == [("de", "Asia/Tokyo"), ("fr", "Europe/Rome")]


@probe(GROUP, "django-crum", "django-crum", expect=WONT, advice=THE_USER)
def crum_user():
    import crum

    own(crossing(crum.set_current_user, crum.get_current_user))


@probe(GROUP, "django-currentuser", "django-currentuser", expect=WONT, advice=THE_USER)
def current_user():
    from django_currentuser.middleware import _set_current_user, get_current_user

    own(crossing(_set_current_user, get_current_user))


@probe(
    GROUP,
    "django-simple-history, the user of a change",
    "django-simple-history",
    advice="set `HistoricalRecords.context.request` in `prepare`",
)
def history_user():
    from django.contrib.auth.models import User
    from simple_history.models import HistoricalRecords

    from tests.thirdparty.models import Book

    for name in ("first", "second"):
        User.objects.get_or_create(username=name)

    def change(value):
        user = User.objects.get(username=value)
        HistoricalRecords.context.request = SimpleNamespace(user=user)

    def read():
        book = Book.objects.create(name=f"history {next(numbers)}")
        return book.history.get().history_user.username

    numbers = itertools.count()
    own(crossing(change, read))


@probe(GROUP, "django-reversion, `create_revision`", "django-reversion")
def revisions():
    import reversion
    from reversion.models import Version

    from tests.thirdparty.models import Book

    def request(name, pause):
        greentor.sleep(pause)
        with reversion.create_revision():
            reversion.set_comment(name)
            book = Book.objects.create(name=f"revision {name}")
            greentor.sleep(0.05)
        return Version.objects.get_for_object(book).get().revision.comment

    own(together(lambda: request("first", 0), lambda: request("second", 0.02)))


@probe(
    GROUP,
    "django-mptt, `delay_mptt_updates`, `disable_mptt_updates`",
    "django-mptt",
    expect=WONT,
    advice="leave them to management commands",
)
def mptt_delay():
    from tests.thirdparty.models import Category

    def delaying():
        with contextlib.ExitStack() as stack:
            stack.enter_context(Category.objects.delay_mptt_updates())
            greentor.sleep(0.1)
        return "first"

    def writing():
        greentor.sleep(0.02)
        root = Category.objects.create(name="root")
        Category.objects.create(name="leaf", parent=root)
        root.refresh_from_db()
        return "second" if root.get_descendant_count() == 1 else "first"

    read = together(delaying, writing)
    if read != ["first", "second"]:
        raise Leak("a request that delays the updates of the tree delays those of all others")
