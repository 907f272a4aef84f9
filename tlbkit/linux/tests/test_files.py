"""Mapped files: what is shared, what is private, and who is told of a write."""

from typing import Any

import pytest

from tlbkit.errors import InputError
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_locked, PG_uptodate
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.mm.memfd import (
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
    MFD_HUGE_2MB,
    MFD_NOEXEC_SEAL,
)
from tlbkit.linux.mm.mmap import MAP_SHARED_VALIDATE
from tlbkit.linux.tests.audit import audit, audit_tlbs
from tlbkit.linux.tests.support import PAGE, boot, issued, total

KERNELS = ("v6.17", "pr350", "v6.18", "v6.19", "v7.0", "fixed")
UNKNOWN_FLAG = 1 << 31


def filled(kernel, pages=4, *, memfd=False):
    """A process with a file of *pages* pages, word i + 1 at the start of page i."""
    process = kernel.spawn()
    fd = process.memfd_create("m") if memfd else process.open("f", create=True)
    process.ftruncate(fd, pages * PAGE)
    for page in range(pages):
        process.pwrite(fd, page * PAGE, page + 1)
    return process, fd


def check(kernel):
    """The books balance, and no TLB grants more than the tables do."""
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize("memfd", [False, True])
@pytest.mark.parametrize("version", KERNELS)
def test_a_shared_write_is_the_files_and_a_private_one_is_not(version, memfd):
    """Who maps a file shared, and who reads it, sees a shared write; nobody else's."""
    kernel = boot(version)
    process, fd = filled(kernel, memfd=memfd)
    other = process.fork(cpu=1)
    shared = process.mmap(4 * PAGE, fd=fd, shared=True)
    theirs = other.mmap(4 * PAGE, fd=fd, shared=True)
    private = other.mmap(4 * PAGE, fd=fd)
    process.write(shared, 100)
    assert other.read(theirs) == other.read(private) == 100
    assert process.pread(fd, 0) == 100
    other.write(private, 200)
    process.write(shared, 300)
    assert (other.read(private), other.read(theirs), process.read(shared)) == (
        200,
        300,
        300,
    )
    check(kernel)


def test_shared_anonymous_memory_is_one_file_for_parent_and_child():
    """What either writes the other reads, before fork and after; it copies nothing."""
    kernel = boot()
    parent = kernel.spawn()
    base = parent.mmap(4 * PAGE, shared=True)
    parent.write(base, 1)
    child = parent.fork(cpu=1)
    assert kernel.pgtable.find_pte(child.mm, base) is None
    child.write(base + PAGE, 2)
    parent.write(base + PAGE + 8, 3)
    assert child.read(base) == 1
    assert parent.read(base + PAGE) == 2
    assert child.read(base + PAGE + 8) == 3
    assert parent.mm.shmempages == child.mm.shmempages == 2
    check(kernel)


def test_the_page_cache_outlives_processes_and_mappings():
    """After exit nothing is mapped or open, and the pages of the file are all there."""
    kernel = boot()
    process, fd = filled(kernel, 3)
    base = process.mmap(3 * PAGE, fd=fd, shared=True)
    process.write(base, 9)
    process.exit()
    check(kernel)
    inode = kernel.file_table.inodes[-1]
    assert inode.count == 0
    assert inode.mapping.nrpages == 3
    assert {folio.refcount for folio in inode.mapping.pages.values()} == {1}
    reader = kernel.spawn()
    assert reader.pread(reader.open("f"), 0) == 9
    reader.unlink("f")
    reader.exit()
    assert inode not in kernel.file_table.inodes
    kernel.swap.lru_add_drain_all()
    assert kernel.page_alloc.in_use == 2


