"""``python -m tests.faults``: strike at every point, in every way, on every wire; print what was wrong.

`--quick` takes the selection of the tests. The exit status is 1 if anything was wrong.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import django

from tests.faults.strikes import STRIKES, WIRE
from tests.mariadb import MariaDB

DATABASE = "greentor"


def reports(server: MariaDB, directory: Path, quick: bool) -> Iterator[object]:
    from tests.faults.plan import complete, selection, strike

    plan = selection() if quick else complete(STRIKES + WIRE)
    for case in plan:
        yield strike(case, server, DATABASE, directory)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the selection of the tests")
    quick = parser.parse_args().quick
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    # Through a proxy nothing can be killed, and the pool warns of it.
    logging.getLogger("greentor.db").setLevel(logging.ERROR)
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections

    points: Counter[str] = Counter()
    wrong = 0
    began = time.monotonic()
    with MariaDB() as server, tempfile.TemporaryDirectory() as directory:
        server.create_database(DATABASE)
        settings.DATABASES["default"].update(
            HOST=server.host, PORT=server.port, USER=server.user, PASSWORD=server.password
        )
        call_command("migrate", run_syncdb=True, verbosity=0)
        connections.close_all()
        for report in reports(server, Path(directory), quick):
            print(report, flush=True)
            for what in report.wrong:
                print("   ", what)
            points += report.points
            wrong += len(report.wrong)
    for name, count in points.items():
        print(f"{count:6} {name}")
    print(f"{points.total():6} points struck in {time.monotonic() - began:.0f} s, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
