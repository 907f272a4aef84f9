"""mm/madvise.c: what each advice does to entries and pages, and what it flushes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_present,
    pte_write,
    pte_young,
)
from tlbkit.linux.include.linux.mm import (
    VM_DONTCOPY,
    VM_IO,
    VM_LOCKED,
    VM_PFNMAP,
    VM_WIPEONFORK,
)
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_lru, PG_swapbacked
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.include.uapi.linux.userfaultfd import UffdMsg
from tlbkit.linux.tests.audit import (
    all_frames,
    audit,
    audit_tlbs,
    contiguous,
    entries,
)
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, total, touched
from tlbkit.linux.tests.test_huge_memory import blocks, forms, targets
from tlbkit.linux.tests.test_mremap import FAR, filled, holds
from tlbkit.linux.tests.test_tlbflush import closed_form

BLOCK = 512 * PAGE
WAIT = ["ishst", "ish"]
RANGE = ["RVALE1IS"]
DROPPING = pytest.mark.parametrize("advice", ["dontneed", "free"])
CLEARING = pytest.mark.parametrize("advice", ["dontneed", "free", "cold"])


def folios(kernel, process, base, pages):
    """The folios of a range of pages."""
    pgtable = kernel.pgtable
    return [
        kernel.page_alloc.folio_of(pgtable.pte_pfn(pte))
        for pte in entries(kernel, process, base, pages)
    ]


# -- the flushes of section 8.2 --------------------------------------------------------


@CLEARING
@pytest.mark.parametrize(
    ("model", "kpti"),
    [("neoverse-v2", False), ("neoverse-n1", False), ("cortex-a75", True)],
)
@pytest.mark.parametrize("pages", [1, 64, 100, 511])
def test_one_leaf_flush_of_the_hull(advice, model, kpti, pages):
    """Rows "DONTNEED" and "FREE, COLD": one leaf flush of the hull, no tables freed."""
    kernel = boot(model=model)
    process, base = filled(kernel, pages)
    process.mprotect(base, PAGE, "rw")
    counts = issued(kernel, lambda: process.madvise(base, pages * PAGE, advice))
    ranged = kernel.machine.model.range_tlbi
    assert total(counts) == (closed_form(pages) if ranged else pages) * (1 + kpti)
    assert set(counts.tlbi) <= {"VALE1IS", "RVALE1IS"}
    assert counts.dsb == {"ishst": 1, "ish": 1}
    audit(kernel)
    audit_tlbs(kernel)


@CLEARING
def test_without_range_operations_a_full_table_flushes_the_asid(advice):
    """512 pages at page stride are the limit, for this flush as for any."""
    kernel = boot(model="neoverse-n1")
    process, base = filled(kernel, 512)
    counts = issued(kernel, lambda: process.madvise(base, BLOCK, advice))
    assert counts.tlbi == {"ASIDE1IS": 1}


@CLEARING
def test_the_hull_covers_what_lies_between(advice):
    """8.1 point 1: only recorded entries widen the hull, and it has no holes."""
    kernel = boot(model="neoverse-n1")
    process, base = filled(kernel, 100, step=30)
    counts = issued(kernel, lambda: process.madvise(base, 100 * PAGE, advice))
    assert counts.tlbi == {"VALE1IS": 91}


@CLEARING
def test_nothing_there_flushes_nothing(advice):
    """8.1 point 1: an unpopulated range flushes nothing."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(100 * PAGE)
    counts = issued(kernel, lambda: process.madvise(base, 100 * PAGE, advice))
    assert (counts.tlbi, counts.dsb) == ({}, {})


@pytest.mark.parametrize("advice", ["free", "cold"])
def test_what_is_clean_and_old_is_not_recorded(advice):
    """Rows "FREE, COLD": the same advice again finds nothing to clear."""
    kernel = boot()
    process, base = filled(kernel, 64)
    process.madvise(base, 64 * PAGE, advice)
    again = issued(kernel, lambda: process.madvise(base, 64 * PAGE, advice))
    assert again.tlbi == {}
    process.read(base + 7 * PAGE)
    again = issued(kernel, lambda: process.madvise(base, 64 * PAGE, advice))
    assert again.tlbi == {"VALE1IS": 1}


