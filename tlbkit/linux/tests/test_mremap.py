"""mm/mremap.c: what moves as a whole, what is flushed, and what is refused."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_trans_huge
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.include.uapi.linux.userfaultfd import UffdMsg
from tlbkit.linux.mm import vma as areas
from tlbkit.linux.mm.mremap import call
from tlbkit.linux.tests.audit import (
    all_frames,
    audit,
    audit_tlbs,
    contiguous,
    entries,
)
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, touched
from tlbkit.linux.tests.test_huge_memory import blocks, targets
from tlbkit.linux.tests.test_tlbflush import closed_form

BLOCK = 512 * PAGE
FAR = 1 << 40
WAIT = ["ishst", "ish"]


def filled(kernel, pages, *, at=FAR, step=1):
    """Start a process with memory at *at*, and number every *step*-th page."""
    size = kernel.pgtable.page_size
    process = kernel.spawn()
    base = process.mmap(pages * size, addr=at, fixed=True)
    for page in range(0, pages, step):
        process.write(base + page * size, page + 1)
    return process, base


def moving(process, base, length, to):
    """The call that moves *length* bytes from *base* to *to*."""
    return lambda: process.mremap(
        base, length, length, maymove=True, fixed=True, new_address=to
    )


def refused(operation):
    """The error of *operation*, which can only be ENOMEM, or ``None``."""
    try:
        operation()
    except SystemCallError as error:
        if error.errno != "ENOMEM":
            raise
        return error
    return None


def holds(process, base, pages, *, size=PAGE):
    """What the pages of a range hold."""
    return [process.read(base + page * size) for page in range(pages)]


# -- the flushes of section 8.2 --------------------------------------------------------


@pytest.mark.parametrize("kpti", [False, True])
@pytest.mark.parametrize("offset", [0, 3])
def test_page_by_page_is_one_flush_of_the_whole_step(kpti, offset):
    """Row "page by page": all levels, page stride, no hint, present or not."""
    kernel = boot(kpti=kpti)
    process, base = filled(kernel, 64, step=9)
    to = 2 * FAR + offset * PAGE
    seen, dsb = targets(kernel, moving(process, base, 64 * PAGE, to))
    move = seen[: closed_form(64) * (1 + kpti)]
    assert {name for name, _ in move} == {"RVAE1IS"}
    assert {(target.first, target.level) for _, target in move} == {(base, None)}
    # Then the table flush of unmapping what is empty now: 8.2, "mremap, afterwards".
    # A barrier follows each of three new tables, and each top entry that is emptied.
    assert dsb == ["ishst"] * 3 + WAIT + ["ishst"] + WAIT
    assert {name for name, _ in seen} == {"RVAE1IS"}
    assert holds(process, to, 64)[::9] == list(range(1, 65, 9))
    audit(kernel)
    audit_tlbs(kernel)


def test_without_range_operations_each_page_of_the_step_is_named():
    """Row "page by page" without range TLBI: one operation a page, not a hull."""
    kernel = boot(model="neoverse-n1")
    process, base = filled(kernel, 64, step=64)
    process.mmap(PAGE, addr=base + 64 * PAGE, fixed=True, prot="r")  # keeps the table
    counts = issued(kernel, moving(process, base, 64 * PAGE, 2 * FAR))
    assert counts.tlbi == {"VAE1IS": 64}
    assert counts.dsb == {"ishst": 1 + 3, "ish": 1}, "three tables are new"


def test_an_empty_range_moves_without_a_flush():
    """Row "page by page": only if a present entry moved is anything flushed."""
    kernel = boot()
    process, base = filled(kernel, 64, step=65)
    process.munmap(base, PAGE)
    process.mmap(PAGE, addr=base, fixed=True)
    process.mmap(PAGE, addr=base + 64 * PAGE, fixed=True, prot="r")  # keeps the table
    assert issued(kernel, moving(process, base, 64 * PAGE, 2 * FAR)).tlbi == {}


def test_steps_end_at_the_tables_of_either_side():
    """Row "page by page": a step goes to the next 2 MiB of source or destination."""
    kernel = boot()
    process, base = filled(kernel, 1024, step=100)
    to = 2 * FAR + 100 * PAGE
    seen, _ = targets(kernel, moving(process, base, 1024 * PAGE, to))
    starts = [target.first for _, target in seen]
    assert starts[0] == base
    for step in (412, 512, 924):
        assert base + step * PAGE in starts
    assert holds(process, to, 1024)[::100] == list(range(1, 1025, 100))
    audit(kernel)


@pytest.mark.parametrize("count", [1, 3])
def test_a_whole_table_moves_by_its_entry(count):
    """Row "whole PTE table": one 2 MiB flush at page stride for each; tables stay."""
    kernel = boot()
    process, base = filled(kernel, count * 512, step=37)
    frames = [kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, base))]
    seen, _ = targets(kernel, moving(process, base, count * BLOCK, 2 * FAR))
    moves = [(name, t.first, t.level) for name, t in seen[:count]]
    assert moves == [("RVAE1IS", base + n * BLOCK, None) for n in range(count)]
    assert process.mm.pgtables[3] == count
    there = kernel.pgtable.find_pmd(process.mm, 2 * FAR)
    assert kernel.pgtable.pte_pfn(kernel.pgtable.read(there)) == kernel.pgtable.pte_pfn(
        frames[0]
    )
    assert holds(process, 2 * FAR, count * 512)[::37] == list(
        range(1, count * 512 + 1, 37)
    )
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize(
    ("model", "kpti"), [("neoverse-n1", False), ("cortex-a75", True)]
)
def test_a_whole_table_without_range_operations_flushes_the_asid(model, kpti):
    """Row "whole PTE table": 512 pages at page stride are the limit: ASIDE1IS each."""
    kernel = boot(model=model)
    process, base = filled(kernel, 1024, step=100)
    process.mmap(PAGE, addr=base + 2 * BLOCK, fixed=True, prot="r")
    counts = issued(kernel, moving(process, base, 2 * BLOCK, 2 * FAR))
    assert counts.tlbi == {"ASIDE1IS": 2 * (1 + kpti)}


def test_a_gigabyte_moves_by_one_entry():
    """Row "1 GiB-aligned": one flush of 1 GiB, and the PMD table is another's now."""
    kernel = boot()
    process, base = filled(kernel, 512 * 512, step=10_000)
    tables = list(process.mm.pgtables)
    process.read(process.mmap(PAGE, addr=2 * FAR - PAGE, fixed=True))
    with_neighbour = list(process.mm.pgtables)
    seen, _ = targets(kernel, moving(process, base, 512 * BLOCK, 2 * FAR))
    name, target = seen[0]
    assert (name, target.first) == ("RVAE1IS", base)
    assert len(seen) == 1 + 1, "no PMD table is left, so only the PUD table goes"
    assert process.mm.pgtables[3] == with_neighbour[3]
    assert tables[3] == 27
    assert holds(process, 2 * FAR, 10_001)[::10_000] == [1, 10_001]
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1"])
def test_a_block_moves_as_one(model):
    """Row "mremap of a THP": one block flush each, all levels, TTL 2."""
    kernel = boot(model=model)
    process, base = blocks(kernel, 2)
    level = 2 if kernel.machine.model.ttl else None
    seen, _ = targets(kernel, moving(process, base, 2 * BLOCK, FAR))
    assert [(t.first, t.level) for _, t in seen[:2]] == [
        (base, level),
        (base + BLOCK, level),
    ]
    assert pmd_trans_huge(
        kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, FAR + BLOCK))
    )
    assert (process.read(FAR), process.read(FAR + BLOCK)) == (0, 1)
    audit(kernel)
    audit_tlbs(kernel)


