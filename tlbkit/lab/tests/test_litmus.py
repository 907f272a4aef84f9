"""Laws of the litmus page: the verdict shown is the search's, and beside it Arm's."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.explore.litmus import judge, to_json
from tlbkit.lab.litmus import TESTS, Litmus, OwnLitmus


@pytest.mark.parametrize("ets2", ["off", "on"])
@pytest.mark.parametrize("name", TESTS)
def test_verdict_and_witness_are_shown(name, ets2):
    """The page says the verdict, that Arm agrees, and every step of the witness."""
    verdict = judge(TESTS[name], ets2=ets2 == "on")
    answer = Litmus().answer({"test": name, "ets2": ets2})
    assert answer.columns["value"][-1] == str(verdict)
    assert f"{str(verdict).capitalize()} with" in answer.text
    assert "as Arm's model says" in answer.text
    if verdict.witness is None:
        assert answer.rows == [
            ["", "", "no execution", f"all {verdict.states} states were tried"]
        ]
    else:
        told = [": ".join(filter(None, row[1:])) for row in answer.rows]
        assert told == list(verdict.witness)
        assert [int(row[0]) for row in answer.rows] == list(range(1, len(told) + 1))


@pytest.mark.parametrize("name", TESTS)
def test_the_program_is_shown(name):
    """Every step of every thread, in order, and the question."""
    columns = Litmus().answer({"test": name}).columns
    written = to_json(TESTS[name])
    steps = [step for thread in written["threads"].values() for step in thread]
    assert columns["field"] == [*steps, written["exists"]]


def test_a_test_of_ones_own_is_judged_as_the_catalogues():
    """Written into the fields, a test of the catalogue keeps its verdict."""
    for name, test in TESTS.items():
        if not name.startswith("mp-remap"):
            continue
        threads = to_json(test)["threads"]
        answer = OwnLitmus().answer(
            {"p0": "; ".join(threads["P0"]), "p1": "; ".join(threads["P1"])}
        )
        assert test.expected is not None
        assert answer.columns["value"][-1] == test.expected[0]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"exists": "P1.r = 3"}, "Nothing in the test puts 3 into P1.r."),
        ({"p1": "r := flag; z := 1"}, "No thread but P1 has to do with page z."),
    ],
)
def test_what_may_be_a_slip_is_said(written, said):
    """A condition that cannot hold, and a page that no other thread uses, are told."""
    answer = OwnLitmus().answer({"exists": "P1.r = 1", **written})
    assert said in answer.text


@given(st.text(max_size=30), st.sampled_from(["entry", "p0", "p1", "exists"]))
@example("", "p1")
@example("frame b\n  exists P0.r = 1", "entry")
def test_whatever_is_written_is_answered_or_refused(text, field):
    """Text that is no test is an `InputError`, never anything else."""
    with suppress(InputError):
        assert OwnLitmus().answer({field: text}).rows
