"""mm/mprotect.c: what is flushed, what is changed, and what is refused."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_hw_dirty,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_modify,
    pte_present,
    pte_protnone,
    pte_valid,
    pte_write,
    pte_wrprotect,
    vm_get_page_prot,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_DIRTY,
    PTE_RDONLY,
    PTE_UXN,
    PTE_VALID,
    PTE_WRITE,
)
from tlbkit.linux.include.linux.mm import VM_EXEC, VM_READ, VM_SHARED, VM_WRITE
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.process import PROT
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, total, touched
from tlbkit.linux.tests.test_tlbflush import closed_form

PROTECTIONS = st.sampled_from(list(PROT))
MODELS = st.sampled_from(["neoverse-v2", "neoverse-n1"])

# The transitions of private memory that one process makes: rights before and after,
# and whether v6.17 and v6.19 flush. Rows of the truth table in the chapter.
TRANSITIONS = [
    ("none", "r", True, False),
    ("none", "rw", True, False),
    ("rw", "r", True, True),
    ("rw", "none", True, True),
    ("r", "rw", True, True),
    ("r", "rx", True, True),
    ("rx", "r", True, True),
    ("rw", "rwx", True, True),
    ("r", "x", True, True),
]


# -- values ----------------------------------------------------------------------------


@given(st.integers(0, (1 << 64) - 1), PROTECTIONS, st.booleans())
def test_modify_keeps_the_page_and_its_dirty_state(pte, prot, shared):
    """New rights never lose what was written, nor change which frame it is in."""
    pte |= PTE_VALID
    flags = PROT[prot] | (VM_SHARED if shared else 0)
    new = pte_modify(pte, vm_get_page_prot(flags))
    frame = ((1 << 48) - 1) & ~0xFFF
    assert new & frame == pte & frame
    assert pte_dirty(new) == pte_dirty(pte)
    assert pte_present(new)


@given(PROTECTIONS)
def test_a_private_mapping_never_starts_writable(prot):
    """Copy on write needs a fault, so private entries begin read-only."""
    assert not pte_write(vm_get_page_prot(PROT[prot]))
    assert pte_valid(vm_get_page_prot(PROT[prot])) == (prot != "none")
    assert pte_protnone(vm_get_page_prot(PROT[prot])) == (prot == "none")


def test_dirty_state_table():
    """Clean and dirty, writable or not: the four states and the bits that make them."""
    base = vm_get_page_prot(VM_READ)
    states = {
        (False, False): base,
        (False, True): base | PTE_WRITE,
        (True, False): base | PTE_DIRTY,
        (True, True): pte_mkdirty(base | PTE_WRITE),
    }
    for (dirty, write), pte in states.items():
        assert (pte_dirty(pte), pte_write(pte)) == (dirty, write)
        assert bool(pte & PTE_RDONLY) == (not (dirty and write))
    protected = pte_wrprotect(states[True, True])
    assert pte_dirty(protected)
    assert not pte_hw_dirty(protected)


@pytest.mark.parametrize("epan", [False, True])
def test_execute_only_needs_epan(epan):
    """PROT_EXEC alone keeps EL0 from reading only where the CPU has FEAT_PAN3."""
    kernel = boot(epan=epan)
    process, base = touched(kernel, 1)
    process.mprotect(base, PAGE, "x")
    process.execute(base)
    if epan:
        with pytest.raises(Signal, match="SEGV_ACCERR"):
            process.read(base)
    else:
        assert process.read(base) == 0
    assert not vm_get_page_prot(VM_EXEC, epan=epan) & PTE_UXN
    assert vm_get_page_prot(VM_READ) & PTE_UXN


# -- the truth table, run --------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "before", "after"), TRANSITIONS)
@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1", "cortex-a75"])
def test_transition(old, new, before, after, model):
    """Each change of rights flushes or not as the table says, in both kernels."""
    for version, flushes in (("v6.17", before), ("v6.19", after)):
        kernel = boot(version, model=model)
        process, base = touched(kernel, 16, old)
        counts = issued(kernel, lambda p=process, a=base: p.mprotect(a, 16 * PAGE, new))
        assert bool(total(counts)) == flushes
        assert counts.dsb == ({"ishst": 1, "ish": 1} if flushes else {})


def test_row_8_pages_that_fork_left_shared():
    """After fork, rw->r->rw changes nothing that hardware sees, so v6.19 is silent."""
    for version, flushes in (("v6.17", True), ("v6.19", False)):
        kernel = boot(version)
        process, base = touched(kernel, 16)
        process.fork()
        for prot in ("r", "rw"):
            counts = issued(
                kernel, lambda p=process, a=base, r=prot: p.mprotect(a, 16 * PAGE, r)
            )
            assert bool(total(counts)) == flushes


def test_t2_1_none_to_rw():
    """T2.1: N pages from none to rw cost R(N) operations before, and nothing after."""
    for pages in (1, 63, 64, 600):
        for kpti in (False, True):
            kernel = boot("v6.17", kpti=kpti)
            process, base = touched(kernel, pages, "none")
            size = pages * PAGE
            counts = issued(
                kernel, lambda p=process, a=base, n=size: p.mprotect(a, n, "rw")
            )
            assert total(counts) == (1 + kpti) * closed_form(pages)
            assert counts.dsb == {"ishst": 1, "ish": 1}
            kernel = boot("v6.19", kpti=kpti)
            process, base = touched(kernel, pages, "none")
            counts = issued(
                kernel, lambda p=process, a=base, n=size: p.mprotect(a, n, "rw")
            )
            assert (counts.tlbi, counts.dsb) == ({}, {})


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 600), MODELS, st.booleans())
def test_t2_2_rw_to_r_is_the_same_in_both(pages, model, kpti):
    """T2.2: taking a right away is one flush of R(N), before and after."""
    seen: list[tuple[dict[str, int], dict[str, int]]] = []
    for version in ("v6.17", "v6.19"):
        kernel = boot(version, model=model, kpti=kpti)
        process, base = touched(kernel, pages)
        counts = issued(
            kernel, lambda p=process, a=base: p.mprotect(a, pages * PAGE, "r")
        )
        seen.append((counts.tlbi, counts.dsb))
    assert seen[0] == seen[1]
    # A range too long to name falls back to a flush that waits by itself, and then the
    # caller waits once more: the kernel's own code does.
    by_asid = "ASIDE1IS" in seen[0][0]
    assert seen[0][1] == {"ishst": 1, "ish": 1 + by_asid}


def test_t2_3_the_hull_is_flushed():
    """T2.3: two pages at the ends of a range get all between them flushed too."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(100 * PAGE)
    for page in (0, 99):
        process.write(base + page * PAGE, 1)
    counts = issued(kernel, lambda: process.mprotect(base, 100 * PAGE, "r"))
    assert total(counts) == closed_form(100)