def test_beyond_the_end_of_a_file_is_sigbus():
    """A page that begins behind the end is none; also one that was mapped before."""
    kernel = boot()
    process, fd = filled(kernel, 4)
    shared = process.mmap(8 * PAGE, fd=fd, shared=True)
    private = process.mmap(8 * PAGE, fd=fd)
    process.write(shared + 2 * PAGE, 5)
    process.write(private + 3 * PAGE, 6)
    process.ftruncate(fd, PAGE + 8)
    check(kernel)
    assert process.read(shared + PAGE) == 2
    for at in (shared + 2 * PAGE, private + 3 * PAGE, shared + 6 * PAGE):
        with pytest.raises(Signal, match="BUS_ADRERR"):
            process.read(at)
    process.ftruncate(fd, 4 * PAGE)
    assert process.read(shared + 2 * PAGE) == 0
    check(kernel)


@pytest.mark.parametrize(
    ("arguments", "errno"),
    [
        ({"length": 0}, "EINVAL"),
        ({"length": PAGE, "fd": 77}, "EBADF"),
        ({"length": PAGE, "fd": "r", "shared": True}, "EACCES"),
        ({"length": PAGE, "fd": "w", "prot": "r"}, "EACCES"),
        ({"length": PAGE, "fd": "rw", "offset": 8}, "EINVAL"),
        ({"length": PAGE, "fd": "rw", "offset": 1 << 63}, "EOVERFLOW"),
        ({"length": 1 << 60}, "ENOMEM"),
        ({"length": PAGE, "flags": MAP_SHARED_VALIDATE}, "EINVAL"),
        (
            {
                "length": PAGE,
                "fd": "rw",
                "flags": MAP_SHARED_VALIDATE | UNKNOWN_FLAG,
            },
            "EOPNOTSUPP",
        ),
        ({"length": PAGE, "addr": 8, "fixed": True}, "EINVAL"),
    ],
)
def test_mmap_says_what_is_wrong(arguments, errno):
    """Mmap fails with the errno of Linux, and leaves nothing behind."""
    kernel = boot()
    process, _ = filled(kernel, 1)
    fds = {mode: process.open("f", mode) for mode in ("r", "w", "rw")}
    if arguments.get("fd") in fds:
        arguments = {**arguments, "fd": fds[arguments["fd"]]}
    areas = len(process.mm.vmas)
    with pytest.raises(SystemCallError) as error:
        process.mmap(**arguments)
    assert error.value.errno == errno
    assert len(process.mm.vmas) == areas
    check(kernel)


def test_a_file_opened_to_be_read_never_becomes_writable():
    """A shared mapping of it may not be made writable; a private one may."""
    kernel = boot()
    process, _ = filled(kernel, 1)
    fd = process.open("f", "r")
    shared = process.mmap(PAGE, "r", fd=fd, shared=True)
    with pytest.raises(SystemCallError, match="EACCES"):
        process.mprotect(shared, PAGE, "rw")
    private = process.mmap(PAGE, "r", fd=fd)
    process.mprotect(private, PAGE, "rw")
    process.write(private, 5)
    assert process.read(shared) == 1


def test_a_read_fault_maps_what_is_in_memory_around_it():
    """At most 64 KiB, aligned, within the area and the file, and old but for one."""
    kernel = boot()
    process, fd = filled(kernel, 40)
    base = process.mmap(30 * PAGE, "r", fd=fd, offset=3 * PAGE)
    process.read(base + 20 * PAGE)
    assert process.mm.filepages <= 16
    mapped = process.mm.filepages
    counts = issued(kernel, lambda: process.read(base + 20 * PAGE))
    assert total(counts) == 0
    assert mapped == process.mm.filepages
    check(kernel)


def test_writing_back_makes_the_next_write_fault_again():
    """Msync flushes once for each dirty entry, and the next write is noticed anew."""
    kernel = boot()
    process, fd = filled(kernel, 8)
    process.fsync(fd)
    base = process.mmap(8 * PAGE, fd=fd, shared=True)
    for page in range(5):
        process.write(base + page * PAGE, 50 + page)
    counts = issued(kernel, lambda: process.msync(base, 8 * PAGE))
    assert counts.tlbi == {"VALE1IS": 5}
    assert total(issued(kernel, lambda: process.msync(base, 8 * PAGE))) == 0
    check(kernel)
    process.write(base, 60)
    assert issued(kernel, lambda: process.msync(base, PAGE)).tlbi == {"VALE1IS": 1}


