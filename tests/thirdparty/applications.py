"""Django applications whose work is queries: they are used in a greenlet as their manuals say."""

from __future__ import annotations

import factory
from django.contrib.auth import authenticate, get_user_model
from django.test import Client, RequestFactory
from django.test.utils import override_settings

from tests.thirdparty.measure import probe
from tests.thirdparty.models import Author, Book, Category, Node, Place, Shop, empty_tables

GROUP = "Django applications"
CONTRIB = "django.contrib"


# --- django.contrib ---------------------------------------------------------------------------


@probe(CONTRIB, "`auth`, with hashing and permissions", setup=empty_tables)
def contrib_auth():
    from django.contrib.auth.models import Group, Permission

    user = get_user_model().objects.create_user("anna", password="secret")
    group = Group.objects.get_or_create(name="editors")[0]
    group.permissions.add(Permission.objects.get(codename="change_book"))
    user.groups.add(group)
    user = authenticate(None, username="anna", password="secret")
    assert user.has_perm("thirdparty.change_book")
    assert authenticate(None, username="anna", password="wrong") is None


@probe(CONTRIB, "`sessions`, database backend")
def contrib_sessions():
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session["cart"] = [1, 2]
    session.save()
    assert SessionStore(session.session_key)["cart"] == [1, 2]


@probe(CONTRIB, "`contenttypes`, `sites`")
def contrib_contenttypes():
    from django.contrib.contenttypes.models import ContentType
    from django.contrib.sites.models import Site

    ContentType.objects.clear_cache()
    Site.objects.clear_cache()
    assert ContentType.objects.get_for_model(Book).model_class() is Book
    assert Site.objects.get_current().pk == 1


@probe(CONTRIB, "`messages`", advice="on a Django request with a session, as ever")
def contrib_messages():
    from django.contrib import messages
    from django.contrib.messages.storage.session import SessionStorage
    from django.contrib.sessions.backends.db import SessionStore

    request = RequestFactory().get("/")
    request.session = SessionStore()
    request._messages = SessionStorage(request)
    messages.info(request, "saved")
    assert [str(message) for message in messages.get_messages(request)] == ["saved"]


@probe(
    CONTRIB,
    "`admin`, its views called in a greenlet",
    setup=empty_tables,
    advice="greentor serves no whole Django site yet: run the admin under WSGI beside it",
)
def contrib_admin():
    user = get_user_model().objects.create_superuser("root", password="secret")
    book = Book.objects.create(name="admin")
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    assert b"admin" in client.get("/admin/thirdparty/book/").content
    answer = client.post(
        f"/admin/thirdparty/book/{book.pk}/change/", {"name": "changed", "tags": ""}
    )
    assert answer.status_code == 302, answer.status_code
    book.refresh_from_db()
    assert book.name == "changed"


# --- of others --------------------------------------------------------------------------------


@probe(
    GROUP, "Django REST framework, serializers and views", "djangorestframework", setup=empty_tables
)
def rest_framework():
    from rest_framework import serializers, viewsets
    from rest_framework.test import APIRequestFactory

    class AuthorSerializer(serializers.ModelSerializer):
        class Meta:
            model = Author
            fields = ("name",)

    class BookSerializer(serializers.ModelSerializer):
        author = AuthorSerializer(read_only=True)

        class Meta:
            model = Book
            fields = ("name", "author")

    class Books(viewsets.ModelViewSet):
        queryset = Book.objects.all()
        serializer_class = BookSerializer
        permission_classes = ()
        authentication_classes = ()

    Book.objects.create(name="a", author=Author.objects.create(name="Anna"))
    twice = BookSerializer(data={"name": "a"})
    assert not twice.is_valid()  # by a query: the name is unique
    view = Books.as_view({"get": "list", "post": "create"})
    assert view(APIRequestFactory().post("/", {"name": "b"})).status_code == 201
    names = [book["name"] for book in view(APIRequestFactory().get("/")).data]
    assert names == ["a", "b"], names


@probe(GROUP, "django-filter", "django-filter", setup=empty_tables)
def filters():
    import django_filters

    class Books(django_filters.FilterSet):
        class Meta:
            model = Book
            fields = ("name", "author")

    author = Author.objects.create(name="Anna")
    Book.objects.create(name="a", author=author)
    found = Books({"author": author.pk}, queryset=Book.objects.all())
    assert found.is_valid()
    assert found.qs.count() == 1
    assert "Anna" in str(found.form) or str(author) in str(found.form)


