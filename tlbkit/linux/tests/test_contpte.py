"""arch/arm64/mm/contpte.c, and large folios that are smaller than a block."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.conflicts import TlbConflictError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    PAGE_READONLY,
    pte_cont,
    pte_dirty,
    pte_mkclean,
    pte_mkdirty,
    pte_mkold,
    pte_mkyoung,
    pte_none,
    pte_write,
    pte_wrprotect,
    pte_young,
)
from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.mm.internal import (
    FPB_MERGE_WRITE,
    FPB_RESPECT_WRITE,
    folio_pte_batch,
    folio_pte_batch_flags,
)
from tlbkit.linux.tests.audit import audit, audit_tlbs, contiguous, entries
from tlbkit.linux.tests.support import PAGE, boot, issued, pin, total
from tlbkit.linux.tests.test_huge_memory import BLOCK, VERSIONS, both, forms, targets

RUN = 16
"""Entries of a contiguous block with 4K pages."""
MODELS = ["neoverse-v2", "neoverse-n1", "cortex-a75"]


def folios(kernel, count, kib=64):
    """Map *count* folios of *kib* KiB, and write its number to each page."""
    kernel.huge_memory.set_hugepages_enabled(kib, "always")
    process = kernel.spawn()
    pages = count * (kib << 10) // kernel.pgtable.page_size
    base = process.mmap(pages * kernel.pgtable.page_size)
    for page in range(pages):
        process.write(base + page * kernel.pgtable.page_size, page)
    return process, base


def folio_at(kernel, process, address):
    """The folio that *address* maps."""
    pte = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, address))
    return kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(pte))


def unfold(kernel):
    """The TLBIs of one unfolding: one by range, or one for each page."""
    model = kernel.machine.model
    name = "RVALE1IS" if model.range_tlbi else "VALE1IS"
    return [name] * (1 if model.range_tlbi else RUN) * (1 + model.kpti)


# -- the first fault -----------------------------------------------------------------


@both
def test_a_large_folio_is_contiguous_at_once(version):
    """One fault maps it all, as blocks, and nothing is flushed."""
    kernel = boot(version)
    kernel.huge_memory.set_hugepages_enabled(128, "always")
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    counts = issued(kernel, lambda: process.write(base + 40 * PAGE, 1))
    assert (counts.tlbi, counts.faults.total()) == ({}, 1)
    assert all(contiguous(kernel, process, base + 32 * PAGE, 32))
    assert process.mm.anonpages == 32
    folio = folio_at(kernel, process, base + 32 * PAGE)
    assert (folio.mapcount, folio.refcount, folio.entire_mapcount) == (32, 32, 0)
    counts = issued(kernel, lambda: process.write(base + 63 * PAGE, 1))
    assert counts.faults.total() == 0
    audit(kernel)


def test_a_folio_smaller_than_a_block_stands_alone():
    """Four pages of one folio share no TLB entry: the hardware's block is 16."""
    kernel = boot()
    process, base = folios(kernel, 8, kib=16)
    assert not any(contiguous(kernel, process, base, 32))
    audit(kernel)


