"""Windows that count."""

from collections import Counter
from dataclasses import fields

import pytest
from hypothesis import given, settings

from tlbkit import Kernel, Machine, counting
from tlbkit.arm64.events import Event
from tlbkit.arm64.tlbi import OPERATIONS, decode, encode_range
from tlbkit.errors import InputError
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


def completed(heard):
    """Which DSBs of a window found a TLBI of their CPU in flight, by kind."""
    issued: dict[int, list[bool]] = {}
    found: Counter[str] = Counter()
    for event in heard:
        mine = issued.setdefault(event.cpu, [])
        if event.kind == "tlbi":
            mine.append(event.what.broadcast)
        elif event.kind == "dsb" and event.what in ("ish", "nsh", "sy"):
            done = [b for b in mine if event.what != "nsh" or not b]
            found[event.what] += bool(done)
            issued[event.cpu] = [b for b in mine if event.what == "nsh" and b]
    return +found


def named(heard, model):
    """How many pages the TLBIs by address cover, measured by what they decode to."""
    found: Counter[str] = Counter()
    for event in heard:
        if event.kind != "tlbi" or not (event.what.single or event.what.ranged):
            continue
        target = decode(event.what, event.new, lpa2=model.lpa2)
        span = target.last + 1 - target.first
        found[event.what.name] += max(span >> model.page_shift, 1)
    return found


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
    assert counts.completing == completed(heard)
    assert counts.pages == named(heard, program.machine.model)
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


def test_a_range_counts_its_pages():
    """One range operation is one TLBI, and all pages that it covers."""
    machine = Machine()
    with counting(machine) as counts:
        machine.cpu(0).tlbi("RVALE1IS", encode_range(0x1000, 1, scale=1, num=3))
        machine.cpu(0).tlbi("VAE1", 0x1000)
        machine.cpu(0).tlbi("VMALLE1")
    assert counts.pages == {"RVALE1IS": 256, "VAE1": 1}
    assert counts.ranges == {"RVALE1IS": 1}
    assert not OPERATIONS["VAE1"].ranged


def test_a_wait_for_nothing_completes_nothing():
    """A DSB that finds no TLBI in flight is a DSB, and no flush."""
    machine = Machine(2)
    with counting(machine) as counts:
        machine.cpu(0).dsb("ish")
        machine.cpu(0).tlbi("VMALLE1IS")
        for kind in ("ishst", "nsh", "ish", "ish"):
            machine.cpu(0).dsb(kind)
    assert counts.dsb == {"ish": 3, "ishst": 1, "nsh": 1}
    assert (counts.completing, counts.flushes) == ({"ish": 1}, 1)


def test_a_kernel_stands_for_its_machine():
    """A kernel may be given; what is neither is refused, with what is meant."""
    machine = Machine()
    kernel = Kernel(machine)
    with counting(kernel) as counts:
        kernel.spawn().mmap(PAGE)
    assert counts.calls == {"mmap": 1}


@pytest.mark.parametrize("wrong", ["v6.19", None, 3])
def test_what_has_no_events_cannot_be_counted(wrong):
    """What is neither machine nor kernel is refused, with what is meant."""
    window = counting(wrong)
    with pytest.raises(InputError, match="give a Machine, or the Kernel"):
        window.__enter__()


def test_one_cpu_interrupts_nobody():
    """An IPI to all others is no IPI where there are no others."""
    for cpus, broadcasts in ((1, 0), (4, 1)):
        machine = Machine(cpus)
        with counting(machine) as counts:
            machine.send_ipi(machine.cpus, lambda _: None, "test")
        assert counts.ipi_broadcasts == broadcasts
        assert counts.ipi_cpus == cpus - 1


def test_json_of_the_issued():
    """The JSON has the parts of a run, and zeros where people expect a number."""
    machine = Machine(2, "neoverse-n1")
    process = Kernel(machine).spawn()
    address = process.mmap(PAGE)
    with counting(machine) as counts:
        process.write(address, 1)
        process.mprotect(address, PAGE, "r")
    assert counts.to_json() == {
        "tlbi": {"VALE1IS": 1},
        "pages": {"VALE1IS": 1},
        "dsb": {"ishst": 1 + 3, "ish": 1, "nshst": 0, "nsh": 0},
        "completing_dsb": 1,
        "ipi_broadcasts": 0,
        "faults": {"translation": 1, "access_flag": 0, "permission": 0},
        "walks": 2,
        "notifier": 1,
    }
