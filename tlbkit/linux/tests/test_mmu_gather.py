"""The gather: what each call notes, what a flush forgets, what is kept for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.linux.include.asm_generic.tlb import MMU_GATHER_BUNDLE
from tlbkit.linux.include.linux.mm import (
    VM_EXEC,
    VM_HUGETLB,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_READ,
)
from tlbkit.linux.include.linux.mm_types import (
    VmArea,
    ptdesc_pmd_is_shared,
    ptdesc_pmd_pts_count,
    ptdesc_pmd_pts_inc,
)
from tlbkit.linux.kernel.config import Config
from tlbkit.linux.kernel.locking import LockError
from tlbkit.linux.kernel.panic import BugError
from tlbkit.linux.mm.mmu_gather import MAX_NR_FOLIOS_PER_FREE
from tlbkit.linux.tests.support import PAGE, boot, issued, touched

BLOCK = 512 * PAGE
GIB = 512 * BLOCK
FORGOTTEN = (
    "freed_tables",
    "unshared_tables",
    "cleared_ptes",
    "cleared_pmds",
    "cleared_puds",
    "cleared_p4ds",
)
"""What every flush takes care of."""


def gathering(*, debug=False, **machine):
    """A kernel, and a gather over part of a process that has touched a page."""
    kernel = boot(**machine)
    kernel.config = Config(debug_vm=debug)
    process, _ = touched(kernel, 1)
    return kernel, kernel.gather.tlb_gather_mmu(process.mm)


def shared_table(kernel, users):
    """A PMD table to which *users* PUD entries are said to point."""
    table = kernel.page_alloc.alloc_table("PMD table")
    for _ in range(users - 1):
        ptdesc_pmd_pts_inc(table)
    return table


def records(kernel, tlb):
    """Every call that records something, by name."""
    gather = kernel.gather
    tables = [kernel.page_alloc.alloc_table("table") for _ in range(3)]
    shared = shared_table(kernel, 2)
    return {
        "tlb_remove_tlb_entry": lambda at: gather.tlb_remove_tlb_entry(tlb, at),
        "tlb_remove_pmd_tlb_entry": lambda at: gather.tlb_remove_pmd_tlb_entry(tlb, at),
        "tlb_remove_pud_tlb_entry": lambda at: gather.tlb_remove_pud_tlb_entry(tlb, at),
        "pte_free_tlb": lambda at: gather.pte_free_tlb(tlb, tables[0], at),
        "pmd_free_tlb": lambda at: gather.pmd_free_tlb(tlb, tables[1], at),
        "pud_free_tlb": lambda at: gather.pud_free_tlb(tlb, tables[2], at),
        "tlb_unshare_pmd_ptdesc": lambda at: gather.tlb_unshare_pmd_ptdesc(
            tlb, shared, at
        ),
    }


# -- what is recorded ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "size", "flags"),
    [
        ("tlb_remove_tlb_entry", PAGE, {"cleared_ptes"}),
        ("tlb_remove_pmd_tlb_entry", BLOCK, {"cleared_pmds"}),
        ("tlb_remove_pud_tlb_entry", GIB, {"cleared_puds"}),
        ("pte_free_tlb", PAGE, {"cleared_pmds", "freed_tables"}),
        ("pmd_free_tlb", PAGE, {"cleared_puds", "freed_tables"}),
        ("pud_free_tlb", PAGE, {"cleared_p4ds", "freed_tables"}),
        ("tlb_unshare_pmd_ptdesc", GIB, {"cleared_pmds", "unshared_tables"}),
    ],
)
def test_each_call_notes_a_range_and_a_level(call, size, flags):
    """A call widens the hull by what it was told of, and sets its own flags only."""
    kernel, tlb = gathering()
    at = 5 * GIB
    records(kernel, tlb)[call](at)
    assert (tlb.start, tlb.end) == (at, at + size)
    assert {name for name in FORGOTTEN if getattr(tlb, name)} == flags
    assert tlb.recorded


@pytest.mark.parametrize(
    ("size", "flag"),
    [
        (16 * PAGE, "cleared_ptes"),
        (BLOCK, "cleared_pmds"),
        (16 * BLOCK, "cleared_pmds"),
        (GIB, "cleared_puds"),
    ],
)
def test_a_huge_page_is_noted_at_the_level_of_its_entries(size, flag):
    """The contiguous sizes count as the level whose entries they are made of."""
    kernel, tlb = gathering()
    kernel.gather.tlb_remove_huge_tlb_entry(tlb, 4 * GIB, size)
    assert (tlb.start, tlb.end) == (4 * GIB, 4 * GIB + size)
    assert [name for name in FORGOTTEN if getattr(tlb, name)] == [flag]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 200)), min_size=1))
def test_one_interval_covers_all_that_was_recorded(calls):
    """The hull holds every address that was named, and begins and ends at one."""
    kernel, tlb = gathering()
    size = [PAGE, BLOCK, GIB, PAGE, PAGE, PAGE, GIB]
    every = records(kernel, tlb)
    del every["tlb_unshare_pmd_ptdesc"]
    names = list(every)
    spans = []
    for index, at in calls:
        name = names[index % len(names)]
        if name.endswith("free_tlb") and tlb.tables:
            continue  # each of these tables can be given up once
        every[name](at * GIB)
        spans.append((at * GIB, at * GIB + size[list(names).index(name)]))
    assert tlb.start == min(start for start, _ in spans)
    assert tlb.end == max(end for _, end in spans)


def test_after_a_flush_nothing_is_recorded():
    """tlb_flush_mmu_tlbonly() forgets the range and every flag that it took care of."""
    kernel, tlb = gathering()
    for record in records(kernel, tlb).values():
        record(GIB)
    assert all(getattr(tlb, name) for name in FORGOTTEN)
    kernel.gather.tlb_flush_mmu_tlbonly(tlb)
    assert not any(getattr(tlb, name) for name in FORGOTTEN)
    assert not tlb.recorded
    assert (tlb.start, tlb.end) == (kernel.pgtable.task_size, 0)


@pytest.mark.parametrize("name", FORGOTTEN)
def test_each_note_alone_asks_for_a_flush(name):
    """A gather with any one of these flags is flushed; without any it is not."""
    kernel, tlb = gathering()

    def flush():
        kernel.gather.tlb_flush_mmu_tlbonly(tlb)

    assert issued(kernel, flush).dsb["ishst"] == 0
    setattr(tlb, name, True)
    tlb.start, tlb.end = GIB, GIB + PAGE
    assert issued(kernel, flush).dsb["ishst"] == 1


# -- areas -----------------------------------------------------------------------------


def area(mm, flags):
    """An area with these flags."""
    return VmArea(mm, GIB, 2 * GIB, flags | VM_READ, 0, 0)


def test_a_gather_over_an_area_knows_what_it_is():
    """tlb_gather_mmu_vma() notes the area's kind without tlb_start_vma()."""
    kernel, tlb = gathering()
    mine = kernel.gather.tlb_gather_mmu_vma(area(tlb.mm, VM_HUGETLB))
    assert (mine.vma_huge, mine.vma_exec, mine.vma_pfn) == (True, False, False)
    code = kernel.gather.tlb_gather_mmu_vma(area(tlb.mm, VM_EXEC))
    assert (code.vma_huge, code.vma_exec, code.vma_pfn) == (False, True, False)


