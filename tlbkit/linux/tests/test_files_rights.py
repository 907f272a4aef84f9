"""The rights of mapped files: mprotect, write faults, fork and advice, with flushes."""

import pytest

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_present,
    pte_protnone,
    pte_write,
    pte_young,
)
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.mm.mmap import MAP_SHARED_VALIDATE
from tlbkit.linux.tests.audit import audit, audit_tlbs, contiguous, entries
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, total
from tlbkit.linux.tests.test_files import filled

MEMORY = pytest.mark.parametrize("memfd", [False, True], ids=["file", "memfd"])
VERSIONS = pytest.mark.parametrize("version", ["v6.17", "v6.19"])
PAGES = 4


def mapped(version="v6.19", *, memfd=False, shared=True, written=0, **machine):
    """A process that maps a clean file, has read all of it and written *written*."""
    kernel = boot(version, **machine)
    process, fd = filled(kernel, PAGES, memfd=memfd)
    process.fsync(fd)
    base = process.mmap(PAGES * PAGE, fd=fd, shared=shared)
    for page in range(PAGES):
        process.read(base + page * PAGE)
    for page in range(written):
        process.write(base + page * PAGE, 100 + page)
    return kernel, process, base


def check(kernel):
    """The books balance, and no TLB grants more than the tables do."""
    audit(kernel)
    audit_tlbs(kernel)


# -- a write -------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("hw_dbm", [False, True])
def test_a_first_shared_write_flushes_here_or_everywhere(version, hw_dbm):
    """cb1fa2e99955: the entry of a clean page of a file becomes writable, flushed here.

    Before that, everywhere.
    """
    kernel, process, base = mapped(version, hw_dbm=hw_dbm)
    counts = issued(kernel, lambda: process.write(base, 5))
    local = version == "v6.19"
    assert counts.tlbi == {"VALE1" if local else "VALE1IS": 1}
    check(kernel)


def test_another_cpu_gets_over_its_stale_entry_by_itself():
    """What is still read-only in its TLB faults once, and is dropped there alone."""
    kernel, process, base = mapped()
    process.read(base, cpu=1)
    process.write(base, 5)
    assert stale(kernel, process, 1, base) is not None
    counts = issued(kernel, lambda: process.write(base, 6, cpu=1))
    assert counts.spurious_faults == 1
    assert counts.tlbi == {"VALE1": 1}
    check(kernel)


@VERSIONS
@MEMORY
def test_a_private_write_copies_and_flushes_everywhere(version, memfd):
    """The copy takes the place of the file's page: one broadcast, in any kernel."""
    kernel, process, base = mapped(version, memfd=memfd, shared=False)
    counts = issued(kernel, lambda: process.write(base, 5))
    assert counts.tlbi == {"VALE1IS": 1}
    assert process.mm.anonpages == 1
    check(kernel)
    process.munmap(base + PAGE, PAGE)
    fresh = process.mmap(PAGE, fd=3, shared=False)
    counts = issued(kernel, lambda: process.write(fresh, 6))
    assert counts.tlbi == {}, "nothing was mapped, so nothing is stale"
    check(kernel)


# -- mprotect ------------------------------------------------------------------------


@VERSIONS
@MEMORY
@pytest.mark.parametrize("shared", [False, True])
def test_c320dbb7c80d_holds_for_files(version, memfd, shared):
    """No entry that hardware could not see is flushed: none to r, and none to rw."""
    kernel, process, base = mapped(version, memfd=memfd, shared=shared, written=2)
    size = PAGES * PAGE
    hidden = issued(kernel, lambda: process.mprotect(base, size, "none"))
    assert hidden.dsb["ish"] == 1
    back = issued(kernel, lambda: process.mprotect(base, size, "rw"))
    assert back.dsb["ish"] == (1 if version == "v6.17" else 0)
    process.mprotect(base, size, "none")
    back = issued(kernel, lambda: process.mprotect(base, size, "r"))
    assert back.dsb["ish"] == (1 if version == "v6.17" else 0)
    assert process.read(base) == 100
    check(kernel)


@MEMORY
def test_what_becomes_writable_at_once_is_what_is_dirty(memfd):
    """Mprotect to rw spares the fault where the owner knows of the write already.

    Shared memory has no owner who wants to know: all of it becomes writable.
    """
    kernel, process, base = mapped(memfd=memfd, written=2)
    process.mprotect(base, PAGES * PAGE, "r")
    assert not any(pte_write(pte) for pte in entries(kernel, process, base, PAGES))
    process.mprotect(base, PAGES * PAGE, "rw")
    writable = [pte_write(pte) for pte in entries(kernel, process, base, PAGES)]
    assert writable == [True, True, memfd, memfd]
    assert total(issued(kernel, lambda: process.write(base, 1))) == 0
    check(kernel)


