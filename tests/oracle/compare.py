"""What counts as a difference between two legs, and which tests may differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.oracle.run import Outcome

OK = Outcome("ok")
HOLDER = re.compile(r"^(?:setUp|tearDown)(?:Class|Module) \((.+)\)$")
Labels = Sequence[str]


def differences(plain: Mapping[str, Outcome], green: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Return the tests that fail in greentor's leg alone, or do not run in it alone."""
    found: dict[str, Outcome] = {}
    for test, outcome in green.items():
        if outcome.failed and not _failed(plain, test):
            found[test] = outcome
    for test, outcome in plain.items():
        if outcome.name in ("ok", "expected failure") and not _failed(green, test):
            there = green.get(test, Outcome("missing"))
            if there.name in ("skip", "missing"):
                found[test] = Outcome(there.name, there.detail or "ran in the plain leg alone")
    return found


def _failed(outcomes: Mapping[str, Outcome], test: str) -> bool:
    """Tell whether a test failed, or was never begun because its class or module failed."""
    if test in outcomes:
        return outcomes[test].failed
    parts = test.split(".")
    return any(
        outcomes[holder].failed
        for n in range(1, len(parts))
        for what in ("setUpClass", "setUpModule")
        if (holder := f"{what} ({'.'.join(parts[:n])})") in outcomes
    )


def exceptions(text: str) -> dict[str, str]:
    """Read ``test id: reason`` lines; blank lines and comments are skipped."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            test, colon, reason = line.partition(":")
            if not colon or not reason.strip():
                raise ValueError(f"exceptions.txt: {line!r} gives no reason")
            found[test.strip()] = reason.strip()
    return found


def stale(excepted: Mapping[str, str], green: Mapping[str, Outcome], labels: Labels) -> list[str]:
    """Return the exceptions that nothing needs: the test passes, or is gone from its directory."""

    def selected(test: str) -> bool:
        return not labels or any(f"{test}.".startswith(f"{label}.") for label in labels)

    return [
        test
        for test in excepted
        if selected(test) and not _failed(green, test) and green.get(test, OK).name != "skip"
    ]


def label_of(test: str) -> str:
    """Return what ``runtests.py`` takes to run a test, or the class of a failing ``setUpClass``."""
    holder = HOLDER.match(test)
    return holder.group(1) if holder else test