def test_a_part_of_a_block_moves_by_pages():
    """A block whose addresses do not fit is split, and its pages are moved."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.mremap(base, BLOCK, BLOCK, maymove=True, fixed=True, new_address=FAR + PAGE)
    assert process.mm.pgtables[3] == 2
    assert process.read(FAR + PAGE) == 0
    assert process.mm.anonpages == 512
    assert not any(contiguous(kernel, process, FAR + PAGE, 15)), "not aligned to fold"
    audit(kernel)
    audit_tlbs(kernel)


def test_aligned_runs_of_a_large_folio_stay_contiguous():
    """Pages of a split block that keep their alignment are contiguous again."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.mremap(
        base, BLOCK, BLOCK, maymove=True, fixed=True, new_address=FAR + 16 * PAGE
    )
    assert all(contiguous(kernel, process, FAR + 16 * PAGE, 512))
    audit(kernel)
    audit_tlbs(kernel)


def test_a_range_is_aligned_down_where_nothing_is_in_the_way():
    """Addresses that agree modulo 2 MiB: the first table moves whole if it is ours."""
    for neighbour, steps in ((False, 2), (True, 3)):
        kernel = boot()
        process, base = filled(kernel, 1000, at=FAR + 100 * PAGE)
        if neighbour:
            process.mmap(PAGE, addr=FAR, fixed=True)
        operation = moving(process, base, 1000 * PAGE, 2 * FAR + 100 * PAGE)
        seen, _ = targets(kernel, operation)
        first = FAR if not neighbour else base
        assert seen[0][1].first == first
        assert len({t.first for _, t in seen}) >= steps
        assert holds(process, 2 * FAR + 100 * PAGE, 1000) == list(range(1, 1001))
        audit(kernel)
        audit_tlbs(kernel)