def test_pages_of_files_that_are_dirty_are_not_hidden():
    """Hiding pages to learn who uses them passes by what cannot move soon."""
    kernel, process, base = mapped(written=1)
    vma = kernel.vma.vma_lookup(process.mm, base)
    kernel.mempolicy.change_prot_numa(vma, base, base + PAGES * PAGE)
    hidden = [pte_protnone(pte) for pte in entries(kernel, process, base, PAGES)]
    assert hidden == [False, True, True, True]
    for page in range(PAGES):
        process.write(base + page * PAGE, page)
    check(kernel)


# -- fork, populate, fault-around ----------------------------------------------------


@MEMORY
def test_fork_copies_entries_only_where_private_pages_may_be(memfd):
    """A child faults pages of files in by itself; private copies it has to be given."""
    kernel, process, base = mapped(memfd=memfd, written=1)
    child = process.fork(cpu=1)
    assert child.mm.filepages == child.mm.shmempages == 0
    assert child.read(base) == 100
    kernel, process, base = mapped(memfd=memfd, shared=False, written=1)
    child = process.fork(cpu=1)
    assert child.mm.anonpages == 1
    assert child.mm.filepages + child.mm.shmempages == PAGES - 1
    child.write(base, 7)
    child.write(base + PAGE, 8)
    assert [process.read(base), process.read(base + PAGE)] == [100, 2]
    check(kernel)


@pytest.mark.parametrize(
    ("shared", "memfd", "faults"),
    [(True, True, 0), (True, False, PAGES), (False, False, 0), (False, True, 0)],
)
def test_populate_reads_what_is_shared_and_copies_what_is_private(
    shared, memfd, faults
):
    """After MAP_POPULATE only the owner of clean shared pages has to be told."""
    kernel = boot()
    process, fd = filled(kernel, PAGES, memfd=memfd)
    process.fsync(fd)
    base = process.mmap(PAGES * PAGE, fd=fd, shared=shared, populate=True)
    resident = process.mm.filepages + process.mm.shmempages + process.mm.anonpages
    assert resident == PAGES
    assert (process.mm.anonpages == PAGES) == (not shared)

    def write_all():
        for page in range(PAGES):
            process.write(base + page * PAGE, page)

    assert sum(issued(kernel, write_all).faults.values()) == faults
    check(kernel)


@pytest.mark.parametrize("hw_af", [False, True])
def test_what_was_not_asked_for_is_mapped_old(hw_af):
    """Around a fault pages look unused, where hardware will say when they are not."""
    kernel = boot(hw_af=hw_af, hw_dbm=False)
    process, fd = filled(kernel, PAGES)
    base = process.mmap(PAGES * PAGE, fd=fd)
    process.read(base + PAGE)
    ptes = entries(kernel, process, base, PAGES)
    assert all(pte_present(pte) for pte in ptes)
    assert [pte_young(pte) for pte in ptes] == [not hw_af, True, not hw_af, not hw_af]


# -- large folios --------------------------------------------------------------------


def test_a_large_folio_of_a_file_is_mapped_as_a_contiguous_block():
    """16 pages of one folio become a block; writing back one folio breaks it up."""
    kernel = boot()
    process = kernel.spawn()
    fd = process.open("f", create=True)
    process.ftruncate(fd, 32 * PAGE)
    kernel.file_table.names["f"].mapping.folio_order = 4
    base = process.mmap(32 * PAGE, fd=fd, shared=True)
    process.read(base)
    process.read(base)
    for page in range(16):
        process.read(base + page * PAGE)
    check(kernel)
    again = process.mmap(32 * PAGE, "r", fd=fd, shared=True)
    process.read(again)
    assert contiguous(kernel, process, again, 16) == [True] * 16
    process.write(base + 3 * PAGE, 7)
    process.write(base + 4 * PAGE, 8)
    assert process.read(again + 3 * PAGE) == 7
    check(kernel)
    counts = issued(kernel, lambda: process.msync(base, 32 * PAGE))
    assert counts.tlbi["VALE1IS"] == 2
    check(kernel)
    process.munmap(base, 32 * PAGE)
    child = process.fork()
    process.munmap(again, PAGE)
    assert child.read(again) == 0
    check(kernel)


@pytest.mark.parametrize("order", [2, 4])
def test_a_large_folio_of_shared_memory_is_mapped_whole(order):
    """One fault maps all of it, written or read, where it fits into the area."""
    kernel = boot()
    process = kernel.spawn()
    fd = process.memfd_create("m")
    process.ftruncate(fd, 32 * PAGE)
    kernel.file_table.inodes[-1].mapping.folio_order = order
    base = process.mmap(32 * PAGE, addr=1 << 32, fd=fd, shared=True)
    process.write(base + PAGE, 7)
    assert process.mm.shmempages == 1 << order
    assert contiguous(kernel, process, base, 16) == [order == 4] * 16
    dirty = [pte_dirty(pte) for pte in entries(kernel, process, base, 1 << order)]
    assert all(dirty)
    part = process.mmap(PAGE, fd=fd, offset=PAGE, shared=True)
    assert process.read(part) == 7
    assert process.mm.shmempages == (1 << order) + 1
    check(kernel)
    process.ftruncate(fd, PAGE)
    check(kernel)


