"""mm/vmscan.c: what reclaim does before it gives up, and what it may not lose."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_dirty, pte_present
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_lru, PG_referenced
from tlbkit.linux.mm.fail_page_alloc import FailPageAlloc
from tlbkit.linux.tests.audit import audit, audit_tlbs, entries
from tlbkit.linux.tests.support import PAGE, boot, issued, touched
from tlbkit.linux.tests.test_huge_memory import blocks
from tlbkit.linux.tests.test_madvise import folios

FAR = 1 << 40
SPACING = 1 << 30
COUNT = 4
VERSIONS = pytest.mark.parametrize("version", ["v6.17", "v6.19"])
KINDS = ("private", "shared", "file")


def three_kinds(slots):
    """A process with pages of private and shared memory and of a file; some swap."""
    kernel = boot(cpus=2)
    if slots:
        kernel.swapfile.swapon(slots)
    process = kernel.spawn()
    fd = process.open("data", create=True)
    process.ftruncate(fd, COUNT * PAGE)
    starts = {}
    for number, kind in enumerate(KINDS):
        starts[kind] = FAR + number * SPACING
        process.mmap(
            COUNT * PAGE,
            "rw",
            addr=starts[kind],
            fixed=True,
            shared=kind != "private",
            fd=fd if kind == "file" else None,
        )
    return kernel, process, starts


# -- laws ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(
                ["write", "write", "read", "kswapd", "pageout", "fork", "cold"]
            ),
            st.sampled_from(KINDS),
            st.integers(0, COUNT - 1),
        ),
        max_size=25,
    ),
    slots=st.sampled_from([0, 2, 64]),
)
def test_what_was_written_is_found_again_whatever_is_reclaimed(steps, slots):
    """Every word reads as it was last written, and after it all counts add up."""
    kernel, process, starts = three_kinds(slots)
    held = {}
    for value, (what, kind, page) in enumerate(steps, 1):
        address = starts[kind] + page * PAGE
        if what == "write":
            process.write(address, value)
            held[address] = value
        elif what == "read":
            assert process.read(address) == held.get(address, 0)
        elif what == "kswapd":
            kernel.machine.running = kernel.machine.cpu(1)
            kernel.vmscan.kswapd()
        elif what == "fork":
            process.fork().exit()
        else:
            process.madvise(starts[kind], COUNT * PAGE, what)
    for address, value in held.items():
        assert process.read(address) == value
    audit(kernel)
    audit_tlbs(kernel)


@settings(max_examples=40, deadline=None)
@given(
    pages=st.lists(st.booleans(), min_size=1, max_size=COUNT),
    rounds=st.integers(1, 3),
)
def test_what_was_dirty_is_clean_only_after_it_was_written_out(pages, rounds):
    """A page of a file that is neither dirty nor mapped dirty is as it is on disk."""
    kernel, process, starts = three_kinds(0)
    start = starts["file"]
    for page, written in enumerate(pages):
        if written:
            process.write(start + page * PAGE, page + 1)
        else:
            process.read(start + page * PAGE)
    for _ in range(rounds):
        kernel.vmscan.kswapd()
        inode = kernel.file_table.names["data"]
        for index, folio in inode.mapping.pages.items():
            (pte,) = entries(kernel, process, start + index * PAGE, 1)
            if not folio.flags & PG_dirty and not (pte_present(pte) and pte_dirty(pte)):
                stored = kernel.machine.memory.read(folio.pfn * PAGE)
                assert kernel.disk.word("data", index * PAGE) == stored
    assert all(
        process.read(start + page * PAGE) == (page + 1) * written
        for page, written in enumerate(pages)
    )


@given(
    orders=st.lists(st.integers(0, 3), max_size=40),
    times=st.integers(-1, 4),
    interval=st.integers(1, 5),
    min_order=st.integers(0, 2),
)
def test_a_plan_says_which_allocations_fail(orders, times, interval, min_order):
    """Each interval-th of those large enough fails, as often as the plan says."""
    plan = FailPageAlloc(times=times, interval=interval, min_order=min_order)
    failed = [plan.should_fail_alloc_page(order) for order in orders]
    large = [number for number, order in enumerate(orders) if order >= min_order]
    due = large[interval - 1 :: interval] if times else []
    if times > 0:
        due = due[:times]
    assert [number for number, fails in enumerate(failed) if fails] == due


# -- what is done before reclaim gives up ----------------------------------------------


@VERSIONS
def test_shared_memory_is_unmapped_before_it_is_known_that_it_must_stay(version):
    """Without swap the page stays in its file, dirty, and the next read faults once."""
    kernel = boot(version)
    process = kernel.spawn()
    base = process.mmap(4 * PAGE, shared=True)
    process.write(base, 1)
    (folio, *_) = folios(kernel, process, base, 1)
    counts = issued(kernel, lambda: process.madvise(base, 4 * PAGE, "pageout"))
    assert counts.tlbi == {"VALE1IS": 1}
    assert entries(kernel, process, base, 1) == [0]
    assert folio.flags & PG_dirty
    counts = issued(kernel, lambda: process.read(base))
    assert counts.faults.total() == 1
    assert folios(kernel, process, base, 1) == [folio]
    assert process.read(base) == 1
    audit(kernel)


def test_private_memory_without_swap_stays_mapped():
    """Without a slot nothing is unmapped: there is nowhere to find it again."""
    kernel = boot()
    process, base = touched(kernel, 1)
    counts = issued(kernel, lambda: process.madvise(base, PAGE, "pageout"))
    assert counts.tlbi == {}
    assert process.mm.anonpages == 1
    audit(kernel)


def test_clean_shared_memory_that_was_never_written_goes():
    """What is zeros need not be kept: the next fault makes it again."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(PAGE, shared=True)
    assert process.read(base) == 0
    before = kernel.page_alloc.in_use
    process.madvise(base, PAGE, "pageout")
    assert kernel.page_alloc.in_use == before - 1
    assert process.read(base) == 0
    audit(kernel)


