"""Whether a peer may be measured: TechEmpower's rules, and the same for the workloads that are ours.

A rule that fails closes its route to measuring; a server that breaks down under the rules closes all.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Collection, Mapping
from email.message import Message
from html import unescape
from typing import Any

import pymysql

from tests.app import techempower
from tests.app.server import Response

#: seconds within which an answer must come
LIMIT = 60
#: requests whose statements are counted, one after the other
COUNTED = 20
BOOKS = "SELECT id, name FROM app_book ORDER BY name LIMIT 20"

Rule = dict[str, Any]


class Suspect(techempower.Remote):
    """A server that may drop a connection, or not answer: that is an answer of status 0."""

    def get(self, path: str) -> Response:
        try:
            return super().get(path)
        except OSError as exc:
            return _no_answer(exc)

    async def _get(self, path: str) -> Response:
        try:
            async with asyncio.timeout(LIMIT):
                return await super()._get(path)
        except (OSError, ValueError, IndexError) as exc:
            return _no_answer(exc)


def verify(
    port: int, url: str, doing: Callable[[str], None], only: Collection[str] = ()
) -> list[Rule]:
    """Look at all rules; return for each its name, its problems, and PASS, WARN or FAIL.

    With ``only`` the server has no more than these of the routes, which are those of `ALONE`.
    """
    rules: list[Rule] = []

    def show(name: str, problems: list[str]) -> None:
        doing(name)
        failed = any(not isinstance(each, techempower.Warn) for each in problems)
        verdict = "FAIL" if failed else "WARN" if problems else "PASS"
        rules.append(
            {"rule": name, "verdict": verdict, "problems": [str(each) for each in problems]}
        )

    server, database = Suspect(f"http://127.0.0.1:{port}"), techempower.Database(url)
    if only:
        asked: list[Asked] = [ALONE[route] for route in only]
    else:
        # The rules do not expect everything that a broken server may say.
        try:
            techempower.verify(server, database, show)
        except Exception as exc:
            show("all", [f"could not be verified to the end: {exc!r}"])
        asked = [
            ("/sleep?ms=50", "json", 1, check_sleep),
            ("/page", "html", 2, lambda answer: check_page(answer, database)),
        ]
    for path, kind, queries, check in asked:
        try:
            show(f"{path}, {COUNTED} times", counted(server, database, path, kind, queries, check))
        except (pymysql.Error, OSError) as exc:
            show(path, [f"could not be verified: {exc!r}"])
    return rules


def counted(
    server: Suspect,
    database: techempower.Database,
    path: str,
    kind: str,
    queries: int,
    check: Callable[[Response], list[str]],
) -> list[str]:
    """Look at an answer, and count the statements of some requests for it."""
    answer = server.get(path)
    problems = techempower.check_answer(answer, kind) + techempower.tried(check, answer)
    before = database.status()
    statuses = {server.get(path).status for _ in range(COUNTED)}
    after = database.status()
    if statuses != {200}:
        problems.append(f"statuses {sorted(statuses)}")
    asked = after["queries"] - before["queries"]
    return problems + techempower.check_count("queries", asked, queries * COUNTED)


def check_sleep(answer: Response) -> list[str]:
    """``/sleep?ms=50``: how long it was."""
    value = json.loads(answer.body)
    return [] if value == {"ms": 50} else [f"not the milliseconds: {value!r}"]


#: what a route is asked for, its kind, its statements, and how its answer is looked at
Asked = tuple[str, str, int, Callable[[Response], list[str]]]

#: by route, for who serves without the database, which is to be asked nothing
ALONE: dict[str, Asked] = {
    "/json": ("/json", "json", 0, techempower.check_json),
    "/plaintext": ("/plaintext", "plain", 0, techempower.check_plaintext),
    "/sleep": ("/sleep?ms=50", "json", 0, check_sleep),
}


def check_page(answer: Response, database: techempower.Database) -> list[str]:
    """``/page``: the names of the first books."""
    text = unescape(answer.text)
    lost = [name for name in database.query(BOOKS).values() if name not in text]
    return [f"{len(lost)} books are not on the page: {lost[0]!r}"] if lost else []


def closed(rules: list[Rule]) -> dict[str, str]:
    """Return the routes that must not be measured, and why; "all" stands for every one."""
    found: dict[str, str] = {}
    for rule in rules:
        if rule["verdict"] == "FAIL":
            route = re.match(r"/\w+|all", rule["rule"])
            assert route is not None
            found.setdefault(route[0], f"{rule['rule']}: {'; '.join(rule['problems'])}")
    return found


def why_not(routes: set[str], shut: Mapping[str, str]) -> str | None:
    """Return why one of the routes must not be measured, if it must not."""
    return next((shut[route] for route in ("all", *sorted(routes)) if route in shut), None)


def _no_answer(problem: Exception) -> Response:
    headers = Message()
    headers["X-Problem"] = repr(problem)
    return Response(0, headers, b"")  # type: ignore[arg-type]
