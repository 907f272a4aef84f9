"""Recordings: forwards, backwards, coarse and fine."""

import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tlbkit
from tlbkit import counting
from tlbkit.arm64.events import Event
from tlbkit.errors import InputError
from tlbkit.observe import words
from tlbkit.observe.recorder import recording, snapshot
from tlbkit.observe.recording import Link, Recording
from tlbkit.observe.tests.support import CORES, PAGE, STEPS, Program
from tlbkit.observe.values import plain, restored
from tlbkit.observe.words import meaning


def record(steps, model="neoverse-n1", before=()):
    """Record *steps*; return program and recording."""
    program = Program(model)
    program.play(before)
    with recording(program.machine) as recorder:
        program.play(steps)
    return program, recorder.finish()


def leaves(parts):
    """Go over the indices of all steps of a tree."""
    for part in parts:
        if isinstance(part, int):
            yield part
        else:
            inside = list(leaves(part.parts))
            assert (part.first, part.last) == (inside[0], inside[-1])
            yield from inside


def names(parts):
    """The names of groups, and the indices of the steps beside them."""
    return [part if isinstance(part, int) else part.name for part in parts]


def cached(state):
    """What a state says of TLBs and of TLBIs in flight."""
    return {k: v for k, v in state.items() if k[0] in {"tlb", "in flight", "irqs off"}}


# -- laws ------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_ends_are_joined(steps):
    """What a step finds is what the steps before it left."""
    _, tape = record(steps)
    state = dict(tape.start)
    for step in tape.steps:
        for change in step.changes:
            assert state.get(change.key) == change.before
            state[change.key] = change.after
    final = {key: value for key, value in state.items() if value is not None}
    assert final == tape.state(len(tape))


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_undoing_everything_leads_to_the_start(steps):
    """Forwards to the end and all the way back is the start again."""
    _, tape = record(steps)
    cursor = tape.cursor()
    while cursor.forward():
        pass
    assert cursor.position == len(tape)
    while cursor.back():
        pass
    assert cursor.position == 0
    assert cursor.state == tape.start


@settings(max_examples=30, deadline=None)
@given(STEPS, st.data())
def test_a_state_does_not_depend_on_the_way_to_it(steps, data):
    """Going to a position by any detour gives the state that its steps make."""
    _, tape = record(steps)
    cursor = tape.cursor()
    for _ in range(3):
        position = data.draw(st.integers(0, len(tape)))
        cursor.to(position)
        assert cursor.state == tape.state(position)


@pytest.mark.parametrize("model", CORES)
@settings(max_examples=15, deadline=None)
@given(before=STEPS, steps=STEPS)
def test_the_last_state_is_the_machine(model, before, steps):
    """TLBs, TLBIs in flight and known words end as they are in the machine."""
    program, tape = record(steps, model, before)
    state = tape.state(len(tape))
    assert cached(state) == cached(snapshot(program.machine))
    for key, value in state.items():
        if key[0] == "word":
            assert program.machine.memory.read(key[1]) == value
        assert key[0] != "lock"  # all were released


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_the_tree_holds_every_step_once(steps):
    """Opened completely, the groups are the steps in their order."""
    _, tape = record(steps)
    assert list(leaves(tape.groups)) == list(range(len(tape)))


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_recording_changes_nothing(steps):
    """A program does the same whether it is recorded or not."""
    plain, taped = Program(), Program()
    with counting(plain.machine) as one:
        plain.play(steps)
    with counting(taped.machine) as other, recording(taped.machine):
        taped.play(steps)
    assert one == other
    assert cached(snapshot(plain.machine)) == cached(snapshot(taped.machine))


