"""Blocks that a driver or a file system inserts, at a PMD or a PUD entry."""

import pytest

from tlbkit.lab.insert import EXISTING, Place
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_none,
    pte_write,
    pte_young,
)
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHARED,
)
from tlbkit.linux.include.linux.swapops import SwpEntry, swp_entry_to_pte
from tlbkit.linux.kernel.panic import BugError
from tlbkit.linux.tests.blocks import Driver
from tlbkit.linux.tests.support import boot

LEVELS = pytest.mark.parametrize("level", ["pmd", "pud"])
OCCUPIED = [case for case in EXISTING if case != "none"]


@LEVELS
@pytest.mark.parametrize("existing", OCCUPIED)
@pytest.mark.parametrize("vm_write", [False, True])
def test_a_read_over_something_changes_nothing(level, existing, vm_write):
    """Whatever is there stays, and the answer is that the access may be repeated."""
    place = Place(
        boot("fixed", cpus=1, rules=False), existing, level=level, vm_write=vm_write
    )
    before = place.state()
    assert place.insert(place.folio) == VM_FAULT_NOPAGE
    assert place.insert(place.folio.pfn) == VM_FAULT_NOPAGE
    assert place.state() == before
    assert not place.kernel.panic.warnings


@LEVELS
def test_a_folio_is_counted_once(level):
    """A block entry is one reference and one mapping, and all its pages resident."""
    place = Place(boot("fixed", cpus=1), level=level)
    assert place.insert(place.folio) == VM_FAULT_NOPAGE
    state = place.state()
    assert (state["refcount"], state["mapcount"], state["entire"]) == (2, 1, 1)
    assert state["rss"] == (place.folio.nr_pages, 0, 0)
    assert not place.pgtable.pmd_special(place.entry)


@LEVELS
def test_frames_are_not_counted(level):
    """A bare frame number leaves every count alone, and is marked if it can be."""
    place = Place(boot("fixed", cpus=1), level=level)
    before = place.state()
    assert place.insert(place.folio.pfn) == VM_FAULT_NOPAGE
    after = place.state()
    assert pmd_trans_huge(after.pop("entry"))
    assert pte_none(before.pop("entry"))
    assert before == after
    assert place.pgtable.pmd_special(place.entry) == (level == "pmd")
    assert not place.pgtable.pud_special(place.entry)


@LEVELS
@pytest.mark.parametrize("vm_write", [False, True])
@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_a_write_makes_the_entry_dirty_and_writable_if_the_area_is(
    level, vm_write, write, bare
):
    """Only a write dirties, and only a writable area gives the right."""
    place = Place(boot("fixed", cpus=1), level=level, vm_write=vm_write)
    place.insert(place.folio.pfn if bare else place.folio, write=write)
    assert pte_dirty(place.entry) == write
    if not vm_write:
        assert not pte_write(place.entry)
    if write and vm_write:
        assert pte_write(place.entry)
    if write:
        assert pte_young(place.entry)


@LEVELS
@pytest.mark.parametrize("existing", OCCUPIED)
def test_a_write_over_something_gives_rights_or_a_warning(level, existing):
    """The same frame becomes writable; another one is left alone, with a warning.

    A table's or a migration's bits are compared as if they were a frame number. The
    huge zero folio is expected where a PMD's block was, and not at a PUD.
    """
    place = Place(boot("fixed", cpus=1, rules=False), existing, level=level)
    before = place.entry
    assert place.insert(place.folio, write=True) == VM_FAULT_NOPAGE
    if existing.startswith("same"):
        assert pte_write(place.entry)
        assert pte_dirty(place.entry)
        assert not place.kernel.panic.warnings
    else:
        assert place.entry == before
        silent = existing == "huge zero" and level == "pmd"
        assert len(place.kernel.panic.warnings) == (not silent)
    assert place.folio.mapcount == 0


def test_a_migration_of_the_same_frames_passes_for_their_block():
    """What is compared is where a frame number would be, also of what is not present.

    A swap entry of arm64 has its offset there, and that of a migration is the frame. So
    the note of a folio that migrates is taken for its block, and given rights. A check
    for presence was posted, and left out.
    """
    place = Place(boot("fixed", cpus=1))
    note = swp_entry_to_pte(SwpEntry(27, place.folio.pfn))
    place.kernel.machine.memory.write(place.entryp, note)
    assert place.insert(place.folio, write=True) == VM_FAULT_NOPAGE
    assert place.entry != note
    assert not place.kernel.panic.warnings


@LEVELS
def test_a_block_that_begins_before_the_area_is_refused(level):
    """SIGBUS; that it may end after the area is the caller's to see."""
    place = Place(boot("fixed", cpus=1), level=level)
    place.vma.start += place.pgtable.page_size
    assert place.insert(place.folio) == VM_FAULT_SIGBUS
    place.vma.start -= place.pgtable.page_size
    place.vma.end = place.vma.start + place.pgtable.page_size
    assert place.insert(place.folio) == VM_FAULT_NOPAGE