@pytest.mark.parametrize("page_shift", [14])
def test_other_page_sizes(page_shift):
    """A table of 16 KiB pages covers 32 MiB, and moves by one entry all the same."""
    kernel = boot(page_shift=page_shift)
    pgtable = kernel.pgtable
    process, base = filled(kernel, pgtable.ptrs_per_pte, step=100)
    counts = issued(kernel, moving(process, base, pgtable.pmd_size, 2 * FAR))
    assert sum(counts.tlbi.values()) == 2
    assert process.read(2 * FAR + 100 * pgtable.page_size) == 101
    audit(kernel)


# -- safe ------------------------------------------------------------------------------


def test_after_mremap_no_cpu_reaches_the_old_place():
    """Every TLB has let go of the old address when the call returns."""
    kernel = boot()
    process, base = touched(kernel, 8, cpus=(0, 1, 2, 3))
    moving(process, base, 8 * PAGE, FAR)()
    for cpu in range(4):
        for page in range(8):
            assert stale(kernel, process, cpu, base + page * PAGE) is None
    with pytest.raises(Signal, match="SEGV_MAPERR"):
        process.read(base, cpu=1)


def test_without_the_flush_the_old_address_still_writes():
    """Leave out the flush under the locks: another CPU writes through the old one."""
    kernel = boot(cpus=2, model="neoverse-n1", rules=False)
    process, base = touched(kernel, 4, cpus=(0, 1))
    kernel.machine.taken_out = frozenset({"tlbi VAE1IS in move_ptes"})
    process.mremap(
        base, 4 * PAGE, 4 * PAGE, maymove=True, dontunmap=True, new_address=FAR
    )
    process.write(base + PAGE, 99, cpu=1)
    assert process.read(FAR + PAGE) == 99


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1100),
            st.integers(1, 700),
            st.integers(1, 700),
            st.integers(0, 1600),
            st.sampled_from(["fixed", "maymove", "stay", "dontunmap"]),
        ),
        max_size=6,
    ),
    st.sampled_from(["always", "never"]),
)
def test_what_moves_keeps_its_contents(calls, thp):
    """Whatever is resized and moved, pages hold what they held, and nothing leaks."""
    kernel = boot(cpus=2)
    kernel.huge_memory.enabled = thp
    process = kernel.spawn()
    base = process.mmap(1200 * PAGE, addr=FAR, fixed=True)
    known = {}
    for page in range(0, 1200, 7):
        process.write(base + page * PAGE, page + 1, cpu=page % 2)
        known[base + page * PAGE] = page + 1
    for first, old, other, to, how in calls:
        at = base + first * PAGE
        new = old if how == "dontunmap" else other
        target = 2 * FAR + to * PAGE
        before = dict(known)
        try:
            result = process.mremap(
                at,
                old * PAGE,
                new * PAGE,
                maymove=how != "stay",
                fixed=how == "fixed",
                dontunmap=how == "dontunmap",
                new_address=target,
            )
        except SystemCallError:
            if how == "fixed":
                # What was at the new place may be gone.
                end = target + new * PAGE
                known = {a: v for a, v in known.items() if not target <= a < end}
                before = known
            assert before == known
            continue
        for address in [a for a in known if result <= a < result + new * PAGE]:
            if result != at:
                del known[address]
        for address, value in before.items():
            if not at <= address < at + old * PAGE:
                continue
            if result != at or address >= at + new * PAGE:
                known.pop(address, None)
            if address < at + new * PAGE:
                known[address - at + result] = value
    for address, value in known.items():
        assert process.read(address) == value
    audit(kernel)
    audit_tlbs(kernel)
    process.exit()
    assert all_frames(kernel) == 2