def test_t2_4_one_flush_for_each_area():
    """T2.4: a call over three areas flushes three times."""
    kernel = boot()
    process, base = touched(kernel, 48)
    process.mprotect(base + 16 * PAGE, 16 * PAGE, "rx")
    counts = issued(kernel, lambda: process.mprotect(base, 48 * PAGE, "none"))
    assert counts.dsb == {"ishst": 3, "ish": 3}


def test_t2_5_empty_entries_do_not_widen_the_hull():
    """T2.5: pages that were never touched are not flushed, in any kernel."""
    for version in ("v6.17", "v6.19"):
        kernel = boot(version)
        process = kernel.spawn()
        base = process.mmap(64 * PAGE)
        counts = issued(kernel, lambda p=process, a=base: p.mprotect(a, 64 * PAGE, "r"))
        assert counts.tlbi == {}
        process.mprotect(base, 64 * PAGE, "rw")
        process.write(base + 7 * PAGE, 1)
        counts = issued(kernel, lambda p=process, a=base: p.mprotect(a, 64 * PAGE, "r"))
        assert counts.tlbi == {"VALE1IS": 1}


def test_t2_6_a_cycle_through_none():
    """T2.6: rw to none and back flushes twice before, once after."""
    for version, flushes in (("v6.17", 2), ("v6.19", 1)):
        kernel = boot(version)
        process, base = touched(kernel, 32)

        def cycle(p=process, a=base):
            p.mprotect(a, 32 * PAGE, "none")
            p.mprotect(a, 32 * PAGE, "rw")

        assert issued(kernel, cycle).dsb == {"ishst": flushes, "ish": flushes}


def test_t2_7_shared_pages_stay_read_only():
    """T2.7: after fork r->rw gives no page its write bit; writes fault and copy."""
    kernel = boot()
    process, base = touched(kernel, 8, "r")
    child = process.fork()
    counts = issued(kernel, lambda: process.mprotect(base, 8 * PAGE, "rw"))
    assert counts.tlbi == {}
    counts = issued(kernel, lambda: process.write(base, 77))
    assert counts.tlbi == {"VALE1IS": 1}
    assert child.read(base) == 0


def test_t2_9_equal_rights_visit_nothing():
    """T2.9: a call that changes no flag touches no entry."""
    kernel = boot("v6.17")
    process, base = touched(kernel, 8)
    seen: list[Event] = []
    kernel.machine.events.listen(seen.append)
    process.mprotect(base, 8 * PAGE, "rw")
    assert {event.kind for event in seen} <= {"call", "lock"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8), PROTECTIONS), max_size=12),
    st.sampled_from(["v6.17", "v6.19"]),
    st.data(),
)
def test_t2_10_no_tlb_grants_more_than_the_tables(changes, version, data):
    """T2.10: after each call no cached entry gives more than the table's entry."""
    kernel = boot(version, cpus=2)
    process, base = touched(kernel, 8, cpus=(0, 1))
    for first, count, prot in changes:
        start = base + first * PAGE
        process.mprotect(start, min(count, 8 - first) * PAGE, prot)
        for cpu in (0, 1):
            for page in range(8):
                entry = stale(kernel, process, cpu, base + page * PAGE)
                if entry is None:
                    continue
                pte = kernel.pgtable.read(
                    kernel.pgtable.find_pte(process.mm, base + page * PAGE)
                )
                assert pte_valid(pte)
                assert entry.pa == kernel.pgtable.pte_pfn(pte) * PAGE
                if not pte_write(pte):
                    assert not entry.leaf.permissions_dirty & 0b10
        page = data.draw(st.integers(0, 7))
        try:
            process.write(base + page * PAGE, page, cpu=page % 2)
        except Signal:
            vma = kernel.vma.vma_lookup(process.mm, base + page * PAGE)
            assert not vma.flags & VM_WRITE


