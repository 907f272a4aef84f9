"""A board shows what machine and tables are, at every step."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.walk import walk
from tlbkit.lab.stale import Verdict
from tlbkit.observe.recording import Change, Place, Recording, Step
from tlbkit.observe.tests.support import MODELS, STEPS
from tlbkit.show.stage.board import Board, board_state, moments, rights
from tlbkit.show.stage.tests.support import small, taped


@settings(max_examples=15, deadline=None)
@given(MODELS, STEPS, st.data())
def test_moving_along_shows_what_looking_there_does(model, steps, data):
    """A board that advances to a position is the board made there."""
    _, tape = taped(steps, model)
    at = data.draw(st.integers(0, len(tape)))
    board = Board(tape)
    for _ in range(at):
        board.advance()
    assert board.slots == board_state(tape, at)


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_what_is_told_to_have_changed_is_all_that_has(steps):
    """Slots that are not among the touched ones look as they did."""
    _, tape = taped(steps)
    board = Board(tape)
    before = board.slots
    board.touched()
    for _ in tape.steps:
        board.advance()
        touched = board.touched()
        for slot in before.keys() | board.slots.keys():
            if slot not in touched:
                assert before.get(slot) == board.at(slot)
        before = board.slots


@settings(max_examples=15, deadline=None)
@given(MODELS, STEPS)
def test_the_last_board_is_the_machine(model, steps):
    """Cells of the tables are walks, cells of the TLBs are what these hold."""
    program, tape = taped(steps, model)
    board = Board(tape, len(tape))
    for cpu in program.machine.cpus:
        regime = cpu.current
        gone = program.kernel.sched.current[cpu.number] is None
        if gone or regime is None or regime.asid not in board.rows.spaces:
            continue
        space = board.rows.spaces.index(regime.asid)
        for column, va in enumerate(board.rows.columns):
            found = walk(regime, program.machine.memory, va)
            cell = board.at(("page", space, column))
            if isinstance(found, Fault):
                assert cell is None or cell.kind == "invalid"
            else:
                assert (cell.raw, cell.rights) == (found.descriptor, rights(found.leaf))
            held = cpu.tlb.answers(va, regime.asid)
            known = board.at(("tlb", cpu.number, space, column))
            assert (known.raw if known else None) in (
                [entry.descriptor for entry in held] or [None]
            )


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_correct_kernels_leave_no_hole(steps):
    """When nothing is in flight and no lock is held, no TLB grants too much."""
    _, tape = taped(steps)
    slots = board_state(tape, len(tape))
    assert not [s for s, what in slots.items() if s[0] == "tlb" and _hole(what)]


def _hole(cell):
    return cell.verdict is Verdict.HOLE


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_moments_hold_every_step_once(steps):
    """Stops lie side by side, from the first step to the last."""
    _, tape = taped(steps)
    seen = [index for first, last in moments(tape) for index in range(first, last + 1)]
    assert seen == list(range(len(tape)))


def test_a_broadcast_is_in_flight_up_to_its_dsb():
    """From the TLBI to the wait the flight is there, and names page and CPUs."""
    tape = small("v6.17")
    sent = next(n for n, step in enumerate(tape.steps, 1) if step.kind == "tlbi")
    waited = next(n for n, s in enumerate(tape.steps, 1) if s.about == "ish")
    (flight,) = board_state(tape, sent)["flies", 0]
    assert (flight.columns, flight.everywhere) == ((0, 0), True)
    assert board_state(tape, waited)["flies", 0] == (flight,)
    assert board_state(tape, waited)["waits", 0] == (1, 2, 3)
    assert ("flies", 0) not in board_state(tape, waited + 1)


def test_a_local_flush_leaves_the_other_stricter():
    """The CPU that did not fault keeps its read-only entries, and they are no hole."""
    slots = board_state(tape := small(), len(tape))
    for column in (0, 1):
        assert slots["page", 0, column].rights == "rw"
        assert slots["tlb", 1, 0, column].verdict is Verdict.SPURIOUS
        assert slots["tlb", 0, 0, column].verdict is Verdict.AGREES


def test_a_missing_broadcast_is_a_hole():
    """Another frame is in the tables, and CPU 1 goes to the old one."""
    tape = small(without={"tlbi VALE1IS in wp_page_copy"})
    slots = board_state(tape, len(tape))
    held, said = slots["tlb", 1, 0, 0], slots["page", 0, 0]
    assert held.verdict is Verdict.HOLE
    assert held.frame != said.frame


def test_who_waits_for_a_lock_is_seen():
    """Between its last step and the taking, a CPU waits for what another holds."""

    def lock(cpu, before, after):
        change = Change(("lock", "PTL"), before, after)
        return Step(cpu, "lock", "", "", (change,), "PTL")

    held, taken = ((0, "acquired"),), ((1, "acquired"),)
    steps = (
        Step(1, "fault", "", "", ()),
        lock(0, None, held),
        Step(0, "store", "", "", ()),
        lock(0, held, None),
        lock(1, None, taken),
        lock(1, taken, None),
    )
    tape = Recording({}, steps, tuple(range(6)), Place(2, 12, lpa2=False, pages=()))
    seen = [board_state(tape, at).get(("lock", "PTL")) for at in range(1, 7)]
    assert seen == [((), (1,)), (held, (1,)), (held, (1,)), None, (taken, ()), None]
