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
from tlbkit.linux.include.linux.mm import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_LOCKED,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.swapops import PTE_MARKER_UFFD_WP, pte_marker_get
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
    kernel.machine.taken_out = frozenset({"tlbi VALE1IS in change_protection"})
    process.mprotect(base, PAGE, "r")
    process.write(base, 99, cpu=cpu)  # a write to read-only memory, and no fault
    assert process.read(base) == 99


def test_without_the_barrier_a_stale_write_lands():
    """A TLBI that nobody waits for has not happened yet."""
    kernel = boot(cpus=2, model="neoverse-n1", rules=False)
    process, base = touched(kernel, 1)
    kernel.machine.taken_out = frozenset({"dsb ish in flush_tlb_range_"})
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


# -- against a plain model -------------------------------------------------------------


def mapped_by(kernel, size):
    """A process with 2 MiB of private memory, 64 pages of it written; and where."""
    if size == "contpte":
        kernel.huge_memory.set_hugepages_enabled(64, "always")
    kernel.huge_memory.enabled = "always" if size == "pmd" else "never"
    process = kernel.spawn()
    base = process.mmap(512 * PAGE)
    for page in range(64):
        process.write(base + page * PAGE, page)
    return process, base


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from(["page", "contpte", "pmd"]),
    changes=st.lists(
        st.tuples(
            st.integers(0, 63),
            st.integers(1, 64),
            st.sampled_from(["none", "r", "rw", "rx"]),
        ),
        max_size=8,
    ),
    forked=st.sampled_from(["never", "alive", "gone"]),
    at=st.integers(0, 7),
)
def test_a_page_can_do_what_its_last_mprotect_says(size, changes, forked, at):
    """Whatever maps it, and whoever has it besides: reads, writes and contents."""
    kernel = boot(cpus=1)
    process, base = mapped_by(kernel, size)
    rights = ["rw"] * 64
    child, theirs = None, list(rights)
    for number, (first, count, prot) in enumerate(changes):
        if number == at and forked != "never":
            child, theirs = process.fork(), list(rights)
            if forked == "gone":
                child.exit()
        last = min(first + count, 64)
        process.mprotect(base + first * PAGE, (last - first) * PAGE, prot)
        rights[first:last] = [prot] * (last - first)

    def can(who, page, access):
        """What an access gives, or that it is a signal."""
        try:
            address = base + page * PAGE
            return who.read(address) if access == "r" else who.write(address, 99)
        except Signal:
            return "signal"

    for page, prot in enumerate(rights):
        assert can(process, page, "r") == (page if "r" in prot else "signal")
        assert can(process, page, "w") == (None if "w" in prot else "signal")
    if child is not None and forked == "alive":
        for page, prot in enumerate(theirs):
            assert can(child, page, "r") == (page if "r" in prot else "signal")


@pytest.mark.parametrize("size", ["page", "contpte", "pmd"])
def test_what_is_exclusive_is_writable_at_once(size):
    """Read-only and back: no write fault, for no page of any mapping."""
    kernel = boot(cpus=1)
    process, base = mapped_by(kernel, size)
    process.mprotect(base, 512 * PAGE, "r")
    process.mprotect(base, 512 * PAGE, "rw")
    counts = issued(
        kernel, lambda: [process.write(base + n * PAGE, n) for n in range(64)]
    )
    assert not counts.faults.total()


def test_a_batch_is_committed_by_what_is_exclusive():
    """Pages of one folio that a child shares stay read-only; the rest are writable."""
    kernel = boot(cpus=1)
    process, base = mapped_by(kernel, "contpte")
    child = process.fork()
    for page in (3, 4, 5):
        child.munmap(base + page * PAGE, PAGE)
    child.munmap(base + 16 * PAGE, 16 * PAGE)
    process.write(base + 16 * PAGE, 9)
    process.mprotect(base, 32 * PAGE, "r")
    process.mprotect(base, 32 * PAGE, "rw")
    find, read = kernel.pgtable.find_pte, kernel.pgtable.read
    mine = [pte_write(read(find(process.mm, base + page * PAGE))) for page in range(32)]
    for page in range(32):
        folio = kernel.page_alloc.folio_of(
            kernel.pgtable.pte_pfn(read(find(process.mm, base + page * PAGE)))
        )
        pfn = kernel.pgtable.pte_pfn(read(find(process.mm, base + page * PAGE)))
        assert mine[page] == folio.page_exclusive(pfn)
    assert not any(mine[:16])
    assert mine[16]