def test_what_is_known_of_an_area_outlives_a_flush():
    """No area is begun again after a flush in its midst, so its kind stays noted."""
    kernel, tlb = gathering()
    kernel.gather.tlb_start_vma(tlb, area(tlb.mm, VM_HUGETLB | VM_EXEC))
    kernel.gather.tlb_remove_tlb_entry(tlb, GIB)
    kernel.gather.tlb_flush_mmu_tlbonly(tlb)
    assert tlb.vma_huge
    assert tlb.vma_exec


@pytest.mark.parametrize("flag", [VM_PFNMAP, VM_MIXEDMAP])
def test_bare_frames_stay_noted_from_area_to_area(flag):
    """vma_pfn is cleared by no area; the other kinds are those of the last area."""
    kernel, tlb = gathering()
    kernel.gather.tlb_start_vma(tlb, area(tlb.mm, flag | VM_EXEC))
    kernel.gather.tlb_start_vma(tlb, area(tlb.mm, 0))
    assert (tlb.vma_pfn, tlb.vma_exec) == (True, False)


def test_bare_frames_are_flushed_before_their_areas_leave_the_file():
    """tlb_free_vmas() flushes what is recorded if, and only if, vma_pfn is set."""
    kernel, tlb = gathering()
    gather = kernel.gather
    gather.tlb_remove_tlb_entry(tlb, GIB)
    assert issued(kernel, lambda: gather.tlb_free_vmas(tlb)).dsb["ishst"] == 0
    tlb.vma_pfn = True
    assert issued(kernel, lambda: gather.tlb_free_vmas(tlb)).dsb["ishst"] == 1


