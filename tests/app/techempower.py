"""The rules by which the TechEmpower Framework Benchmarks verified their entries.

Each function looks at an answer, or at what is in the database, and returns the problems it found.
What the benchmarks only warn of counts as a problem here, too.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from html import unescape
from html.parser import HTMLParser
from typing import Any

from tests.app.server import Response

CONTENT_TYPES = {
    "json": r"application/json(; ?charset=(UTF|utf)-8)?",
    "html": r"text/html; ?charset=(UTF|utf)-8",
    "plain": r"text/plain(; ?charset=(UTF|utf)-8)?",
}

#: what `queries` may be, and how many rows are to be answered
QUERIES = {"2": 2, "0": 1, "foo": 1, "501": 500, "": 1}

FORTUNES = [
    (11, '<script>alert("This should not be displayed in a browser alert box.");</script>'),
    (4, "A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 1, 1, 1"),
    (5, "A computer program does what you tell it to do, not what you want it to do."),
    (2, "A computer scientist is someone who fixes things that aren't broken."),
    (8, "A list is only as strong as its weakest link. — Donald Knuth"),
    (0, "Additional fortune added at request time."),
    (3, "After enough decimal places, nobody gives a damn."),
    (7, "Any program that runs right is obsolete."),
    (10, "Computers make very fast, very accurate mistakes."),
    (6, "Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen"),
    (9, "Feature: A bug with seniority."),
    (1, "fortune: No such file or directory"),
    (12, "フレームワークのベンチマーク"),
]


def check_answer(answer: Response, kind: str) -> list[str]:
    """Look at the status and the headers; `kind` is json, html or plain."""
    headers, problems = answer.headers, []
    if answer.status != 200:
        problems.append(f"status {answer.status}")
    if not answer.body:
        problems.append("empty body")
    for name in ("Server", "Date", "Content-Type"):
        if name not in headers:
            problems.append(f"no {name}")
    if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
        problems.append("neither Content-Length nor Transfer-Encoding")
    if not re.fullmatch(CONTENT_TYPES[kind], headers.get("Content-Type", "")):
        problems.append(f"Content-Type {headers.get('Content-Type')!r}")
    try:
        datetime.strptime(headers.get("Date", ""), "%a, %d %b %Y %H:%M:%S %Z")
    except ValueError as error:
        problems.append(str(error))
    return problems


def check_dates(first: Response, three_seconds_later: Response) -> list[str]:
    """A Date must not be cached."""
    dates = first.headers["Date"], three_seconds_later.headers["Date"]
    return [f"Date did not change: {dates[0]}"] if dates[0] == dates[1] else []


def check_json(answer: Response) -> list[str]:
    """``/json``: an object that says hello, and nothing else."""
    value = json.loads(answer.body)
    lowered = {key.lower(): text.lower() for key, text in value.items()}
    return [] if lowered == {"message": "hello, world!"} else [f"not the message: {value}"]


def check_plaintext(answer: Response) -> list[str]:
    """``/plaintext``: the greeting, and not a byte more."""
    return [] if answer.body.lower() == b"hello, world!" else [f"not the text: {answer.body!r}"]


def check_world(value: Any) -> list[str]:
    """``/db``: one object (not a list of one) with two integers in their ranges."""
    if not isinstance(value, dict):
        return [f"not an object: {value!r}"]
    lowered = {key.lower(): number for key, number in value.items()}
    if set(lowered) != {"id", "randomnumber"}:
        return [f"keys {sorted(value)}"]
    if not 1 <= int(lowered["id"]) <= 10_000 or int(lowered["randomnumber"]) > 10_000:
        return [f"out of range: {value}"]
    return []


def check_worlds(answer: Response, count: int) -> list[str]:
    """``/queries`` and ``/updates``: a list, also of one."""
    value = json.loads(answer.body)
    if not isinstance(value, list):
        return [f"not a list: {value!r}"]
    problems = [problem for each in value for problem in check_world(each)]
    if len(value) != count:
        problems.append(f"{len(value)} objects instead of {count}")
    return problems


def check_changes(before: dict[int, int], after: dict[int, int]) -> list[str]:
    """``/updates?queries=500`` must have changed more than 95% of as many rows of the table."""
    changed = sum(before[id] != after[id] for id in before)
    return [f"only {changed} of 500 rows changed"] if changed <= 500 * 0.95 else []


def check_count(what: str, found: int, expected: int) -> list[str]:
    """What the server counted under load: no less than asked for, and at most 5% more."""
    if expected <= found <= expected * 1.05:
        return []
    return [f"{found} {what} instead of {expected}"]


def check_fortunes(answer: Response) -> list[str]:
    """``/fortunes``: one fixed page, but for how it escapes and for some optional tags."""
    rows = "".join(
        f"<tr><td>{id}</td><td>{message.replace('<', '&lt;')}</td></tr>" for id, message in FORTUNES
    )
    page = (
        "<!doctype html><html><head><title>Fortunes</title></head><body><table>"
        f"<tr><th>id</th><th>message</th></tr>{rows}</table></body></html>"
    )
    expected, found = tokens(page), tokens(answer.text)
    if expected == found:
        return []
    first = next((pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]), None)
    return [f"not the page; expected and found: {first or (len(expected), len(found))}"]


def tokens(page: str) -> list[str]:
    """Return the tags and texts of a page, brought to one form."""
    parser = Tokens()
    parser.feed(page)
    parser.close()
    return parser.found


class Tokens(HTMLParser):
    """Takes a page apart; what must be escaped and is not becomes a tag, and so a difference."""

    IGNORED = ("meta", "link", "script", "thead", "tbody")
    REFERENCES = ("quot", "apos", "lt", "gt", "mdash")
    CODES = (34, 39, 40, 41, 43, 47, 60, 62)

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self._in_text = False

    def handle_decl(self, decl: str) -> None:
        self._add(f"<!{decl.lower()}>")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.IGNORED:
            self._add(f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.IGNORED:
            self._add(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if data.strip() and self.lasttag != "script":
            self._add_text(data)

    def handle_entityref(self, name: str) -> None:
        text = f"&{name};"
        self._add_text(unescape(text) if name in self.REFERENCES else text)

    def handle_charref(self, name: str) -> None:
        code = int(name[1:], 16) if name[0] in "xX" else int(name)
        self._add_text(chr(code) if code in self.CODES else f"&#{name};")

    def _add(self, token: str) -> None:
        self.found.append(token)
        self._in_text = False

    def _add_text(self, text: str) -> None:
        if self._in_text:
            self.found[-1] += text
        else:
            self.found.append(text)
            self._in_text = True