@pytest.mark.parametrize("thp", [False, True])
@pytest.mark.parametrize("gap", [0, 100])
def test_without_memory_everything_moves_back(thp, gap):
    """Fail each allocation in turn: the call says ENOMEM, and nothing has moved."""
    for failing in range(1, 30):
        kernel = boot(cpus=1)
        if thp:
            process, base = blocks(kernel, 2)
        else:
            process, base = filled(kernel, 1024, step=50)
        before = holds(process, base, 1024)[::50]
        books = (process.mm.total_vm, process.mm.anonpages, len(process.mm.vmas))
        left = [failing]

        def fail(left=left):
            left[0] -= 1
            return left[0] == 0

        kernel.page_alloc.fail = fail
        operation = moving(process, base, 1024 * PAGE, 2 * FAR + gap * PAGE)
        moved = refused(operation) is None
        kernel.page_alloc.fail = None
        if moved and left[0] > 0:
            break
        at = 2 * FAR + gap * PAGE if moved else base
        assert holds(process, at, 1024)[::50] == before
        now = (process.mm.total_vm, process.mm.anonpages, len(process.mm.vmas))
        assert now[::2] == books[::2]
        audit(kernel)
        audit_tlbs(kernel)
        process.exit()
        assert all_frames(kernel) == 2
    else:
        raise AssertionError("the call never ran to its end")


# -- sizes and places ------------------------------------------------------------------


def test_grow_in_place():
    """Where nothing follows, a mapping grows without a move, and merges."""
    kernel = boot()
    process, base = filled(kernel, 4)
    after = process.mmap(4 * PAGE, addr=base + 6 * PAGE, fixed=True)
    total = process.mm.total_vm
    assert issued(kernel, lambda: process.mremap(base, 4 * PAGE, 6 * PAGE)).tlbi == {}
    assert process.mm.total_vm == total + 2
    vma = kernel.vma.vma_lookup(process.mm, base)
    assert (vma.start, vma.end) == (base, base + 10 * PAGE), "it met its neighbour"
    process.write(base + 5 * PAGE, 5)
    assert process.read(after) == 0
    audit(kernel)


def test_grow_by_a_move():
    """Where something follows, it moves if it may, and says ENOMEM if not."""
    kernel = boot()
    process, base = filled(kernel, 4)
    process.mmap(PAGE, addr=base + 4 * PAGE, fixed=True, prot="r")
    with pytest.raises(SystemCallError, match="ENOMEM"):
        process.mremap(base, 4 * PAGE, 8 * PAGE)
    to = process.mremap(base, 4 * PAGE, 8 * PAGE, maymove=True)
    assert to != base
    assert holds(process, to, 8) == [1, 2, 3, 4, 0, 0, 0, 0]
    assert kernel.vma.vma_lookup(process.mm, base) is None
    audit(kernel)


def test_growing_from_the_middle_moves():
    """A range that does not end with its area can only grow elsewhere."""
    process, base = filled(boot(), 8)
    with pytest.raises(SystemCallError, match="ENOMEM"):
        process.mremap(base, 4 * PAGE, 5 * PAGE)
    to = process.mremap(base, 4 * PAGE, 5 * PAGE, maymove=True)
    assert holds(process, to, 5) == [1, 2, 3, 4, 0]
    assert holds(process, base + 4 * PAGE, 4) == [5, 6, 7, 8]


