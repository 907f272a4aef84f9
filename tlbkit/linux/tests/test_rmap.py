"""Reverse mapping: every count, in both ways to count, and the statistics."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present
from tlbkit.linux.include.linux.mm import VM_LOCKED
from tlbkit.linux.include.linux.mm_types import (
    ENTIRELY_MAPPED,
    FOLIO_PAGES_MAPPED,
    LargeFolio,
    PG_dirty,
)
from tlbkit.linux.include.linux.pagemap import folio_trylock
from tlbkit.linux.include.linux.pgtable import (
    LevelError,
    PgtableLevel,
    pgtable_level_to_str,
)
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.mm.page_vma_mapped import PVMW_SYNC
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.linux.mm.rmap.walk import TTU_IGNORE_MLOCK
from tlbkit.linux.tests.mapped import (
    apply,
    area_of,
    entries_by_level,
    folio_of,
    kernel_of,
    share,
    state,
    stored,
)
from tlbkit.linux.tests.support import PAGE, boot, pin

BOTH = pytest.mark.parametrize("exact", [True, False], ids=["page counts", "none"])


# -- the checked vectors -------------------------------------------------------------


def life_of_a_block(*, exact, model="neoverse-v2"):
    """Fork, split and unmap a block step by step; yield what is counted after each."""
    kernel = kernel_of(exact=exact, model=model)
    nr = kernel.pgtable.hpage_pmd_nr
    folio: Any = kernel.page_alloc.alloc(kernel.pgtable.hpage_pmd_order)
    a, b = area_of(kernel), area_of(kernel)
    rmap = kernel.rmap
    steps = (
        lambda: rmap.folio_add_new_anon_rmap(folio, a, a.start),
        lambda: rmap.folio_try_dup_anon_rmap_pmd(folio, b, a),
        lambda: rmap.folio_add_anon_rmap_ptes(folio, folio.pfn, nr, a, exclusive=False),
        lambda: rmap.folio_remove_rmap_pmd(folio, a),
        lambda: rmap.folio_remove_rmap_pte(folio, folio.pfn, a),
        lambda: rmap.folio_remove_rmap_pmd(folio, b),
        lambda: rmap.folio_remove_rmap_ptes(folio, folio.pfn + 1, nr - 1, a),
    )
    node = kernel.vmstat.node
    for step in steps:
        step()
        statistics = node["NR_ANON_MAPPED"], node["NR_ANON_THPS"]
        yield (*stored(folio), *statistics, folio.partially_mapped)


@pytest.mark.parametrize(
    ("model_shift", "n"), [(12, 512), (14, 2048), (16, 8192)], ids=["4K", "16K", "64K"]
)
def test_the_checked_vectors(model_shift, n):
    """Counts and statistics of a block's life are those of the kernel, at each size."""
    kernel = boot(page_shift=model_shift)
    assert kernel.pgtable.hpage_pmd_nr == n
    machine = kernel.machine
    whole = ENTIRELY_MAPPED
    expected = [
        (0, 0, whole, n, n, False),
        (1, 1, whole, n, n, False),
        (1, n + 1, whole + n, n, n, False),
        (0, n, whole + n, n, n, False),
        (0, n - 1, whole + n - 1, n, n, False),
        (-1, n - 2, n - 1, n - 1, 0, True),
        (-1, -1, 0, 0, 0, True),
    ]
    assert list(life_of_a_block(exact=True, model=machine.model)) == expected


def test_the_checked_vectors_without_counts_for_pages():
    """A folio counts as mapped whole until its very last mapping has gone."""
    steps = list(life_of_a_block(exact=False))
    assert [(mapped, blocks) for *_, mapped, blocks, _ in steps] == [
        *[(512, 512)] * 5,
        (512, 0),
        (0, 0),
    ]
    assert [row[:2] for row in steps] == [
        row[:2] for row in life_of_a_block(exact=True)
    ]
    assert not any(pages for _, _, pages, *_ in steps), "nothing counts pages"
    assert [queued for *_, queued in steps] == [False] * 5 + [True] * 2