@given(st.integers(0, 63), st.sets(st.integers(0, 63), max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_largest_folio_that_fits_is_taken(page, taken):
    """It is aligned, within the area, and where no page is yet."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(64 * PAGE, addr=1 << 30, fixed=True)
    for other in taken - {page}:
        process.write(base + other * PAGE, 1)
    for kib in (16, 64, 256):
        kernel.huge_memory.set_hugepages_enabled(kib, "always")
    process.write(base + page * PAGE, 1)
    fitting = [
        order
        for order in (2, 4, 6)
        if not any(other >> order == page >> order for other in taken - {page})
    ]
    got = folio_at(kernel, process, base + page * PAGE).order
    if page not in taken:
        assert got == max(fitting, default=0)
    audit(kernel)


def test_an_area_that_is_watched_gets_single_pages():
    """A userfaultfd wants to hear of each page, so none comes along with another."""
    kernel = boot()
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process = kernel.spawn()
    base = process.mmap(RUN * PAGE)
    process.userfaultfd().register(base, RUN * PAGE, missing=False, wp=True)
    process.write(base, 1)
    assert folio_at(kernel, process, base).order == 0
    assert process.mm.anonpages == 1


def test_without_memory_for_a_large_folio_there_is_a_page():
    """The next smaller size is tried, down to a page."""
    kernel = boot()
    for kib in (16, 64):
        kernel.huge_memory.set_hugepages_enabled(kib, "always")
    process = kernel.spawn()
    base = process.mmap(2 * RUN * PAGE)
    process.write(base, 1)
    for place, order in ((0, 2), (4, 0)):
        once = iter([True])
        kernel.page_alloc.fail = lambda once=once: next(once, False)
        address = base + (RUN + place) * PAGE
        process.write(address, 1)
        assert folio_at(kernel, process, address).order == order
    kernel.page_alloc.fail = None
    audit(kernel)


def test_one_tlb_entry_answers_for_a_block():
    """A TLB that can hold 64 KiB walks once for all 16 pages."""
    kernel = boot()
    process, base = folios(kernel, 1)
    counts = issued(
        kernel, lambda: [process.read(base + n * PAGE, cpu=1) for n in range(RUN)]
    )
    assert counts.walks == 1


# -- fold and unfold -----------------------------------------------------------------


@both
@pytest.mark.parametrize("model", MODELS)
def test_unfolding_is_a_broadcast_of_the_block(version, model):
    """Row "write bit changes" of 4.2: a range by level 3, and then the page."""
    kernel = boot(version, model=model)
    process, base = folios(kernel, 1)
    process.fork().exit()
    seen, dsb = targets(kernel, lambda: process.write(base + 5 * PAGE, 7))
    kpti = kernel.machine.model.kpti
    local = version == "v6.19"
    page = ["VALE1" if local else "VALE1IS"] * (1 + kpti)
    assert [name for name, _ in seen] == unfold(kernel) + page
    assert dsb == ["ishst", "ish", *(["nshst", "nsh"] if local else ["ishst", "ish"])]
    ranges = [target for _, target in seen[: -1 - kpti]]
    assert min(target.first for target in ranges) == base
    assert max(target.last for target in ranges) >= base + (RUN - 1) * PAGE
    if kernel.machine.model.ttl:
        assert {target.level for target in ranges} == {3}
    assert seen[-1][1].first == base + 5 * PAGE
    audit(kernel)
    audit_tlbs(kernel)


def test_bbml2_cpus_do_not_flush_to_unfold():
    """A CPU that bears both forms at once needs no flush between them."""
    kernel = boot(bbml2_noabort=True)
    process, base = folios(kernel, 1)
    process.fork().exit()
    names, _ = forms(kernel, lambda: process.write(base + 5 * PAGE, 7))
    assert names == ["VALE1"]
    assert not any(contiguous(kernel, process, base, RUN))
    audit(kernel)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_write_in_each_block_costs_one_broadcast(version):
    """T4.2: 4 blocks of 16 pages, all written again: 4 unfolds and 64 page flushes."""
    kernel = boot(version)
    process, base = folios(kernel, 4)
    process.fork().exit()
    counts = issued(
        kernel, lambda: [process.write(base + n * PAGE, 1) for n in range(64)]
    )
    page = "VALE1" if version == "v6.19" else "VALE1IS"
    assert counts.tlbi == {"RVALE1IS": 4, page: 64}
    audit(kernel)
    audit_tlbs(kernel)


@both
@pytest.mark.parametrize("model", ["cortex-a72", "neoverse-v2"])
def test_an_access_that_changes_no_write_bit_flushes_the_block_once(version, model):
    """Row "write bit unchanged" of 4.2: without hardware's help, one flush of 16."""
    kernel = boot(version, model=model, rules=False)
    process, base = folios(kernel, 1)
    ptep = kernel.pgtable.find_pte(process.mm, base)
    assert kernel.pgtable.ptep_test_and_clear_young(ptep)
    kernel.tlbflush.local_flush_tlb_all()
    names, dsb = forms(kernel, lambda: process.write(base + 3 * PAGE, 9))
    if kernel.machine.model.hw_af:
        assert names == []
    elif version == "v6.19":
        assert (names, dsb) == (["VALE1"] * RUN, ["nshst", "nsh"])
    else:
        assert (names, dsb) == (["VALE1IS"] * RUN, ["ishst", "ish"])
    assert all(contiguous(kernel, process, base, RUN))
    everyone = entries(kernel, process, base, RUN)
    assert all(map(pte_young, everyone)) == (not kernel.machine.model.hw_af)
    audit_tlbs(kernel)


def test_the_local_flush_of_a_block_by_range():
    """local_flush_tlb_contpte: one range operation, a level, and the notifier."""
    for kpti in (False, True):
        kernel = boot(kpti=kpti)
        process, base = folios(kernel, 1)
        vma = kernel.vma.vma_lookup(process.mm, base)
        flush = kernel.tlbflush.local_flush_tlb_contpte
        counts = issued(kernel, lambda f=flush, v=vma, b=base: f(v, b + 3 * PAGE))
        assert counts.tlbi == {"RVALE1": 1 + kpti}
        assert (counts.dsb, counts.notifier) == ({"nshst": 1, "nsh": 1}, 1)


def test_a_read_makes_the_whole_block_young_without_a_flush():
    """T4.8 for a block: a child's first read marks all 16, and flushes nothing."""
    kernel = boot(model="cortex-a72")
    process, base = folios(kernel, 1)
    child = process.fork()
    assert not any(map(pte_young, entries(kernel, child, base, RUN)))
    counts = issued(kernel, lambda: child.read(base + 7 * PAGE))
    assert (counts.tlbi, counts.faults.total()) == ({}, 1)
    assert all(map(pte_young, entries(kernel, child, base, RUN)))


def test_one_member_speaks_for_all():
    """Hardware may mark any entry of a block; whoever reads one of them is told."""
    kernel = boot(rules=False)
    process, base = folios(kernel, 1)
    pgtable = kernel.pgtable
    ptep = pgtable.find_pte(process.mm, base)
    for n in range(RUN):
        pte = pte_mkold(pte_wrprotect(pte_mkclean(pgtable.read(ptep + n * 8))))
        pgtable.set_pte(ptep + n * 8, pte)
    assert not pte_young(pgtable.ptep_get(ptep))
    marked = pte_mkyoung(pte_mkdirty(pgtable.read(ptep + 5 * 8)))
    pgtable.set_pte(ptep + 5 * 8, marked)
    for n in range(RUN):
        pte = pgtable.ptep_get(ptep + n * 8)
        assert (pte_young(pte), pte_dirty(pte)) == (True, True)
        assert pgtable.pte_pfn(pte) == pgtable.pte_pfn(marked) - 5 + n


@both
def test_page_aging_is_widened_to_the_block(version):
    """To clear one access flag clears 16, and starts a flush that nobody waits for."""
    kernel = boot(version, rules=False)
    process, base = folios(kernel, 1)
    vma = kernel.vma.vma_lookup(process.mm, base)
    ptep = kernel.pgtable.find_pte(process.mm, base) + 3 * 8
    clear = kernel.pgtable_generic.ptep_clear_flush_young
    results = []
    seen, dsb = targets(
        kernel, lambda: results.append(clear(vma, base + 3 * PAGE, ptep))
    )
    ((name, target),) = seen
    assert (name, target.level, dsb) == ("RVALE1IS", 3, ["ishst"])
    assert (target.first, target.last) == (base, base + RUN * PAGE - 1)
    assert results == [True]
    assert not any(map(pte_young, entries(kernel, process, base, RUN)))
    assert forms(kernel, lambda: clear(vma, base, ptep)) == ([], [])


def test_the_last_page_of_a_block_folds_it():
    """Stored one by one, pages become a block with the last, for one flush."""
    kernel = boot(rules=False)
    process, base = folios(kernel, 1)
    process.mprotect(base, PAGE, "r")
    assert not any(contiguous(kernel, process, base, RUN))
    pgtable = kernel.pgtable
    ptep = pgtable.find_pte(process.mm, base)
    first = pte_wrprotect(pgtable.read(ptep))
    prices = []
    for n in range(RUN):
        address, place = base + n * PAGE, ptep + n * 8
        pgtable.ptep_get_and_clear(process.mm, address, place)
        pte = pgtable.pte_advance_pfn(first, n)
        counts = issued(
            kernel,
            lambda a=address, e=place, p=pte: pgtable.set_ptes(process.mm, a, e, p, 1),
        )
        prices.append(total(counts))
    assert prices == [0] * (RUN - 1) + [1]
    assert all(contiguous(kernel, process, base, RUN))


@pytest.mark.parametrize("odd", [0, 7, 15])
def test_pages_that_disagree_do_not_fold(odd):
    """One entry with other rights, and the 16 stay alone."""
    kernel = boot(rules=False)
    process, base = folios(kernel, 1)
    process.mprotect(base + odd * PAGE, PAGE, "r")
    pgtable = kernel.pgtable
    ptep = pgtable.find_pte(process.mm, base) + 15 * 8
    pte = pgtable.ptep_get_and_clear(process.mm, base + 15 * PAGE, ptep)
    pgtable.set_ptes(process.mm, base + 15 * PAGE, ptep, pte, 1)
    assert not any(contiguous(kernel, process, base, RUN))


def test_pages_of_several_folios_do_not_fold():
    """Consecutive frames of small pages make no block, however well they lie."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    for n in range(512):
        process.write(base + n * PAGE, n)
    process.mprotect(base, BLOCK, "none")
    process.mprotect(base, BLOCK, "rw")
    assert not any(contiguous(kernel, process, base, 512))


# -- whole blocks stay blocks --------------------------------------------------------


@both
def test_fork_protects_whole_blocks_as_they_are(version):
    """Row "whole block treated at once" of 1.9: no unfold, one flush by ASID."""
    kernel = boot(version)
    process, base = folios(kernel, 4)
    names, _ = forms(kernel, process.fork)
    assert names == ["ASIDE1IS"]
    child = kernel.processes[-1]
    for one in (process, child):
        assert all(contiguous(kernel, one, base, 64))
        assert not any(map(pte_write, entries(kernel, one, base, 64)))
    folio = folio_at(kernel, process, base)
    assert (folio.mapcount, folio.refcount) == (2 * RUN, 2 * RUN)
    assert folio.maybe_mapped_shared
    assert not any(folio.exclusive)
    audit(kernel)
    audit_tlbs(kernel)


@both
@pytest.mark.parametrize(
    ("first", "pages", "edges"),
    [(0, 63, 1), (16, 32, 0), (16, 1, 1), (20, 4, 1), (8, 16, 2), (8, 40, 1)],
)
@pytest.mark.parametrize("call", ["munmap", "mprotect"])
def test_only_cut_blocks_unfold(version, first, pages, edges, call):
    """A block that is unmapped or changed as a whole costs nothing besides."""
    kernel = boot(version)
    process, base = folios(kernel, 4)
    start, size = base + first * PAGE, pages * PAGE
    if call == "munmap":
        names, dsb = forms(kernel, lambda: process.munmap(start, size))
    else:
        names, dsb = forms(kernel, lambda: process.mprotect(start, size, "r"))
    assert dsb == ["ishst", "ish"] * (edges + 1)
    assert names[:edges] == ["RVALE1IS"] * edges
    audit(kernel)
    audit_tlbs(kernel)


def test_none_to_rw_makes_blocks_again_for_free():
    """Row of 1.9: hidden pages come back as a block, and nothing is flushed."""
    kernel = boot("v6.19")
    process, base = folios(kernel, 2)
    process.mprotect(base + PAGE, PAGE, "r")
    process.mprotect(base, 2 * RUN * PAGE, "none")
    counts = issued(kernel, lambda: process.mprotect(base, 2 * RUN * PAGE, "rw"))
    assert counts.tlbi == {}
    assert all(contiguous(kernel, process, base, 2 * RUN))
    for n in range(2 * RUN):
        assert process.read(base + n * PAGE) == n
    audit(kernel)


@pytest.mark.parametrize(("version", "conflict"), [("v6.17", False), ("v6.19", True)])
def test_a_block_may_be_made_of_pages_that_tlbs_hold(version, conflict):
    """An mprotect that hardware cannot see may fold visible pages, and flush nothing.

    Sixteen visible, read-only pages that stand alone are cleared and stored together,
    so they come out as a block. Before c320dbb7c80d they were flushed afterwards. Now
    nothing in them has changed as far as the decision knows, and a TLB that holds some
    of the pages may fill the block beside them.
    """
    kernel = boot(version, rules=False)
    process, base = folios(kernel, 1)
    child = process.fork()
    child.mprotect(base, PAGE, "r")
    child.mprotect(base, PAGE, "rw")
    assert not any(contiguous(kernel, child, base, RUN))
    for n in range(RUN - 1):
        child.read(base + n * PAGE)
    counts = issued(kernel, lambda: child.mprotect(base, RUN * PAGE, "r"))
    assert bool(counts.tlbi) != conflict
    assert all(contiguous(kernel, child, base, RUN))

    def read_all():
        for n in (*range(RUN), 0):
            assert child.read(base + n * PAGE) == n

    if conflict:
        with pytest.raises(TlbConflictError):
            read_all()
    else:
        read_all()


# -- mprotect ------------------------------------------------------------------------


def test_pages_of_one_s_own_become_writable_in_runs():
    """Of a folio that was shared, just the exclusive pages get the write bit back."""
    for own in ({2, 3, 9}, {0}, {15}, set(range(0, 16, 2)), set(range(16))):
        kernel = boot(rules=False)
        process, base = folios(kernel, 1)
        process.fork().exit()
        for page in own:
            process.write(base + page * PAGE, 100 + page)
        folio = folio_at(kernel, process, base)
        assert {n for n in range(RUN) if folio.exclusive[n]} == own
        process.mprotect(base, RUN * PAGE, "r")
        process.mprotect(base, RUN * PAGE, "rw")
        writable = {
            n
            for n, pte in enumerate(entries(kernel, process, base, RUN))
            if pte_write(pte)
        }
        assert writable == own
        audit(kernel)


def test_a_run_s_hull_is_what_needs_a_flush():
    """Sub-batches are looked at one by one: only the pages that change are flushed."""
    kernel = boot()
    process, base = folios(kernel, 1)
    process.fork().exit()
    for page in (4, 5, 6):
        process.write(base + page * PAGE, 1)
    process.mprotect(base, RUN * PAGE, "r")
    seen, _ = targets(kernel, lambda: process.mprotect(base, RUN * PAGE, "rw"))
    assert seen[0][1].first == base + 4 * PAGE
    assert seen[-1][1].last == base + 6 * PAGE


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 63),
            st.integers(1, 64),
            st.sampled_from(["none", "r", "rw", "rx"]),
        ),
        max_size=6,
    ),
    st.sampled_from([16, 64, 256]),
)
def test_mprotect_of_large_folios_is_that_of_pages(changes, kib):
    """Rights and words are the same as with single pages, whatever was batched."""
    seen = []
    for size in (0, kib):
        kernel = boot("v6.17")
        if size:
            process, base = folios(kernel, 256 // size, size)
        else:
            process = kernel.spawn()
            base = process.mmap(64 * PAGE)
            for page in range(64):
                process.write(base + page * PAGE, page)
        for first, pages, prot in changes:
            process.mprotect(base + first * PAGE, min(pages, 64 - first) * PAGE, prot)
        audit(kernel)
        audit_tlbs(kernel)
        states = entries(kernel, process, base, 64)
        mask = ~(((1 << 48) - 1) & ~0xFFF | 1 << 52)
        seen.append([pte & mask for pte in states])
    assert seen[0] == seen[1]


# -- who may keep a page -------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_folio_of_one_s_own_is_reused_page_by_page(version):
    """The child gone, each page is taken over where it is, with its own fault."""
    kernel = boot(version)
    process, base = folios(kernel, 1)
    folio = folio_at(kernel, process, base)
    process.fork().exit()
    for page in (3, 4):
        counts = issued(kernel, lambda n=page: process.write(base + n * PAGE, 1))
        assert counts.faults.total() == 1
        assert folio_at(kernel, process, base + page * PAGE) is folio
        assert folio.page_exclusive(folio.pfn + page)
    audit(kernel)


def test_while_the_child_lives_pages_are_copied():
    """T5.2: the parent's page is copied; the folio keeps the child's."""
    kernel = boot()
    process, base = folios(kernel, 1)
    child = process.fork()
    folio = folio_at(kernel, process, base)
    process.write(base + 3 * PAGE, 33)
    assert folio_at(kernel, process, base + 3 * PAGE) is not folio
    assert folio.mapcount == 2 * RUN - 1
    assert not folio.partially_mapped
    child.write(base + 3 * PAGE, 44)
    assert folio.partially_mapped, "nobody maps the page any more"
    assert (process.read(base + 3 * PAGE), child.read(base + 3 * PAGE)) == (33, 44)
    audit(kernel)


def test_the_last_page_of_a_folio_is_copied_to_let_it_go():
    """Of a folio that only one page is left of, that page is not kept."""
    kernel = boot()
    process, base = folios(kernel, 1)
    process.fork().exit()
    process.munmap(base, 7 * PAGE)
    process.munmap(base + 8 * PAGE, 8 * PAGE)
    folio = folio_at(kernel, process, base + 7 * PAGE)
    assert folio.mapcount == 1
    process.write(base + 7 * PAGE, 5)
    assert folio.mapcount == 0
    assert folio_at(kernel, process, base + 7 * PAGE).order == 0
    audit(kernel)


def test_a_reference_to_a_large_folio_forces_the_copy():
    """T5.4: as many references as entries, or somebody else is looking."""
    kernel = boot()
    process, base = folios(kernel, 1)
    process.fork().exit()
    folio = folio_at(kernel, process, base)
    folio.refcount += 1
    process.write(base, 5)
    assert folio_at(kernel, process, base) is not folio
    kernel.swap.folio_put(folio)
    audit(kernel)


def test_fork_of_a_pinned_large_folio_copies_every_page():
    """T5.3: the child has its own pages; the parent's block is not touched."""
    kernel = boot()
    process, base = folios(kernel, 1)
    folio = folio_at(kernel, process, base)
    before = entries(kernel, process, base, RUN)
    pin(kernel, process.mm, folio)
    child = process.fork()
    assert entries(kernel, process, base, RUN) == before
    for n in range(RUN):
        assert child.read(base + n * PAGE) == n
        assert folio_at(kernel, child, base + n * PAGE).order == 0
    kernel.gup.unpin_user_page(folio)
    audit(kernel)


# -- runs ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=32, max_size=32), st.data())
def test_a_batch_is_the_longest_run_that_agrees(states, data):
    """What is counted is what a look at each entry alone would count."""
    kernel = boot()
    pgtable = kernel.pgtable
    folio = kernel.page_alloc.alloc(5)
    assert isinstance(folio, LargeFolio)
    table = kernel.page_alloc.alloc_table("PTE table").pfn << 12
    for n, state in enumerate(states):
        pte = pgtable.pfn_pte(folio.pfn + n, PAGE_READONLY)
        pte = pgtable.pte_mkwrite(pte) if state & 1 else pte
        pte = pte_mkdirty(pte) if state & 2 else pte
        pte = pte_mkold(pte) if state & 4 else pte
        pgtable.set_pte(table + n * 8, pte)
    start = data.draw(st.integers(0, 31))
    first = pgtable.read(table + start * 8)
    left = 32 - start
    same_write = 0
    while same_write < left and not (states[start + same_write] ^ states[start]) & 1:
        same_write += 1
    at = table + start * 8
    nr, _ = folio_pte_batch_flags(pgtable, folio, at, first, left, FPB_RESPECT_WRITE)
    assert nr == same_write
    assert folio_pte_batch(pgtable, folio, at, first, left) == left
    nr, pte = folio_pte_batch_flags(pgtable, folio, at, first, left, FPB_MERGE_WRITE)
    assert nr == left
    assert pte_write(pte) == any(state & 1 for state in states[start:])


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "clear", "wrprotect", "age", "access"]),
        st.integers(0, 63),
        st.integers(1, 64),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS, st.booleans())