@CLEARING
@pytest.mark.parametrize("page_shift", [12, 14])
def test_each_area_is_flushed_by_itself(advice, page_shift):
    """One gather for the call, but a flush at the end of each area: tlb_end_vma."""
    kernel = boot(page_shift=page_shift)
    size = kernel.pgtable.page_size
    process, base = filled(kernel, 96)
    process.madvise(base + 32 * size, 32 * size, "dontfork")
    counts = issued(kernel, lambda: process.madvise(base, 96 * size, advice))
    assert counts.tlbi == {"RVALE1IS": 3}
    assert counts.dsb == {"ishst": 3, "ish": 3}
    audit(kernel)


@pytest.mark.parametrize("advice", ["free", "cold"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_block_is_flushed_twice(advice, count):
    """Rows "FREE, COLD": pmdp_invalidate's flush for each, and the gathered one."""
    kernel = boot()
    process, base = blocks(kernel, count)
    seen, dsb = targets(kernel, lambda: process.madvise(base, count * BLOCK, advice))
    assert [name for name, _ in seen] == ["RVAE1IS"] * count + ["RVALE1IS"]
    assert {target.level for _, target in seen} == {2}
    assert dsb == WAIT * (count + 1)
    assert pmd_trans_huge(
        kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, base))
    )
    audit(kernel)
    audit_tlbs(kernel)


def test_dontneed_of_blocks():
    """Row "DONTNEED": blocks go with one gathered leaf flush, stride and level 2."""
    kernel = boot()
    process, base = blocks(kernel, 2)
    seen, dsb = targets(kernel, lambda: process.madvise(base, 2 * BLOCK, "dontneed"))
    assert [(n, t.first, t.level) for n, t in seen] == [("RVALE1IS", base, 2)]
    assert dsb == WAIT
    assert process.mm.anonpages == 0
    audit(kernel)
    audit_tlbs(kernel)


def test_dontneed_of_a_part_of_a_block_is_three_flushes():
    """Row "mprotect or zap of part of a THP": split, unfold, and the page itself."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    names, dsb = forms(
        kernel, lambda: process.madvise(base + 5 * PAGE, PAGE, "dontneed")
    )
    assert names == ["RVAE1IS", "RVALE1IS", "VALE1IS"]
    assert dsb == [*WAIT, "ishst", "ishst", *WAIT, *WAIT], "the split stores two tables"
    assert process.mm.anonpages == 511
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize("advice", ["free", "cold"])
def test_a_part_of_a_block_splits_the_folio(advice):
    """So that the advice is followed for these pages alone."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    for page in range(512):
        process.write(base + page * PAGE, page + 1)
    process.madvise(base + 5 * PAGE, 3 * PAGE, advice)
    assert pmd_table(kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, base)))
    kernel.swap.lru_add_drain_all()
    for page, folio in enumerate(folios(kernel, process, base, 512)):
        assert folio.order == 0
        lazy = advice == "free" and 5 <= page < 8
        assert bool(folio.flags & PG_swapbacked) == (not lazy)
    assert holds(process, base, 512) == list(range(1, 513))
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize("advice", ["free", "cold"])
def test_a_shared_block_is_left_alone(advice):
    """Rows "FREE, COLD": what another process maps stays as it is, whole or in part."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    child = process.fork()
    for length in (BLOCK, 3 * PAGE):
        counts = issued(
            kernel, lambda length=length: process.madvise(base, length, advice)
        )
        assert counts.tlbi == {}
    child.exit()
    audit(kernel)


def test_cold_skips_pages_that_are_mapped_more_than_once():
    """Row "COLD skips pages that are mapped more than once": no flush, still young."""
    kernel = boot()
    process, base = filled(kernel, 8)
    process.fork()
    process.write(base, 1)
    counts = issued(kernel, lambda: process.madvise(base, 8 * PAGE, "cold"))
    assert counts.tlbi == {"VALE1IS": 1}
    young = [pte_young(pte) for pte in entries(kernel, process, base, 8)]
    assert young == [False] + [True] * 7


@pytest.mark.parametrize("advice", ["free", "cold"])
def test_large_folios_keep_their_blocks(advice):
    """Age and dirty state are the folio's, so contiguous blocks stay folded."""
    kernel = boot()
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process, base = filled(kernel, 64)
    assert all(contiguous(kernel, process, base, 64))
    names, _ = forms(kernel, lambda: process.madvise(base, 64 * PAGE, advice))
    assert names == RANGE
    assert all(contiguous(kernel, process, base, 64))
    assert not any(pte_young(pte) for pte in entries(kernel, process, base, 64))
    dirty = [pte_dirty(pte) for pte in entries(kernel, process, base, 64)]
    assert dirty == [advice == "cold"] * 64
    audit(kernel)
    audit_tlbs(kernel)


