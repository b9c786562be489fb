"""The users over HTTP: pages, what is refused and how, races, and passwords."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from tests.app.api import send, send_at_once
from tests.app.pages import Site, open_site

USERS = "/api/users"
PASSWORD = "correct horse"


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with open_site(request, tmp_path_factory, "pool_size=2&max_overflow=0") as site:
        yield site


@pytest.fixture(autouse=True)
def tidy(site: Site) -> Iterator[None]:
    """Leave the users of the sample data."""
    yield
    site.execute("DELETE FROM app_user WHERE id > 5")


def rows(site: Site) -> list[tuple[Any, ...]]:
    return site.execute("SELECT username, email, full_name FROM app_user ORDER BY id")


def new(name: str = "eve", **fields: Any) -> dict[str, Any]:
    return {"username": name, "email": f"{name}@example.com", "password": PASSWORD, **fields}


def insert(site: Site, *names: str) -> list[int]:
    """Add users past the application, which takes its time to hash."""
    for name in names:
        site.execute(
            "INSERT INTO app_user (username, email, full_name, password, joined)"
            " VALUES (%s, %s, '', '!', '2025-01-01 00:00:00')",
            name,
            f"{name}@example.com",
        )
    return [pk for (pk,) in site.execute("SELECT id FROM app_user ORDER BY id")[-len(names) :]]


# --- pages ------------------------------------------------------------------------------------


def test_the_pages_show_every_user_once_and_link_to_each_other(site):
    insert(site, *(f"user{i}" for i in range(8)))
    found, path = [], f"{USERS}?size=5"
    while path:
        answer = site.get(path)
        found += [user["username"] for user in answer.json["items"]]
        path = answer.json["links"]["next"]
    assert found == [name for name, _, _ in rows(site)]
    last = answer.json
    assert (last["page"], last["size"], last["pages"], last["total"]) == (3, 5, 3, 13)
    assert last["links"] == {
        "first": f"{USERS}?page=1&size=5",
        "prev": f"{USERS}?page=2&size=5",
        "next": None,
        "last": f"{USERS}?page=3&size=5",
    }


@pytest.mark.parametrize("name", ["page", "size"])
@pytest.mark.parametrize(
    "value", ["0", "-1", "", "x", "1.5", "1e2", "%FF", "%00", "%D9%A3", "1000000", "9" * 5000]
)
def test_a_wrong_page_or_size_is_400_and_named(site, name, value):
    answer = site.get(f"{USERS}?{name}={value}")
    assert answer.status == 400
    assert name in answer.json["error"]


def test_behind_the_last_page_is_404_and_nothing_is_read(site):
    answer = site.get(f"{USERS}?page=10000&size=100")
    assert (answer.status, answer.json) == (404, {"error": "the last page is 1"})


# --- one user ---------------------------------------------------------------------------------


def test_create_read_replace_change_delete(site):
    answer = send(site, "POST", USERS, new("Eve", full_name="Eve 🐘 O'Neil"))
    path = answer.headers["Location"]
    assert (answer.status, path) == (201, f"{USERS}/{answer.json['id']}")
    assert answer.json.keys() == {"id", "username", "email", "full_name", "joined"}
    assert answer.json["username"] == "eve"
    assert answer.json["full_name"] == "Eve 🐘 O'Neil"
    assert site.get(path).json == answer.json

    changed = send(site, "PATCH", path, {"email": "EVE@example.org"})
    assert changed.json == answer.json | {"email": "eve@example.org"}
    assert send(site, "PATCH", path, {}).json == changed.json

    replaced = send(site, "PUT", path, new("mallory"))
    assert replaced.status == 200
    assert rows(site)[-1] == ("mallory", "mallory@example.com", "")

    assert (send(site, "DELETE", path).status, site.get(path).status) == (204, 404)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("id", ["0", "999999999999999999"])
def test_nobody_is_404(site, method, id):
    answer = send(site, method, f"{USERS}/{id}", {} if method == "PATCH" else new())
    assert (answer.status, answer.json.keys()) == (404, {"error"})


@pytest.mark.parametrize("path", ["/1x", "/-1", "/" + "9" * 19, "/1/", "/%00", "/"])
def test_what_is_no_id_is_404_in_json(site, path):
    assert site.get(USERS + path).json == {"error": "Not Found"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", USERS, "GET, POST"),
        ("POST", f"{USERS}/1", "GET, DELETE, PATCH, PUT"),
        ("GET", f"{USERS}/bulk", "POST"),
    ],
)
def test_another_method_is_405_and_says_which_there_are(site, method, path, allowed):
    answer = send(site, method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)


# --- what is refused --------------------------------------------------------------------------

BROKEN = [
    b"",
    b"{",
    b"null garbage",
    b"{'username': 1}",
    b'{"username": "\xff"}',
    "{}".encode("utf-16"),
    b"\xef\xbb\xbf{}",
    b'{"username": "\\ud800"}',
    b"[NaN]",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 10_000,
]
NO_OBJECTS = [None, True, 1, 1.5, "text", [], [{}], [[]]]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "BULK"])
@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:20]))
def test_a_broken_body_is_400(site, method, body):
    path = {"POST": USERS, "BULK": f"{USERS}/bulk"}.get(method, f"{USERS}/1")
    answer = send(site, "POST" if method == "BULK" else method, path, body)
    assert (answer.status, answer.json) == (400, {"error": "the body must be JSON, in UTF-8"})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("value", NO_OBJECTS, ids=repr)
def test_a_body_that_is_no_object_is_400(site, method, value):
    answer = send(site, method, USERS if method == "POST" else f"{USERS}/1", value)
    assert (answer.status, answer.json["fields"]) == (400, {"user": ["An object is expected."]})


def test_a_large_body_is_413(site):
    answer = send(site, "POST", USERS, new(full_name="x" * 1_000_000))
    assert (answer.status, "error" in answer.json) == (413, True)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (f, v)
            for f in new(full_name="")
            for v in (None, 1, 1.5, True, [], {}, ["a"], "x" * 999)
        ),
        ("username", ""),
        ("username", "a b"),
        ("username", "é"),
        ("username", "a\n"),
        ("username", "a\x00"),
        ("username", "x" * 151),
        ("email", ""),
        ("email", "x"),
        ("email", "x@y"),
        ("email", "x@y.z\n"),
        ("email", "x\x00@y.zz"),
        ("email", "x@é.com"),
        ("email", "x" * 250 + "@y.zz"),
        ("full_name", "a\x00"),
        ("full_name", "a\nb"),
        ("password", ""),
        ("password", "x" * 7),
        ("password", "x" * 129),
        ("id", 1),
        ("joined", "2025-01-01"),
        ("is_superuser", True),
        ("\x00", ""),
    ],
)
def test_a_wrong_field_is_400_and_named(site, method, field, value):
    path = USERS if method == "POST" else f"{USERS}/1"
    before = rows(site)
    answer = send(site, method, path, new(**{field: value}) if method == "POST" else {field: value})
    assert answer.status == 400
    assert list(answer.json["fields"]) == [field]
    assert all(isinstance(text, str) for text in answer.json["fields"][field])
    assert rows(site) == before


def test_all_that_is_missing_is_named(site):
    for method, path in (("POST", USERS), ("PUT", f"{USERS}/1")):
        answer = send(site, method, path, {"full_name": "Eve"})
        assert answer.status == 400
        assert answer.json["fields"].keys() == {"username", "email", "password"}


# --- one of a kind ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"username": "ada"}, {"username"}),
        ({"username": "ADA"}, {"username"}),
        ({"email": "Ada.Lovelace@Example.com"}, {"email"}),
        ({"username": "ada", "email": "ada.lovelace@example.com"}, {"username", "email"}),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_another_user_has_is_409_and_named(site, method, fields, named):
    if method == "POST":
        answer = send(site, "POST", USERS, new(**fields))
    else:
        (pk,) = insert(site, "eve")
        answer = send(site, "PATCH", f"{USERS}/{pk}", fields)
    assert (answer.status, answer.json["fields"].keys()) == (409, named)


def test_a_user_may_keep_its_own_name(site):
    (pk,) = insert(site, "eve")
    assert send(site, "PATCH", f"{USERS}/{pk}", {"username": "Eve"}).status == 200


def test_one_of_many_who_want_a_name_at_once_gets_it(site):
    answers = send_at_once(site, "POST", USERS, [new("eve")] * 4)
    assert sorted(answer.status for answer in answers) == [201] + [409] * 3
    assert [name for name, _, _ in rows(site)].count("eve") == 1


def test_one_of_many_who_are_renamed_at_once_gets_the_name(site):
    pks = insert(site, *(f"user{i}" for i in range(8)))
    with ThreadPoolExecutor(len(pks)) as executor:
        calls = [
            executor.submit(send, site, "PATCH", f"{USERS}/{pk}", {"username": "eve"}) for pk in pks
        ]
    assert sorted(call.result().status for call in calls) == [200] + [409] * 7


# --- many users -------------------------------------------------------------------------------


def test_bulk_creates_all(site):
    answer = send(site, "POST", f"{USERS}/bulk", [new("eve"), new("mallory")])
    assert answer.status == 201
    assert [user["username"] for user in answer.json["items"]] == ["eve", "mallory"]
    for user in answer.json["items"]:
        assert site.get(f"{USERS}/{user['id']}").json == user


@pytest.mark.parametrize(
    ("users", "status", "items"),
    [
        ([new("eve"), new("x y"), new("ok"), 5], 400, [(1, ["username", "email"]), (3, ["user"])]),
        ([new("eve"), new("mallory", password="short")], 400, [(1, ["password"])]),
        ([new("eve"), new("ada")], 409, [(1, ["username"])]),
        ([new("eve"), new("bob"), new("EVE", email="e@e.org")], 409, [(2, ["username"])]),
        ([new("ada")], 409, [(0, ["username"])]),
    ],
)
def test_bulk_creates_none_if_one_is_refused_and_names_it(site, users, status, items):
    before = rows(site)
    answer = send(site, "POST", f"{USERS}/bulk", users)
    assert answer.status == status
    assert [(item["index"], list(item["fields"])) for item in answer.json["items"]] == items
    assert rows(site) == before


@pytest.mark.parametrize("value", [None, {}, [], "text", [new()] * 21], ids=lambda v: repr(v)[:20])
def test_bulk_takes_a_list_of_bounded_length(site, value):
    answer = send(site, "POST", f"{USERS}/bulk", value)
    assert (answer.status, answer.json) == (400, {"error": "a list of 1 to 20 users is expected"})


def test_of_many_bulks_that_overlap_each_is_taken_whole_or_not_at_all(site):
    names = ["a1", "b1"]
    bulks = [[new(n) for n in (names if i % 2 else names[::-1])] for i in range(4)]
    answers = send_at_once(site, "POST", f"{USERS}/bulk", bulks)
    assert sorted(answer.status for answer in answers) == [201] + [409] * 3
    assert sorted(name for name, _, _ in rows(site)[5:]) == names


# --- passwords --------------------------------------------------------------------------------


def test_a_password_is_hashed_and_never_shown(site):
    path = send(site, "POST", USERS, new()).headers["Location"]
    query = "SELECT password FROM app_user WHERE username = 'eve'"
    ((first,),) = site.execute(query)
    assert first.startswith("pbkdf2_sha256$")
    assert send(site, "PATCH", path, {"full_name": "Eve"}).status == 200
    assert site.execute(query) == [(first,)]
    assert send(site, "PATCH", path, {"password": PASSWORD[::-1]}).status == 200
    ((second,),) = site.execute(query)
    assert second != first
    assert PBKDF2PasswordHasher().verify(PASSWORD[::-1], second)
    text = site.get(path).text + site.get(USERS).text + site.log
    for secret in (PASSWORD, PASSWORD[::-1], "pbkdf2", "password"):
        assert secret not in text


def test_hashing_holds_neither_the_loop_nor_a_connection(site):
    """More users at once than the pool has connections, and what needs one is answered in between."""
    users = [new(f"user{i}") for i in range(6)]
    sent: list[Any] = []
    creating = Thread(target=lambda: sent.extend(send_at_once(site, "POST", USERS, users)))
    creating.start()
    answers = 0
    while creating.is_alive():
        assert site.get("/db").status == 200
        answers += 1
    creating.join()
    assert {answer.status for answer in sent} == {201}
    assert answers > 10  # who waited for each hash to end would get 6, and one more