def test_what_was_written_back_comes_from_the_disk_again():
    """No write is lost that msync has seen, when clean pages leave memory."""
    kernel = boot()
    process, fd = filled(kernel, 2)
    base = process.mmap(2 * PAGE, fd=fd, shared=True)
    process.write(base, 11)
    process.msync(base, 2 * PAGE)
    process.write(base + 8, 12)  # through an entry that was cleaned
    process.munmap(base, 2 * PAGE)
    mapping = kernel.file_table.names["f"].mapping
    assert kernel.truncate.invalidate_mapping_pages(mapping) == 1
    process.fsync(fd)
    assert kernel.truncate.invalidate_mapping_pages(mapping) == 1
    assert mapping.nrpages == 0
    assert (process.pread(fd, 0), process.pread(fd, 8)) == (11, 12)
    check(kernel)


def test_a_clean_mapping_goes_with_one_flush_and_leaves_nothing():
    """Pages that were only read are unmapped with one flush, of all of them."""
    kernel = boot()
    process, fd = filled(kernel, 20)
    process.fsync(fd)
    base = process.mmap(20 * PAGE, "r", fd=fd, shared=True)
    for page in range(20):
        assert process.read(base + page * PAGE) == page + 1
    counts = issued(kernel, lambda: process.munmap(base, 20 * PAGE))
    assert counts.dsb["ish"] == 2, "the pages, and the table that held them"
    assert process.mm.filepages == 0
    check(kernel)


def test_a_memfd_takes_its_flags_by_name():
    """Flags have the kernel's names; those that do not fit together are EINVAL."""
    process = boot().spawn()
    process.memfd_create("m", "MFD_CLOEXEC", "MFD_ALLOW_SEALING")
    process.memfd_create("m", "CLOEXEC", 0x2)
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.memfd_create("m", "MFD_EXEC", "MFD_NOEXEC_SEAL")
    with pytest.raises(InputError, match="CLOEXEC"):
        process.memfd_create("m", "MFD_SECRET")


@pytest.mark.parametrize("hw_dbm", [False, True])
@pytest.mark.parametrize("memory", ["file", "memfd"])
def test_who_is_told_of_a_write_after_a_read(memory, hw_dbm):
    """A file system hears of it by a fault, always; shared memory has no need to."""
    kernel = boot(hw_dbm=hw_dbm)
    process, fd = filled(kernel, 2, memfd=memory == "memfd")
    if memory == "file":
        process.fsync(fd)
    else:
        for folio in kernel.file_table.inodes[-1].mapping.pages.values():
            folio.flags &= ~PG_dirty
    base = process.mmap(2 * PAGE, fd=fd, shared=True)
    process.read(base)
    counts = issued(kernel, lambda: process.write(base, 7))
    silent = memory == "memfd" and hw_dbm
    assert counts.faults == ({} if silent else {"permission": 1})
    assert counts.tlbi == ({} if silent else {"VALE1": 1})
    if memory == "file":
        process.msync(base, PAGE)
        assert kernel.disk.word("f", 0) == 7
    process.munmap(base, 2 * PAGE)
    folio = kernel.file_table.inodes[-1].mapping.pages[0]
    assert bool(folio.flags & PG_dirty) == (memory == "memfd")
    check(kernel)


def test_a_dirty_page_counts_as_mapped_until_the_flush():
    """Who writes it back in between still finds the entry's lock, and waits."""
    kernel = boot()
    process, fd = filled(kernel, 2)
    base = process.mmap(2 * PAGE, fd=fd, shared=True)
    process.write(base, 1)
    folio = kernel.file_table.names["f"].mapping.pages[0]
    seen = []
    kernel.machine.events.listen(lambda _: seen.append(folio.mapcount), {"tlbi"})
    process.munmap(base, 2 * PAGE)
    assert seen[0] == 1
    assert folio.mapcount == 0


