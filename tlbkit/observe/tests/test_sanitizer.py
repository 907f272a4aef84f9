"""The sanitizer: silent on a sound kernel, and exact on one that lacks a step."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from tlbkit import Kernel, Machine
from tlbkit.arm64.models import find_model
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.observe.rules.rule import RuleBrokenError
from tlbkit.observe.sanitizer import RULES, Sanitizer, audit
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
    kernel.swap.lru_add_drain_all()
    machine.taken_out = frozenset(without)
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
    assert "CPU 1 can still use" in text
    assert "the tables allow only read" in text
    assert "change_pte_range  [mm/mprotect.c]" in text
    assert "mmap_lock for writing" in text
    assert "No TLBI was issued since then" in text


def test_a_run_may_go_on_after_a_report():
    """With ``halt=False`` the reports are kept, each debt once."""
    rules = run(protect, {"tlbi VALE1IS in mprotect"}, halt=False)
    assert [report.rule.id for report in rules.reports] == ["stale-translation"]
    assert rules.reports[0].to_json()["rule"] == "stale-translation"


# -- rules beside what TLBs hold -------------------------------------------------------


def started(**changes):
    """A kernel, a process of it and one page that was written."""
    machine = Machine(2, replace(find_model("neoverse-v2"), **changes))
    kernel = Kernel(machine)
    process = kernel.spawn()
    page = process.mmap(PAGE)
    process.write(page, 1)
    return kernel, process, page


def reported(kernel, operation):
    """Return the rule that *operation* breaks."""
    with pytest.raises(RuleBrokenError) as caught, Sanitizer(kernel):
        operation()
    return caught.value.report.rule.id


def test_a_walker_keeps_a_table():
    """A table must not be freed under a CPU that had its interrupts off before."""
    kernel, process, page = started()
    walker = kernel.machine.cpu(1)
    kernel.machine.taken_out = frozenset({"ipi in tlb_remove_table_sync_one"})

    def unmap_without_memory():
        walker.irq_disable()
        kernel.page_alloc.fail = lambda: True
        process.munmap(page, PAGE)

    assert reported(kernel, unmap_without_memory) == "lockless-walker"


def test_a_walker_that_came_later_keeps_nothing():
    """Who turns interrupts off when the table is unhooked already cannot be in it."""
    kernel, process, page = started()
    walker = kernel.machine.cpu(1)

    def late(event):
        if event.why == "pmd_clear" and walker.irqs_on:
            walker.irq_disable()

    kernel.machine.taken_out = frozenset({"ipi in tlb_remove_table_sync_one"})
    kernel.page_alloc.fail = lambda: True
    with Sanitizer(kernel) as rules:
        kernel.machine.events.listen(late, {"store"})
        process.munmap(page, PAGE)
    assert not walker.irqs_on
    assert rules.reports == []


def test_a_table_in_use_is_not_freed():
    """The entry that points to a table goes first."""
    kernel, process, page = started()
    pmdp = kernel.pgtable.find_pmd(process.mm, page)
    table = kernel.pgtable.pte_pfn(kernel.pgtable.read(pmdp))
    folio = kernel.page_alloc.folio_of(table)
    assert reported(kernel, lambda: kernel.page_alloc.free(folio)) == "table-in-use"


def test_a_mapping_that_is_not_counted_is_found(monkeypatch):
    """A map count that misses an entry shows when the table's lock is released."""
    kernel, process, page = started()
    monkeypatch.setattr(Rmap, "folio_remove_rmap_ptes", lambda *_: None)
    assert reported(kernel, lambda: process.munmap(page, PAGE)) == "mapcount"


@pytest.mark.parametrize("which", ["hugetlb_add_file_rmap", "hugetlb_remove_rmap"])
def test_a_huge_page_that_is_counted_wrongly_is_found(monkeypatch, which):
    """A page of hugetlbfs is mapped once by all entries of its run."""
    kernel = Kernel(Machine(CPUS))
    kernel.hugetlb.set_max_huge_pages(1)
    process = kernel.spawn()
    base = process.mmap(2 << 20, shared=True, hugetlb=True)
    monkeypatch.setattr(Rmap, which, lambda *_: None)

    def use():
        process.read(base)
        process.munmap(base, 2 << 20)

    assert reported(kernel, use) == "mapcount"