def test_a_full_gather_flushes_on_the_way():
    """8.1 point 3 (b): a queue of pages that is full flushes before the area ends."""
    kernel = boot()
    process, base = filled(kernel, 12_000)
    counts = issued(kernel, lambda: process.madvise(base, 12_000 * PAGE, "dontneed"))
    assert counts.dsb["ish"] == 2
    audit(kernel)


# -- what becomes of the pages ---------------------------------------------------------


def test_dontneed_gives_zeros():
    """The next access finds zeros, and no CPU reaches the old page."""
    kernel = boot()
    process, base = touched(kernel, 8, cpus=(0, 1, 2, 3))
    process.madvise(base, 8 * PAGE, "dontneed")
    for page in range(8):
        assert stale(kernel, process, page % 4, base + page * PAGE) is None
    assert holds(process, base, 8) == [0] * 8
    assert process.mm.anonpages == 0
    audit(kernel)


@pytest.mark.parametrize("hardware", [True, False])
def test_free_keeps_the_contents_until_reclaim_comes(hardware):
    """MADV_FREE: pages are clean, old and droppable, and still hold what they held."""
    kernel = boot(hw_af=hardware, hw_dbm=hardware)
    process, base = filled(kernel, 8)
    process.madvise(base, 8 * PAGE, "free")
    kernel.swap.lru_add_drain_all()
    for pte in entries(kernel, process, base, 8):
        assert pte_write(pte)
        assert not pte_dirty(pte)
        assert not pte_young(pte)
    for folio in folios(kernel, process, base, 8):
        assert folio.flags & (PG_lru | PG_swapbacked | PG_dirty) == PG_lru
    assert holds(process, base, 8) == list(range(1, 9))
    process.write(base, 5)
    dirty = [pte_dirty(pte) for pte in entries(kernel, process, base, 8)]
    assert dirty == [True] + [False] * 7
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize(
    ("version", "form"), [("v6.17", "VALE1IS"), ("v6.19", "VALE1")]
)
def test_access_after_aging_without_hardware_flags(version, form):
    """Row "access after aging": a read faults without a flush, a write flushes once."""
    kernel = boot(version, hw_af=False, hw_dbm=False)
    process, base = filled(kernel, 2)
    process.madvise(base, 2 * PAGE, "free")
    read = issued(kernel, lambda: process.read(base))
    assert (read.tlbi, sum(read.faults.values())) == ({}, 1)
    write = issued(kernel, lambda: process.write(base + PAGE, 7))
    assert (write.tlbi, sum(write.faults.values())) == ({form: 1}, 1)


def test_access_after_aging_with_hardware_flags():
    """Row "access after aging": hardware sets the flags; no fault and no flush."""
    kernel = boot()
    process, base = filled(kernel, 2)
    process.madvise(base, 2 * PAGE, "free")
    counts = issued(kernel, lambda: (process.read(base), process.write(base, 7)))
    assert (counts.tlbi, sum(counts.faults.values())) == ({}, 0)


