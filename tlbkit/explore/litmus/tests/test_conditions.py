"""What a test asks of an outcome."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.fault import FaultKind
from tlbkit.arm64.ordering import INVALID, Outcome
from tlbkit.arm64.ordering.tests.programs import to
from tlbkit.errors import InputError
from tlbkit.explore.litmus.conditions import (
    FAULTS,
    MAX_WORDS,
    And,
    Equal,
    Faulted,
    Frame,
    Not,
    Or,
    Register,
    TableWord,
    condition_text,
    holds,
    parse_condition,
)

A, B = to("a"), to("b", writable=False)
ENTRIES = {"A": A, "B": B}
NAMES = {A: "A", B: "B"}

values = st.sampled_from([0, 1, 27, A, B, INVALID])
threads = st.integers(0, 2)
atoms = st.one_of(
    st.builds(Equal, st.builds(Register, threads, st.sampled_from("rs")), values),
    st.builds(Equal, st.builds(Frame, st.sampled_from("ab")), st.integers(0, 3)),
    st.builds(
        Equal,
        st.builds(TableWord, st.sampled_from("xy")),
        st.sampled_from([A, B, INVALID]),
    ),
    st.builds(
        Faulted,
        threads,
        st.sampled_from([None, *FAULTS.values()]),
        st.sampled_from([None, "x", "y"]),
    ),
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(And, inner, inner), st.builds(Or, inner, inner)
    ),
    max_leaves=8,
)
outcomes = st.builds(
    Outcome,
    st.frozensets(st.tuples(threads, st.sampled_from("rs"), values)),
    st.tuples(
        *[
            st.one_of(
                st.none(),
                st.tuples(
                    st.sampled_from(list(FAULTS.values())), st.sampled_from("xy")
                ),
            )
        ]
        * 3
    ),
    st.tuples(*[st.tuples(st.just(name), st.integers(0, 3)) for name in "ab"]),
    st.tuples(
        *[st.tuples(st.just(name), st.sampled_from([A, B, INVALID])) for name in "xy"]
    ),
)


@given(conditions)
def test_a_condition_is_read_back_as_it_is_written(condition):
    """Writing a condition and reading it gives the same condition."""
    assert parse_condition(condition_text(condition, NAMES), ENTRIES) == condition


@given(conditions, conditions, outcomes)
def test_not_and_or_mean_what_they_say(left, right, outcome):
    """The joining words are those of logic."""
    one, two = holds(left, outcome), holds(right, outcome)
    assert holds(Not(left), outcome) == (not one)
    assert holds(And(left, right), outcome) == (one and two)
    assert holds(Or(left, right), outcome) == (one or two)


@given(outcomes, threads, st.sampled_from(list(FAULTS.values())), st.sampled_from("xy"))
def test_a_fault_asked_for_in_more_detail_is_still_a_fault(outcome, cpu, kind, page):
    """What holds with a kind or a page holds without."""
    if holds(Faulted(cpu, kind, page), outcome):
        assert holds(Faulted(cpu, kind), outcome)
        assert holds(Faulted(cpu, page=page), outcome)
    if holds(Faulted(cpu, kind), outcome):
        assert holds(Faulted(cpu), outcome)


def test_and_binds_closer_than_or():
    """`a or b and c` is `a or (b and c)`."""
    r, s = (Equal(Register(0, name), 1) for name in "rs")
    fault = Faulted(0, FaultKind.PERMISSION, "x")
    text = "P0.r = 1 or P0.s = 1 and fault(P0, permission, x)"
    assert parse_condition(text, {}) == Or(r, And(s, fault))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "the end"),
        ("P0.r", "the end"),
        ("P0.r = ", "the end"),
        ("P0.r = C", "C"),
        ("P0.r == 1", "= 1"),
        ("P0 r = 1", "r = 1"),
        ("P0.r = 1 P0.s = 1", "P0 . s"),
        ("(P0.r = 1", "the end"),
        ("P0.r = 1)", r"\)"),
        ("frame(a) = A", "A"),
        ("pte(x) = 1", "1"),
        ("fault(x)", "x"),
        ("fault(P0, x, permission)", ", permission"),
        ("fault(P0, permission, x, y)", ", y"),
        ("P0.r = 99999999999999999999", "99999999999999999999"),
        ("P0.r = 1 & P0.s = 1", "&"),
        ("not " * (MAX_WORDS + 1), "more than"),
    ],
)
def test_what_is_no_condition_is_refused_where_it_goes_wrong(text, where):
    """The message repeats the condition from the place where it stops being one."""
    with pytest.raises(InputError, match=where):
        parse_condition(text, ENTRIES)
