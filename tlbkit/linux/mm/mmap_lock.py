"""The lock of one area: mm/mmap_lock.c and include/linux/mmap_lock.h.

Who only works inside an area takes its read lock and leaves the mmap lock to others.
Who changes areas holds the mmap lock for writing, marks each area that it touches, and
waits until its readers are gone. The mark lasts until the mmap lock is released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class MmapLock:
    """The operations on the locks of areas."""

    __slots__ = ("_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine

    def lock_vma_under_rcu(self, mm: MmStruct, address: int) -> VmArea | None:
        """Return the area of *address*, locked for reading.

        ``None`` if there is none, or if somebody is changing it: callers then look
        again under the mmap lock.

        Source: mm/mmap_lock.c, lock_vma_under_rcu()
        """
        vma = self._kernel.vma.vma_lookup(mm, address)
        if vma is None or not self.vma_start_read(vma):
            return None
        return vma

    def vma_start_read(self, vma: VmArea) -> bool:
        """Lock *vma* for reading unless it is being changed; tell whether it was.

        Source: mm/mmap_lock.c, vma_start_read()
        """
        mmap_lock = vma.mm.mmap_lock
        changing = (
            mmap_lock.writer is not None and vma.vm_lock_seq == mmap_lock.sequence
        )
        if self._machine.sees("vm_lock_seq", changing):
            return False
        self._down_read(vma)
        return True

    def vma_start_read_locked(self, vma: VmArea) -> None:
        """Lock *vma* for reading; the mmap lock is held, so nobody is changing it.

        Source: include/linux/mmap_lock.h, vma_start_read_locked()
        """
        vma.mm.mmap_lock.assert_held()
        self._down_read(vma)

    def _down_read(self, vma: VmArea) -> None:
        if vma.vm_lock is None:
            vma.vm_lock = RwSemaphore(self._machine, f"vma lock {vma.start:#x}")
        vma.vm_lock.down_read()

    @staticmethod
    def vma_end_read(vma: VmArea) -> None:
        """Release *vma* after reading.

        Source: include/linux/mmap_lock.h, vma_end_read()
        """
        assert vma.vm_lock is not None
        vma.vm_lock.up_read()

    @staticmethod
    def vma_is_write_locked(vma: VmArea) -> bool:
        """Tell whether the running CPU has marked *vma* as being changed.

        Source: include/linux/mmap_lock.h, vma_assert_write_locked()
        """
        mmap_lock = vma.mm.mmap_lock
        return mmap_lock.write_held and vma.vm_lock_seq == mmap_lock.sequence

    def vma_start_write(self, vma: VmArea) -> None:
        """Mark *vma* as being changed, and wait for its readers.

        The mmap lock is held for writing; its release ends the mark.

        Source: include/linux/mmap_lock.h, vma_start_write()
        """
        mmap_lock = vma.mm.mmap_lock
        mmap_lock.assert_write_held()
        if vma.vm_lock_seq == mmap_lock.sequence:
            return
        vma.vm_lock_seq = mmap_lock.sequence
        lock = vma.vm_lock
        if lock is not None and self._machine.sees("readers", lock.readers):
            self._machine.wait(lambda: not lock.readers, lock.name)