@BOTH
def test_splitting_alone_changes_one_statistic(exact):
    """Page entries come before the block entry goes: no page is ever unmapped."""
    kernel = kernel_of(exact=exact)
    folio: Any = kernel.page_alloc.alloc(9)
    area = area_of(kernel)
    kernel.rmap.folio_add_new_anon_rmap(folio, area, area.start)
    heard: list[Any] = []
    kernel.machine.events.listen(heard.append, {"stat"})
    kernel.rmap.folio_add_anon_rmap_ptes(folio, folio.pfn, 512, area, exclusive=True)
    kernel.rmap.folio_remove_rmap_pmd(folio, area)
    assert [(e.what, e.old, e.new) for e in heard] == [("NR_ANON_THPS", 512, 0)]
    assert not folio.partially_mapped


def test_a_hundred_pages_and_a_block():
    """100 entries, a block elsewhere, and the block gone: 100, 512, 100, and queued."""
    kernel = kernel_of()
    folio: Any = folio_of(kernel, 9)
    a, b = area_of(kernel), area_of(kernel)
    share(folio, a, b)
    seen = []
    for step in (
        lambda: kernel.rmap.folio_add_anon_rmap_ptes(
            folio, folio.pfn, 100, a, exclusive=False
        ),
        lambda: kernel.rmap.folio_add_anon_rmap_pmd(folio, b, exclusive=False),
        lambda: kernel.rmap.folio_remove_rmap_pmd(folio, b),
    ):
        step()
        seen.append(kernel.vmstat.node["NR_ANON_MAPPED"])
    assert seen == [100, 512, 100]
    assert folio.partially_mapped


# -- laws ----------------------------------------------------------------------------

ADDITIONS = st.lists(
    st.tuples(
        st.sampled_from(["pte", "pmd"]),
        st.integers(0, 2),
        st.integers(0, 511),
        st.integers(1, 512),
    ),
    max_size=6,
)


def check_invariants(kernel, folio, kind):
    """The statistics follow from the counts, and the counts from each other."""
    node = kernel.vmstat.node
    mapped = node["NR_ANON_MAPPED" if kind == "anon" else "NR_FILE_MAPPED"]
    blocks = {
        "anon": "NR_ANON_THPS",
        "shmem": "NR_SHMEM_PMDMAPPED",
        "file": "NR_FILE_PMDMAPPED",
    }[kind]
    assert node[blocks] == folio.nr_pages * bool(folio.entire_mapcount)
    assert sum(node.values()) == mapped + node[blocks], "no other one moves"
    if not kernel.config.page_mapcount:
        assert mapped == folio.nr_pages * bool(folio.mapcount)
        assert not folio.nr_pages_mapped
        return
    pages = sum(count > 0 for count in folio.page_mapcount)
    assert mapped == (folio.nr_pages if folio.entire_mapcount else pages)
    assert folio.nr_pages_mapped & FOLIO_PAGES_MAPPED == pages
    assert folio.mapcount == sum(folio.page_mapcount) + folio.entire_mapcount


@BOTH
@pytest.mark.parametrize("kind", ["anon", "shmem", "file"])
@settings(max_examples=15, deadline=None)
@given(ADDITIONS, st.randoms(use_true_random=False))
def test_removals_in_any_order_restore_everything(exact, kind, steps, random):
    """Counts and statistics obey their laws always, and end where they began."""
    kernel = kernel_of(exact=exact)
    folio: Any = folio_of(kernel, 9, kind)
    areas = [area_of(kernel) for _ in range(3)]
    share(folio, *areas)
    before = state(kernel, folio)
    undo = []
    for step in steps:
        undo.append(apply(kernel, folio, areas, step))
        check_invariants(kernel, folio, kind)
    random.shuffle(undo)
    for back in undo:
        back()
        check_invariants(kernel, folio, kind)
    after = state(kernel, folio)
    queued = {"deferred_split", "partially_mapped"}
    assert {k: v for k, v in after.items() if k not in queued} == {
        k: v for k, v in before.items() if k not in queued
    }