def test_a_mapping_without_a_reference_is_found():
    """Each entry holds its page."""
    kernel, process, page = started()
    ptep = kernel.pgtable.find_pte(process.mm, page)
    folio = kernel.page_alloc.folio_of(
        kernel.pgtable.pte_pfn(kernel.pgtable.read(ptep))
    )
    kernel.swap.lru_add_drain_all()
    folio.refcount = 0
    assert reported(kernel, process.fork) == "references"


def test_an_entry_changes_under_its_lock():
    """A store to a live table without its lock is an error, even if it is harmless."""
    kernel, process, page = started()
    ptep = kernel.pgtable.find_pte(process.mm, page)
    pte = kernel.pgtable.read(ptep)
    assert reported(kernel, lambda: kernel.pgtable.set_pte(ptep, pte)) == "entry-lock"
    lock = kernel.memory.pte_lockptr(
        kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, page))
    )
    with Sanitizer(kernel), lock:
        kernel.pgtable.set_pte(ptep, pte)


def nest(outer, inner):
    """Take two locks."""
    with outer, inner:
        pass


def test_locks_are_taken_in_one_order():
    """Two kinds of locks in both orders can stop two CPUs for ever."""
    kernel, _, _ = started()
    one, other, third = (SpinLock(kernel.machine, name) for name in "abc")

    def around():
        nest(one, other)
        nest(other, third)
        nest(third, one)

    assert reported(kernel, around) == "lock-order"


def test_a_lock_around_both_orders_makes_them_safe():
    """Who holds a third lock meanwhile never meets the other."""
    kernel, _, _ = started()
    one, other, gate = (SpinLock(kernel.machine, name) for name in "abc")
    with Sanitizer(kernel) as rules:
        with gate:
            nest(one, other)
        with gate:
            nest(other, one)
    assert rules.reports == []
    assert reported(kernel, lambda: (nest(one, other), nest(other, one)))


def test_an_asid_comes_with_a_flush():
    """After a rollover a number must not answer with what its last owner left."""
    kernel, process, page = started(asid_bits=8)

    def many():
        for _ in range(300):
            other = kernel.spawn()
            other.write(other.mmap(PAGE), 1)
            other.exit()
        process.read(page)

    with Sanitizer(kernel) as rules:
        many()
    assert rules.reports == []
    kernel.machine.taken_out = frozenset({"tlbi VMALLE1 in local_flush_tlb_all"})
    assert reported(kernel, many) == "asid-reuse"


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_says_who_demands_it(rule):
    """Every rule has one sentence, a source, and reasons for its exceptions."""
    assert rule.statement.endswith(".")
    assert rule.sources
    assert all(one.name and one.why for one in rule.exceptions)
    assert rule.to_json()["id"] == rule.id


def test_a_page_that_is_not_counted_as_resident_is_found():
    """A resident set that is off shows when the last lock is released."""
    kernel, process, page = started()
    process.mm.anonpages += 1
    assert reported(kernel, lambda: process.munmap(page, PAGE)) == "resident-set"


def test_nothing_is_counted_at_the_end():
    """An address space that ends with something counted is reported."""
    kernel, process, _ = started()
    process.mm.pgtables[3] += 1
    assert reported(kernel, process.exit) == "exit-counts"


def test_an_audit_asks_the_same_of_the_whole_machine():
    """What is wrong without a step that shows it is found by looking everywhere."""
    kernel, process, page = started()
    audit(kernel)
    process.mm.anonpages += 1
    with pytest.raises(RuleBrokenError, match="resident-set"):
        audit(kernel)
    process.mm.anonpages -= 1
    ptep = kernel.pgtable.find_pte(process.mm, page)
    pte = kernel.pgtable.read(ptep)
    kernel.machine.memory.write(ptep, 0)
    with pytest.raises(RuleBrokenError, match="stale-translation"):
        audit(kernel)
    kernel.machine.memory.write(ptep, pte)
    kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(pte)).mapcount += 1
    with pytest.raises(RuleBrokenError, match="mapcount"):
        audit(kernel)
