"""The executions of the ordering model."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.fault import FaultKind
from tlbkit.arm64.ordering import (
    INVALID,
    Branch,
    CompareAndSwap,
    Data,
    Depends,
    Dsb,
    Entry,
    Hardware,
    Load,
    OrderingModel,
    Outcome,
    Program,
    Reduction,
    Store,
    Swap,
    Table,
    Tlbi,
)
from tlbkit.arm64.ordering.entries import answer
from tlbkit.arm64.ordering.program import Accesses, Domain
from tlbkit.arm64.ordering.tests.letter import LetterModel
from tlbkit.arm64.ordering.tests.programs import dependent_programs, programs, to


def all_outcomes(model, transitions):
    """Return what the executions end with that follow the given transitions."""
    seen, stack, ends = {model.initial}, [model.initial], set()
    while stack:
        state = stack.pop()
        if model.is_final(state):
            ends.add(model.outcome(state))
        for transition in transitions(state):
            after = model.step(state, transition)
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return ends


def plain_run(program, choose):
    """Run a program as a simple machine does, and return how it ends.

    Every thread runs in order, one step at a time; stores are seen at once; a TLB is
    filled by accesses only and drops nothing by itself; a TLBI takes effect at the DSB
    that completes it. `choose` picks the thread that runs next.
    """
    memory = dict(program.frames)
    tables = dict(program.tables)
    tlbs: list[dict[str, Entry]] = [{} for _ in program.threads]
    sent: list[list[Tlbi]] = [[] for _ in program.threads]
    registers = [
        {
            step.register: 0
            for step in thread
            if isinstance(step, Load | Swap | CompareAndSwap) and step.register
        }
        for thread in program.threads
    ]
    faults: list[tuple[FaultKind, str] | None] = [None] * len(program.threads)
    left = [list(thread) for thread in program.threads]

    def access(cpu, page, *, write):
        if page in tlbs[cpu]:
            entry = tlbs[cpu][page]
            fault, update = answer(entry, write=write, hardware=program.hardware)
            if fault is None and update is None:
                return entry.frame
        entry = tables[page]
        fault, update = answer(entry, write=write, hardware=program.hardware)
        if fault is not None:
            faults[cpu] = fault, page
            left[cpu].clear()
            return None
        tlbs[cpu][page] = tables[page] = update or entry
        return entry.frame

    while any(left):
        cpu = choose([number for number, steps in enumerate(left) if steps])
        match left[cpu].pop(0):
            case Load(Data(page), register):
                frame = access(cpu, page, write=False)
                if frame is not None and register:
                    registers[cpu][register] = memory[frame]
            case Store(Data(page), value):
                frame = access(cpu, page, write=True)
                if frame is not None:
                    memory[frame] = value
            case Load(Table(page), register):
                registers[cpu][register] = tables[page]
            case Store(Table(page), value):
                tables[page] = value
            case Swap(Table(page), value, register):
                registers[cpu][register] = tables[page]
                tables[page] = value
            case CompareAndSwap(Table(page), expected, value, register):
                registers[cpu][register] = tables[page]
                if tables[page] == expected:
                    tables[page] = value
            case Tlbi() as tlbi:
                sent[cpu].append(tlbi)
            case Dsb(Accesses.ALL, domain):
                for tlbi in sent[cpu]:
                    everywhere = tlbi.broadcast and domain is not Domain.NON_SHAREABLE
                    for other in range(len(tlbs)) if everywhere else [cpu]:
                        for page in list(tlbs[other]):
                            if tlbi.page in (None, page):
                                del tlbs[other][page]
                if domain is not Domain.NON_SHAREABLE:
                    sent[cpu].clear()
    return Outcome(
        frozenset(
            (number, name, value)
            for number, names in enumerate(registers)
            for name, value in names.items()
        ),
        tuple(faults),
        tuple(memory.items()),
        tuple(tables.items()),
    )


@settings(deadline=None)
@given(programs(size=4, most_threads=3), st.booleans(), st.integers(0, 2**32))
def test_a_simple_machine_is_one_behaviour_of_the_model(program, ets2, seed):
    """In order, with stores seen at once and TLBs filled on access: a permitted run."""
    model = OrderingModel(program, ets2=ets2)
    end = plain_run(program, random.Random(seed).choice)
    state = follow(model, end)
    assert state is not None


def follow(model, end):
    """Return a final state that ends so, trying the plain order first, or None."""
    reduction = Reduction(model)
    seen, stack = {model.initial}, [model.initial]
    while stack:
        state = stack.pop()
        if model.is_final(state) and model.outcome(state) == end:
            return state
        for transition in reversed(reduction.sufficient(state)):
            after = model.step(state, transition)
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return None


@settings(max_examples=25, deadline=None)
@given(programs(size=2), st.booleans())
def test_keeping_what_a_tlb_may_hold_changes_no_outcome(program, ets2):
    """TLBs that are filled, dropped and flushed one by one end in the same ways."""
    model = OrderingModel(program, ets2=ets2)
    by_the_letter = LetterModel(program, ets2=ets2).outcomes()
    assert all_outcomes(model, model.enabled) == by_the_letter


@settings(max_examples=50, deadline=None)
@given(programs(size=3), st.booleans())
def test_following_one_harmless_transition_loses_no_outcome(program, ets2):
    """The reduced search finds what the full search finds."""
    model = OrderingModel(program, ets2=ets2)
    reduced = all_outcomes(model, Reduction(model).sufficient)
    assert reduced == all_outcomes(model, model.enabled)


@settings(max_examples=30, deadline=None)
@given(dependent_programs(size=2), st.booleans())
def test_no_outcome_is_lost_where_a_program_computes(program, ets2):
    """So it is with dependencies, atomics on data, choices and faults survived."""
    model = OrderingModel(program, ets2=ets2)
    everything = all_outcomes(model, model.enabled)
    assert all_outcomes(model, Reduction(model).sufficient) == everything


@settings(max_examples=15, deadline=None)
@given(dependent_programs(size=2), st.booleans())
def test_tlbs_one_by_one_end_in_the_same_ways_where_a_program_computes(program, ets2):
    """Keeping what a TLB may hold changes nothing there either."""
    model = OrderingModel(program, ets2=ets2)
    by_the_letter = LetterModel(program, ets2=ets2).outcomes()
    assert all_outcomes(model, model.enabled) == by_the_letter


@settings(max_examples=30, deadline=None)
@given(dependent_programs(size=2))
def test_a_dependency_only_takes_outcomes_away(program):
    """Without its dependencies a program can end in every way in which it could."""
    free = replace(
        program,
        threads=tuple(
            tuple(
                replace(step, depends=Depends()) if hasattr(step, "depends") else step
                for step in thread
            )
            for thread in program.threads
        ),
    )
    kept, freed = OrderingModel(program), OrderingModel(free)
    assert all_outcomes(kept, kept.enabled) <= all_outcomes(freed, freed.enabled)


@settings(max_examples=50, deadline=None)
@given(programs(size=4, most_threads=3), st.data())
def test_a_state_is_a_value(program, data):
    """Asking a state and stepping from it leave it and its hash as they were."""
    model = OrderingModel(program)
    state = model.initial
    while transitions := list(model.enabled(state)):
        before = hash(state)
        after = model.step(state, data.draw(st.sampled_from(transitions)))
        assert list(model.enabled(state)) == transitions
        assert hash(state) == before
        assert after != state
        state = after


X, PX = Data("x"), Table("x")


def ends(*threads, x="a", hardware=Hardware.NONE, ets2=False):
    """Return what a program ends with that has one page x of a given first entry."""
    entry = to("a") if x == "a" else x
    program = Program(threads, (("x", entry),), (("a", 0), ("b", 1)), hardware)
    model = OrderingModel(program, ets2=ets2)
    return all_outcomes(model, model.enabled)


@pytest.mark.parametrize("domain", Domain)
def test_a_non_shareable_dsb_completes_a_broadcast_tlbi_here_only(domain):
    """After `DSB nsh` another CPU may still use what a broadcast TLBI removes."""
    program = Program(
        (
            (
                Store(PX, INVALID),
                Dsb(),
                Tlbi("x"),
                Dsb(domain=domain),
                Store(Data("w"), 3),
            ),
            (Load(X, "r"),),
        ),
        (("x", to("a")), ("w", to("a"))),
        (("a", 0),),
    )
    model = OrderingModel(program)
    found = all_outcomes(model, model.enabled)
    used_after = any((1, "r", 3) in end.registers for end in found)
    assert used_after == (domain is Domain.NON_SHAREABLE)


def test_an_entry_without_access_flag_is_never_held():
    """Not even where hardware sets the flag and the access then has no permission."""
    old = to("a", writable=False, young=False)
    found = ends(
        (Swap(PX, to("a"), "old"), Dsb(), Store(X, 9)),
        x=old,
        hardware=Hardware.ACCESS_FLAG,
        ets2=True,
    )
    assert not any(end.faults[0] for end in found if (0, "old", old) in end.registers)


def test_the_access_flag_may_be_set_unasked_and_the_dirty_state_not():
    """Speculation sets the access flag of a page that nobody uses, and no more."""
    clean = to("a", writable=False, young=False, dbm=True)
    found = ends((Load(PX, "r"),), x=clean, hardware=Hardware.DIRTY)
    seen = {value for end in found for _, _, value in end.registers}
    assert seen == {clean, clean._replace(young=True)}


def test_a_fault_ends_its_thread():
    """What stands after an access that faults did not happen."""
    (end,) = ends((Load(X, "r"), Store(PX, to("b"))), x=INVALID)
    assert end.tables == (("x", INVALID),)
    assert end.registers == {(0, "r", 0)}


def test_a_branch_does_not_hold_back_a_load():
    """A load may run ahead of a branch, a store may not."""
    program = Program(
        (
            (Store(Data("x"), 1), Dsb(), Store(Data("f"), 1)),
            (Load(Data("f"), "f"), Branch("f"), Load(Data("x"), "x")),
        ),
        (("x", to("a")), ("f", to("b"))),
        (("a", 0), ("b", 0)),
    )
    model = OrderingModel(program)
    assert any(
        {(1, "f", 1), (1, "x", 0)} <= end.registers
        for end in all_outcomes(model, model.enabled)
    )