@pytest.mark.parametrize("cpu", [0, 1])
def test_without_the_flush_a_stale_write_lands(cpu):
    """Take change_protection's TLBIs out, and a read-only page is written."""
    kernel = boot(cpus=2, model="neoverse-n1", rules=False)
    process, base = touched(kernel, 1, cpus=(cpu,))
    process.mprotect(base, PAGE, "r")
    with pytest.raises(Signal, match="SEGV_ACCERR"):
        process.write(base, 99, cpu=cpu)
    process.mprotect(base, PAGE, "rw")
    process.write(base, 1, cpu=cpu)
    kernel.machine.without = frozenset({"tlbi VALE1IS in change_protection"})
    process.mprotect(base, PAGE, "r")
    process.write(base, 99, cpu=cpu)  # a write to read-only memory, and no fault
    assert process.read(base) == 99


def test_without_the_barrier_a_stale_write_lands():
    """A TLBI that nobody waits for has not happened yet."""
    kernel = boot(cpus=2, model="neoverse-n1", rules=False)
    process, base = touched(kernel, 1)
    kernel.machine.without = frozenset({"dsb ish in flush_tlb_range_"})
    process.mprotect(base, PAGE, "r")
    process.write(base, 99)
    assert process.read(base) == 99


# -- areas -----------------------------------------------------------------------------


def spans(process):
    """The areas of a process: start page, pages and rights."""
    first = process.mm.vmas[1].start
    return [
        ((v.start - first) // PAGE, (v.end - v.start) // PAGE, v.flags & 7)
        for v in process.mm.vmas[1:-1]  # the last is the stack
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 16), PROTECTIONS)))
def test_areas_split_and_merge_to_the_fewest(changes):
    """The areas are exactly the runs of pages with equal rights, after any calls."""
    kernel = boot(cpus=1)
    process = kernel.spawn()
    base = process.mmap(16 * PAGE, "rw")
    rights = ["rw"] * 16
    for first, count, prot in changes:
        last = min(first + count, 16)
        process.mprotect(base + first * PAGE, (last - first) * PAGE, prot)
        rights[first:last] = [prot] * (last - first)
    runs: list[tuple[int, int, int]] = []
    for page, right in enumerate(rights):
        if runs and runs[-1][2] == PROT[right]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, runs[-1][2])
        else:
            runs.append((page, 1, PROT[right]))
    assert spans(process) == runs
    for vma in process.mm.vmas[1:-1]:
        assert vma.pgoff == vma.start // PAGE
        assert vma.page_prot == vm_get_page_prot(vma.flags)


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length", "errno"),
    [
        (1, PAGE, "EINVAL"),
        (0, (1 << 64) - 4 * PAGE, "ENOMEM"),
        (4 * PAGE, PAGE, "ENOMEM"),
        (-PAGE, 2 * PAGE, "ENOMEM"),
        (0, 5 * PAGE, "ENOMEM"),
    ],
)
def test_errors_by_name(offset, length, errno):
    """A bad address, a range that wraps, and a range with a hole, as Linux answers."""
    process, base = touched(boot(), 4)
    with pytest.raises(SystemCallError) as caught:
        process.mprotect(base + offset, length, "r")
    assert (caught.value.call, caught.value.errno) == ("mprotect", errno)


def test_no_length_is_no_error():
    """Mprotect of nothing succeeds, also where nothing is mapped."""
    process, base = touched(boot(), 1)
    process.mprotect(base + 64 * PAGE, 0, "r")


def test_what_comes_before_the_hole_keeps_its_new_rights():
    """An error in the middle of a range does not undo what was done before it."""
    process, base = touched(boot(), 4)
    with pytest.raises(SystemCallError, match="ENOMEM"):
        process.mprotect(base, 8 * PAGE, "r")
    with pytest.raises(Signal):
        process.write(base, 1)


def test_no_lock_and_no_gather_outlives_a_call():
    """Whatever mprotect answers, it gives back its lock and ends its gather."""
    kernel = boot()
    process, base = touched(kernel, 4)
    for offset, length in ((0, PAGE), (0, 8 * PAGE), (4 * PAGE, PAGE), (1, PAGE)):
        with suppress(SystemCallError):
            process.mprotect(base + offset, length, "r")
        assert process.mm.mmap_lock.writer is None
        assert process.mm.tlb_flush_pending == 0


def test_userfaultfd_protection_makes_an_entry_read_only():
    """A write-protected entry loses its write bit and remembers that it was dirty."""
    pte = pte_mkdirty(vm_get_page_prot(VM_READ | VM_WRITE | VM_SHARED))
    protected = pte_mkuffd_wp(pte)
    assert not pte_write(protected)
    assert pte_dirty(protected)