@settings(max_examples=20, deadline=None)
@given(STEPS, STEPS)
def test_a_recording_stays_what_it_is(steps, more):
    """Nothing that the machine does later changes a recording."""
    program, tape = record(steps)
    text, last = tape.outline(), tape.state(len(tape))
    program.play(more)
    assert tape.outline() == text
    assert tape.state(len(tape)) == last


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_a_recording_can_be_sent(steps):
    """It survives pickling, and the way through JSON, without a loss."""
    _, tape = record(steps)
    assert pickle.loads(pickle.dumps(tape)) == tape  # noqa: S301 - our own bytes
    back = Recording.from_json(json.loads(json.dumps(tape.to_json())))
    assert back == tape
    assert back.outline() == tape.outline()
    assert back.state(len(back)) == tape.state(len(tape))


# -- examples --------------------------------------------------------------------------


def flush():
    """Record the mprotect of two pages."""
    program = Program()
    program.play([("write", 0, 0), ("write", 1, 1)])
    with recording(program.machine) as recorder:
        program.parent.mprotect(program.base, 2 * PAGE, "r")
    return recorder.finish()


def find(parts, name):
    """Return the first group called *name*, however deep."""
    for part in parts:
        if isinstance(part, int):
            continue
        if part.name == name:
            return part
        inside = find(part.parts, name)
        if inside is not None:
            return inside
    return None


def test_a_coarse_step_opens():
    """One mprotect is one group; in it, its flush; in that, barrier, TLBI, barrier."""
    tape = flush()
    assert names(tape.groups) == ["mprotect"]
    group = find(tape.groups, "flush_tlb_range_")
    kinds = [tape.steps[index].kind for index in leaves([group])]
    assert [kind for kind in kinds if kind in {"dsb", "tlbi"}] == [
        "dsb",
        "tlbi",
        "tlbi",
        "dsb",
    ]


def test_two_calls_of_one_function_are_two_groups():
    """Groups follow activations, not names."""
    program = Program()
    with recording(program.machine) as recorder:
        for page in range(2):
            program.parent.write(program.base + page * PAGE, 1)
    assert names(recorder.finish().groups) == ["write", "write"]


def test_a_tlbi_is_in_flight_until_its_barrier():
    """Between TLBI and DSB the state shows what has not happened yet."""
    tape = flush()
    first = next(i for i, step in enumerate(tape.steps) if step.kind == "tlbi")
    last = max(i for i, step in enumerate(tape.steps) if step.kind == "dsb")
    assert ("in flight", 0) not in tape.state(first)
    assert len(tape.state(first + 1)["in flight", 0]) == 1
    assert len(tape.state(last)["in flight", 0]) == 2
    assert ("in flight", 0) not in tape.state(last + 1)
    holders = {key[1] for key in tape.state(last) if key[0] == "tlb"}
    assert holders == {0, 1}


def test_a_lock_that_was_held_before_is_known_to_have_been():
    """A release without an acquisition tells about the start."""
    program = Program()
    lock = program.parent.mm.page_table_lock
    lock.acquire()
    with recording(program.machine) as recorder:
        lock.release()
    tape = recorder.finish()
    assert tape.start["lock", lock.name] == ((0, "held"),)
    assert tape.state(1) == tape.state(len(tape))


def test_a_frame_with_a_new_owner_is_unknown():
    """What a frame held is not said of it once it was handed out again."""
    program = Program()
    with recording(program.machine) as recorder:
        program.play([("write", page, 0) for page in range(6)])
        program.parent.munmap(program.base, 6 * PAGE)
        other = program.kernel.spawn()
        other.write(other.mmap(PAGE), 1)
    tape = recorder.finish()
    reused = {step.text for step in tape.steps if step.kind == "alloc"}
    assert len(reused) < sum(step.kind == "alloc" for step in tape.steps)
    for key, value in tape.state(len(tape)).items():
        if key[0] == "word":
            assert program.machine.memory.read(key[1]) == value


