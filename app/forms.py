"""The form to add a book with."""

from __future__ import annotations

from typing import Any

from django import forms

from app.models import Book

EXISTS = "There is a book of this name already."


class BookForm(forms.Form):
    """A book and the name of its author, who may be new.

    Numbers are text to the browser: its own number fields lose what is not a number, and a wheel
    turned over one changes it.
    """

    name = forms.CharField(max_length=200)
    author = forms.CharField(max_length=100, help_text="An author who is not known yet is added.")
    published = forms.IntegerField(
        label="Year of publication",
        min_value=1,
        max_value=9999,
        widget=forms.TextInput({"inputmode": "numeric"}),
    )
    price = forms.DecimalField(
        label="Price in euros",
        min_value=0,
        max_digits=8,
        decimal_places=2,
        widget=forms.TextInput({"inputmode": "decimal"}),
    )

    def clean_name(self) -> str:
        """Refuse the name of a book that is there.

        The answer may be out of date when the book is saved: the database's own constraint is what
        holds, see `refuse_name`.
        """
        name: str = self.cleaned_data["name"]
        if Book.objects.filter(name=name).exists():
            raise forms.ValidationError(EXISTS, code="exists")
        return name

    def refuse_name(self) -> None:
        """Say the same after the database has refused it: somebody was faster."""
        self.add_error("name", forms.ValidationError(EXISTS, code="exists"))

    def get_context(self) -> dict[str, Any]:
        """Give the focus to the first field that has an error, else to the first one."""
        wrong = (name for name in self.fields if name in self.errors)
        focused = next(wrong, next(iter(self.fields)))
        self.fields[focused].widget.attrs["autofocus"] = True
        return super().get_context()
