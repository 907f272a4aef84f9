"""The search over all executions, and laws that every verdict obeys."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.ordering import (
    Domain,
    Dsb,
    Load,
    Program,
    Store,
    Swap,
    Tlbi,
)
from tlbkit.arm64.ordering.tests.programs import barriers, programs
from tlbkit.explore.litmus import SearchTooLargeError, catalogue, judge, outcomes
from tlbkit.explore.litmus.conditions import holds

law = settings(max_examples=40, deadline=None)


def with_steps(program, number, steps):
    """Return the program with other steps for one thread."""
    threads = [*program.threads]
    threads[number] = tuple(steps)
    return Program(tuple(threads), program.tables, program.frames, program.hardware)


def exchanged(program, change):
    """Return the program with `change(step)` for each step."""
    threads = tuple(tuple(map(change, thread)) for thread in program.threads)
    return Program(threads, program.tables, program.frames, program.hardware)


@law
@given(programs(), barriers, st.booleans(), st.data())
def test_a_barrier_more_never_allows_more(program, barrier, ets2, data):
    """Wherever a barrier is put in, no outcome comes that was not there."""
    number = data.draw(st.integers(0, len(program.threads) - 1))
    steps = [*program.threads[number]]
    steps.insert(data.draw(st.integers(0, len(steps))), barrier)
    more = with_steps(program, number, steps)
    assert outcomes(more, ets2=ets2) <= outcomes(program, ets2=ets2)


@law
@given(programs())
def test_ets2_never_allows_more(program):
    """What a CPU with FEAT_ETS2 does, one without may do."""
    assert outcomes(program, ets2=True) <= outcomes(program)


@law
@given(programs(), st.booleans())
def test_a_tlbi_for_more_never_allows_more(program, ets2):
    """Broadcast for local, and everything for one page, take outcomes away at most."""

    def broadcast(step):
        return Tlbi(step.page) if isinstance(step, Tlbi) else step

    def everything(step):
        if isinstance(step, Tlbi):
            return Tlbi(None, broadcast=step.broadcast)
        return step

    found = outcomes(program, ets2=ets2)
    assert outcomes(exchanged(program, broadcast), ets2=ets2) <= found
    assert outcomes(exchanged(program, everything), ets2=ets2) <= found


@law
@given(programs(), st.booleans())
def test_a_wider_domain_never_allows_more(program, ets2):
    """A DSB of the whole system does all that any other does."""

    def widest(step):
        if isinstance(step, Dsb):
            return Dsb(step.accesses, Domain.SYSTEM)
        return step

    wide = outcomes(exchanged(program, widest), ets2=ets2)
    assert wide <= outcomes(program, ets2=ets2)


@law
@given(programs(), st.booleans())
def test_acquire_and_release_never_allow_more(program, ets2):
    """A load-acquire is a load, a store-release is a store."""

    def ordered(step):
        match step:
            case Load(target, register):
                return Load(target, register, acquire=True)
            case Store(target, value):
                return Store(target, value, release=True)
        return step

    found = outcomes(exchanged(program, ordered), ets2=ets2)
    assert found <= outcomes(program, ets2=ets2)


@law
@given(programs(), st.booleans())
def test_a_swap_never_allows_more_than_a_load_and_a_store(program, ets2):
    """Doing it in one step takes outcomes away at most."""
    threads = tuple(
        tuple(
            part
            for step in thread
            for part in (
                (Load(step.target, step.register), Store(step.target, step.value))
                if isinstance(step, Swap)
                else (step,)
            )
        )
        for thread in program.threads
    )
    apart = Program(threads, program.tables, program.frames, program.hardware)
    assert outcomes(program, ets2=ets2) <= outcomes(apart, ets2=ets2)


@law
@given(programs(), st.booleans())
def test_the_names_of_the_threads_do_not_matter(program, ets2):
    """Threads in the other order have the same outcomes, in the other order."""
    last = len(program.threads) - 1
    turned = Program(
        program.threads[::-1], program.tables, program.frames, program.hardware
    )
    assert {
        end._replace(
            registers=frozenset((last - n, r, v) for n, r, v in end.registers),
            faults=end.faults[::-1],
        )
        for end in outcomes(turned, ets2=ets2)
    } == outcomes(program, ets2=ets2)


@law
@given(programs(), st.booleans())
def test_every_program_ends_in_some_way(program, ets2):
    """There is always an execution that comes to its end."""
    assert outcomes(program, ets2=ets2)


@pytest.mark.parametrize("ets2", [False, True])
def test_a_verdict_is_whether_an_outcome_meets_the_condition(ets2):
    """`judge` and `outcomes` agree, and what is allowed has a witness."""
    for test in catalogue():
        verdict = judge(test, ets2=ets2)
        found = any(holds(test.condition, end) for end in outcomes(test, ets2=ets2))
        assert verdict.allowed == found
        assert bool(verdict.witness) == found
        assert verdict.to_json()["verdict"] == str(verdict)


def test_a_witness_tells_where_the_stale_entry_was():
    """The steps say what is held, by whom, and what memory has instead."""
    (test,) = [t for t in catalogue() if t.name == "self-unmap+dsb-tlbi-dsb"]
    assert judge(test).witness == (
        "P0: pte(x) := A: reaches memory",
        "P0: DSB: is done",
        "P0: TLBI.is(x): is sent",
        "P0: LD x: translates x by 'frame x', held by the TLB; memory has 'invalid'",
        "P0: DSB: is done, and with it the TLBI before it",
        "P0: LD x: reads '0'",
    )
    assert judge(test, ets2=True).witness is None


def test_a_witness_tells_what_hardware_does():
    """A hardware update is a step of its own."""
    (test,) = [t for t in catalogue() if t.name == "dirty-ldrstr"]
    assert "P0: x := 1: hardware makes pte(x) 'frame x, dbm'" in (
        judge(test).witness or ()
    )


def test_a_search_that_is_too_large_gives_no_verdict():
    """Beyond its limit of states the search says so, and names the test."""
    test = catalogue()[-1]
    said = f"^{re.escape(test.name)}: more than 10 states"
    with pytest.raises(SearchTooLargeError, match=said):
        outcomes(test, limit=10)
    with pytest.raises(SearchTooLargeError, match=said):
        judge(test, limit=10)


def test_a_program_is_searched_without_a_test():
    """`outcomes` takes a bare program too."""
    test = catalogue()[0]
    assert outcomes(test) == outcomes(test.program)
