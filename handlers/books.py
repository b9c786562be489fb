"""The books in sync code: a list with a search, a page for each, and a form to add one.

`handlers.async_books` is the same in async code: compare them line by line.
"""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404

from app.forms import BookForm
from app.models import Author, Book
from app.services.transactions import attempts
from handlers.base import PageHandler

PAGE_SIZE = 20
MAX_SEARCH = 200  # characters; no name is longer


def find_books(text: str) -> QuerySet[Book]:
    """Return the books that have the text in their name, or in their author's."""
    books = Book.objects.select_related("author")
    if len(text) > MAX_SEARCH:
        return books.none()
    return books.filter(Q(name__icontains=text) | Q(author__name__icontains=text))


class BookHandler(PageHandler):
    """What the pages share: where they are, and where the same are in the other style."""

    root, twin = "/books/", "/async/books/"

    def render_django(self, template: str, **context: Any) -> None:
        twin = self.twin + self.request.path.removeprefix(self.root)
        super().render_django(template, root=self.root, twin=twin, **context)


class BookList(BookHandler):
    def get(self) -> None:
        text = self.get_query_argument("q", "")
        number = self.get_query_argument("page", "1")
        page = Paginator(find_books(text), PAGE_SIZE).get_page(number)
        self.render_django("books/list.html", page=page, text=text, max_search=MAX_SEARCH)


class BookDetail(BookHandler):
    def get(self, pk: str) -> None:
        book = get_object_or_404(Book.objects.select_related("author"), pk=pk)
        others = book.author.books.exclude(pk=book.pk)
        self.render_django("books/detail.html", book=book, others=others)


class BookAdd(BookHandler):
    def get(self) -> None:
        self.render_django("books/add.html", form=BookForm())

    def post(self) -> None:
        form = BookForm(self.get_form())
        if form.is_valid():
            try:
                book = self.create(**form.cleaned_data)
            except IntegrityError:
                form.refuse_name()
            else:
                self.redirect(f"{self.root}detail/{book.pk}", status=303)
                return
        self.set_status(400)
        self.render_django("books/add.html", form=form)

    def create(self, author: str, **fields: Any) -> Book:
        """Create the book, and its author if need be: both, or neither."""
        for attempt in attempts():
            with attempt, transaction.atomic():
                writer, _ = Author.objects.get_or_create(name=author)
                book = Book.objects.create(author=writer, **fields)
        return book
