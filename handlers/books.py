"""The books: a list, and a page for each."""

from django.shortcuts import get_object_or_404

from app.models import Book
from handlers.base import PageHandler


class BookList(PageHandler):
    def get(self) -> None:
        books = Book.objects.select_related("author")
        self.render_django("books/list.html", books=books)


class BookDetail(PageHandler):
    def get(self, pk: str) -> None:
        book = get_object_or_404(Book.objects.select_related("author"), pk=pk)
        others = book.author.books.exclude(pk=book.pk)
        self.render_django("books/detail.html", book=book, others=others)