def test_without_the_flush_a_write_after_free_is_not_seen():
    """A CPU with the dirty entry in its TLB writes, and the page still looks clean."""
    kernel = boot(cpus=2, model="neoverse-n1")
    process, base = touched(kernel, 2, cpus=(0, 1))
    kernel.machine.taken_out = frozenset({"tlbi VALE1IS in madvise_free_single_vma"})
    process.madvise(base, 2 * PAGE, "free")
    process.write(base + PAGE, 99, cpu=1)
    assert not pte_dirty(entries(kernel, process, base, 2)[1])
    kernel = boot(cpus=2, model="neoverse-n1")
    process, base = touched(kernel, 2, cpus=(0, 1))
    process.madvise(base, 2 * PAGE, "free")
    process.write(base + PAGE, 99, cpu=1)
    assert pte_dirty(entries(kernel, process, base, 2)[1])


def test_free_of_a_dirty_page_that_others_map_is_refused():
    """A page that software knows to be dirty, and that is shared, stays as it is."""
    kernel = boot()
    process, base = filled(kernel, 2)
    process.fork()
    (folio, other) = folios(kernel, process, base, 2)
    folio.flags |= PG_dirty
    process.madvise(base, 2 * PAGE, "free")
    kernel.swap.lru_add_drain_all()
    assert folio.flags & PG_swapbacked
    assert not other.flags & PG_swapbacked
    audit(kernel)


def test_marks_are_given_in_batches():
    """A queue of 31 holds a page before it is marked, and a copy decision drains it."""
    kernel = boot()
    process, base = filled(kernel, 40)
    kernel.swap.lru_add_drain_all()
    process.madvise(base, 40 * PAGE, "free")
    found = folios(kernel, process, base, 40)
    assert [folio.refcount for folio in found] == [1] * 31 + [2] * 9
    assert [bool(f.flags & PG_swapbacked) for f in found] == [False] * 31 + [True] * 9
    kernel.swap.lru_add_drain()
    assert {folio.refcount for folio in found} == {1}
    audit(kernel)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1200),
            st.integers(1, 600),
            st.sampled_from(["dontneed", "free", "cold", "fork", "write"]),
            st.integers(0, 1),
        ),
        max_size=8,
    ),
    st.sampled_from(["always", "never"]),
    st.sampled_from(["v6.17", "v6.19"]),
)
def test_advice_loses_nothing_but_what_dontneed_drops(steps, thp, version):
    """Contents stay through any advice, except that DONTNEED gives zeros; no leak."""
    kernel = boot(version, cpus=2)
    kernel.huge_memory.enabled = thp
    process = kernel.spawn()
    base = process.mmap(1300 * PAGE, addr=FAR, fixed=True)
    known = dict.fromkeys(range(0, 1300, 13), 0)
    for page in known:
        process.write(base + page * PAGE, page + 1)
        known[page] = page + 1
    children = []
    for first, count, how, cpu in steps:
        last = min(first + count, 1300)
        process.migrate(cpu)
        if how == "fork":
            children.append((process.fork(), dict(known)))
            continue
        if how != "write":
            process.madvise(base + first * PAGE, (last - first) * PAGE, how)
        for page in known:
            if first <= page < last and how in {"dontneed", "write"}:
                known[page] = 0 if how == "dontneed" else page + 7
                if how == "write":
                    process.write(base + page * PAGE, page + 7)
    for owner, expected in [(process, known), *children]:
        for page, value in expected.items():
            assert owner.read(base + page * PAGE) == value
    audit(kernel)
    audit_tlbs(kernel)
    for owner in [process, *(child for child, _ in children)]:
        owner.exit()
    assert all_frames(kernel) == 2


# -- advice that brings pages in -------------------------------------------------------


