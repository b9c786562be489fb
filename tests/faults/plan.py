"""Which sessions are struck, where and how: a selection for the tests, and everything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.harness import BYTES, RAGGED, RAGGED_TLS, WHOLE, Report, Wire, drive, name_of
from tests.faults.pooled import DIRECT, drive_pool
from tests.faults.strikes import CLOSED, STRIKES, WIRE, Strike
from tests.faults.watching import LOOPS
from tests.mariadb import MariaDB


@dataclass(frozen=True)
class Case:
    """One session, struck at each point or each so-many-th, by these strikes in turn."""

    level: str
    loop: str
    wire: Wire
    strikes: Sequence[Strike]
    every: int = 1
    first: int = 1

    def __str__(self) -> str:
        return f"{self.level}-{self.loop}-{self.wire.name}-{name_of(self.strikes)}".replace(
            " ", "_"
        )


def strike(case: Case, server: MariaDB, database: str, directory: Path) -> Report:
    """Do what a case says."""
    where = case.every, case.first
    if case.level == "driver":
        return drive(
            server, database, directory, case.loop, case.wire, case.strikes, case.every, case.first
        )
    return drive_pool(server, case.loop, case.wire, case.strikes, case.level == "warm pool", *where)


def rotated(strikes: Sequence[Strike], by: int) -> Sequence[Strike]:
    return (*strikes[by:], *strikes[:by])


def selection() -> Iterator[Case]:
    """Each point of a session once or so, another strike at each, other ones on the other loop."""
    for turn, loop in enumerate(LOOPS):
        exceptions = rotated(STRIKES, 4 * turn)
        yield Case("driver", loop, WHOLE, exceptions)
        yield Case("driver", loop, WHOLE, rotated(WIRE, turn), 2, 1 + turn)
        yield Case("driver", loop, RAGGED, exceptions, 4, 2 + turn)
        yield Case("cold pool", loop, DIRECT, exceptions)
        # Its first point is in the queue: there, a connection has just been handed over.
        yield Case("warm pool", loop, DIRECT, rotated(exceptions, 3))
        yield Case("warm pool", loop, DIRECT, rotated(WIRE, turn), 2, 1 + turn)
    yield Case("driver", "asyncio", BYTES, STRIKES)
    yield Case("driver", "asyncio", BYTES, (CLOSED,))


def complete(strikes: Sequence[Strike]) -> Iterator[Case]:
    """Each strike at each point of each session."""
    for loop in LOOPS:
        for one in strikes:
            for wire in (WHOLE, BYTES, RAGGED, RAGGED_TLS):
                if wire is not BYTES or loop == "asyncio":
                    yield Case("driver", loop, wire, (one,))
            for wire in (DIRECT, RAGGED):
                for level in ("cold pool", "warm pool"):
                    yield Case(level, loop, wire, (one,))