def test_nobody_can_tell_blocks_from_pages(steps, bbml2):
    """Whatever is stored or cleared, frames and rights are as without blocks.

    Young and dirty may spread within a block, and never get lost.
    """
    kernel = boot(bbml2_noabort=bbml2, rules=False)
    process, base = folios(kernel, 1, kib=256)
    pgtable = kernel.pgtable
    mm = process.mm
    vma = kernel.vma.vma_lookup(mm, base)
    ptep = pgtable.find_pte(mm, base)
    rights = pte_wrprotect(pgtable.read(ptep)) & ~(1 << 52)
    plain = [pgtable.read(ptep + n * 8) & ~(1 << 52) for n in range(64)]
    for what, first, most, flag in steps:
        nr = min(most, 64 - first)
        at, address = ptep + first * 8, base + first * PAGE
        run = plain[first : first + nr]
        if what == "set" and not any(run):
            pte = pgtable.pte_advance_pfn(rights, first)
            pte = pte_mkdirty(pgtable.pte_mkwrite(pte)) if flag else pte
            pgtable.set_ptes(mm, address, at, pte, nr)
            run = [pgtable.pte_advance_pfn(pte, n) for n in range(nr)]
        elif what == "clear" and all(run):
            pgtable.get_and_clear_full_ptes(mm, address, at, nr)
            run = [0] * nr
        elif what == "wrprotect" and all(run):
            pgtable.wrprotect_ptes(mm, address, at, nr)
            run = list(map(pte_wrprotect, run))
        elif what == "age" and run[0]:
            pgtable.ptep_test_and_clear_young(at)
        elif what == "access" and run[0]:
            entry = pte_mkyoung(pgtable.ptep_get(at))
            if flag:
                entry = pte_mkdirty(pgtable.pte_mkwrite(entry))
            kernel.fault.ptep_set_access_flags(vma, address, at, entry, dirty=flag)
            if flag:
                run[0] = pte_mkdirty(pgtable.pte_mkwrite(run[0]))
        plain[first : first + nr] = run
        check_against(pgtable, ptep, plain)