@pytest.mark.parametrize(
    ("advice", "pages"), [("populate_read", 0), ("populate_write", 8)]
)
def test_populate(advice, pages):
    """A read brings in the zero page, a write pages of one's own; then none faults."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(8 * PAGE)
    counts = issued(kernel, lambda: process.madvise(base, 8 * PAGE, advice))
    assert (counts.tlbi, process.mm.anonpages) == ({}, pages)
    counts = issued(kernel, lambda: holds(process, base, 8))
    assert sum(counts.faults.values()) == 0
    if pages:
        counts = issued(kernel, lambda: process.write(base, 1))
        assert sum(counts.faults.values()) == 0
    audit(kernel)


def test_populate_copies_what_is_shared():
    """A page that a child has too is copied, as a write would copy it."""
    kernel = boot()
    process, base = filled(kernel, 4)
    child = process.fork()
    process.madvise(base, 4 * PAGE, "populate_write")
    process.write(base, 9)
    assert holds(child, base, 4) == [1, 2, 3, 4]
    assert (process.mm.anonpages, kernel.vmstat.node["NR_ANON_MAPPED"]) == (4, 8)
    audit(kernel)
    audit_tlbs(kernel)


def test_populate_refuses_what_it_cannot_do():
    """No right is EINVAL, a hole ends it with ENOMEM, no memory is ENOMEM too."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE)
    process.mprotect(base + PAGE, PAGE, "r")
    assert refused(process, base, 4 * PAGE, "populate_write") == "EINVAL"
    assert process.mm.anonpages == 1
    process.munmap(base + 2 * PAGE, PAGE)
    assert refused(process, base, 4 * PAGE, "populate_read") == "ENOMEM"
    assert pte_present(entries(kernel, process, base, 2)[1])
    assert entries(kernel, process, base + 3 * PAGE, 1) == [0], "it ended at the hole"
    kernel.page_alloc.fail = lambda: True
    assert refused(process, base + 3 * PAGE, PAGE, "populate_write") == "ENOMEM"
    kernel.page_alloc.fail = None
    audit(kernel)


def test_populate_waits_for_who_watches():
    """A missing page of a watched area is asked for, with the lock released."""
    kernel = boot()
    process, base = filled(kernel, 2)
    area = process.mmap(2 * PAGE, addr=2 * FAR, fixed=True)
    fd = process.userfaultfd()
    fd.register(area, 2 * PAGE)
    fd.serve(lambda message: fd.copy(message.address, base, PAGE))
    process.madvise(area, 2 * PAGE, "populate_read")
    assert holds(process, area, 2) == [1, 1]
    assert not process.mm.mmap_lock.readers
    audit(kernel)


# -- advice for fork -------------------------------------------------------------------


def test_dontfork_and_dofork():
    """A child does not have what was kept from it, and has it again after DOFORK."""
    kernel = boot()
    process, base = filled(kernel, 4)
    process.madvise(base, 2 * PAGE, "dontfork")
    child = process.fork()
    assert holds(child, base + 2 * PAGE, 2) == [3, 4]
    with pytest.raises(Signal, match="SEGV_MAPERR"):
        child.read(base)
    assert child.mm.total_vm == process.mm.total_vm - 2
    process.madvise(base, 2 * PAGE, "dofork")
    assert holds(process.fork(), base, 4) == [1, 2, 3, 4]
    assert len([v for v in process.mm.vmas if v.start == base]) == 1
    audit(kernel)


def test_dontfork_keeps_pages_exclusive():
    """Pages that are not shared need no fault after fork: how moved pages stay so."""
    kernel = boot()
    process, base = filled(kernel, 4)
    process.madvise(base, 4 * PAGE, "dontfork")
    process.fork()
    counts = issued(kernel, lambda: process.write(base, 9))
    assert (counts.tlbi, sum(counts.faults.values())) == ({}, 0)


def test_wipeonfork_and_keeponfork():
    """A child finds zeros where it may not see, and the advice is its too."""
    kernel = boot()
    process, base = filled(kernel, 4)
    process.madvise(base, 2 * PAGE, "wipeonfork")
    child = process.fork()
    assert holds(child, base, 4) == [0, 0, 3, 4]
    child.write(base, 7)
    assert holds(child.fork(), base, 2) == [0, 0]
    process.madvise(base, 4 * PAGE, "keeponfork")
    assert holds(process.fork(), base, 4) == [1, 2, 3, 4]
    audit(kernel)


# -- who is told -----------------------------------------------------------------------