def test_locks_of_one_name_are_told_apart():
    """Two processes hold two locks at once."""
    program = Program()
    other = program.kernel.spawn(1)
    with recording(program.machine) as recorder:
        program.parent.mm.mmap_lock.down_write()
        other.mm.mmap_lock.down_write()
        other.mm.mmap_lock.up_write()
        program.parent.mm.mmap_lock.up_write()
    held = [key for key in recorder.finish().state(2) if key[0] == "lock"]
    assert len(held) == 2


def test_outline_closes_what_is_too_deep():
    """Depth 0 is one line for each call; full depth shows every step."""
    tape = flush()
    assert tape.outline(0) == f"0  mprotect: {len(tape)} steps"
    assert len(tape.outline().splitlines()) > len(tape)
    assert "TLBI VALE1IS" in tape.outline()


def test_there_is_nothing_beyond_the_ends():
    """A position outside the recording is an error that says which there are."""
    tape = flush()
    with pytest.raises(InputError, match=f"0 to {len(tape)}"):
        tape.state(len(tape) + 1)
    assert tape.cursor().back() is None


def test_what_is_no_recording_is_refused():
    """An error says so, whatever the data is."""
    wrong: list[object] = [{}, [], {"start": [], "steps": [{}]}, "text", None]
    for data in wrong:
        with pytest.raises(InputError, match="no recording"):
            Recording.from_json(data)
    with pytest.raises(InputError, match="nothing that a recording holds"):
        plain(object())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text("0x1a-"),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
)


@given(VALUES)
def test_values_come_back_from_json(value):
    """Numbers, texts that look like numbers, and tuples of them are what they were."""
    assert restored(json.loads(json.dumps(plain(value)))) == value


@given(st.text(min_size=1), st.integers(0, 2**32), st.integers(0, 2**32))
def test_a_link_leads_back(name, seed, step):
    """A link says which scenario, seed and step, whatever the name."""
    link = Link(name, seed, step)
    assert Link.parse(str(link)) == link
    assert Link.parse(f"https://host/page.html{link}") == link


@pytest.mark.parametrize("text", ["", "#", "#?step=1", "#m?step=x", "#m?step=-1"])
def test_a_link_that_leads_nowhere_is_refused(text):
    """It needs a name and numbers."""
    with pytest.raises(InputError, match="write it as"):
        Link.parse(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (0, 0x743, "no TLB can hold anything older"),
        (0x743, 0, "a TLB that holds it still answers"),
        (0x7C3, 0x743, "faults once"),
        (0x743, 0x7C3, "still grants them"),
        (0x743, 0x343, "access flag alone"),
        (0x743, 0x743 | 1 << 55, "bits that hardware does not read"),
        (0x1743, 0x2743, "in place of a live one"),
        (0x743, 0x742, "hidden from hardware"),
        (0, 1 << 9, "nothing to flush"),
    ],
)
def test_a_store_is_explained_by_what_tlbs_may_hold(old, new, said):
    """What matters of a store is what it leaves in TLBs."""
    assert said in meaning(Event(1, 0, "store", 0x1000, old, new, ""))


def test_each_step_of_a_flush_is_explained():
    """Barriers and TLBIs say what they wait for, and what they reach."""
    steps = flush().steps
    said = {step.text.split(" asid")[0]: step.why for step in steps}
    assert "seen by every walker" in said["dsb ishst"]
    assert "walk caches keep their tables" in said["TLBI VALE1IS"]
    assert "waits until every CPU" in said["dsb ish"]


KINDS = re.compile(r'\.emit\([^"]*"([a-z ]+)"', re.DOTALL)


def test_every_kind_of_event_has_words():
    """No emitter of the machine or of the kernel is forgotten."""
    root = Path(tlbkit.__file__).parent
    kinds = set()
    for folder in ("arm64", "linux"):
        for path in (root / folder).rglob("*.py"):
            if "tests" not in path.parts and "ordering" not in path.parts:
                kinds |= set(KINDS.findall(path.read_text(encoding="utf-8")))
    assert {"store", "tlbi", "lock"} <= kinds
    assert kinds <= set(words._WORDS) | {"tlbi"}
