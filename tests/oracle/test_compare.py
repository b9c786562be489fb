"""What the oracle counts as a difference."""

import pytest

from tests.oracle.__main__ import last_line
from tests.oracle.compare import differences, exceptions, label_of, stale
from tests.oracle.run import Outcome

OK, FAIL, SKIP = Outcome("ok"), Outcome("fail"), Outcome("skip")


@pytest.mark.parametrize(
    ("plain", "green", "differs"),
    [
        (OK, OK, False),
        (OK, FAIL, True),
        (OK, Outcome("error"), True),
        (OK, Outcome("died"), True),
        (OK, SKIP, True),
        (OK, None, True),
        (Outcome("expected failure"), SKIP, True),
        (FAIL, FAIL, False),
        (FAIL, OK, False),
        (FAIL, None, False),
        (SKIP, SKIP, False),
        (SKIP, FAIL, True),
        (None, FAIL, True),
        (None, OK, False),
    ],
)
def test_a_difference_fails_or_does_not_run_in_greentors_leg_alone(plain, green, differs):
    legs = [{"a.B.test": outcome} if outcome else {} for outcome in (plain, green)]
    assert list(differences(*legs)) == (["a.B.test"] if differs else [])


def test_a_failing_set_up_is_one_difference_not_one_for_each_test_that_it_prevents():
    plain = {"a.B.test_1": OK, "a.B.test_2": OK}
    assert list(differences(plain, {"setUpClass (a.B)": FAIL})) == ["setUpClass (a.B)"]
    assert list(differences(plain, {"setUpModule (a)": FAIL})) == ["setUpModule (a)"]
    assert not differences({"setUpClass (a.B)": FAIL}, {"a.B.test_1": FAIL})
    assert label_of("setUpClass (a.B)") == "a.B"
    assert label_of("a.B.test_1") == "a.B.test_1"


def test_an_exception_needs_a_reason_and_is_stale_when_its_test_passes_or_is_gone():
    excepted = exceptions(
        "# comment\n\na.B.loop: starts a loop of its own\na.B.old: gone: long ago\n"
    )
    assert excepted == {"a.B.loop": "starts a loop of its own", "a.B.old": "gone: long ago"}
    with pytest.raises(ValueError, match="gives no reason"):
        exceptions("a.B.loop")
    assert stale(excepted, {"a.B.loop": FAIL, "a.B.old": OK}, ["a"]) == ["a.B.old"]
    assert stale(excepted, {"a.B.loop": FAIL}, []) == ["a.B.old"]
    assert stale(excepted, {}, ["ab", "b"]) == []
    assert stale(excepted, {"setUpClass (a.B)": FAIL}, ["a"]) == []


def test_the_last_line_of_a_traceback():
    detail = "Traceback (most recent call last):\n  File ...\nValueError: x\n\n"
    assert last_line(detail) == "ValueError: x"
    assert last_line("") == ""
