"""``python -m bench.breakages [name ...]``: run the scripts, on the peers and on greentor.

Exits with 1 if a peer does not break as documented, or greentor does; with 2 if the peers cannot be had.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time

import django

from bench.breakages import SCRIPTS, peers
from bench.breakages.case import Case, Seen
from tests.mariadb import MariaDB


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.breakages", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(SCRIPTS))
    names = parser.parse_args().names or SCRIPTS
    if unknown := set(names) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}; known: {', '.join(SCRIPTS)}")
    try:
        python = peers.interpreter()
    except peers.Unavailable as exc:
        print(f"the peers could not be installed: {exc}", file=sys.stderr)
        return 2
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.breakages.settings"
    django.setup()
    wrong = []
    started = time.monotonic()
    with MariaDB(max_connections=12) as mariadb:
        for name in names:
            module = importlib.import_module(f"bench.breakages.{name}")
            print(f"\n{module.__doc__.splitlines()[0]}")
            for number, case in enumerate(module.CASES):
                wrong += run(name, number, case, python, mariadb)
    print(f"\n{time.monotonic() - started:.0f} s")
    for line in wrong:
        print(f"FAILED: {line}")
    if not wrong:
        print("passed: every peer breaks as documented, and greentor does not")
    return 1 if wrong else 0


def run(name: str, number: int, case: Case, python: str, mariadb: MariaDB) -> list[str]:
    """Run both sides of a case; return what is not as it should be."""
    wrong = []
    print(f"\n  {case.what}")
    label = f"{case.peer_name} ({peers.versions(python, *case.packages)})"
    for side, title in (("peer", label), ("greentor", "greentor")):
        seen = case.run(name, number, side, python, mariadb)
        if side == "peer":
            expected = case.documented(seen)
            verdict = "breaks as documented" if expected else "does not break as documented"
        else:
            expected = not case.broken(seen)
            verdict = "holds" if expected else "breaks"
        show(title, verdict, seen)
        if not expected:
            wrong.append(f"{name}: {case.what}: {title} {verdict}")
    return wrong


def show(title: str, verdict: str, seen: Seen) -> None:
    """Print what was seen of one side."""
    print(f"    {title}: {verdict}")
    for name, value in seen.items():
        print(f"      {name}: {value}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
