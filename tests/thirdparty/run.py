"""Try every probe and print the tables; see the docstring of the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sys
from pathlib import Path

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.thirdparty.settings"
django.setup()

from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402

from tests.mariadb import MariaDB  # noqa: E402
from tests.thirdparty import (  # noqa: E402
    applications,
    contexts,
    engines,
    services,
    storing,
    tracing,
    waiting,
)
from tests.thirdparty.measure import Outcome, Probe, Skip, probes, try_probe  # noqa: E402

#: importing them has registered their probes
MODULES = (applications, storing, waiting, contexts, tracing, engines)

PAGE = Path(__file__).parent.parent.parent / "docs" / "what-works.md"


async def try_all(chosen: list[Probe]) -> dict[int, Outcome]:
    """Try them one after the other, and tell."""
    outcomes = {}
    for one in chosen:
        try:
            outcome = await try_probe(one)
        except Skip as exc:
            print(f"skipped  {one.thing}: {exc}", flush=True)
            continue
        outcomes[id(one)] = outcome
        mark = "FAILED  " if outcome.notes else "ok      "
        gap = f"{outcome.gap * 1000:.0f} ms"
        print(f"{mark} {one.thing}: {outcome.verdict}, {gap} {outcome.detail}", flush=True)
        for note in outcome.notes:
            print(f"         {note}", flush=True)
    return outcomes


def tables(chosen: list[Probe], outcomes: dict[int, Outcome]) -> dict[str, str]:
    """Return the Markdown table of each group."""
    result: dict[str, str] = {}
    for one in chosen:
        if (outcome := outcomes.get(id(one))) is None:
            continue
        head = "| thing | in a greenlet | what to do |\n|---|---|---|\n"
        verdict = outcome.verdict if outcome.verdict == "works" else f"**{outcome.verdict}**"
        version = f" ({one.versions})" if one.packages else ""
        row = f"| {one.thing}{version} | {verdict} | {one.advice} |\n"
        result[one.group] = result.get(one.group, head) + row
    return result


def write(text: dict[str, str]) -> None:
    """Put each table between its two comments on the page."""
    page = PAGE.read_text()
    for group, table in text.items():
        pattern = rf"(<!-- table: {re.escape(group)} -->\n).*?(<!-- end -->)"
        page, found = re.subn(pattern, lambda m: m[1] + table + m[2], page, flags=re.DOTALL)  # noqa: B023
        if not found:
            sys.exit(f"{PAGE.name} has no place for {group!r}")
    PAGE.write_text(page)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.thirdparty")
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help="part of a group's or thing's name"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the tables into docs/what-works.md"
    )
    arguments = parser.parse_args()
    chosen = [
        one
        for one in probes
        if not arguments.groups
        or any(word in f"{one.group} {one.thing}" for word in arguments.groups)
    ]
    for name in ("tornado", "django"):  # some errors are made on purpose
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with MariaDB() as server:
        database = settings.DATABASES["default"]
        server.create_database(database["NAME"])
        database.update(
            HOST=server.host, PORT=server.port, USER=server.user, PASSWORD=server.password
        )
        # The tables without migrations come first, and refer to those of auth.
        call_command("migrate", "auth", verbosity=0)
        call_command("migrate", run_syncdb=True, verbosity=0)
        connections.close_all()
        try:
            outcomes = asyncio.run(try_all(chosen))
        finally:
            services.stop()
    if arguments.write and len(outcomes) < len(chosen):
        sys.exit("not written: some were skipped")
    if arguments.write:
        write(tables(chosen, outcomes))
    failed = [one.thing for one in chosen if (o := outcomes.get(id(one))) and o.notes]
    sys.exit(f"not as they are said to be: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