@LEVELS
@pytest.mark.parametrize(
    "flags",
    [0, VM_PFNMAP | VM_MIXEDMAP, VM_PFNMAP | VM_MAYWRITE],
    ids=["neither", "both", "private"],
)
def test_frames_in_a_wrong_area_stop_the_kernel(level, flags):
    """Exactly one of the two marks, and no VM_PFNMAP where pages are copied."""
    place = Place(boot("fixed", cpus=1), level=level)
    kept = place.vma.flags & ~(VM_PFNMAP | VM_MIXEDMAP | VM_MAYWRITE | VM_SHARED)
    place.vma.flags = kept | flags
    with pytest.raises(BugError):
        place.insert(place.folio.pfn)
    assert pte_none(place.entry)


def driven(what_of, *, level="pmd", version="fixed", flags=VM_SHARED):
    """A process with an area of two blocks that a driver answers for."""
    kernel = boot(version, cpus=2)
    pgtable = kernel.pgtable
    size = pgtable.pmd_size if level == "pmd" else pgtable.pud_size
    process = kernel.spawn()
    start = process.mmap(size, addr=size * 8, shared=True)
    vma = kernel.vma.vma_lookup(process.mm, start)
    vma.flags |= flags
    vma.ops = Driver(kernel, what_of(kernel, (size >> pgtable.page_shift)))
    return kernel, process, start, vma


def folio_of(kernel, pages):
    """A folio of that many pages."""
    return kernel.page_alloc.alloc_zeroed(pages.bit_length() - 1)


def frames_of(kernel, pages):
    """The first of so many frames that no page is behind, and aligned to no more."""
    del kernel
    return (1 << 24) + pages


@LEVELS
def test_a_driver_s_block_is_reached_by_a_load_and_a_store(level):
    """One fault maps all of it, and what is written is in the folio."""
    kernel, process, start, vma = driven(folio_of, level=level)
    assert process.read(start + 5 * kernel.pgtable.page_size) == 0
    process.write(start + 4096, 7, cpu=1)
    folio = vma.ops.what
    assert kernel.machine.memory.read((folio.pfn << 12) + 4096) == 7
    assert (folio.refcount, folio.mapcount) == (2, 1)
    process.munmap(start, vma.end - vma.start)
    assert (folio.refcount, folio.mapcount) == (1, 0)
    assert process.mm.filepages == 0


@LEVELS
def test_two_threads_reading_the_same_block_count_it_once(level):
    """The second finds the first one's entry: one reference, one mapping."""
    _kernel, process, start, vma = driven(folio_of, level=level)
    for cpu in (0, 1):
        process.read(start, cpu=cpu)
    assert (vma.ops.what.refcount, vma.ops.what.mapcount) == (2, 1)


@LEVELS
def test_a_child_gets_frames_but_faults_folios_in(level):
    """Fork copies entries of areas that no fault may fill again, and no others."""
    for what, flags in ((frames_of, VM_SHARED | VM_PFNMAP), (folio_of, VM_SHARED)):
        kernel, process, start, vma = driven(what, level=level, flags=flags)
        process.read(start)
        child = process.fork()
        memory = kernel.memory
        find = memory.pud_alloc if level == "pud" else memory.pmd_alloc
        entry = kernel.pgtable.read(find(child.mm, start))
        assert pmd_trans_huge(entry) == (what is frames_of)
        assert not pte_young(entry)
        if what is folio_of:
            child.read(start)
            assert vma.ops.what.mapcount == 2
            child.exit()
            assert vma.ops.what.mapcount == 1


@LEVELS
def test_a_part_unmapped_takes_the_whole_block_away(level):
    """A file's block is not split into pages: what stays is found again by faults."""
    kernel, process, start, vma = driven(folio_of, level=level)
    process.write(start, 3)
    folio = vma.ops.what
    half = (vma.end - vma.start) // 2
    process.munmap(start + half, half)
    assert (folio.refcount, folio.mapcount, process.mm.filepages) == (1, 0, 0)
    assert kernel.pgtable_generic.deposited(0) == 0


def test_frames_of_a_pud_are_zapped_without_a_folio():
    """Nothing is counted at a PUD entry of a driver's frames, and nothing dropped."""
    kernel, process, start, vma = driven(
        frames_of, level="pud", flags=VM_SHARED | VM_PFNMAP
    )
    process.read(start)
    used = kernel.page_alloc.in_use
    process.munmap(start, vma.end - vma.start)
    assert kernel.page_alloc.in_use <= used
    assert process.mm.filepages == 0
