"""The sanitizer: silent on a sound kernel, and exact on one that lacks a step."""

import pytest
from hypothesis import given, settings

from tlbkit import Kernel, Machine
from tlbkit.observe.rules.rule import RuleBrokenError
from tlbkit.observe.sanitizer import RULES, Sanitizer
from tlbkit.observe.tests.support import CORES, PAGE, STEPS, Program

CPUS = 3


def run(operation, without=(), *, pages=8, halt=True, version="v6.19"):
    """Run *operation* on a process whose pages are in all TLBs; return the rules."""
    machine = Machine(CPUS)
    kernel = Kernel(machine, version)
    process = kernel.spawn()
    base = process.mmap(pages * PAGE)
    for cpu in range(CPUS):
        for page in range(pages):
            process.write(base + page * PAGE, page, cpu=cpu)
    machine.without = frozenset(without)
    with Sanitizer(kernel, halt=halt) as rules:
        operation(process, base)
    return rules


def broken(operation, *without):
    """Return the report of what *operation* breaks without something."""
    with pytest.raises(RuleBrokenError) as caught:
        run(operation, without)
    return caught.value.report


def protect(process, base):
    """Take the right to write one page away."""
    process.mprotect(base, PAGE, "r")


def unmap(process, base):
    """Unmap four of the pages."""
    process.munmap(base, 4 * PAGE)


def unmap_all(process, base):
    """Unmap all pages, and with them the tables."""
    process.munmap(base, 8 * PAGE)


def fork(process, base):
    """Share all pages with a child."""
    del base
    process.fork(1)


def copy(process, base):
    """Write to a page that a child shares."""
    process.fork(1)
    process.write(base, 1)


# -- laws ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v6.17", "v6.19"])
@pytest.mark.parametrize("model", CORES)
@settings(max_examples=15, deadline=None)
@given(STEPS, STEPS)
def test_a_sound_kernel_breaks_no_rule(model, version, before, steps):
    """Whatever programs do, and whenever the watch begins, nothing is reported."""
    program = Program(model, version)
    program.play(before)
    with Sanitizer(program.kernel) as rules:
        program.play(steps)
    assert rules.reports == []


# -- examples --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "without", "rule"),
    [
        (protect, "tlbi VALE1IS in mprotect", "stale-translation"),
        (protect, "dsb ish in mprotect", "tlbi-without-dsb"),
        (protect, "dsb ishst in mprotect", "stale-translation"),
        (fork, "tlbi ASIDE1IS in fork", "stale-translation"),
        (fork, "dsb ish in fork", "tlbi-without-dsb"),
        (copy, "tlbi VALE1IS in ptep_clear_flush", "break-before-make"),
        (copy, "dsb ish in ptep_clear_flush", "break-before-make"),
        (unmap, "tlbi RVALE1IS in munmap", "freed-frame"),
        (unmap, "dsb ish in munmap", "freed-frame"),
        (unmap_all, "tlbi RVAE1IS in munmap", "freed-frame"),
    ],
)
def test_a_missing_step_breaks_a_rule(operation, without, rule):
    """Each step of a flush that is left out is found by the rule that it serves."""
    run(operation)
    report = broken(operation, without)
    assert report.rule is RULES[rule]


def test_a_report_tells_who_did_what():
    """It names the CPU that still has the entry, who stored, who owed, and the path."""
    report = broken(protect, "tlbi VALE1IS in mprotect")
    text = str(report)
    assert "CPU 0 can still use" in text
    assert "the tables allow only read" in text
    assert "change_pte_range  [mm/mprotect.c]" in text
    assert "mmap_lock for writing" in text
    assert "No TLBI was issued since then" in text


def test_a_run_may_go_on_after_a_report():
    """With ``halt=False`` the reports are kept, each debt once."""
    rules = run(protect, {"tlbi VALE1IS in mprotect"}, halt=False)
    assert [report.rule.id for report in rules.reports] == ["stale-translation"]
    assert rules.reports[0].to_json()["rule"] == "stale-translation"
