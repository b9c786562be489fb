"""The books once more, in async code: `handlers.books` line by line.

What Django has in no async version, forms and pages, is called as it stands: the coroutine runs in the
greenlet of its request, where a query parks.
"""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.db import IntegrityError, transaction
from django.shortcuts import aget_object_or_404

from app.forms import BookForm
from app.models import Author, Book
from app.services.transactions import attempts
from handlers import books
from handlers.books import MAX_SEARCH, PAGE_SIZE, find_books


class BookHandler(books.BookHandler):
    root, twin = "/async/books/", "/books/"


class BookList(BookHandler):
    async def get(self) -> None:
        text = self.get_query_argument("q", "")
        number = self.get_query_argument("page", "1")
        page = Paginator(find_books(text), PAGE_SIZE).get_page(number)
        page.object_list = [book async for book in page.object_list]
        self.render_django("books/list.html", page=page, text=text, max_search=MAX_SEARCH)


class BookDetail(BookHandler):
    async def get(self, pk: str) -> None:
        book = await aget_object_or_404(Book.objects.select_related("author"), pk=pk)
        others = [other async for other in book.author.books.exclude(pk=book.pk)]
        self.render_django("books/detail.html", book=book, others=others)


class BookAdd(BookHandler):
    async def get(self) -> None:
        self.render_django("books/add.html", form=BookForm())

    async def post(self) -> None:
        form = BookForm(self.get_form())
        if form.is_valid():
            try:
                book = await self.create(**form.cleaned_data)
            except IntegrityError:
                form.refuse_name()
            else:
                self.redirect(f"{self.root}detail/{book.pk}", status=303)
                return
        self.set_status(400)
        self.render_django("books/add.html", form=form)

    async def create(self, author: str, **fields: Any) -> Book:
        """Create the book, and its author if need be: both, or neither, across the awaits."""
        for attempt in attempts():
            with attempt, transaction.atomic():
                writer, _ = await Author.objects.aget_or_create(name=author)
                book = await Book.objects.acreate(author=writer, **fields)
        return book
