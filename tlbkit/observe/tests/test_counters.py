"""Windows that count."""

from collections import Counter
from dataclasses import fields

import pytest
from hypothesis import given, settings

from tlbkit import Kernel, Machine, counting
from tlbkit.arm64.events import Event
from tlbkit.observe.tests.support import MODELS, PAGE, STEPS, Program


def added(one, other):
    """Add two counts field by field."""
    return {
        field.name: getattr(one, field.name) + getattr(other, field.name)
        for field in fields(one)
    }


def values(counts):
    """All fields of a window, as one dictionary."""
    return {field.name: getattr(counts, field.name) for field in fields(counts)}


# -- laws ------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(STEPS, MODELS)
def test_a_window_counts_what_a_listener_hears(steps, model):
    """Every event of a kind is counted once, and nothing else is."""
    program = Program(model)
    heard: list[Event] = []
    program.machine.events.listen(heard.append)
    with counting(program.machine) as counts:
        program.play(steps)
    kinds = Counter(event.kind for event in heard)
    assert counts.tlbi == Counter(e.what.name for e in heard if e.kind == "tlbi")
    assert counts.dsb == Counter(e.what for e in heard if e.kind == "dsb")
    assert counts.calls == Counter(e.what for e in heard if e.kind == "call")
    assert counts.faults.total() == kinds["fault"]
    assert counts.spurious_faults == kinds["spurious"]
    assert counts.walks == kinds["walk"]
    assert counts.isb == kinds["isb"]
    assert counts.notifier == kinds["notifier"]
    assert 2 * counts.notifier_ranges == kinds["notifier range"]
    assert counts.hardware_updates == kinds["hardware"]
    assert counts.switches == kinds["switch"]
    assert counts.ipi_broadcasts == kinds["ipi"]


@settings(max_examples=30, deadline=None)
@given(STEPS, STEPS)
def test_windows_add_up(first, second):
    """Two windows, one after the other, hold what one around both holds."""
    program = Program()
    with counting(program.machine) as outer:
        with counting(program.machine) as one:
            program.play(first)
        with counting(program.machine) as other:
            program.play(second)
    assert values(outer) == added(one, other)


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_counting_changes_nothing(steps):
    """A program leaves the same memory whether it is counted or not."""
    seen = []
    for window in (False, True):
        program = Program()
        if window:
            with counting(program.machine):
                program.play(steps)
        else:
            program.play(steps)
        entries = [cpu.tlb.entries() for cpu in program.machine.cpus]
        seen.append((program.kernel.page_alloc.in_use, entries))
    assert seen[0] == seen[1]


# -- examples --------------------------------------------------------------------------


def test_an_exception_ends_the_window():
    """What was counted before an exception stays, and nobody listens any more."""
    machine = Machine(2)
    kept = []

    def fail():
        with counting(machine) as counts:
            kept.append(counts)
            machine.cpu(0).tlbi("VMALLE1IS")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not machine.events.heard
    machine.cpu(0).tlbi("VMALLE1IS")
    assert kept[0].tlbi == {"VMALLE1IS": 1}


def test_windows_may_overlap():
    """A window that ends first takes no count away from one that began later."""
    machine = Machine()
    first, second = counting(machine), counting(machine)
    one = first.__enter__()
    machine.cpu(0).dsb("ish")
    other = second.__enter__()
    machine.cpu(0).dsb("ish")
    first.__exit__(None, None, None)
    machine.cpu(0).dsb("ish")
    second.__exit__(None, None, None)
    assert (one.dsb["ish"], other.dsb["ish"]) == (2, 2)


def test_absent_reads_as_zero():
    """What never happened is not among the keys, and still has a number."""
    with counting(Machine()) as counts:
        pass
    assert counts.tlbi == {}
    assert counts.tlbi["VALE1IS"] == 0
    assert counts.flushes == 0


def test_one_cpu_interrupts_nobody():
    """An IPI to all others is no IPI where there are no others."""
    for cpus, broadcasts in ((1, 0), (4, 1)):
        machine = Machine(cpus)
        with counting(machine) as counts:
            machine.send_ipi(machine.cpus, lambda _: None, "test")
        assert counts.ipi_broadcasts == broadcasts
        assert counts.ipi_cpus == cpus - 1


def test_json_of_the_issued():
    """The JSON has the six parts of a run, and zeros where people expect a number."""
    machine = Machine(2, "neoverse-n1")
    process = Kernel(machine).spawn()
    address = process.mmap(PAGE)
    with counting(machine) as counts:
        process.write(address, 1)
        process.mprotect(address, PAGE, "r")
    assert counts.to_json() == {
        "tlbi": {"VALE1IS": 1},
        "dsb": {"ishst": 1 + 3, "ish": 1, "nshst": 0, "nsh": 0},
        "ipi_broadcasts": 0,
        "faults": {"translation": 1, "access_flag": 0, "permission": 0},
        "walks": 2,
        "notifier": 1,
    }