@BOTH
@settings(max_examples=15, deadline=None)
@given(ADDITIONS)
def test_what_a_child_gets_changes_no_statistics(exact, steps):
    """A duplicate and its removal by the child leave every statistic as it was."""
    kernel = kernel_of(exact=exact)
    folio: Any = folio_of(kernel, 9)
    areas = [area_of(kernel) for _ in range(3)]
    child = area_of(kernel)
    share(folio, *areas, child)
    for step in steps:
        apply(kernel, folio, areas, step)
    node = dict(kernel.vmstat.node)
    rmap = kernel.rmap
    for level, number, first, many in steps:
        nr = min(many, 512 - first)
        if level == "pmd":
            assert rmap.folio_try_dup_anon_rmap_pmd(folio, child, areas[number])
            assert kernel.vmstat.node == node
            rmap.folio_remove_rmap_pmd(folio, child)
        else:
            pages = (folio, folio.pfn + first, nr)
            assert rmap.folio_try_dup_anon_rmap_ptes(*pages, child, areas[number])
            assert kernel.vmstat.node == node
            rmap.folio_remove_rmap_ptes(*pages, child)
        assert kernel.vmstat.node == node


@BOTH
def test_a_pinned_folio_stays_bit_for_bit(exact):
    """A duplicate that is refused has changed nothing at all, at either level."""
    kernel = kernel_of(exact=exact)
    area, child = area_of(kernel), area_of(kernel)
    block: Any = kernel.page_alloc.alloc(9)
    small: Any = kernel.page_alloc.alloc()
    for folio in (block, small):
        kernel.rmap.folio_add_new_anon_rmap(folio, area, area.start)
        pin(kernel, area.mm, folio)
    before = state(kernel, block), state(kernel, small)
    assert not kernel.rmap.folio_try_dup_anon_rmap_pmd(block, child, area)
    assert not kernel.rmap.folio_try_dup_anon_rmap_ptes(
        block, block.pfn, 16, child, area
    )
    assert not kernel.rmap.folio_try_dup_anon_rmap_pte(small, small.pfn, child, area)
    assert not kernel.rmap.folio_try_share_anon_rmap(block, block.pfn)
    assert (state(kernel, block), state(kernel, small)) == before


def test_a_small_folio_counts_once():
    """One page is mapped when its first mapping comes, and not when its second does."""
    kernel = kernel_of()
    folio = folio_of(kernel, 0, "file")
    area = area_of(kernel)
    seen = []
    for step in ("add", "add", "remove", "remove"):
        call = getattr(kernel.rmap, f"folio_{step}_{'file_' * (step == 'add')}rmap_pte")
        call(folio, folio.pfn, area)
        seen.append(kernel.vmstat.node["NR_FILE_MAPPED"])
    assert seen == [1, 1, 1, 0]


@BOTH
def test_a_pud_is_counted_but_not_among_blocks(exact):
    """A PUD entry maps all pages; the statistics of blocks know PMDs only."""
    kernel = kernel_of(exact=exact)
    folio: Any = LargeFolio(kernel.pgtable.hpage_pud_nr, 18)
    a, b = area_of(kernel), area_of(kernel)
    for area in (a, b):
        kernel.rmap.folio_add_file_rmap_pud(folio, area)
    assert folio.entire_mapcount == folio.mapcount == 2
    assert kernel.vmstat.node["NR_FILE_MAPPED"] == 1 << 18
    assert kernel.vmstat.node["NR_FILE_PMDMAPPED"] == 0
    for area in (a, b):
        kernel.rmap.folio_remove_rmap_pud(folio, area)
    assert not any(kernel.vmstat.node.values())
    assert not folio.mapcount


