"""The rules by which the TechEmpower Framework Benchmarks verified their entries.

Each function looks at an answer, or at what is in the database, and returns the problems it found; those of
which the benchmarks only warn are a `Warn`. For a server that is running, with its database if that is
MySQL or MariaDB and asked by nobody else meanwhile:

    python -m tests.app.techempower http://127.0.0.1:8000 --mysql mysql://user:password@127.0.0.1:3306/name

It prints a line for each rule that is looked at, and exits with 1 if one fails; warnings do not count.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
import pymysql

from tests.app.server import Response, Server

CONCURRENCY = 512
TIME_LIMIT = 20  # seconds for so many requests
MARGIN = 1.015  # what the server counted is multiplied by this

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


class Warn(str):
    """A problem that does not make the verification fail."""


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
        problems.append(Warn(error))
    return problems


def check_dates(first: Response, three_seconds_later: Response) -> list[str]:
    """A Date must not be cached."""
    dates = first.headers["Date"], three_seconds_later.headers["Date"]
    return [f"Date did not change: {dates[0]}"] if dates[0] == dates[1] else []


def check_json(answer: Response) -> list[str]:
    """``/json``: an object that says hello, and nothing else."""
    value = json.loads(answer.body)
    if not isinstance(value, dict):
        return [f"not an object: {value!r}"]
    lowered = {key.lower(): text.lower() for key, text in value.items()}
    if lowered.pop("message", None) != "hello, world!":
        return [f"not the message: {value}"]
    return [Warn(f"more than the message: {value}")] if lowered else []


def check_plaintext(answer: Response) -> list[str]:
    """``/plaintext``: the greeting, and not a byte more."""
    if b"hello, world!" not in answer.body.lower():
        return [f"not the text: {answer.body!r}"]
    return [Warn("more than the text")] if len(answer.body) > len(b"hello, world!") else []


def check_world(value: Any) -> list[str]:
    """``/db``: one object (not a list of one) with two integers in their ranges."""
    if not isinstance(value, dict):
        return [f"not an object: {value!r}"]
    lowered = {key.lower(): number for key, number in value.items()}
    if not set(lowered) >= {"id", "randomnumber"}:
        return [f"keys {sorted(value)}"]
    problems = [Warn(f"keys {sorted(value)}")] if len(lowered) > 2 else []
    if not 1 <= int(lowered["id"]) <= 10_000 or int(lowered["randomnumber"]) > 10_000:
        problems.append(Warn(f"out of range: {value}"))
    return problems


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
    """``/updates?queries=500`` must have changed more than 90% of as many rows, and should 95%."""
    changed = sum(before[id] != after[id] for id in before)
    problem = f"only {changed} of 500 rows changed"
    if changed <= 500 * 0.90:
        return [problem]
    return [Warn(problem)] if changed <= 500 * 0.95 else []


def check_count(what: str, found: int, expected: int, margin: float = 1) -> list[str]:
    """What the server counted under load: no less than asked for, and at most 5% more."""
    problem = f"{found} {what} instead of {expected}"
    if found * margin < expected:
        return [problem]
    return [Warn(problem)] if found > expected * 1.05 else []


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


# --- a server that is running -----------------------------------------------------------------


class Remote(Server):
    """A server on this machine that somebody else has started."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        if parts.hostname not in ("127.0.0.1", "localhost"):
            sys.exit("the server must be one of this machine: http://127.0.0.1:PORT")
        self.url, self.port = url, parts.port or 80


class Database:
    """The server's MySQL or MariaDB, past the server."""

    def __init__(self, url: str):
        config = dj_database_url.parse(url.partition("?")[0])
        self._connection = pymysql.connect(
            host=config["HOST"],
            port=int(config["PORT"] or 3306),
            user=config["USER"],
            password=config["PASSWORD"],
            database=config["NAME"],
            autocommit=True,
        )

    def query(self, sql: str) -> dict[Any, Any]:
        """Return the rows, of two columns, as a mapping."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return dict(cursor.fetchall())

    def worlds(self) -> dict[int, int]:
        return self.query("SELECT id, randomnumber FROM world")

    def status(self) -> Counter[str]:
        """Return the server's numbers, so that they can be subtracted."""
        status = self.query("SHOW GLOBAL STATUS")
        queries = int(status["Com_select"]) + int(status["Com_update"])
        rows = status.get("Innodb_rows_read") or status["Rows_read"]  # MySQL's, MariaDB's
        return Counter(queries=queries, rows=int(rows))


def tried(check: Callable[..., list[str]], *args: Any) -> list[str]:
    """Return what the check finds; what it cannot even look at is a problem, too."""
    try:
        return check(*args)
    except (AttributeError, TypeError, ValueError) as error:
        return [f"not to be understood: {error!r}"]


def verify(
    server: Server, database: Database | None, show: Callable[[str, list[str]], None]
) -> None:
    """Look at the six tests of a server, and ``show`` the name of each rule with its problems."""
    pages = {
        "/json": ("json", check_json),
        "/plaintext": ("plain", check_plaintext),
        "/db": ("json", lambda answer: check_world(json.loads(answer.body))),
        "/fortunes": ("html", check_fortunes),
    }
    first = {
        path: server.get(path) for path in (*pages, "/queries?queries=2", "/updates?queries=2")
    }
    for path, (kind, check) in pages.items():
        show(path, check_answer(first[path], kind) + tried(check, first[path]))
    for path in ("/queries", "/updates"):
        for queries, count in QUERIES.items():
            before = database.worlds() if database and path == "/updates" else None
            answer = server.get(f"{path}?queries={queries}")
            problems = check_answer(answer, "json") + tried(check_worlds, answer, count)
            if queries == "501":
                problems = [Warn(problem) for problem in problems]
            if before is not None and count == 500:
                problems += check_changes(before, database.worlds())
            show(f"{path}?queries={queries}", problems)
    time.sleep(3)
    for path, answer in first.items():
        show(f"{path}, 3 s later", check_dates(answer, server.get(path)))
    for path, expected in (
        ("/db", {"queries": 1}),
        ("/queries?queries=20", {"queries": 20}),
        ("/fortunes", {"queries": 1, "rows": 12}),
        ("/updates?queries=20", {"queries": 40}),
    ):
        before_load = database.status() if database else None
        begin = time.monotonic()
        answers = server.get_at_once([path] * CONCURRENCY)
        seconds = time.monotonic() - begin
        failed = Counter(answer.status for answer in answers if answer.status != 200)
        problems = [f"{number} answers of status {status}" for status, number in failed.items()]
        if seconds > TIME_LIMIT:
            problems.append(Warn(f"more than {TIME_LIMIT} s"))
        counts = ""
        if before_load is not None:
            counted = database.status()
            counted.subtract(before_load)
            for what, each in expected.items():
                problems += check_count(what, counted[what], each * CONCURRENCY, MARGIN)
                counts += f", {counted[what]} {what}"
        show(f"{path}, {CONCURRENCY} at once, {seconds:.1f} s{counts}", problems)


def main() -> None:
    """Verify the server that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.app.techempower")
    parser.add_argument("url", help="of the server, on this machine")
    parser.add_argument("--mysql", type=Database, metavar="DATABASE_URL", help="of its database")
    options = parser.parse_args()
    failures = 0

    def show(name: str, problems: list[str]) -> None:
        nonlocal failures
        failed = [problem for problem in problems if not isinstance(problem, Warn)]
        failures += bool(failed)
        word = "FAIL" if failed else "WARN" if problems else "PASS"
        print("  ".join([word, name, *problems]), flush=True)

    verify(Remote(options.url), options.mysql, show)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