def test_shrink():
    """What is cut off is unmapped, with the flushes of munmap."""
    kernel = boot(model="neoverse-n1")
    process, base = filled(kernel, 8)
    counts = issued(kernel, lambda: process.mremap(base, 8 * PAGE, 3 * PAGE))
    assert counts.tlbi == {"VALE1IS": 5}
    assert holds(process, base, 3) == [1, 2, 3]
    with pytest.raises(Signal):
        process.read(base + 3 * PAGE)
    assert process.mremap(base, 3 * PAGE, 3 * PAGE) == base, "no change, no error"
    audit(kernel)


def test_shrink_and_move():
    """MREMAP_FIXED to a shorter range first cuts, then moves the rest."""
    kernel = boot()
    process, base = filled(kernel, 8)
    process.mremap(
        base, 8 * PAGE, 3 * PAGE, maymove=True, fixed=True, new_address=2 * FAR
    )
    assert holds(process, 2 * FAR, 3) == [1, 2, 3]
    assert kernel.vma.vma_lookup(process.mm, base) is None
    audit(kernel)


def test_what_is_at_the_new_place_is_unmapped():
    """MREMAP_FIXED replaces, as MAP_FIXED does."""
    kernel = boot()
    process, base = filled(kernel, 4)
    other = process.mmap(8 * PAGE, addr=2 * FAR, fixed=True)
    process.write(other + 2 * PAGE, 77)
    process.write(other + 6 * PAGE, 78)
    moving(process, base, 4 * PAGE, other)()
    assert holds(process, other, 8) == [1, 2, 3, 4, 0, 0, 78, 0]
    audit(kernel)


def test_several_areas_move_with_their_gaps():
    """One call moves areas of different rights, and the hole between them."""
    kernel = boot()
    process, base = filled(kernel, 8)
    process.mprotect(base + 2 * PAGE, 2 * PAGE, "r")
    process.munmap(base + 5 * PAGE, PAGE)
    moving(process, base, 8 * PAGE, 2 * FAR)()
    assert holds(process, 2 * FAR, 5) == [1, 2, 3, 4, 5]
    assert holds(process, 2 * FAR + 6 * PAGE, 2) == [7, 8]
    with pytest.raises(Signal):
        process.write(2 * FAR + 2 * PAGE, 1)
    assert kernel.vma.vma_lookup(process.mm, 2 * FAR + 5 * PAGE) is None
    audit(kernel)


def test_dontunmap_leaves_an_empty_area():
    """MREMAP_DONTUNMAP: the old addresses stay mapped and read as zeros."""
    kernel = boot()
    process, base = filled(kernel, 4)
    total = process.mm.total_vm
    to = process.mremap(base, 4 * PAGE, 4 * PAGE, maymove=True, dontunmap=True)
    assert holds(process, to, 4) == [1, 2, 3, 4]
    assert holds(process, base, 4) == [0] * 4
    assert process.mm.total_vm == total + 4
    old = kernel.vma.vma_lookup(process.mm, base)
    assert old.anon_vma is None
    process.write(base, 9)
    assert process.read(to) == 1
    audit(kernel)


def test_dontunmap_takes_a_hint():
    """With MREMAP_DONTUNMAP alone, the new address is a wish."""
    process, base = filled(boot(), 4)
    how = {"maymove": True, "dontunmap": True, "new_address": 2 * FAR}
    assert process.mremap(base, 4 * PAGE, 4 * PAGE, **how) == 2 * FAR
    process.write(base, 5)
    assert process.mremap(base, 4 * PAGE, 4 * PAGE, **how) != 2 * FAR


