"""What all of userfaultfd works on: areas, locked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm import VM_SHARED
from tlbkit.linux.include.linux.mm_types import VmArea
from tlbkit.linux.include.uapi.asm_generic.errno import ENOENT

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


class UffdAreas:
    """What all of this part knows, and the areas that all of it locks."""

    __slots__ = ("_kernel", "_machine", "_memory", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._memory = kernel.machine.memory
        self._pgtable = kernel.pgtable

    # -- locking areas ---------------------------------------------------------------

    def find_vma_and_prepare_anon(self, mm: MmStruct, addr: int) -> VmArea | int:
        """Return the area of *addr*, ready for private pages; the mmap lock is held."""
        mm.mmap_lock.assert_held()
        vma = self._kernel.vma.vma_lookup(mm, addr)
        if vma is None:
            return -ENOENT
        if not vma.flags & VM_SHARED:
            self._kernel.rmap.anon_vma_prepare(vma)
        return vma

    def uffd_lock_vma(self, mm: MmStruct, address: int) -> VmArea | int:
        """Return the area of *address*, locked for reading and ready for private pages.

        ``-ENOENT`` if there is none.
        """
        vma = self._kernel.mmap_lock.lock_vma_under_rcu(mm, address)
        if vma is not None:
            if vma.flags & VM_SHARED or vma.anon_vma is not None:
                return vma
            # An anon_vma must be made first, and for that the mmap lock is needed.
            self._kernel.mmap_lock.vma_end_read(vma)
        mm.mmap_lock.down_read()
        found = self.find_vma_and_prepare_anon(mm, address)
        if isinstance(found, VmArea):
            self._kernel.mmap_lock.vma_start_read_locked(found)
        mm.mmap_lock.up_read()
        return found

    def uffd_mfill_lock(self, mm: MmStruct, start: int, length: int) -> VmArea | int:
        """Return the watched area that all of a range is in, locked for reading."""
        vma = self.uffd_lock_vma(mm, start)
        if isinstance(vma, int):
            return vma
        if start + length <= vma.end and vma.uffd is not None:
            return vma
        self._kernel.mmap_lock.vma_end_read(vma)
        return -ENOENT

    def uffd_move_lock(
        self, mm: MmStruct, dst_start: int, src_start: int
    ) -> tuple[VmArea, VmArea] | int:
        """Return the areas of a destination and a source, each locked once.

        The source is only tried while the destination is locked: somebody who changes
        both could wait for the one that is held and hold the one that is wanted. If the
        try fails, both are locked under the mmap lock, which keeps changers out.
        """
        locks = self._kernel.mmap_lock
        dst_vma = self.uffd_lock_vma(mm, dst_start)
        if isinstance(dst_vma, int):
            return dst_vma
        if dst_vma.start <= src_start < dst_vma.end:
            return dst_vma, dst_vma
        src_vma = locks.lock_vma_under_rcu(mm, src_start)
        if src_vma is not None:
            return dst_vma, src_vma
        locks.vma_end_read(dst_vma)
        mm.mmap_lock.down_read()
        result = self._uffd_move_lock_slow(mm, dst_start, src_start)
        mm.mmap_lock.up_read()
        return result

    def _uffd_move_lock_slow(
        self, mm: MmStruct, dst_start: int, src_start: int
    ) -> tuple[VmArea, VmArea] | int:
        locks = self._kernel.mmap_lock
        dst_vma = self.find_vma_and_prepare_anon(mm, dst_start)
        if isinstance(dst_vma, int):
            return dst_vma
        src_vma: VmArea | None = dst_vma
        if not dst_vma.start <= src_start < dst_vma.end:
            src_vma = self._kernel.vma.vma_lookup(mm, src_start)
        if src_vma is None:
            return -ENOENT
        locks.vma_start_read_locked(dst_vma)
        if src_vma is not dst_vma:
            locks.vma_start_read_locked(src_vma)
        return dst_vma, src_vma

    def uffd_move_unlock(self, dst_vma: VmArea, src_vma: VmArea) -> None:
        """Release what `uffd_move_lock` locked."""
        self._kernel.mmap_lock.vma_end_read(src_vma)
        if src_vma is not dst_vma:
            self._kernel.mmap_lock.vma_end_read(dst_vma)