def test_a_whole_address_space_is_not_flushed_area_by_area():
    """With fullmm the beginning and the end of an area do nothing."""
    kernel, tlb = gathering()
    gather = kernel.gather
    whole = gather.tlb_gather_mmu_fullmm(tlb.mm)
    gather.tlb_start_vma(whole, area(tlb.mm, VM_HUGETLB | VM_PFNMAP))
    gather.tlb_remove_tlb_entry(whole, GIB)
    assert issued(kernel, lambda: gather.tlb_end_vma(whole, None)).dsb["ishst"] == 0
    assert issued(kernel, lambda: gather.tlb_free_vmas(whole)).dsb["ishst"] == 0
    assert whole.cleared_ptes
    assert not whole.vma_huge


# -- pages that are kept ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("granule", "batch", "batches", "tables", "single"),
    [(12, 510, 19, 509, 9678), (14, 2046, 4, 2045, 8187), (16, 8190, 1, 8189, 8196)],
)
def test_how_many_pages_fit(granule, batch, batches, tables, single):
    """The sizes of a gather follow from the page size: 9,678 single pages of 4 KiB."""
    kernel = boot(page_shift=granule, pa_bits=48, lpa2=False)
    gather = kernel.gather
    assert gather.max_gather_batch == batch
    assert gather.max_gather_batches == batches
    assert gather.max_table_batch == tables
    fits = MMU_GATHER_BUNDLE - 1 + batches * (batch - 1)
    assert fits == single
    process = kernel.spawn()
    tlb = gather.tlb_gather_mmu(process.mm)
    gather.tlb_remove_tlb_entry(tlb, GIB)
    folio = kernel.page_alloc.alloc_zeroed()
    folio.refcount += single
    full = [gather.tlb_remove_folio_pages(tlb, folio, 1) for _ in range(single)]
    assert full.index(True) == single - 1
    gather.tlb_finish_mmu(tlb)
    assert folio.refcount == 1


def test_9679_single_pages_are_two_flushes():
    """The page after the last that fits goes with the flush at the end."""
    kernel = boot(model="neoverse-n1")
    process = kernel.spawn()
    gather = kernel.gather
    folio = kernel.page_alloc.alloc_zeroed()
    folio.refcount += 9679
    freed = []

    def unmap():
        tlb = gather.tlb_gather_mmu(process.mm)
        for _ in range(9679):
            gather.tlb_remove_tlb_entry(tlb, GIB)
            gather.tlb_remove_page_size(tlb, folio)
            if not tlb.recorded:
                freed.append(folio.refcount)
        gather.tlb_finish_mmu(tlb)

    assert issued(kernel, unmap).dsb["ishst"] == 2
    assert freed == [2]
    assert folio.refcount == 1


def test_several_pages_of_one_folio_take_two_places():
    """Four runs of pages fill the places that seven single pages fill."""
    kernel, tlb = gathering()
    kernel.gather.tlb_remove_tlb_entry(tlb, GIB)
    folio = kernel.page_alloc.alloc_zeroed(order=4)
    folio.refcount += 100
    for used in (2, 4, 6):
        assert not kernel.gather.tlb_remove_folio_pages(tlb, folio, 16)
        assert tlb.room == MMU_GATHER_BUNDLE - used
    kernel.gather.tlb_remove_folio_pages(tlb, folio, 16)
    assert tlb.batches == 1


