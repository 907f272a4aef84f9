"""A film says what its recording says, in texts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit import Kernel, Machine
from tlbkit.arm64.cached import CachedTable
from tlbkit.observe.recorder import recording
from tlbkit.show.film import film, first_difference, label, size, state, value, weight

PAGE = 4096


def some_recording(kernel="v6.19", steps=()):
    """What two CPUs did, by a list of small deeds."""
    machine = Machine(2, "neoverse-n1")
    process = Kernel(machine, kernel).spawn()
    base = process.mmap(4 * PAGE, "rw")
    process.write(base, 7)
    with recording(machine) as recorder:
        for what, page, cpu in steps:
            address = base + page * PAGE
            if what == "write":
                process.write(address, page, cpu=cpu)
            elif what == "fork":
                process.fork().exit()
            else:
                process.mprotect(address, PAGE, what)
                process.mprotect(address, PAGE, "rw")
    return recorder.finish()


deeds = st.lists(
    st.tuples(
        st.sampled_from(("write", "fork", "r", "none")),
        st.integers(0, 3),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=4,
)


@given(deeds, st.data())
def test_a_film_shows_the_state_of_its_recording(steps, data):
    """After any number of steps a film shows each thing of the state, and no other."""
    tape = some_recording(steps=steps)
    shown = film(tape)
    at = data.draw(st.integers(0, len(tape)))
    told = dict(state(shown, at))
    for key, what in tape.state(at).items():
        if label(key) in shown["rows"]:
            assert told.pop(label(key)) == value(key, what)
    assert not told


@given(deeds)
def test_steps_can_be_taken_back(steps):
    """Each change of a film says what was there before it."""
    shown = film(some_recording(steps=steps))
    now = dict(shown["start"])
    for _, _, _, changes in shown["steps"]:
        for row, before, after in changes:
            assert now.get(row, 0) == before != after
            now[row] = after


@given(deeds)
def test_a_film_is_plain_json_without_repetition(steps):
    """It survives JSON as it is, and each text stands in it once."""
    shown = film(some_recording(steps=steps))
    assert json.loads(json.dumps(shown)) == shown
    assert len(set(shown["texts"])) == len(shown["texts"])
    assert shown["texts"][0] == ""
    assert len(set(shown["rows"])) == len(shown["rows"])


def test_groups_lie_within_each_other():
    """Of two functions one holds the other's steps, or they share none."""
    groups = film(some_recording(steps=[("fork", 0, 0), ("r", 0, 1)]))["groups"]
    assert groups
    for _, first, last, depth in groups:
        for _, other_first, other_last, other_depth in groups:
            apart = last < other_first or other_last < first
            inside = first <= other_first and other_last <= last
            around = other_first <= first and last <= other_last
            assert apart or inside or around
            if inside and not around:
                assert depth < other_depth


def test_the_first_difference_is_the_first():
    """Up to it two films tell the same, and there they do not."""
    one, other = (
        film(some_recording(kernel, [("none", 0, 0)])) for kernel in ("v6.17", "v6.19")
    )
    where = first_difference(one, other)
    assert where is not None

    def told(shown):
        return [(cpu, shown["texts"][text]) for cpu, text, _, _ in shown["steps"]]

    assert told(one)[:where] == told(other)[:where]
    assert told(one)[where] != told(other)[where]
    assert first_difference(one, one) is None


def test_a_shorter_film_differs_where_it_ends():
    """If one film is the beginning of another, the difference is its end."""
    whole = film(some_recording(steps=[("write", 1, 0)]))
    half = {**whole, "steps": whole["steps"][:3]}
    assert first_difference(whole, half) == first_difference(half, whole) == 3


@pytest.mark.parametrize(
    ("key", "what", "words"),
    [
        (("lock", "mmap_lock"), ((0, "read"), (1, "read")), "CPU 0 (read), CPU 1"),
        (("irqs off", 1), True, "off"),
        (("in flight", 0), (("VMALLE1IS", 0),), "TLBI VMALLE1IS"),
        (("word", 0x1000), 16, "0x10"),
        (("asid", 0), None, ""),
    ],
)
def test_values_are_words(key, what, words):
    """Each kind of thing reads as a person would say it."""
    assert words in value(key, what)
    assert (value(key, what) == "") is (words == "")


def test_entries_say_where_they_lead_and_what_they_allow():
    """Of a TLB entry the frame and the rights, of a cached table where it is."""
    machine = Machine(1)
    process = Kernel(machine).spawn()
    address = process.mmap(PAGE, "rw")
    process.write(address, 1)
    cpu = machine.cpus[0]
    (entry,) = cpu.tlb.entries()
    key = ("tlb", 0, "L1D", entry.va, entry.shift, entry.asid)
    assert value(key, entry) == f"to {entry.pa:#x}, rw-"
    assert size(entry.shift) in label(key)
    table = next(cpu.tlb.walk.items())
    assert isinstance(table, CachedTable)
    assert f"{table.table.pa:#x}" in value(("tlb", 0, "walk cache"), table.table)


def test_weight_is_that_of_the_json():
    """The size that a player tells is that of what the page loads."""
    assert weight("x" * 998) == "1.0 kB"