def test_a_slot_that_no_entry_needs_is_not_written():
    """Who gave the page up meanwhile leaves reclaim nothing to write."""
    kernel = boot(rules=False)
    kernel.swapfile.swapon(4)
    process, base = touched(kernel, 1)
    kernel.swap.lru_add_drain_all()
    (folio,) = folios(kernel, process, base, 1)
    assert kernel.vmscan.folio_isolate_lru(folio)
    process.munmap(base, PAGE)
    assert kernel.vmscan.reclaim_pages([folio]) == 0
    kernel.swap.lru_add_drain_all()
    assert not kernel.swapfile.devices[0].contents
    assert not kernel.swapfile.devices[0].swap_map


# -- kswapd ----------------------------------------------------------------------------


def test_kswapd_spares_what_was_used_for_one_round():
    """A used page loses its access flag and stays; the next round takes it."""
    kernel = boot()
    kernel.swapfile.swapon(8)
    process, base = touched(kernel, 2)
    (folio, _) = folios(kernel, process, base, 2)
    assert kernel.vmscan.shrink_inactive_list(32) == 0
    assert folio.flags & (PG_referenced | PG_lru) == PG_referenced | PG_lru
    assert kernel.vmscan.shrink_inactive_list(32) == 2
    assert process.mm.swapents == 2
    assert [process.read(base + n * PAGE) for n in range(2)] == [0, 1]
    audit(kernel)


def test_kswapd_splits_a_huge_page_for_which_there_is_no_row_of_slots():
    """It reclaims page by page as long as there are slots, and keeps the rest."""
    kernel = boot()
    kernel.swapfile.swapon(8)
    process, base = blocks(kernel, 1)
    for page in range(12):
        process.write(base + page * PAGE, page + 1)
    assert kernel.vmscan.kswapd() == 8
    assert (process.mm.swapents, process.mm.anonpages) == (8, 4), "the rest was zeros"
    assert [process.read(base + page * PAGE) for page in range(12)] == [*range(1, 13)]
    audit(kernel)


# -- allocations that fail -------------------------------------------------------------


def test_in_fragmented_memory_a_fault_maps_single_pages():
    """Where no huge page can be had the fault falls back, and nothing else fails."""
    kernel = boot()
    kernel.page_alloc.fail_page_alloc = FailPageAlloc(times=-1)
    process, base = blocks(kernel, 1)
    process.write(base, 1)
    assert process.mm.anonpages == 1
    kernel.page_alloc.fail_page_alloc = FailPageAlloc(times=1)
    other, second = blocks(kernel, 1)
    other.write(second, 1)
    assert other.mm.anonpages == 1
    audit(kernel)


# -- what is restored ------------------------------------------------------------------


@pytest.mark.parametrize(("version", "seen"), [("v6.19", 9), ("v7.0", 5)])
def test_an_entry_that_is_restored_keeps_its_write_bit(version, seen):
    """A page shared with a child is copied before a write, also if reclaim failed."""
    kernel = boot(version, rules=False)
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process = kernel.spawn()
    base = process.mmap(16 * PAGE, addr=1 << 32, fixed=True)
    for page in range(16):
        process.write(base + page * PAGE, 5)
    process.madvise(base, 16 * PAGE, "free")
    kernel.swap.lru_add_drain_all()
    process.madvise(base, 8 * PAGE, "dontfork")
    child = process.fork()
    process.madvise(base, 8 * PAGE, "dofork")
    process.write(base, 6)
    (folio, *_) = folios(kernel, process, base, 1)
    assert kernel.vmscan.folio_isolate_lru(folio)
    assert kernel.vmscan.reclaim_pages([folio]) == 0
    process.write(base + 8 * PAGE, 9)
    assert child.read(base + 8 * PAGE) == seen
