"""mm/mmap_lock.c: readers of one area, and who changes it."""

import pytest

from tlbkit.arm64.machine import StuckError
from tlbkit.linux.kernel.locking import LockError
from tlbkit.linux.tests.support import PAGE, boot


def area():
    """A kernel with a process of one area, and that area."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE)
    return kernel, process, kernel.vma.vma_lookup(process.mm, base)


def test_readers_share_an_area_and_leave_the_mmap_lock_alone():
    """Several CPUs may read one area, while another holds the mmap lock."""
    kernel, process, vma = area()
    locks = kernel.mmap_lock
    for cpu in kernel.machine.cpus[:2]:
        kernel.machine.running = cpu
        assert locks.lock_vma_under_rcu(process.mm, vma.start) is vma
    kernel.machine.running = kernel.machine.cpus[2]
    process.mm.mmap_lock.down_write()
    process.mm.mmap_lock.up_write()
    for cpu in kernel.machine.cpus[:2]:
        kernel.machine.running = cpu
        locks.vma_end_read(vma)


def test_an_address_without_an_area_has_nothing_to_lock():
    """Nothing is locked where nothing is mapped."""
    kernel, process, vma = area()
    assert kernel.mmap_lock.lock_vma_under_rcu(process.mm, vma.start - PAGE) is None


def test_who_changes_an_area_waits_for_its_readers():
    """The area is marked first, so no new readers come while the old ones leave."""
    kernel, process, vma = area()
    locks = kernel.mmap_lock
    reader, writer = kernel.machine.cpus[:2]
    kernel.machine.running = reader
    assert locks.vma_start_read(vma)

    def leave(done, what):
        assert what.startswith("vma lock")
        kernel.machine.running = reader
        assert not locks.vma_start_read(vma)
        locks.vma_end_read(vma)
        kernel.machine.running = writer
        assert done()

    kernel.machine.waiter = leave
    process.thread(1).munmap(vma.start, PAGE)
    assert not vma.vm_lock.readers


def test_a_reader_that_never_leaves_blocks_the_changer():
    """With nobody else running, that is an error that names the area's lock."""
    kernel, process, vma = area()
    kernel.machine.running = kernel.machine.cpus[0]
    kernel.mmap_lock.vma_start_read(vma)
    with pytest.raises(StuckError, match="vma lock"):
        process.thread(1).mprotect(vma.start, PAGE, "r")


def test_a_mark_ends_with_the_mmap_lock():
    """Releasing the mmap lock frees every area that was marked under it."""
    kernel, process, vma = area()
    locks = kernel.mmap_lock
    process.mm.mmap_lock.down_write()
    locks.vma_start_write(vma)
    locks.vma_start_write(vma)
    assert not locks.vma_start_read(vma)
    process.mm.mmap_lock.up_write()
    assert locks.vma_start_read(vma)
    locks.vma_end_read(vma)
    process.mm.mmap_lock.down_write()
    assert locks.vma_start_read(vma)  # another holding, which has not marked it


def test_to_change_an_area_needs_the_mmap_lock():
    """To mark an area without it, or only reading, is an error."""
    kernel, process, vma = area()
    with pytest.raises(LockError, match="must be held for writing"):
        kernel.mmap_lock.vma_start_write(vma)
    process.mm.mmap_lock.down_read()
    with pytest.raises(LockError, match="must be held for writing"):
        kernel.mmap_lock.vma_start_write(vma)
    kernel.mmap_lock.vma_start_read_locked(vma)
    kernel.mmap_lock.vma_end_read(vma)
