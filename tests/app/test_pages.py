"""What holds for every page, and that the home page forgets none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

from tests.app.pages import Site, find, open_site
from tests.app.server import ROOT

PAGES = [
    "/",
    "/books/",
    "/books/?q=zola",
    "/books/?q=nothing+like+it",
    "/books/add",
    "/books/detail/1",
    "/async/books/?page=2",
    "/async/books/add",
    "/async/books/detail/1",
    "/demo/concurrency",
    "/not/there",
]
VOID = {"br", "input", "link", "meta"}
SVG_VOID = {"line", "rect"}

#: what is no page of its own: redirects, and the answer to what has no route
NO_PAGES = {"RedirectHandler", "JSONNotFound"}


@pytest.fixture(scope="module", params=["sqlite"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with open_site(request, tmp_path_factory) as site:
        yield site


@pytest.fixture(scope="module")
def routes() -> dict[str, str]:
    """Return the handlers' names by the patterns of their addresses."""
    program = (
        "import django, json; django.setup()\n"
        "from app.application import ROUTES\n"
        "print(json.dumps({route[0]: route[1].__name__ for route in ROUTES}))"
    )
    environ = os.environ | {
        "DJANGO_SETTINGS_MODULE": "app.settings",
        "DATABASE_URL": "sqlite:///unused",
    }
    command = [sys.executable, "-c", program]
    return json.loads(subprocess.check_output(command, cwd=ROOT, env=environ, timeout=60))


class Outline(HTMLParser):
    """Check that elements are closed in order; collect what must be unique, and what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.headings: list[int] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        assert len(values) == len(attributes), f"an attribute twice: {attributes}"
        if "id" in values:
            self.ids.append(values["id"])
        for name in ("aria-labelledby", "aria-describedby", "for"):
            self.references.update((values.get(name) or "").split())
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "a":
            self.links.append(values["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole(site, path):
    answer = site.get(path)
    outline = Outline()
    outline.feed(answer.text)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.references <= set(outline.ids)
    assert outline.headings.count(1) == 1
    assert all(
        below - above <= 1
        for above, below in zip(outline.headings, outline.headings[1:], strict=False)
    )
    assert '<html lang="en">' in answer.text
    assert find("<title>(.+?)</title>", answer.text)
    assert "viewport" in answer.text
    # no script, no style but the stylesheet's: a strict Content-Security-Policy would do
    assert not re.search(r"<script|<style|\son\w+=|\sstyle=|javascript:", answer.text)


@pytest.mark.parametrize("path", PAGES[:-1])
def test_no_link_of_a_page_is_broken(site, path):
    outline = Outline()
    outline.feed(site.get(path).text)
    for link in sorted(set(outline.links)):
        target, _, anchor = urljoin(path, link).partition("#")
        assert not anchor or anchor in outline.ids
        assert site.get(target or path).status == 200, link


def test_the_home_page_names_every_route_and_no_other(site, routes):
    text = site.get("/").text
    named = {
        re.sub("<.*?>", "", dt) for dt in find(r"<dt>(.*?)</dt>", text.replace("<br>", "</dt><dt>"))
    }
    paths = {name.strip().partition("?")[0] for name in named}
    pages = {pattern for pattern, handler in routes.items() if handler not in NO_PAGES}
    assert len(pages) > 15
    for pattern in pages - {"/"}:
        assert any(re.fullmatch(pattern, path) for path in paths), f"{pattern} is not named"
    for path in paths:
        assert any(re.fullmatch(pattern, path) for pattern in pages), f"{path} is no route"


def test_the_stylesheet_has_every_class_that_the_templates_use():
    style = (ROOT / "app/static/style.css").read_text()
    sources = [*(ROOT / "app/templates").rglob("*.html"), ROOT / "app/timeline.py"]
    used = {
        name
        for source in sources
        for names in re.findall(r'class="([\w -]+)"', source.read_text())
        for name in names.split()
    }
    assert {name for name in used if not re.search(rf"\.{name}\b", style)} == set()