# -- advice --------------------------------------------------------------------------


@MEMORY
def test_dontneed_forgets_private_copies_and_nothing_else(memfd):
    """What was written shared is the file's; a private page is again as in the file."""
    kernel, process, base = mapped(memfd=memfd, written=2)
    process.madvise(base, PAGES * PAGE, "dontneed")
    assert process.mm.filepages + process.mm.shmempages == 0
    assert process.read(base) == 100
    check(kernel)
    kernel, process, base = mapped(memfd=memfd, shared=False, written=2)
    process.madvise(base, PAGES * PAGE, "dontneed")
    assert process.read(base) == 1
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.madvise(base, PAGE, "free")
    process.madvise(base, PAGES * PAGE, "cold")
    check(kernel)


# -- another place ---------------------------------------------------------------------


@MEMORY
@pytest.mark.parametrize("shared", [False, True])
def test_a_mapping_that_moves_or_grows_is_of_the_same_file(memfd, shared):
    """A move takes pages along, shows more of the file, and keeps the file's list."""
    kernel, process, base = mapped(memfd=memfd, shared=shared, written=2)
    half = 2 * PAGE
    process.munmap(base + half, half)
    moved = process.mremap(
        base, half, PAGES * PAGE, maymove=True, fixed=True, new_address=1 << 33
    )
    assert moved == 1 << 33
    words = [process.read(moved + page * PAGE) for page in range(PAGES)]
    assert words == [100, 101, 3, 4]
    inode = kernel.file_table.inodes[-1]
    assert [vma.start for vma in inode.mapping.i_mmap] == [moved]
    check(kernel)
    process.mremap(moved, PAGES * PAGE, PAGE)
    check(kernel)


def test_a_file_is_placed_as_asked():
    """A hint that is free, a fixed place that was not, and an error where it must."""
    kernel = boot()
    process, fd = filled(kernel, PAGES)
    hint = 1 << 32
    first = process.mmap(2 * PAGE, "r", addr=hint, fd=fd, offset=PAGE)
    assert first == hint
    other = process.mmap(PAGE, "r", addr=hint, fd=fd)
    assert other != hint
    with pytest.raises(SystemCallError, match="EEXIST"):
        process.mmap(PAGE, "r", addr=hint, fd=fd, noreplace=True)
    assert process.read(hint) == 2
    over = process.mmap(
        PAGE, addr=hint, fd=fd, fixed=True, flags=MAP_SHARED_VALIDATE, noreserve=True
    )
    assert [process.read(over), process.read(hint + PAGE)] == [1, 3]
    process.write(over, 9)
    assert process.pread(fd, 0) == 9
    check(kernel)


@VERSIONS
@pytest.mark.parametrize("shared", [False, True])
def test_pageout_drops_clean_pages_of_a_file(version, shared):
    """They are unmapped with one wait for all, leave memory, and come back from disk.

    A dirty page is only unmapped: it is for others to write it back.
    """
    kernel, process, base = mapped(version, shared=True, written=1)
    if not shared:
        process.munmap(base, PAGES * PAGE)
        base = process.mmap(PAGES * PAGE, fd=3)
        process.read(base)
    mapping = kernel.file_table.names["f"].mapping
    kernel.swap.lru_add_drain_all()
    counts = issued(kernel, lambda: process.madvise(base, PAGES * PAGE, "pageout"))
    assert counts.tlbi["VALE1IS"] == PAGES
    assert counts.dsb["ish"] == 1
    assert list(mapping.pages) == [0]
    assert process.mm.filepages == 0
    check(kernel)
    words = [process.read(base + page * PAGE) for page in range(PAGES)]
    assert words == [100, 2, 3, 4]
    check(kernel)


def test_pageout_leaves_what_somebody_else_holds():
    """A page that is pinned stays in its file; so does shared memory, unmapped."""
    kernel, process, base = mapped(written=0)
    folio = kernel.file_table.names["f"].mapping.pages[1]
    kernel.gup.try_grab_folio(folio)
    process.madvise(base, PAGES * PAGE, "pageout")
    assert list(kernel.file_table.names["f"].mapping.pages) == [1]
    kernel.gup.unpin_user_page(folio)
    check(kernel)
    kernel, process, base = mapped(memfd=True, written=1)
    process.madvise(base, PAGES * PAGE, "pageout")
    assert process.mm.shmempages == 0
    words = [process.read(base + page * PAGE) for page in range(PAGES)]
    assert words == [100, 2, 3, 4]
    check(kernel)