def test_moved_pages_are_found_by_reclaim_and_fork():
    """The index of a page stays right, so a child and a split find its new place."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    to = process.mremap(base, BLOCK, BLOCK, maymove=True, dontunmap=True)
    child = process.fork()
    process.madvise(to, BLOCK, "nohugepage")
    process.munmap(to + 5 * PAGE, PAGE)
    child.munmap(to + 5 * PAGE, PAGE)
    assert kernel.huge_memory.deferred_split_scan() == 1
    assert process.read(to) == child.read(to) == 0
    audit(kernel)
    audit_tlbs(kernel)


# -- files and shared memory -----------------------------------------------------------


@pytest.mark.parametrize("gap", [0, 3])
def test_shared_memory_moves_and_stays_shared(gap):
    """Pages of shared memory move as private ones do, and a child still sees writes."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(512 * PAGE, shared=True, addr=FAR, fixed=True)
    for page in range(0, 512, 50):
        process.write(base + page * PAGE, page + 1)
    child = process.fork()
    to = 2 * FAR + gap * PAGE
    moving(process, base, 512 * PAGE, to)()
    assert holds(process, to, 512)[::50] == list(range(1, 513, 50))
    child.write(base + 50 * PAGE, 99)
    assert process.read(to + 50 * PAGE) == 99
    audit(kernel)
    audit_tlbs(kernel)


