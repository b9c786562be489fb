"""What the oracle counts as a difference between two legs."""

from tests.oracle.compare import exceptions
from tests.oracle.run import Outcome
from tests.oracle_driver.__main__ import HERE, Leg, differ, last_line, trouble

OPENED = {"cooperative": 3, "blocking": 1}


def leg(name, opened=OPENED, ticks=9, errors=(), **outcomes):
    found = {test: Outcome(name) for test, name in outcomes.items()}
    return Leg(name, found, opened, ticks, list(errors), 0.0)


PLAIN = leg("plain tcp", a="ok", b="fail", c="skip", d="ok", e="ok")


def test_in_greenlets_what_fails_or_does_not_run_there_alone_differs():
    green = leg("greenlet tcp", a="error", b="error", c="ok", d="skip")
    found = differ(PLAIN, green)
    assert {test: outcome.name for test, outcome in found.items()} == {
        "a": "error",
        "d": "skip",
        "e": "missing",
    }


def test_outside_of_greenlets_everything_differs_that_is_not_the_same():
    blocking = leg("blocking tcp", a="ok", b="ok", c="ok", d="ok", f="ok")
    assert set(differ(PLAIN, blocking)) == {"b", "c", "e", "f"}


def test_leg_that_proves_nothing_is_trouble(capsys):
    assert trouble(leg("greenlet tcp")) == 0
    assert trouble(leg("blocking tcp", {"blocking": 4}, 0)) == 0
    assert trouble(leg("greenlet tcp", ticks=0)) == 1
    assert trouble(leg("greenlet tcp", {"blocking": 4})) == 1
    assert trouble(leg("greenlet tcp", OPENED | {"blocking in a greenlet": 2})) == 1
    assert trouble(leg("greenlet tcp", errors=["test_a: left a task"])) == 1
    assert "TROUBLE: test_a: left a task" in capsys.readouterr().out


def test_last_line_is_the_error_itself():
    detail = "def test():\n>   assert a == b\nE   AssertionError: assert 1 == 2\nE    +  more\n"
    assert last_line(detail) == "AssertionError: assert 1 == 2"
    assert last_line("ImportError: no module") == "ImportError: no module"


def test_each_exception_has_a_reason():
    assert exceptions((HERE / "exceptions.txt").read_text())