@pytest.mark.parametrize(("dirty", "flushes"), [(0, 1), (1, 2), (3, 4), (4, 4)])
def test_a_table_with_dirty_pages_is_flushed_by_itself(dirty, flushes):
    """One flush for each table that holds a dirty page, one for all the clean rest."""
    kernel = boot()
    process = kernel.spawn()
    table = kernel.pgtable.pmd_size
    fd = process.open("f", create=True)
    process.ftruncate(fd, 4 * table)
    base = process.mmap(4 * table, fd=fd, shared=True)
    for index in range(4):
        address = base + index * table
        if index < dirty:
            process.write(address, 1)
        else:
            process.read(address)
    counts = issued(kernel, lambda: process.munmap(base, 4 * table))
    assert counts.dsb["ish"] == flushes + 1, "and one for the tables"


def test_without_the_flush_of_write_back_a_write_is_lost():
    """A CPU that still holds the writable entry writes, and nobody will ever know."""
    read = []
    for without in ((), ("tlbi VALE1IS in folio_mkclean",)):
        kernel = boot(rules=not without)
        process, fd = filled(kernel, 1)
        base = process.mmap(PAGE, fd=fd, shared=True)
        process.write(base, 7, cpu=1)
        kernel.machine.taken_out = frozenset(without)
        process.msync(base, PAGE)
        process.write(base, 8, cpu=1)
        process.munmap(base, PAGE)
        mapping = kernel.file_table.names["f"].mapping
        kernel.truncate.invalidate_mapping_pages(mapping)
        read.append(process.pread(fd, 0))
    assert read == [8, 7]


@pytest.mark.parametrize(
    ("version", "size", "mapped"),
    [("v6.17", 16, 1), ("v6.18", 16, 16), ("v6.19", 16, 16), ("v6.19", 14, 1)],
)
def test_a_write_maps_all_of_a_large_folio_that_ends_within_its_file(
    version, size, mapped
):
    """So it is since 19773df031bc; before, RSS grew by the page that was used."""
    kernel = boot(version)
    process = kernel.spawn()
    fd = process.open("f", create=True)
    process.ftruncate(fd, 16 * PAGE)
    kernel.file_table.names["f"].mapping.folio_order = 4
    process.pwrite(fd, 0, 1)
    process.ftruncate(fd, size * PAGE)
    base = process.mmap(16 * PAGE, addr=1 << 32, fixed=True, fd=fd, shared=True)
    process.write(base + 3 * PAGE, 7)
    assert process.mm.filepages == mapped
    assert process.pread(fd, 3 * PAGE) == 7
    check(kernel)


# -- whoever comes meanwhile -----------------------------------------------------------


def when_locked(kernel, folio, action):
    """Have *action* done by whoever has *folio* locked, before it lets go of it."""
    assert folio_trylock(folio)
    wait = kernel.machine.wait

    def waiting(until, what):
        if folio.flags & PG_locked and not until():
            action()
            folio_unlock(kernel.machine, folio)
        wait(until, what)

    kernel.machine.wait = waiting


def page_of(kernel, index=0):
    """The folio of a place of the file."""
    return kernel.file_table.names["f"].mapping.pages[index]


def test_truncation_passes_over_a_page_that_was_reclaimed_meanwhile():
    """A folio that has left its file while its lock was waited for is left alone."""
    kernel = boot(cpus=2)
    process, fd = filled(kernel, 2)
    process.fsync(fd)
    kernel.swap.lru_add_drain_all()
    folio = page_of(kernel)
    folio.refcount += 1  # whoever has it locked

    def reclaim():
        kernel.filemap.filemap_remove_folio(folio)
        kernel.swap.folio_put(folio)

    when_locked(kernel, folio, reclaim)
    process.ftruncate(fd, 0)
    assert not kernel.file_table.names["f"].mapping.pages