def test_a_pud_that_goes_queues_nothing_if_pages_are_counted():
    """PUDs are not tracked among blocks, so none is ever found to be mapped in part."""
    queued = []
    for exact in (True, False):
        kernel = kernel_of(exact=exact)
        area = area_of(kernel)
        folio: Any = LargeFolio(kernel.pgtable.hpage_pud_nr, 18)
        folio.mapping = area.anon_vma
        kernel.rmap.folio_add_rmap_(
            folio, folio.pfn, folio.nr_pages, area, PgtableLevel.PUD
        )
        kernel.rmap.folio_add_anon_rmap_pte(folio, folio.pfn, area, exclusive=False)
        kernel.rmap.folio_remove_rmap_pud(folio, area)
        queued.append(folio.partially_mapped)
    assert queued == [False, True]


def test_an_anonymous_pud_is_warned_of():
    """There are none, and one that is to be exclusive is only warned of."""
    kernel = kernel_of()
    area = area_of(kernel)
    folio: Any = LargeFolio(kernel.pgtable.hpage_pud_nr, 18)
    folio.mapping = area.anon_vma
    kernel.rmap.folio_add_anon_rmap_(
        folio, folio.pfn, folio.nr_pages, area, PgtableLevel.PUD, exclusive=True
    )
    assert [line.split(":")[0] for line in kernel.panic.warnings] == [
        "__folio_add_anon_rmap"
    ]
    assert not any(folio.exclusive)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (0, (0, 1, 0, False)),
        (4, (0, 16, 16, True)),
        (9, (1, 1, ENTIRELY_MAPPED, True)),
    ],
)
def test_a_new_folio_has_its_counts_set(order, expected):
    """The first mapping sets what there is to count: nobody else can see it yet."""
    kernel = kernel_of()
    area = area_of(kernel)
    folio: Any = kernel.page_alloc.alloc(order)
    kernel.rmap.folio_add_new_anon_rmap(folio, area, area.start)
    entire, entries, mapped, large = expected
    assert folio.mapcount == entries
    assert isinstance(folio, LargeFolio) is large
    if large:
        assert (folio.entire_mapcount, folio.nr_pages_mapped) == (entire, mapped)
        assert sum(folio.exclusive) == (1 if entire else folio.nr_pages)
    node = kernel.vmstat.node
    assert node["NR_ANON_MAPPED"] == folio.nr_pages
    assert node["NR_ANON_THPS"] == folio.nr_pages * entire
    assert kernel.vmstat.mthp_nr_anon == ({order: 1} if large else {})


def test_hugetlb_counts_entries_and_no_statistics():
    """A huge page's entries are entire mappings; the node does not count them."""
    kernel = kernel_of()
    a, b = area_of(kernel), area_of(kernel)
    pool = kernel.hugetlb
    pool.set_max_huge_pages(1)
    folio: Any = pool.alloc_migrate_hugetlb_folio(pool.default_hstate)
    rmap = kernel.rmap
    rmap.hugetlb_add_new_anon_rmap(folio, a, a.start)
    assert rmap.hugetlb_try_dup_anon_rmap(folio, b, a)
    rmap.hugetlb_add_file_rmap(folio, b)
    rmap.hugetlb_add_anon_rmap(folio, a, exclusive=False)
    assert (folio.entire_mapcount, folio.mapcount, folio.nr_pages_mapped) == (4, 4, 0)
    for area in (a, b, b, a):
        rmap.hugetlb_remove_rmap(folio, area)
    assert (folio.entire_mapcount, folio.mapcount) == (0, 0)
    assert rmap.hugetlb_try_share_anon_rmap(folio)
    rmap.hugetlb_add_anon_rmap(folio, a, exclusive=True)
    pin(kernel, a.mm, folio)
    before = state(kernel, folio)
    assert not rmap.hugetlb_try_dup_anon_rmap(folio, b, a)
    assert state(kernel, folio) == before
    assert not any(kernel.vmstat.node.values())


