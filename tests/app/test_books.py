"""The books: the list, the search, the detail and the form, by sync and by async code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from urllib.parse import quote

import pytest

from tests.app.pages import Site, errors, find, names, open_site

pytestmark = pytest.mark.parametrize("root", ["/books/", "/async/books/"])

NEW = {"author": "Ann Author", "published": "1999", "price": "9.99"}
EXISTS = "There is a book of this name already."
REQUIRED = "This field is required."


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with open_site(request, tmp_path_factory, "pool_size=8&max_overflow=0") as site:
        yield site


@pytest.fixture
def tidy(site: Site) -> Iterator[None]:
    """Remove what the test adds."""
    ((book,),) = site.execute("SELECT MAX(id) FROM app_book")
    ((author,),) = site.execute("SELECT MAX(id) FROM app_author")
    yield
    site.execute("DELETE FROM app_book WHERE id > %s", book)
    site.execute("DELETE FROM app_author WHERE id > %s", author)


def books(site: Site) -> set[str]:
    return {name for (name,) in site.execute("SELECT name FROM app_book")}


# --- the list ---------------------------------------------------------------------------------


def test_the_pages_show_every_book_once_in_order(site, root):
    found, authors, path = [], [], root
    while path:
        text = site.get(path).text
        found += names(text)
        authors += find('<span class="author">(.*?)</span>', text)
        assert len(names(text)) <= 20
        path = next(iter(find('rel="next" href="([^"]*)"', text)), None)
    assert set(found) == books(site)
    written = site.execute(
        "SELECT b.name, a.name AS author FROM app_book b JOIN app_author a ON a.id = b.author_id"
    )
    assert dict(zip(found, authors, strict=True)) == dict(written)
    assert len(found) == len(set(found)) == 42
    ((first,),) = site.execute("SELECT name FROM app_book ORDER BY name LIMIT 1")
    assert found[0] == first


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("1", 1),
        ("2", 2),
        ("3", 3),
        # Django's paginator: what is no number is the first page, what is out of range the last
        ("", 1),
        ("abc", 1),
        ("1.5", 1),
        ("%00", 1),
        ("9" * 5000, 1),
        ("0", 3),
        ("-1", 3),
        ("4", 3),
        (str(10**30), 3),
        ("2&page=3", 3),
    ],
)
def test_a_page_that_is_not_there_is_another_one(site, root, page, shown):
    answer = site.get(f"{root}?page={page}")
    assert answer.status == 200
    assert f"Page {shown} of 3" in answer.text


def test_bytes_that_are_no_text_are_400(site, root):
    assert site.get(f"{root}?page=%FF").status == 400
    assert site.get(f"{root}?q=%C3%28").status == 400


def test_a_search_finds_names_and_authors_whatever_the_case(site, root):
    assert names(site.get(f"{root}?q=TWENTY").text) == ["Twenty Thousand Leagues Under the Seas"]
    assert names(site.get(f"{root}?q=wells").text) == [
        "The Invisible Man",
        "The Time Machine",
        "The War of the Worlds",
    ]
    assert names(site.get(f"{root}?q={quote('猫')}").text) == ["吾輩は猫である"]


def test_a_search_keeps_its_text_from_page_to_page(site, root):
    text = site.get(f"{root}?q=e+").text
    assert 'name="q" value="e"' in text
    (following,) = find('rel="next" href="([^"]*)"', text)
    assert following == f"{root}?q=e&page=2"
    assert "Page 2 of" in site.get(following).text
    assert not set(names(text)) & set(names(site.get(following).text))


@pytest.mark.parametrize(
    "text",
    [
        "%",
        "_",
        "%a%",
        "\\",
        "\\%",
        "'",
        '"',
        "';--",
        "%s",
        "{{ text }}",
        "<b>&",
        "🐘",
        "a\0b",
        "e" * 200,
        "e" * 201,
        "%" * 20_000,
        "x" * 60_000,  # SQLite takes no pattern for LIKE that is longer than 50,000 bytes
        "\ud7ff\uffff",
    ],
)
def test_wildcards_and_quotes_are_searched_for_as_they_stand(site, root, text):
    answer = site.get(f"{root}?q={quote(text)}")
    assert answer.status == 200
    expected = {name for name in books(site) if text in name} if text != '"' else set()
    if text == "'":  # an author may have one, too
        assert set(names(answer.text)) >= expected
    else:
        assert set(names(answer.text)) == expected
    assert f"{len(names(answer.text))} book" in answer.text
    assert "<b>" not in answer.text


# --- the detail -------------------------------------------------------------------------------


def test_a_book_names_its_author_and_the_other_books(site, root):
    ((pk,),) = site.execute("SELECT id FROM app_book WHERE name = 'Emma'")
    text = site.get(f"{root}detail/{pk}").text
    assert find("<h1>(.*?)</h1>", text) == ["Emma"]
    assert names(text) == ["Persuasion", "Pride and Prejudice", "Sense and Sensibility"]
    for link in find('href="(/[^"]*/detail/[^"]*)"', text):
        assert site.get(link).status == 200


@pytest.mark.parametrize("pk", ["0", "999999999999999999", "9" * 19, "-1", "1/", "x", "%00", "٣"])
def test_a_book_that_is_not_there_is_404(site, root, pk):
    answer = site.get(f"{root}detail/{quote(pk, safe='%/')}")
    assert answer.status == 404
    assert "<h1>404 Not Found</h1>" in answer.text


def test_each_page_links_the_one_of_the_other_style(site, root):
    other = {"/books/": "/async/books/", "/async/books/": "/books/"}[root]
    for path in ("", "add", "detail/1"):
        assert f'<a href="{other}{path}">' in site.get(f"{root}{path}").text


# --- the form ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("tidy")
def test_a_book_is_added_with_its_author_and_shown(site, root):
    answer = site.post(f"{root}add", {**NEW, "name": "A New Book"})
    ((pk,),) = site.execute("SELECT id FROM app_book WHERE name = 'A New Book'")
    assert (answer.status, answer.headers["Location"]) == (303, f"{root}detail/{pk}")
    text = site.get(answer.headers["Location"]).text
    assert find("<h1>(.*?)</h1>", text) == ["A New Book"]
    for shown in ("by Ann Author", "1999", "€ 9.99"):
        assert shown in text

    again = site.post(f"{root}add", {**NEW, "name": "Another New Book"})
    assert names(site.get(again.headers["Location"]).text) == ["A New Book"]
    assert site.execute("SELECT COUNT(*) FROM app_author WHERE name = 'Ann Author'") == [(1,)]


def test_a_name_that_exists_is_refused_beside_its_field(site, root):
    answer = site.post(f"{root}add", {**NEW, "name": " Emma "})
    assert answer.status == 400
    assert errors(answer.text) == {"name": EXISTS}
    assert "<title>Error: " in answer.text
    # what was typed is still there, and the field that is wrong has the focus
    assert find('value="([^"]*)"', answer.text) == ["Emma", "Ann Author", "1999", "9.99"]
    assert len(find("(autofocus)", answer.text)) == 1
    assert find("<input [^>]*autofocus[^>]*>", answer.text) == find(
        '<input [^>]*name="name"[^>]*>', answer.text
    )
    assert site.execute("SELECT COUNT(*) FROM app_author WHERE name = 'Ann Author'") == [(0,)]


@pytest.mark.usefixtures("tidy")
def test_two_at_once_with_one_name_are_a_redirect_and_an_error(site, root):
    for i in range(5):
        forms = [{**NEW, "name": f"Race {i}"}] * 6
        answers = site.post_at_once(f"{root}add", forms)
        assert sorted(answer.status for answer in answers) == [303] + [400] * 5
        for answer in answers:
            assert answer.status == 303 or errors(answer.text) == {"name": EXISTS}
        assert site.execute("SELECT COUNT(*) FROM app_book WHERE name = %s", f"Race {i}") == [(1,)]


@pytest.mark.usefixtures("tidy")
def test_an_author_whose_book_is_refused_by_the_database_is_not_kept(site, root):
    for i in range(5):
        forms = [{**NEW, "author": f"Writer {n % 3}", "name": f"Tale {i}"} for n in range(9)]
        answers = site.post_at_once(f"{root}add", forms)
        assert sorted(answer.status for answer in answers) == [303] + [400] * 8
        assert (
            site.execute(
                "SELECT name FROM app_author WHERE id NOT IN (SELECT author_id FROM app_book)"
            )
            == []
        )


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"name": ""}, {"name": REQUIRED}),
        ({"name": " \t "}, {"name": REQUIRED}),
        ({"name": "Emma", "price": ""}, {"name": EXISTS, "price": REQUIRED}),
        ({"name": "\0"}, {"name": REQUIRED}),
        ({"name": "x" * 201}, {"name": "at most 200 characters (it has 201)"}),
        ({"name": "x" * 1_000_000}, {"name": "at most 200 characters"}),
        ({"author": ""}, {"author": REQUIRED}),
        ({"author": "é" * 101}, {"author": "at most 100 characters (it has 101)"}),
        ({"published": ""}, {"published": REQUIRED}),
        ({"published": "next"}, {"published": "Enter a whole number."}),
        ({"published": "0"}, {"published": "greater than or equal to 1"}),
        ({"published": "-5"}, {"published": "greater than or equal to 1"}),
        ({"published": "10000"}, {"published": "less than or equal to 9999"}),
        ({"published": "9" * 5000}, {"published": "Enter a whole number."}),
        ({"published": str(10**30)}, {"published": "less than or equal to 9999"}),
        ({"price": "-0.01"}, {"price": "greater than or equal to 0"}),
        ({"price": "1.234"}, {"price": "no more than 2 decimal places"}),
        ({"price": "1234567"}, {"price": "no more than 6 digits before"}),
        ({"price": "1e400"}, {"price": "no more than"}),
        ({"price": "1e999999999"}, {"price": ""}),
        ({"price": "NaN"}, {"price": "Enter a number."}),
        ({"price": "Infinity"}, {"price": "Enter a number."}),
        ({"price": "1" * 5000}, {"price": "no more than"}),
        (
            {"name": "", "published": "x", "price": "x"},
            {"name": REQUIRED, "published": "Enter", "price": "Enter a number."},
        ),
    ],
)
def test_a_wrong_field_is_named(site, root, changed, wrong):
    before = books(site)
    answer = site.post(f"{root}add", {**NEW, "name": "Wrong", **changed})
    assert answer.status == 400
    found = errors(answer.text)
    assert set(found) == set(wrong)
    for name, text in wrong.items():
        assert text in found[name]
    assert books(site) == before


@pytest.mark.parametrize("missing", ["name", "author", "published", "price"])
def test_a_missing_field_is_named(site, root, missing):
    fields = {**NEW, "name": "Incomplete"}
    del fields[missing]
    answer = site.post(f"{root}add", fields)
    assert (answer.status, errors(answer.text)) == (400, {missing: REQUIRED})


ALL_REQUIRED = dict.fromkeys(("name", "author", "published", "price"), REQUIRED)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/x-www-form-urlencoded"),
        (b"name=Typed", None),
        (b"name=Typed", "text/plain"),
        (json.dumps({**NEW, "name": "JSON"}).encode(), "application/json"),
        (b"=&&;%00=%00&x", "application/x-www-form-urlencoded"),
        (b"\xff=1", "application/x-www-form-urlencoded"),
    ],
)
def test_what_is_no_form_has_all_its_fields_missing(site, root, body, content_type):
    answer = site.post(f"{root}add", body, content_type)
    assert (answer.status, errors(answer.text)) == (400, ALL_REQUIRED)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"name=%FF", "application/x-www-form-urlencoded"),
        (b"name=\xff\xfe", "application/x-www-form-urlencoded"),
        (b"name=%C3", "application/x-www-form-urlencoded"),
        (b"name=%ED%A0%80", "application/x-www-form-urlencoded"),
        (b"&".join([b"a=1"] * 100_000), "application/x-www-form-urlencoded"),
        (b"garbage", "multipart/form-data"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\nname\r\n--x--", "multipart/form-data; boundary=x"),
    ],
)
def test_a_broken_body_is_400(site, root, body, content_type):
    answer = site.post(f"{root}add", body, content_type)
    assert answer.status == 400
    assert not errors(answer.text)


@pytest.mark.usefixtures("tidy")
def test_a_multipart_form_is_a_form(site, root):
    fields = {**NEW, "name": "In Parts"}
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    body = "".join([*parts, "--x--\r\n"]).encode()
    assert site.post(f"{root}add", body, "multipart/form-data; boundary=x").status == 303
    assert "In Parts" in books(site)


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize(
    "name",
    [
        '<script>alert("1")</script>',
        "\"'&<>",
        "{{ book.pk }}{% debug %}",
        "🐘 in the room",
        "Śūnyatā",
        "%s %d %%",
        "x" * 200,
        "א‮ב",
    ],
)
def test_a_name_is_shown_as_it_was_typed(site, root, name):
    answer = site.post(f"{root}add", {**NEW, "name": name, "author": name[:100]})
    assert answer.status == 303
    detail = site.get(answer.headers["Location"]).text
    assert find("<h1>(.*?)</h1>", detail) == [name]
    assert f"<h1>{escape(name)}</h1>" in detail
    found = site.get(f"{root}?q={quote(name)}").text
    assert names(found) == [name]
    refused = site.post(f"{root}add", {**NEW, "name": name})
    assert errors(refused.text) == {"name": EXISTS}
    for text in (detail, found, refused.text):
        assert "<script" not in text


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({}, 303),
    ],
)
def test_a_form_of_another_site_is_refused(site, root, headers, status):
    answer = site.post(f"{root}add", {**NEW, "name": "Forged"}, **headers)
    assert answer.status == status
    assert ("Forged" in books(site)) == (status == 303)


def test_the_empty_form_has_a_label_for_every_field_and_the_focus_on_the_first(site, root):
    text = site.get(f"{root}add").text
    fields = find('<input [^>]*id="([^"]*)"', text)
    assert fields == ["id_name", "id_author", "id_published", "id_price"]
    assert find('<label for="([^"]*)"', text) == fields
    assert find('<input [^>]*autofocus[^>]*id="([^"]*)"', text) == ["id_name"]
    assert errors(text) == {}