@probe(GROUP, "django-mptt", "django-mptt", setup=empty_tables)
def mptt():
    root = Category.objects.create(name="root")
    child = Category.objects.create(name="child", parent=root)
    leaf = Category.objects.create(name="leaf", parent=child)
    leaf.move_to(root)
    leaf.save()
    root.refresh_from_db()
    assert root.get_descendant_count() == 2
    Category.objects.rebuild()


@probe(GROUP, "django-treebeard", "django-treebeard", setup=empty_tables)
def treebeard():
    root = Node.add_root(name="root")
    root.add_child(name="b")
    leaf = Node.objects.get(pk=root.pk).add_child(name="a")
    leaf.move(Node.objects.get(name="b"), "first-child")
    assert [node.name for node in Node.get_tree()] == ["root", "b", "a"]


@probe(GROUP, "django-reversion", "django-reversion", setup=empty_tables)
def reversion_versions():
    import reversion
    from reversion.models import Version

    with reversion.create_revision():
        book = Book.objects.create(name="one")
    with reversion.create_revision():
        book.name = "two"
        book.save()
    versions = Version.objects.get_for_object(book)
    assert len(versions) == 2
    versions[1].revision.revert()
    book.refresh_from_db()
    assert book.name == "one"


@probe(GROUP, "django-simple-history", "django-simple-history", setup=empty_tables)
def simple_history():
    book = Book.objects.create(name="one")
    book.name = "two"
    book.save()
    assert [record.name for record in book.history.all()] == ["two", "one"]


@probe(GROUP, "django-model-utils", "django-model-utils", setup=empty_tables)
def model_utils():
    Shop.objects.create(name="shop")
    Place.objects.create(name="place")
    kinds = {type(place) for place in Place.objects.select_subclasses()}
    assert kinds == {Shop, Place}
    book = Book.objects.create(name="one")
    book.name = "two"
    assert book.tracker.changed() == {"name": "one"}


@probe(GROUP, "django-taggit", "django-taggit", setup=empty_tables)
def taggit():
    book = Book.objects.create(name="one")
    book.tags.add("new", "good")
    assert Book.objects.filter(tags__name__in=["new"]).get() == book
    assert set(Book.objects.prefetch_related("tags").get().tags.names()) == {"new", "good"}


@probe(GROUP, "django-guardian", "django-guardian", setup=empty_tables)
def guardian():
    from guardian.shortcuts import assign_perm, get_objects_for_user

    user = get_user_model().objects.create_user("anna")
    book = Book.objects.create(name="one")
    assert not user.has_perm("thirdparty.change_book", book)
    assign_perm("thirdparty.change_book", user, book)
    user = get_user_model().objects.get(pk=user.pk)
    assert user.has_perm("thirdparty.change_book", book)
    assert get_objects_for_user(user, "thirdparty.change_book").get() == book


@probe(GROUP, "factory_boy", "factory_boy", setup=empty_tables)
def factory_boy():
    class AuthorFactory(factory.django.DjangoModelFactory):
        class Meta:
            model = Author

        name = factory.Sequence("author {}".format)

    class BookFactory(factory.django.DjangoModelFactory):
        class Meta:
            model = Book

        name = factory.Sequence("book {}".format)
        author = factory.SubFactory(AuthorFactory)

    assert len(BookFactory.create_batch(5)) == Author.objects.count() == 5


@probe(
    GROUP,
    "django-debug-toolbar",
    "django-debug-toolbar",
    setup=empty_tables,
    advice="Django's views only: in a Tornado handler no Django middleware runs",
)
def debug_toolbar():
    from django.conf import settings

    middleware = ["debug_toolbar.middleware.DebugToolbarMiddleware", *settings.MIDDLEWARE]
    with override_settings(
        DEBUG=True,
        MIDDLEWARE=middleware,
        DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": lambda request: True},
    ):
        page = Client().get("/page/").content.decode()
    assert "0 books" in page
    assert "djDebug" in page
    assert "1 query" in page, page[-3000:]