def test_a_batch_page_once_made_serves_again():
    """After a flush the gather fills its batch pages anew and asks for no others."""
    kernel, tlb = gathering()
    folio = kernel.page_alloc.alloc_zeroed()
    folio.refcount += 100
    asked = []
    kernel.page_alloc.fail = lambda: asked.append(1)
    for _ in range(2):
        kernel.gather.tlb_remove_tlb_entry(tlb, GIB)
        for _ in range(20):
            kernel.gather.tlb_remove_folio_pages(tlb, folio, 1)
        kernel.gather.tlb_flush_mmu(tlb)
    kernel.page_alloc.fail = None
    assert len(asked) == 1
    assert folio.refcount == 100 + 1 - 40


def test_waiting_counts_of_mappings_fit_two_batches():
    """While dirty pages of files wait to be counted off, a third batch is refused."""
    kernel, tlb = gathering()
    gather = kernel.gather
    gather.tlb_remove_tlb_entry(tlb, GIB)
    folio = kernel.page_alloc.alloc_zeroed()
    folio.refcount += 1000
    tlb.delayed_rmaps.append((folio, folio.pfn, 1))
    full = [gather.tlb_remove_folio_pages(tlb, folio, 1) for _ in range(7 + 509)]
    tlb.delayed_rmaps.clear()
    assert full.index(True) == 7 + 509 - 1


def test_kept_pages_are_freed_some_at_a_time(monkeypatch):
    """Never more than 512 folios go back before somebody else may run."""
    kernel, tlb = gathering()
    sizes = []
    monkeypatch.setattr(
        type(kernel.swap_state),
        "free_pages_and_swap_cache",
        lambda _, folios: sizes.append(len(folios)),
    )
    folio = kernel.page_alloc.alloc_zeroed()
    kernel.gather.tlb_remove_tlb_entry(tlb, GIB)
    for _ in range(1300):
        kernel.gather.tlb_remove_folio_pages(tlb, folio, 1)
    kernel.gather.tlb_flush_mmu(tlb)
    assert sizes == [MAX_NR_FOLIOS_PER_FREE, MAX_NR_FOLIOS_PER_FREE, 276]


def test_no_page_is_kept_for_nothing():
    """A page that is kept though nothing was recorded is a bug of the caller."""
    kernel, tlb = gathering(debug=True)
    folio = kernel.page_alloc.alloc_zeroed()
    with pytest.raises(BugError):
        kernel.gather.tlb_remove_folio_pages(tlb, folio, 1)


# -- tables that are kept --------------------------------------------------------------


def tables_of(kernel, number):
    """Some tables that are not hooked anywhere."""
    return [kernel.page_alloc.alloc_table("PTE table") for _ in range(number)]


def test_a_full_batch_of_tables_is_flushed_and_freed():
    """The 509th table of a gather takes the batch along; the pages stay."""
    kernel, tlb = gathering()
    tables = tables_of(kernel, 510)
    folio = kernel.page_alloc.alloc_zeroed()
    in_use = kernel.page_alloc.in_use

    def free(some):
        for table in some:
            kernel.gather.pte_free_tlb(tlb, table, GIB)

    kernel.gather.tlb_remove_tlb_entry(tlb, GIB)
    kernel.gather.tlb_remove_folio_pages(tlb, folio, 1)
    assert issued(kernel, lambda: free(tables[:508])).dsb["ishst"] == 0
    assert issued(kernel, lambda: free(tables[508:509])).dsb["ishst"] == 1
    assert kernel.page_alloc.in_use == in_use - 509
    assert tlb.pages == [folio]
    free(tables[509:])
    assert issued(kernel, lambda: kernel.gather.tlb_finish_mmu(tlb)).dsb["ishst"] == 1


def test_without_a_page_for_a_batch_one_table_waits_for_everybody():
    """Flush first, then one IPI to all others, and the table is free at once."""
    kernel, tlb = gathering(cpus=4)
    (table,) = tables_of(kernel, 1)
    seen = []
    kernel.machine.events.listen(
        lambda event: seen.append(event.kind), {"tlbi", "ipi", "free"}
    )
    kernel.page_alloc.fail = lambda: True
    counts = issued(kernel, lambda: kernel.gather.pte_free_tlb(tlb, table, GIB))
    assert seen == ["tlbi", "ipi", "free"]
    assert (counts.ipi_broadcasts, counts.ipi_cpus) == (1, 3)