def test_a_length_of_zero_maps_shared_memory_once_more():
    """The old mapping stays as it is, and both show the same pages."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE, shared=True)
    process.write(base + PAGE, 7)
    other = process.mremap(base, 0, 4 * PAGE, maymove=True)
    assert other != base
    process.write(other + PAGE, 8)
    assert holds(process, base, 4) == [0, 8, 0, 0]
    audit(kernel)


def test_a_private_mapping_of_a_file_takes_its_copies_along():
    """What was written moves; what was not is found in the file again."""
    kernel = boot()
    process = kernel.spawn()
    fd = process.open("f", create=True)
    process.ftruncate(fd, 4 * PAGE)
    process.pwrite(fd, 2 * PAGE, 5)
    base = process.mmap(4 * PAGE, fd=fd)
    process.write(base, 1)
    moving(process, base, 4 * PAGE, 2 * FAR)()
    assert holds(process, 2 * FAR, 4) == [1, 0, 5, 0]
    audit(kernel)
    audit_tlbs(kernel)


# -- what is refused -------------------------------------------------------------------

FIXED = {"maymove": True, "fixed": True, "new_address": 2 * FAR}


@pytest.mark.parametrize(
    ("offset", "old", "new", "how", "errno"),
    [
        (1, 4, 4, {}, "EINVAL"),  # not aligned
        (0, 4, 0, {}, "EINVAL"),  # nothing is left
        (0, 4, 1 << 40, {}, "EINVAL"),  # more than a task has
        (0, 4, 4, {"fixed": True, "new_address": 2 * FAR}, "EINVAL"),  # may not move
        (0, 4, 4, {"dontunmap": True}, "EINVAL"),
        (0, 4, 4, FIXED | {"new_address": 2 * FAR + 1}, "EINVAL"),
        (0, 4, 4, FIXED | {"new_address": 1 << 48}, "EINVAL"),
        (0, 4, 4, FIXED | {"new_address": FAR + PAGE}, "EINVAL"),  # overlap
        (0, 4, 5, {"maymove": True, "dontunmap": True}, "EINVAL"),  # resized
        (8 * PAGE, 4, 4, {}, "EFAULT"),  # nothing there
        (8 * PAGE, 4, 4, FIXED, "EFAULT"),
        (0, 0, 4, {"maymove": True}, "EINVAL"),  # a second mapping of private memory
        (0, 9, 10, {"maymove": True}, "EFAULT"),  # over the end of the area
        (0, 9, 10, FIXED, "EFAULT"),
    ],
)
def test_errors(offset, old, new, how, errno):
    """Mremap refuses by name what Linux refuses, and then nothing has changed."""
    process, base = filled(boot(), 8)
    with pytest.raises(SystemCallError) as caught:
        process.mremap(base + offset, old * PAGE, new * PAGE, **how)
    assert caught.value.errno == errno
    assert holds(process, base, 8) == list(range(1, 9))


def test_a_gap_at_the_start_is_refused_and_gaps_later_are_not():
    """A move of several areas must begin in one; it may end beyond them."""
    process, base = filled(boot(), 8)
    with pytest.raises(SystemCallError, match="EFAULT"):
        moving(process, base - PAGE, 4 * PAGE, 2 * FAR)()
    moving(process, base, 12 * PAGE, 2 * FAR)()
    assert holds(process, 2 * FAR, 8) == list(range(1, 9))


def test_an_argument_wins_over_the_area():
    """What is wrong in itself is EINVAL, before anybody looks for the area."""
    process = boot().spawn()
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.mremap(FAR, PAGE, PAGE, fixed=True, new_address=2 * FAR)


def test_too_many_areas(monkeypatch):
    """Close to the limit of areas a move is refused before anything is unmapped."""
    monkeypatch.setattr(call, "DEFAULT_MAX_MAP_COUNT", 7)
    monkeypatch.setattr(areas, "DEFAULT_MAX_MAP_COUNT", 7)
    process, base = filled(boot(), 4)
    other = process.mmap(4 * PAGE, addr=2 * FAR, fixed=True)
    process.write(other, 1)
    with pytest.raises(SystemCallError, match="ENOMEM"):
        moving(process, base, 4 * PAGE, other)()
    assert process.read(other) == 1


# -- who is told -----------------------------------------------------------------------


def watched_pages(kernel, *features):
    """A process with four written, protected pages and what its userfaultfd is told."""
    process, base = filled(kernel, 4)
    fd = process.userfaultfd(*features)
    fd.register(base, 4 * PAGE, missing=True, wp=True)
    fd.writeprotect(base, 4 * PAGE)
    told: list[UffdMsg] = []
    fd.serve(told.append)
    return process, base, told


def test_who_asked_is_told_and_pages_stay_protected():
    """With EVENT_REMAP the context goes along, and so do the marks."""
    kernel = boot()
    process, base, told = watched_pages(kernel, "EVENT_REMAP")
    moving(process, base, 4 * PAGE, 2 * FAR)()
    assert told == [UffdMsg("remap", base, end=base + 4 * PAGE, to=2 * FAR)]
    vma = kernel.vma.vma_lookup(process.mm, 2 * FAR)
    assert vma.uffd is not None
    assert all(pte >> 58 & 1 for pte in entries(kernel, process, 2 * FAR, 4))
    assert vma.uffd.mmap_changing == 0


def test_who_did_not_ask_loses_the_area_and_the_marks():
    """Without EVENT_REMAP nothing is watched, or protected, at the new place."""
    kernel = boot()
    process, base, told = watched_pages(kernel)
    to = 2 * FAR
    moving(process, base, 4 * PAGE, to)()
    assert told == []
    assert kernel.vma.vma_lookup(process.mm, to).uffd is None
    assert not any(pte >> 58 & 1 for pte in entries(kernel, process, to, 4))
    process.write(to, 5)
    audit(kernel)


def test_marks_that_are_lost_keep_a_table_from_moving_whole():
    """Each entry must be looked at, so even an aligned 2 MiB moves page by page."""
    for feature, whole in (("EVENT_REMAP", True), ("EVENT_REMOVE", False)):
        kernel = boot()
        process, base = filled(kernel, 512, step=64)
        fd = process.userfaultfd(feature)
        fd.register(base, BLOCK, missing=True, wp=True)
        fd.writeprotect(base, BLOCK)
        fd.serve(lambda _: None)
        table = kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, base))
        moving(process, base, BLOCK, 2 * FAR)()
        now = kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, 2 * FAR))
        assert (now == table) == whole
        marks = [pte >> 58 & 1 for pte in entries(kernel, process, 2 * FAR, 512)]
        assert sum(marks) == 8 * whole
        audit(kernel)


def test_a_watched_area_does_not_move_with_others():
    """To tell of one, the lock would have to be dropped between two moves."""
    process, base, _ = watched_pages(boot(), "EVENT_REMAP")
    process.mmap(PAGE, addr=base + 4 * PAGE, fixed=True)
    with pytest.raises(SystemCallError, match="EFAULT"):
        moving(process, base, 5 * PAGE, 2 * FAR)()


def test_a_failed_move_is_not_told():
    """Who was to be told of a move that did not happen hears nothing."""
    kernel = boot()
    process, base, told = watched_pages(kernel, "EVENT_REMAP")
    process.mmap(PAGE, addr=base + 4 * PAGE, fixed=True, prot="r")
    kernel.page_alloc.fail = lambda: True
    with suppress(SystemCallError):
        moving(process, base, 4 * PAGE, 2 * FAR)()
    kernel.page_alloc.fail = None
    assert told == []
    assert kernel.vma.vma_lookup(process.mm, base).uffd.mmap_changing == 0
    audit(kernel)


# -- batches ---------------------------------------------------------------------------


def test_only_a_contiguous_block_moves_at_once():
    """Unfolded entries move one by one, and storing the last one folds them.

    So the block is flushed at its new place, before the flush of the old one.
    """
    kernel = boot(bbml2_noabort=False)
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process, base = filled(kernel, 16, at=1 << 32)
    process.fork().exit()
    for page in range(16):
        process.write(base + page * PAGE, 7)
    counts = issued(kernel, moving(process, base, 16 * PAGE, 1 << 33))
    assert counts.tlbi == {"RVALE1IS": 1, "RVAE1IS": 2}
    assert counts.dsb["ish"] == 3


@pytest.mark.parametrize(
    ("version", "pages", "found"),
    [("v6.17", 16, 7), ("v6.17", 32, 666), ("v6.18", 32, 7), ("v6.19", 32, 7)],
)
def test_a_batch_that_moves_agrees_in_the_write_bit(version, pages, found):
    """A shared page beside one that is exclusive is not written without a copy.

    Before 04d1c9d60c6e all that moved with a writable entry became writable.
    """
    kernel = boot(version, cpus=2, rules=False)
    kernel.huge_memory.set_hugepages_enabled(pages * 4, "always")
    process, base = filled(kernel, pages, at=1 << 32)
    for page in range(pages):
        process.write(base + page * PAGE, 7)
    process.fork(cpu=1).exit()
    own = 1 if pages == 16 else 16
    for page in range(own):
        process.write(base + page * PAGE, 7)
    process.mprotect(base, pages * PAGE, "r")
    process.mprotect(base, pages * PAGE, "rw")
    process.pin(base, PAGE, write=True)
    child = process.fork(cpu=1)
    there = moving(process, base, pages * PAGE, 1 << 33)()
    process.write(there + own * PAGE, 666)
    assert child.read(base + own * PAGE) == found


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["write", "fork", "mremap", "mprotect", "leave"]),
            st.integers(0, 31),
        ),
        max_size=12,
    ),
    version=st.sampled_from(["v6.18", "v6.19"]),
    large=st.sampled_from([0, 16, 64, 128]),
)
def test_contents_agree_with_a_plain_model_of_memory(steps, version, large):
    """After fork, mremap, mprotect and writes, each process reads what it should."""
    kernel = boot(version, cpus=2, rules=False)
    if large:
        kernel.huge_memory.set_hugepages_enabled(large, "always")
    process, base = filled(kernel, 32, at=1 << 32)
    people = [(process, base, {page: page + 1 for page in range(32)})]
    place = 1 << 34
    for number, (what, page) in enumerate(steps):
        process, base, memory = people[page % len(people)]
        if what == "write":
            process.write(base + page * PAGE, 1000 + number)
            memory[page] = 1000 + number
        elif what == "fork" and len(people) < 4:
            people.append((process.fork(cpu=1), base, dict(memory)))
        elif what == "mremap":
            place += 1 << 24
            moving(process, base, 32 * PAGE, place)()
            people[page % len(people)] = (process, place, memory)
        elif what == "mprotect":
            process.mprotect(base + page % 16 * PAGE, 16 * PAGE, "r")
            process.mprotect(base, 32 * PAGE, "rw")
        elif what == "leave" and len(people) > 1:
            people.pop(page % len(people))[0].exit()
    for process, base, memory in people:
        for page, value in memory.items():
            assert process.read(base + page * PAGE) == value
