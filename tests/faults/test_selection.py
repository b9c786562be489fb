"""A selection of the points at which a session can be struck; all of them: `python -m tests.faults`."""

from pathlib import Path

import pytest

from tests.faults.plan import Case, complete, selection, strike
from tests.faults.strikes import STRIKES, WIRE
from tests.mariadb import MariaDB

CASES = list(selection())


@pytest.mark.usefixtures("clean_tables")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_struck_where_it_is_parked_a_session_leaves_nothing_wrong(
    mariadb: MariaDB, tmp_path: Path, case: Case
) -> None:
    report = strike(case, mariadb, "greentor", tmp_path)
    print(report)
    assert not report.wrong, "\n".join(report.wrong)
    # It was struck all the way to its end, and that was felt.
    points = report.points.total()
    assert points * case.every >= 15
    assert sum(report.errors.values()) >= points - 5


def test_the_whole_plan_has_each_strike_on_each_wire() -> None:
    plan = list(complete(STRIKES + WIRE))
    assert len({str(case) for case in plan}) == len(plan)
    assert {case.strikes[0] for case in plan} == {*STRIKES, *WIRE}
    for case in CASES:
        assert any(
            (case.level, case.loop, case.wire) == (each.level, each.loop, each.wire)
            for each in plan
        ), case