# -- levels -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("level", [PgtableLevel.P4D, PgtableLevel.PGD], ids=str)
def test_levels_without_leaves_are_refused_before_anything_changes(exact, level):
    """P4D and PGD map nothing: every entry point says so, and no counter has moved."""
    kernel = kernel_of(exact=exact)
    folio: Any = folio_of(kernel, 9)
    area, other = area_of(kernel), area_of(kernel)
    share(folio, area, other)
    kernel.rmap.folio_add_anon_rmap_pmd(folio, area, exclusive=True)
    before = state(kernel, folio)
    for call in entries_by_level(kernel, folio, area, other).values():
        with pytest.raises(LevelError, match=str(level)):
            call(level)
        assert state(kernel, folio) == before


def test_the_type_checker_refuses_them_too():
    """Mypy rejects the call; were it not so, the comment here would be the error."""
    kernel = kernel_of()
    folio: Any = folio_of(kernel, 9)
    area = area_of(kernel)
    typed: Rmap = kernel.rmap
    with pytest.raises(LevelError):
        typed.folio_add_rmap_(
            folio,
            folio.pfn,
            512,
            area,
            PgtableLevel.P4D,  # type: ignore[arg-type] # this is what is tested
        )


def test_names_of_levels():
    """A report names a level, and says so if it is none."""
    assert [str(level) for level in PgtableLevel] == ["pte", "pmd", "pud", "p4d", "pgd"]
    assert pgtable_level_to_str(9) == "unknown"


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ("zero", "zero page"),
        ("none", "at least one"),
        ("outside", "one folio"),
        ("size", "exactly"),
    ],
)
def test_a_debug_kernel_warns_of_calls_that_make_no_sense(broken, rule):
    """Each rule of a call is looked at, and its breach reported once."""
    kernel = kernel_of(debug=True)
    folio: Any = folio_of(kernel, 4, "file")
    area = area_of(kernel)
    zero: Any = kernel.page_alloc.folio_of(kernel.zero_pfn)
    check = kernel.rmap.folio_rmap_sanity_checks_
    for _ in range(2):
        match broken:
            case "zero":
                check(zero, zero.pfn, 1, PgtableLevel.PTE)
            case "none":
                check(folio, folio.pfn, 0, PgtableLevel.PTE)
            case "outside":
                check(folio, folio.pfn + 10, 7, PgtableLevel.PTE)
            case _:
                check(folio, folio.pfn, 16, PgtableLevel.PMD)
    assert area.anon_vma is not None
    assert len(kernel.panic.warnings) == 1
    assert rule in kernel.panic.warnings[0]


def test_the_huge_zero_folio_is_not_caught():
    """Only callers keep the huge zero folio out: no rule of rmap knows it."""
    kernel = kernel_of(debug=True)
    area = area_of(kernel)
    zero: Any = kernel.huge_memory.mm_get_huge_zero_folio(area.mm)
    kernel.rmap.folio_add_file_rmap_pmd(zero, area)
    assert zero.mapcount == 1
    assert not kernel.panic.warnings


def test_the_block_form_of_file_duplication_counts_pages():
    """As in the kernel: it passes the level of pages, and fork never calls it."""
    kernel = kernel_of()
    folio: Any = folio_of(kernel, 9, "file")
    area, child = area_of(kernel), area_of(kernel)
    kernel.rmap.folio_add_file_rmap_pmd(folio, area)
    kernel.rmap.folio_dup_file_rmap_pmd(folio, child)
    assert (folio.entire_mapcount, folio.mapcount) == (1, 513)


# -- from a folio to its entries -------------------------------------------------------