def test_a_lockless_walker_holds_tables_back():
    """A CPU that has its interrupts off keeps kept tables from being freed."""
    kernel, tlb = gathering(cpus=3)
    walker = kernel.machine.cpu(2)
    (table,) = tables_of(kernel, 1)
    in_use = kernel.page_alloc.in_use
    walker.irq_disable()
    kernel.gather.pte_free_tlb(tlb, table, GIB)
    kernel.gather.tlb_finish_mmu(tlb)
    assert kernel.page_alloc.in_use == in_use
    walker.irq_enable()
    kernel.rcu.quiesce()
    assert kernel.page_alloc.in_use == in_use - 1


def test_a_lockless_walker_keeps_the_sender_waiting():
    """The IPI is over once the walker has its interrupts on, and not before."""
    kernel, _ = gathering(cpus=3)
    machine = kernel.machine
    walker = machine.cpu(2)
    walker.irq_disable()
    waited = []

    def let_the_walker_end(done, what):
        waited.append((what, done()))
        walker.irq_enable()
        assert done()

    machine.waiter = let_the_walker_end
    kernel.gather.tlb_remove_table_sync_one()
    assert waited == [("tlb_remove_table_sync_one", False)]


def test_nobody_interrupts_with_interrupts_off():
    """Two CPUs that did so to each other would wait for ever, so it is an error."""
    kernel, _ = gathering()
    kernel.machine.running.irq_disable()
    with pytest.raises(LockError, match="interrupts"):
        kernel.gather.tlb_remove_table_sync_one()


# -- unshared tables -------------------------------------------------------------------


@pytest.mark.parametrize(("users", "ipis"), [(2, 1), (3, 0), (4, 0), (1000, 0)])
def test_only_the_last_sharer_interrupts(users, ipis):
    """With two users the one that leaves sends the IPI, with more it does not."""
    kernel, tlb = gathering()
    table = shared_table(kernel, users)
    kernel.gather.tlb_unshare_pmd_ptdesc(tlb, table, GIB)
    assert ptdesc_pmd_pts_count(table) == users - 2
    assert tlb.fully_unshared_tables == (not ptdesc_pmd_is_shared(table)) == bool(ipis)
    counts = issued(kernel, lambda: kernel.gather.tlb_flush_unshared_tables(tlb))
    assert (counts.dsb["ishst"], counts.ipi_broadcasts) == (1, ipis)


@given(st.lists(st.integers(2, 5), max_size=12))
def test_a_flush_of_unshared_tables_is_at_most_one_ipi(users):
    """Many tables, one flush; one IPI if any of them has a single user left."""
    kernel, tlb = gathering()
    for block, number in enumerate(users):
        table = shared_table(kernel, number)
        kernel.gather.tlb_unshare_pmd_ptdesc(tlb, table, block * GIB)

    def flush():
        kernel.gather.tlb_flush_unshared_tables(tlb)

    counts = issued(kernel, flush)
    assert counts.dsb["ishst"] == bool(users)
    assert counts.ipi_broadcasts == (2 in users)
    again = issued(kernel, flush)
    assert (again.dsb["ishst"], again.ipi_broadcasts) == (0, 0)
    assert not tlb.unshared_tables
    assert not tlb.fully_unshared_tables


def test_the_flush_comes_before_the_ipi():
    """Where a flush is itself an IPI, nobody may come back between the two."""
    kernel, tlb = gathering()
    kernel.gather.tlb_unshare_pmd_ptdesc(tlb, shared_table(kernel, 2), GIB)
    seen = []
    kernel.machine.events.listen(
        lambda event: seen.append(event.kind), {"tlbi", "dsb", "ipi"}
    )
    kernel.gather.tlb_flush_unshared_tables(tlb)
    assert seen == ["dsb", "tlbi", "dsb", "ipi"]


@pytest.mark.parametrize("way", ["tlbonly", "end_vma", "full", "tables"])
def test_no_flush_forgets_that_a_table_belongs_to_somebody(way):
    """fully_unshared_tables survives every flush, and only the IPI clears it."""
    kernel, tlb = gathering()
    gather = kernel.gather
    gather.tlb_unshare_pmd_ptdesc(tlb, shared_table(kernel, 2), GIB)
    match way:
        case "tlbonly":
            gather.tlb_flush_mmu_tlbonly(tlb)
        case "end_vma":
            gather.tlb_end_vma(tlb, None)
        case "full":
            gather.tlb_flush_mmu(tlb)
        case "tables":
            for table in tables_of(kernel, 509):
                gather.pte_free_tlb(tlb, table, GIB)
    assert not tlb.unshared_tables
    assert tlb.fully_unshared_tables
    counts = issued(kernel, lambda: gather.tlb_flush_unshared_tables(tlb))
    assert (counts.dsb["ishst"], counts.ipi_broadcasts) == (0, 1)
    assert not tlb.fully_unshared_tables