# -- tables for markers ----------------------------------------------------------------


def protected_holes(kernel, length, *, shared=False):
    """A process whose empty memory is watched for writes, with its descriptor."""
    process = kernel.spawn()
    base = process.mmap(length, shared=shared, addr=1 << 40, fixed=True)
    fd = process.userfaultfd("WP_UNPOPULATED")
    fd.register(base, length, wp=True)
    return process, fd, base


def test_tables_are_made_one_by_one_as_the_walk_comes():
    """A PTE table is made when the walk comes there, not before the first marker."""
    kernel = boot(cpus=1)
    process, fd, base = protected_holes(kernel, 3 * 512 * PAGE)
    seen: list[str] = []

    def look(event):
        if event.kind == "store":
            marker = event.why != "populate" and event.new
            seen.append("marker" if marker and not event.new & 1 else "table")

    kernel.machine.events.listen(look, {"store"})
    fd.writeprotect(base, 3 * 512 * PAGE)
    kernel.machine.events.leave(look)
    runs = [kind for n, kind in enumerate(seen) if not n or seen[n - 1] != kind]
    assert runs == ["table", "marker"] * 3
    assert process.mm.pgtables[3] == 3


def test_without_memory_for_a_table_protection_fails():
    """ENOMEM from the first table; the markers before a later one stay."""
    kernel = boot(cpus=1)
    process, fd, base = protected_holes(kernel, 2 * 512 * PAGE)
    kernel.page_alloc.fail = lambda: True
    with pytest.raises(SystemCallError, match="ENOMEM"):
        fd.writeprotect(base, 2 * 512 * PAGE)
    kernel.page_alloc.fail = None
    assert not process.mm.mmap_lock.readers


def test_a_huge_file_mapping_is_split_for_markers():
    """Only PTEs have markers, so what maps a file by a PMD is unmapped first."""
    kernel = boot(cpus=1)
    process, fd, base = protected_holes(kernel, 512 * PAGE, shared=True)
    process.read(base)
    fd.writeprotect(base, 512 * PAGE)
    pte = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, base + PAGE))
    assert pte_marker_get(pte) == PTE_MARKER_UFFD_WP


# -- hints and charges -----------------------------------------------------------------


@pytest.mark.parametrize(("version", "hidden"), [("v6.18", 4), ("v6.19", 3)])
def test_what_is_pinned_is_not_hidden(version, hidden):
    """Before v6.19 a pin counted in private mappings alone."""
    kernel = boot(version)
    process = kernel.spawn()
    base = process.mmap(4 * PAGE, shared=True)
    for page in range(4):
        process.write(base + page * PAGE, page)
    pages = process.pin(base + PAGE, PAGE)
    vma = kernel.vma.vma_lookup(process.mm, base)
    assert kernel.mempolicy.change_prot_numa(vma, base, base + 4 * PAGE) == hidden
    process.unpin(pages)


def test_huge_pages_of_pools_are_not_charged_again():
    """They were promised when they were mapped, whatever the rights."""
    kernel = boot()
    kernel.hugetlb.set_max_huge_pages(1)
    process = kernel.spawn()
    base = process.mmap(512 * PAGE, "r", hugetlb=True)
    process.mprotect(base, 512 * PAGE, "rw")
    assert not kernel.vma.vma_lookup(process.mm, base).flags & VM_ACCOUNT


def test_locked_memory_that_becomes_writable_gets_its_copies_at_once():
    """A write to it must not fault, so mprotect breaks COW for the whole range."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE, "r")
    for page in range(4):
        process.read(base + page * PAGE)
    kernel.vma.vma_lookup(process.mm, base).flags |= VM_LOCKED
    process.mprotect(base, 4 * PAGE, "rw")
    counts = issued(
        kernel, lambda: [process.write(base + n * PAGE, n) for n in range(4)]
    )
    assert not counts.faults.total()
    assert process.mm.mmap_lock.writer is None
