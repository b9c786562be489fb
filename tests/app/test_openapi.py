"""The OpenAPI document names what there is: each JSON route, each method, each limit, and nothing else.

Its schemas are compared with the answers of the running application here for a few requests. Many more are
made up by schemathesis (`pip install schemathesis`, against `make run`):

    schemathesis run http://127.0.0.1:8000/api/openapi.json --exclude-path /sleep --request-timeout 60
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.app.api import send
from tests.app.pages import Site, open_site
from tests.app.server import ROOT

# The handlers need the application's own settings: they are listed in a process of its own.
LIST_ROUTES = """
import json, django
django.setup()
from app.application import ROUTES
from handlers.base import JSONHandler, JSONNotFound
print(json.dumps({
    pattern: handler.implemented_methods()
    for pattern, handler, *_ in ROUTES
    if issubclass(handler, JSONHandler) and handler is not JSONNotFound
}))
"""


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with open_site(request, tmp_path_factory) as site:
        yield site


@pytest.fixture(scope="module")
def document(site: Site) -> dict[str, Any]:
    return site.get("/api/openapi.json").json


def methods(item: dict[str, Any]) -> set[str]:
    return {name.upper() for name in item if name != "parameters"}


def test_the_document_names_each_json_route_with_its_methods(document, tmp_path):
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": "app.settings", "DATA_DIR": str(tmp_path)}
    for name in ("DATABASE_URL", "REPLICA_URL"):
        environ.pop(name, None)
    command = [sys.executable, "-c", LIST_ROUTES]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True)
    routes = json.loads(done.stdout)
    found = {}
    for path, item in document["paths"].items():
        example = path.replace("{id}", "1").replace("{symbol}", "BTC")
        pattern = next(pattern for pattern in routes if re.fullmatch(pattern, example))
        found[pattern] = methods(item)
    assert found == {pattern: set(names) for pattern, names in routes.items()}


def test_every_reference_leads_somewhere(document):
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert names == set(document["components"]["schemas"])


# --- what it says of limits -------------------------------------------------------------------


def integers(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each integer that a query may have: a URL that ends in its name, the name, and its schema."""
    for path, item in document["paths"].items():
        for parameter in item.get("get", {}).get("parameters", []):
            if parameter["in"] == "query" and parameter["schema"]["type"] == "integer":
                token = "token=a&" if path == "/echo" else ""
                ms = "ms=1&" if path == "/sleep" and parameter["name"] != "ms" else ""
                url = f"{path.replace('{symbol}', 'BTC')}?{token}{ms}{parameter['name']}"
                yield url, parameter["name"], parameter["schema"]


def test_the_limits_of_integers_are_those_of_the_application(site, document):
    limits = list(integers(document))
    assert len(limits) == 12
    for url, name, schema in limits:
        low, high = schema["minimum"], schema["maximum"]
        assert site.get(f"{url}={low}").status == 200
        if name != "ms":  # it would sleep
            assert site.get(f"{url}={high}").status in (200, 404)
        for wrong in (low - 1, high + 1):
            answer = site.get(f"{url}={wrong}")
            assert answer.json == {"error": f"{name} must be an integer from {low} to {high}"}
            assert answer.status == 400


@pytest.mark.parametrize("path", ["/api/users", "/api/access-records"])
def test_the_defaults_are_those_of_the_application(site, document, path):
    answer = site.get(path).json
    for parameter in document["paths"][path]["get"]["parameters"]:
        assert answer[parameter["name"]] == parameter["schema"]["default"]


def test_the_limits_of_texts_are_those_of_the_application(site, document):
    schemas = document["components"]["schemas"]["NewUser"]["properties"]
    assert len(schemas) == 4
    for name, schema in schemas.items():
        inside = "x" * schema["maxLength"]
        if name == "email":
            domain = "@" + "x." * 90 + "example.com"
            inside = "x" * (schema["maxLength"] - len(domain)) + domain
        for text, refused in ((inside, False), ("x" + inside, True)):
            # The other field is wrong in any case, so that nothing is written.
            answer = send(site, "PATCH", "/api/users/1", {name: text, "nothing": ""})
            assert answer.status == 400
            assert (name in answer.json["fields"]) is refused, (name, text)
            assert bool(re.search(schema.get("pattern", ""), text)) or refused
    assert send(site, "PATCH", "/api/users/1", {"password": "x" * 7, "nothing": ""}).json[
        "fields"
    ].keys() == {"password", "nothing"}
    bulk = document["paths"]["/api/users/bulk"]["post"]["requestBody"]["content"]
    limit = bulk["application/json"]["schema"]["maxItems"]
    for number, told in ((limit, "items"), (limit + 1, "error")):
        answer = send(site, "POST", "/api/users/bulk", [None] * number)
        assert (answer.status, told in answer.json) == (400, True)
        assert ("items" in answer.json) is (number == limit)


# --- what it says of answers ------------------------------------------------------------------


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Compare a value with as much of JSON Schema as the document uses for answers."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
    kinds["number"] = (int, float)
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, kinds[name]) for name in types), (schema, value)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) <= value.keys() <= schema["properties"].keys()
        for name, each in value.items():
            check(document, schema["properties"][name], each)
    if isinstance(value, list):
        assert len(value) <= schema.get("maxItems", len(value))
        for each in value:
            check(document, schema["items"], each)
    if isinstance(value, str):
        assert len(value) <= schema.get("maxLength", len(value))
        assert re.search(schema.get("pattern", ""), value)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/users", "?size=2"),
        ("/api/users", "?size=x"),
        ("/api/users/{id}", ""),
        ("/api/crypto/technical-indicators/{symbol}/", ""),
        ("/api/crypto/technical-indicators/{symbol}/", "?limit=500"),
        ("/api/crypto/technical-indicators/{symbol}/", "?period=1"),
        ("/api/access-records", ""),
        ("/api/access-records/paths", ""),
        ("/json", ""),
        ("/db", ""),
        ("/queries", "?queries=3"),
        ("/updates", "?queries=3"),
        ("/sleep", "?ms=1"),
        ("/sleep", ""),
        ("/echo", "?token=a"),
    ],
)
def test_an_answer_is_what_its_schema_says(site, document, path, query):
    site.get("/books/")
    answer = site.get(path.replace("{id}", "1").replace("{symbol}", "BTC-USD") + query)
    responses = document["paths"][path]["get"]["responses"]
    content = responses[str(answer.status)]["content"]
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    check(document, content["application/json"]["schema"], answer.json)