def test_munmap_leaves_the_ipi_alone_and_exit_the_flush_too():
    """tlb_end_vma() has flushed before the IPI is due, unless the whole mm goes."""
    kernel, tlb = gathering()
    gather = kernel.gather
    gather.tlb_unshare_pmd_ptdesc(tlb, shared_table(kernel, 2), GIB)
    assert issued(kernel, lambda: gather.tlb_end_vma(tlb, None)).dsb["ishst"] == 1
    whole = gather.tlb_gather_mmu_fullmm(tlb.mm)
    gather.tlb_unshare_pmd_ptdesc(whole, shared_table(kernel, 2), GIB)
    assert issued(kernel, lambda: gather.tlb_end_vma(whole, None)).dsb["ishst"] == 0
    assert whole.unshared_tables


@pytest.mark.parametrize(("users", "warnings"), [(2, 1), (3, 0)])
def test_a_forgotten_flush_is_seen_with_two_users_only(users, warnings):
    """tlb_finish_mmu() warns if a table has one user left; with three it cannot."""
    kernel, tlb = gathering(debug=True)
    kernel.gather.tlb_unshare_pmd_ptdesc(tlb, shared_table(kernel, users), GIB)
    kernel.gather.tlb_finish_mmu(tlb)
    assert len(kernel.panic.warnings) == warnings


def test_the_warning_is_given_once_and_in_debug_builds():
    """It is a check of CONFIG_DEBUG_VM, and says so only once."""
    for debug, warnings in ((True, 1), (False, 0)):
        kernel, tlb = gathering(debug=debug)
        for _ in range(2):
            mine = kernel.gather.tlb_gather_mmu(tlb.mm)
            kernel.gather.tlb_unshare_pmd_ptdesc(mine, shared_table(kernel, 2), GIB)
            kernel.gather.tlb_finish_mmu(mine)
        assert len(kernel.panic.warnings) == warnings


def test_to_unshare_what_is_not_shared_is_warned_of():
    """A table with one user cannot lose a sharer."""
    kernel, tlb = gathering()
    kernel.gather.tlb_unshare_pmd_ptdesc(tlb, shared_table(kernel, 1), GIB)
    assert kernel.panic.warnings == ["tlb_unshare_pmd_ptdesc: the table is not shared"]


# -- gathers within gathers ------------------------------------------------------------


@given(st.integers(1, 5))
def test_the_number_of_gathers_comes_back(depth):
    """tlb_flush_pending is after all the ends what it was before the beginnings."""
    kernel, tlb = gathering()
    before = tlb.mm.tlb_flush_pending
    gathers = [kernel.gather.tlb_gather_mmu(tlb.mm) for _ in range(depth)]
    for one in gathers:
        kernel.gather.tlb_finish_mmu(one)
    assert tlb.mm.tlb_flush_pending == before


def test_an_inner_gather_flushes_the_asid_though_it_recorded_nothing():
    """The count does not know whose the other gather is: it may be one's own."""
    kernel, outer = gathering()
    inner = kernel.gather.tlb_gather_mmu(outer.mm)
    counts = issued(kernel, lambda: kernel.gather.tlb_finish_mmu(inner))
    assert counts.tlbi == {"ASIDE1IS": 1}


def test_a_nested_end_does_not_clear_a_pending_ipi():
    """The wider flush takes care of unshared_tables, and of nothing else."""
    kernel, outer = gathering(debug=True)
    inner = kernel.gather.tlb_gather_mmu(outer.mm)
    kernel.gather.tlb_unshare_pmd_ptdesc(inner, shared_table(kernel, 2), GIB)
    kernel.gather.tlb_finish_mmu(inner)
    assert inner.fully_unshared_tables
    assert not inner.unshared_tables
    assert kernel.panic.warnings