def check_against(pgtable, ptep, plain):
    """Entries map and allow what *plain* says, and blocks are whole."""
    for n, expected in enumerate(plain):
        pte = pgtable.read(ptep + n * 8)
        assert pte_none(pte) == pte_none(expected)
        if pte:
            assert pgtable.pte_pfn(pte) == pgtable.pte_pfn(expected)
            assert pte_write(pte) == pte_write(expected)
            assert pte_dirty(pgtable.ptep_get(ptep + n * 8)) >= pte_dirty(expected)
        block = [pgtable.read(ptep + (n & -RUN) * 8 + m * 8) for m in range(RUN)]
        if pte_cont(pte):
            assert all(map(pte_cont, block))
            assert len({pte_write(one) for one in block}) == 1


# -- other sizes ---------------------------------------------------------------------


def test_blocks_of_16k_pages_have_128():
    """With 16K pages a block is 2 MiB, and a folio of that size is one block."""
    kernel = boot(page_shift=14)
    assert kernel.pgtable.cont_ptes == 128
    process, base = folios(kernel, 2, kib=2048)
    assert all(contiguous(kernel, process, base, 256))
    process.fork().exit()
    page = kernel.pgtable.page_size
    seen, _ = targets(kernel, lambda: process.write(base + 130 * page, 1))
    assert [name for name, _ in seen] == ["RVALE1IS", "VALE1"]
    unfolded = seen[0][1]
    assert unfolded.last - unfolded.first + 1 == 128 * page
    assert contiguous(kernel, process, base, 256) == [True] * 128 + [False] * 128
    audit(kernel)
    audit_tlbs(kernel)


def test_lpa2_unfolds_by_range_where_it_can():
    """A block of 64 KiB is aligned to 64 KiB, so one range operation is enough."""
    kernel = boot(lpa2=True)
    process, base = folios(kernel, 1)
    process.fork().exit()
    names, _ = forms(kernel, lambda: process.write(base + 5 * PAGE, 7))
    assert names == ["RVALE1IS", "VALE1"]