@DROPPING
def test_who_watches_is_told_first(advice):
    """EVENT_REMOVE: the message is read before pages go, without the mmap lock."""
    kernel = boot()
    process, base = filled(kernel, 4)
    fd = process.userfaultfd("EVENT_REMOVE")
    fd.register(base, 4 * PAGE)
    told: list[UffdMsg] = []

    def serve(message):
        told.append(message)
        assert fd.ctx.mmap_changing == 1
        assert not process.mm.mmap_lock.readers
        assert process.mm.anonpages == 4

    fd.serve(serve)
    process.madvise(base, 3 * PAGE, advice)
    assert told == [UffdMsg("remove", base, end=base + 3 * PAGE)]
    assert fd.ctx.mmap_changing == 0
    assert process.mm.anonpages == (1 if advice == "dontneed" else 4)


@DROPPING
@pytest.mark.parametrize("change", ["unmap", "shrink", "lock"])
def test_the_area_is_looked_up_anew_after_the_telling(advice, change):
    """Who is told may change the area; the part of it that is left gets the advice."""
    kernel = boot()
    process, base = filled(kernel, 4)
    fd = process.userfaultfd("EVENT_REMOVE")
    fd.register(base, 4 * PAGE)

    def serve(_message):
        vma = kernel.vma.vma_lookup(process.mm, base)
        if change == "lock":
            vma.flags |= VM_LOCKED
        else:
            process.munmap(base + (2 * PAGE if change == "shrink" else 0), 2 * PAGE)

    fd.serve(serve)
    expected = "EINVAL" if change == "lock" else "ENOMEM"
    assert refused(process, base, 4 * PAGE, advice) == expected
    if change == "shrink":
        young = [pte_young(p) for p in entries(kernel, process, base, 2)]
        assert not any(young)
    assert not process.mm.mmap_lock.readers
    audit(kernel)


# -- locks and errors ------------------------------------------------------------------


def refused(process, start, length, advice):
    """The error of one call, or ``None``."""
    try:
        process.madvise(start, length, advice)
    except SystemCallError as error:
        return error.errno
    return None


@pytest.mark.parametrize(
    ("advice", "flags"),
    [
        ("dontneed", VM_LOCKED),
        ("dontneed", VM_PFNMAP),
        ("free", VM_LOCKED),
        ("free", VM_PFNMAP),
        ("cold", VM_LOCKED),
        ("cold", VM_PFNMAP),
        ("dofork", VM_IO),
    ],
)
def test_areas_that_refuse(advice, flags):
    """Locked and raw memory keeps its pages: EINVAL, and nothing has changed."""
    kernel = boot()
    process, base = filled(kernel, 2)
    vma = kernel.vma.vma_lookup(process.mm, base)
    vma.flags |= flags | VM_DONTCOPY
    assert refused(process, base, 2 * PAGE, advice) == "EINVAL"
    assert vma.flags & VM_DONTCOPY
    vma.flags &= ~flags
    assert holds(process, base, 2) == [1, 2]