def locked_away(kernel, process, base, size):
    """Lock [base, base + size) of a process in memory."""
    vma = kernel.vma.vma_lookup(process.mm, base)
    assert (vma.start, vma.end) == (base, base + size)
    vma.flags |= VM_LOCKED


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_what_is_locked_in_memory_is_not_unmapped(ignore, huge):
    """A locked VMA keeps its entries, huge or not, unless it is to be ignored."""
    kernel = boot(cpus=1, rules=False)
    kernel.swapfile.swapon(1024)
    kernel.huge_memory.enabled = "always" if huge else "never"
    size = 2 << 20 if huge else PAGE
    process = kernel.spawn()
    base = process.mmap(size, addr=1 << 32, fixed=True)
    process.write(base, 1)
    process.madvise(base, size, "free")
    kernel.swap.lru_add_drain_all()
    locked_away(kernel, process, base, size)
    find = kernel.pgtable.find_pmd if huge else kernel.pgtable.find_pte
    entry = kernel.pgtable.read(find(process.mm, base))
    folio = kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(entry))
    folio.refcount += 1
    assert folio_trylock(folio)
    folio.flags &= ~PG_dirty
    kernel.rmap.try_to_unmap(folio, TTU_IGNORE_MLOCK if ignore else 0)
    assert bool(folio.mapcount) == (not ignore)


def test_a_page_with_nowhere_to_go_is_said_to_be_so():
    """Who unmaps a page of a process that has no slot is warned, and it stays."""
    kernel = boot(cpus=1, rules=False)
    process = kernel.spawn()
    base = process.mmap(PAGE)
    process.write(base, 1)
    entry = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, base))
    folio = kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(entry))
    assert folio_trylock(folio)
    kernel.rmap.try_to_unmap(folio, 0)
    assert folio.mapcount == 1
    assert any("nowhere" in warning for warning in kernel.panic.warnings)
    with pytest.raises(BadPageError, match="slot"):
        kernel.swap_state.page_swap_entry(folio, folio.pfn)


@pytest.mark.parametrize("advice", ["normal", "random"])
def test_use_through_a_range_read_at_random_is_no_reason_to_keep(advice):
    """folio_referenced() passes over VMAs in which use says nothing of the future."""
    kernel = boot(cpus=1)
    process = kernel.spawn()
    base = process.mmap(PAGE)
    process.madvise(base, PAGE, advice)
    process.write(base, 1)
    entry = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, base))
    folio = kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(entry))
    assert kernel.rmap.folio_referenced(folio)[0] == (advice == "normal")


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_walk_comes_to_each_entry_of_a_folio_once(changes, sync):
    """What page_vma_mapped_walk() finds are the entries that map the folio, in order.

    Whatever was unmapped or protected in between, and across the end of a table.
    """
    kernel = boot(cpus=1)
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process = kernel.spawn()
    base = process.mmap(48 * PAGE, addr=(1 << 32) + (2 << 20) - 16 * PAGE, fixed=True)
    for page in range(48):
        process.write(base + page * PAGE, page + 1)
    for page, unmap in changes:
        if unmap:
            process.madvise(base + page * PAGE, PAGE, "dontneed")
        else:
            process.mprotect(base + page * PAGE, PAGE, "r")
    walk = kernel.page_vma_mapped
    for folio in kernel.page_alloc.folios():
        if not folio.anon or not folio.mapcount:
            continue
        for vma, start, end in kernel.rmap.rmap_walk_anon(
            folio.mapping, folio.index, folio.nr_pages
        ):
            pvmw = walk.define_folio_vma_walk(folio, vma, start, PVMW_SYNC * sync)
            seen = []
            while walk.page_vma_mapped_walk(pvmw):
                seen.append(pvmw.address)
            wanted = [
                addr
                for addr in range(start, end, PAGE)
                if (ptep := kernel.pgtable.find_pte(process.mm, addr)) is not None
                and pte_present(pte := kernel.pgtable.read(ptep))
                and folio.pfn
                <= kernel.pgtable.pte_pfn(pte)
                < folio.pfn + folio.nr_pages
            ]
            assert seen == wanted