def test_a_page_that_left_its_file_is_not_mapped_around_a_fault():
    """Fault-around maps what is the file's when it is mapped, and within its size."""
    kernel = boot(cpus=2)
    process, fd = filled(kernel, 4)
    process.fsync(fd)
    kernel.swap.lru_add_drain_all()
    base = process.mmap(4 * PAGE, fd=fd, shared=True)
    inode = kernel.file_table.names["f"]
    map_range = kernel.memory.set_pte_range
    gone: list[Any] = []

    def mapping(vmf, folio, pfn, nr, addr):
        map_range(vmf, folio, pfn, nr, addr)
        if not gone:  # another CPU truncates; it has unmapped, and frees now
            gone.extend(inode.mapping.folios(2, 4))
            inode.size = 2 * PAGE
            kernel.truncate.truncate_inode_pages(inode.mapping, 2 * PAGE)

    kernel.memory.set_pte_range = mapping
    process.read(base)
    assert gone
    assert not any(folio.mapcount for folio in gone)
    with pytest.raises(Signal):
        process.read(base + 2 * PAGE)


def test_a_dirty_page_is_not_dropped_from_memory():
    """What was written between the look at a page and its lock stays: drop_caches."""
    kernel = boot(cpus=2)
    process, fd = filled(kernel, 1)
    process.fsync(fd)
    kernel.swap.lru_add_drain_all()
    folio = page_of(kernel)
    kernel.page_writeback.folio_mark_dirty(folio)
    mapping = kernel.file_table.names["f"].mapping
    assert folio_trylock(folio)
    folio.refcount += 1
    assert kernel.truncate.mapping_evict_folio(mapping, folio) == 0
    folio.flags &= ~PG_dirty
    folio.refcount += 1  # somebody is about to map it
    assert kernel.truncate.mapping_evict_folio(mapping, folio) == 0
    folio.refcount -= 1
    assert kernel.truncate.mapping_evict_folio(mapping, folio) == 1


def test_a_read_waits_until_the_page_is_read_in():
    """What another CPU is just reading in is not looked at before it is there."""
    kernel = boot(cpus=2)
    process, fd = filled(kernel, 1)
    folio = page_of(kernel)
    folio.flags &= ~PG_uptodate
    place = folio.pfn * PAGE
    kernel.machine.memory.write(place, 99)

    def arrive():
        kernel.machine.memory.write(place, 1)
        folio.flags |= PG_uptodate

    when_locked(kernel, folio, arrive)
    assert process.pread(fd, 0) == 1


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        (MFD_CLOEXEC | MFD_ALLOW_SEALING, True),
        (MFD_NOEXEC_SEAL, True),
        (MFD_EXEC, True),
        (MFD_EXEC | MFD_NOEXEC_SEAL, False),
        (1 << 5, False),
        (MFD_HUGE_2MB, False),
    ],
)
def test_which_flags_a_memfd_may_have(flags, made):
    """Each known flag alone, and all that go together; no size without MFD_HUGETLB."""
    process = boot(cpus=1).spawn()
    if made:
        assert process.memfd_create("m", flags) >= 0
    else:
        with pytest.raises(SystemCallError, match="EINVAL"):
            process.memfd_create("m", flags)


@pytest.mark.parametrize("memfd", [False, True])
def test_a_fault_beyond_the_end_of_a_file_leaves_no_table(memfd):
    """A table is set aside for a fault, and installed only with a page to map."""
    kernel = boot(cpus=1)
    process, fd = filled(kernel, 1, memfd=memfd)
    base = process.mmap(PAGE, addr=1 << 38, fixed=True, fd=fd, offset=4 * PAGE)
    tables = list(process.mm.pgtables)
    used = kernel.page_alloc.in_use
    with pytest.raises(Signal, match="BUS"):
        process.read(base)
    assert process.mm.pgtables[3] == tables[3]
    assert kernel.page_alloc.in_use - used == sum(process.mm.pgtables) - sum(tables)
    process.ftruncate(fd, 5 * PAGE)
    assert process.read(base) == 0
    assert process.mm.pgtables[3] == tables[3] + 1
    check(kernel)
