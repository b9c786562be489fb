"""Creates the tables in the database of ``BENCH_DATABASE`` and fills them.

python -m bench.peers.tables
"""

from __future__ import annotations

import django
from django.core.management import call_command

from bench.peers import options


def main() -> None:
    """Create what is missing; rows that exist stay as they are."""
    options.choose(options.DJANGOS_ENGINE, driver=options.PYMYSQL)
    django.setup()
    from app import sample

    call_command("migrate", interactive=False, verbosity=0)
    sample.fill()


if __name__ == "__main__":
    main()