def test_shared_memory_is_not_wiped():
    """MADV_WIPEONFORK is for private anonymous memory."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(2 * PAGE, shared=True)
    assert refused(process, base, PAGE, "wipeonfork") == "EINVAL"
    vma = kernel.vma.vma_lookup(process.mm, base)
    assert not vma.flags & VM_WIPEONFORK


@CLEARING
def test_holes_are_stepped_over(advice):
    """What is mapped gets the advice; ENOMEM tells of the rest in the end."""
    kernel = boot()
    process, base = filled(kernel, 6)
    process.munmap(base + 2 * PAGE, PAGE)
    assert refused(process, base, 6 * PAGE, advice) == "ENOMEM"
    young = [pte_young(p) for p in entries(kernel, process, base, 6)]
    assert not any(young)
    assert refused(process, base + 1, PAGE, advice) == "EINVAL"
    assert refused(process, base, 0, advice) is None


@DROPPING
def test_one_area_needs_no_mmap_lock(advice):
    """Within one area that nobody watches, its own lock is enough."""
    kernel = boot()
    process, base = filled(kernel, 4)
    names = []
    kernel.machine.events.listen(lambda event: names.append(event.what.name), {"lock"})
    process.madvise(base, 2 * PAGE, advice)
    assert "mmap_lock" not in names
    assert any(name.startswith("vma lock") for name in names)
    names.clear()
    assert refused(process, base, 8 * PAGE, advice) == "ENOMEM"
    assert "mmap_lock" in names


def test_a_process_that_dies_stops_in_between():
    """MADV_COLD ages nothing more once the process was killed, and says nothing."""
    kernel = boot()
    process, base = filled(kernel, 2)
    process.kill()
    assert refused(process, base, 2 * PAGE, "cold") is None
    assert all(pte_young(pte) for pte in entries(kernel, process, base, 2))


ADVICE = [
    *("normal", "random", "sequential", "willneed"),
    *("hugepage", "nohugepage", "collapse", "populate_read", "populate_write"),
    *("dontneed", "dontneed_locked", "free", "remove"),
    *("guard_install", "guard_remove", "cold", "pageout"),
    *("dontfork", "dofork", "dontdump", "dodump", "wipeonfork", "keeponfork"),
]
"""Every advice that there is, by the list in the error of one that is not."""


def test_all_advice_is_known_here():
    """The list above is whole."""
    process = boot().spawn()
    with pytest.raises(InputError, match=f"known are {', '.join(ADVICE)}$"):
        process.madvise(0, PAGE, "no such advice")


def advised(advice, failing):
    """Advise parts of two blocks and pages between them, while an allocation fails.

    Returns:
        Whether the call got as far as that allocation.
    """
    kernel = boot(cpus=1)
    kernel.swapfile.swapon(2048)
    process, base = blocks(kernel, 3)
    kernel.huge_memory.enabled = "madvise"
    process.munmap(base + BLOCK, BLOCK)
    process.mmap(BLOCK, addr=base + BLOCK, fixed=True)
    for page in range(512, 1024, 3):
        process.write(base + page * PAGE, page)
    process.write(base + 3 * BLOCK - PAGE, 77)
    before = holds(process, base, 3 * 512)
    left = [failing]

    def fail():
        left[0] -= 1
        return left[0] == 0

    kernel.page_alloc.fail = fail
    result = refused(process, base + 5 * PAGE, 3 * BLOCK - 10 * PAGE, advice)
    kernel.page_alloc.fail = None
    reached = left[0] <= 0
    assert result in ({None, "ENOMEM", "EAGAIN"} if reached else {None})
    audit(kernel)
    audit_tlbs(kernel)
    now = holds(process, base, 3 * 512)
    inside = range(5, 3 * 512 - 5)
    emptied = advice in {"dontneed", "dontneed_locked", "free"}
    for page, (was, is_) in enumerate(zip(before, now, strict=True)):
        assert is_ == was or (emptied and page in inside and is_ == 0)
    process.exit()
    assert all_frames(kernel) == 2
    return reached


@pytest.mark.parametrize(
    "advice", [one for one in ADVICE if one not in {"remove", "guard_install"}]
)
def test_advice_without_memory_leaks_and_loses_nothing(advice):
    """Fail each allocation of an advice in turn: the books add up, contents stay."""
    failing = 1
    while advised(advice, failing):
        failing += 1 if failing < 8 else failing // 2
    assert advice not in {"collapse", "populate_write"} or failing > 1


# -- walks -----------------------------------------------------------------------------


def test_a_part_of_a_huge_page_after_a_hole_is_stepped_over_whole():
    """A range that ends within a huge page of a pool keeps it, and the call returns."""
    kernel = boot()
    kernel.hugetlb.set_max_huge_pages(1)
    process = kernel.spawn()
    at = process.mmap(BLOCK, hugetlb=True, addr=100 * BLOCK, fixed=True)
    process.write(at, 5)
    before = process.mmap(PAGE, addr=at - PAGE, fixed=True)
    process.write(before, 6)
    process.madvise(before, 2 * PAGE, "dontneed")
    assert (process.read(at), process.read(before)) == (5, 0)


def test_memory_that_was_never_touched_cannot_be_collapsed():
    """MADV_COLLAPSE asks for a VMA that has had a page: EINVAL, whatever the range."""
    kernel = boot(cpus=1)
    process = kernel.spawn()
    size = 2 << 20
    base = process.mmap(2 * size, addr=1 << 32, fixed=True)
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.madvise(base, PAGE, "collapse")
    process.write(base, 1)
    assert process.madvise(base, PAGE, "collapse") is None
