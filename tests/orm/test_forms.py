"""Forms that query, when they clean and when they are rendered: parked, in the request's transaction."""

import asyncio

import pytest
from django import forms
from django.db import IntegrityError, connection, transaction
from django.forms import inlineformset_factory, modelform_factory, modelformset_factory
from django.http import QueryDict
from django.template import Context, Engine

from greentor import green
from greentor.web import BaseRequestHandler
from tests.orm.support import parked, the_pool
from tests.test_web import serving
from tests.testapp.models import Author, Book, Placing, Shelf, Tag, Volume

pytestmark = pytest.mark.usefixtures("clean_tables", "pool_of_one")

PAGE = Engine().from_string("{{ form.as_p }}")


class BookForm(forms.ModelForm):
    """A book, whose author may have no more than two."""

    class Meta:
        model = Book
        fields = ("name", "author", "price")

    def clean(self):
        data = super().clean()
        author = data.get("author")
        if author and author.books.exclude(pk=self.instance.pk).count() >= 2:
            raise forms.ValidationError("%(name)s has enough", params={"name": author.name})
        return data


class Create(BaseRequestHandler):
    """Django's usual view, as a handler."""

    def get(self):
        with parked(1):
            self.write(PAGE.render(Context({"form": BookForm()})))

    def post(self):
        form = BookForm(QueryDict(self.request.body))
        with parked():
            if form.is_valid():
                self.write(form.save().name)
            else:
                self.set_status(422)
                self.write(PAGE.render(Context({"form": form})))


@pytest.fixture
def ann(clean_tables):
    author = Author.objects.create(name="ann")
    Author.objects.create(name="bob")
    Book.objects.create(name="taken", author=author, price=1)
    connection.close()
    return author


def test_a_choice_field_is_rendered_from_the_database(run, ann):
    async def main():
        async with serving(Create) as served:
            pages = await asyncio.gather(*(served.get() for _ in range(3)))
        assert all(f'<option value="{ann.pk}">ann</option>' in page for page in pages)
        assert (the_pool().in_use, the_pool().idle) == (0, 1)

    run(main)


def test_what_a_form_asks_the_database_decides_about_the_request(run, ann):
    async def main():
        async with serving(Create) as served:

            async def post(**data):
                body = "&".join(f"{name}={value}" for name, value in data.items())
                response = await served.fetch(method="POST", body=body)
                return response.code, response.body.decode()

            code, body = await post(name="taken", author=ann.pk)
            assert code == 422
            assert "already exists" in body  # the unique check
            code, body = await post(name="new", author=10**6)
            assert code == 422
            assert "Select a valid choice" in body
            assert await post(name="new", author=ann.pk, price="2.50") == (200, "new")
            code, body = await post(name="another", author=ann.pk)
            assert code == 422
            assert "ann has enough" in body

    run(main)


def test_two_requests_that_both_passed_the_unique_check_are_told_apart_by_the_database(
    run, ann, pool_options
):
    """The check cannot know what another request is about to write: the second gets the error."""
    pool_options(pool_size=2, max_overflow=0, pool_timeout=2)

    class Racing(BaseRequestHandler):
        async def post(self):
            form = BookForm(QueryDict(self.request.body))
            assert form.is_valid()
            await both.wait()
            try:
                with transaction.atomic():
                    form.save()
            except IntegrityError:
                self.set_status(409)

    async def main():
        nonlocal both
        both = asyncio.Barrier(2)
        async with serving(Racing) as served:
            body = f"name=new&author={ann.pk}&price=1"
            answers = await asyncio.gather(
                *(served.fetch(method="POST", body=body) for _ in range(2))
            )
        assert sorted(answer.code for answer in answers) == [200, 409]

    both = None
    run(main)


def test_a_model_validates_its_constraints_in_the_database(run, ann):
    @green
    def request():
        shelf = Shelf.objects.create(name="s")
        volume = Volume.objects.create(title="v")
        Placing.objects.create(volume=volume, shelf=shelf, position=1)
        with parked(), pytest.raises(forms.ValidationError, match="already exists"):
            Placing(volume=volume, shelf=shelf, position=1).full_clean()
        with parked():
            Placing(volume=volume, shelf=shelf, position=2).full_clean()
        with parked(1), pytest.raises(forms.ValidationError):
            Placing(volume_id=10**6, shelf=shelf, position=2).full_clean(
                exclude=["shelf"], validate_constraints=False
            )

    run(request)


def test_many_to_many_choices_are_saved(run):
    form_class = modelform_factory(Volume, fields=["title", "pages", "tags"])

    @green
    def request():
        tags = [Tag.objects.create(word=word) for word in "abc"]
        data = QueryDict(f"title=v&pages=1&tags={tags[0].pk}&tags={tags[1].pk}")
        with parked():
            volume = form_class(data).save()
        with parked():
            form = form_class(QueryDict(f"title=w&pages=1&tags={tags[2].pk}"), instance=volume)
            assert "selected" in form["tags"].as_widget()
            unsaved = form.save(commit=False)
            unsaved.save()
            form.save_m2m()
        return [tag.word for tag in Volume.objects.get(title="w").tags.all()]

    assert run(request) == ["c"]


def test_formsets_load_and_save_what_they_show(run, ann):
    formset_class = modelformset_factory(Author, fields=["name"], extra=1, can_delete=True)
    inline_class = inlineformset_factory(Author, Book, fields=["name", "price"], extra=1)

    @green
    async def request():
        await asyncio.sleep(0)
        with parked():
            shown = formset_class(queryset=Author.objects.order_by("name"))
            assert [form.initial.get("name") for form in shown] == ["ann", "bob", None]
            first, second = (form.instance.pk for form in shown.initial_forms)
            data = QueryDict(
                "form-TOTAL_FORMS=3&form-INITIAL_FORMS=2"
                f"&form-0-id={first}&form-0-name=anna"
                f"&form-1-id={second}&form-1-name=bob&form-1-DELETE=on"
                "&form-2-name=new"
            )
            formset = formset_class(data, queryset=Author.objects.order_by("name"))
            assert formset.is_valid(), formset.errors
            formset.save()
        assert sorted(author.name for author in Author.objects.all()) == ["anna", "new"]
        with parked():
            data = QueryDict(
                "books-TOTAL_FORMS=2&books-INITIAL_FORMS=0"
                "&books-0-name=one&books-0-price=1&books-1-name=taken&books-1-price=1"
            )
            inline = inline_class(data, instance=await Author.objects.aget(name="new"))
            assert not inline.is_valid()
            assert "already exists" in str(inline.errors)

    run(request)


def test_an_async_handler_validates_a_form_between_awaits_in_its_transaction(run, ann):
    class Async(BaseRequestHandler):
        async def post(self):
            with transaction.atomic():
                await Author.objects.acreate(name="uncommitted")
                await asyncio.sleep(0)
                pk = Author.objects.get(name="uncommitted").pk
                form = BookForm({"name": "new", "author": pk, "price": "1"})
                assert form.is_valid(), form.errors
                form.save()
                transaction.set_rollback(True)
            self.write({"authors": Author.objects.count(), "books": Book.objects.count()})

    async def main():
        async with serving(Async) as served:
            response = await served.fetch(method="POST", body="")
        assert response.body == b'{"authors": 2, "books": 1}'

    run(main)
