"""Making and removing mappings: mm/mmap.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm import (
    VM_ACCOUNT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import VmArea
from tlbkit.linux.include.uapi.asm_generic.errno import EEXIST, EINVAL, ENOMEM
from tlbkit.linux.mm.vma import DEFAULT_MAX_MAP_COUNT

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import Unmapping
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_HUGETLB: Final = 0x40000
MAP_FIXED_NOREPLACE: Final = 0x100000

MMAP_MIN_ADDR: Final = 0x1_0000
_STACK_GAP: Final = 128 << 20


class Mmap:
    """mmap, munmap, and the end of an address space."""

    __slots__ = ("_kernel", "_pgtable", "vma_lookup")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable
        self.vma_lookup = kernel.vma.vma_lookup

    def mmap_base(self) -> int:
        """Return below which address mappings are placed; it is never random here."""
        return self._pgtable.task_size - _STACK_GAP

    # -- mmap ------------------------------------------------------------------------

    def do_mmap(
        self, mm: MmStruct, addr: int, length: int, prot: int, flags: int
    ) -> int:
        """Map anonymous memory; return its address, or a negative error number.

        Args:
            mm: The address space; its lock is held for writing.
            addr: A hint, or with MAP_FIXED the place.
            length: Rounded up to pages.
            prot: ``VM_READ``, ``VM_WRITE``, ``VM_EXEC``.
            flags: The ``MAP_`` bits.
        """
        page_size = self._pgtable.page_size
        if not length or bool(flags & MAP_SHARED) == bool(flags & MAP_PRIVATE):
            return -EINVAL
        if flags & MAP_FIXED_NOREPLACE:
            flags |= MAP_FIXED
        length = -(-length // page_size) * page_size
        if length > self._pgtable.task_size:
            return -ENOMEM
        if len(mm.vmas) > DEFAULT_MAX_MAP_COUNT:
            return -ENOMEM
        place = self.get_unmapped_area(mm, addr, length, flags)
        if place < 0:
            return place
        vm_flags = prot | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
        if flags & MAP_SHARED:
            vm_flags |= VM_SHARED | VM_MAYSHARE
        if flags & MAP_NORESERVE:
            vm_flags |= VM_NORESERVE
        return self.mmap_region(mm, place, length, vm_flags)

    def get_unmapped_area(
        self, mm: MmStruct, addr: int, length: int, flags: int
    ) -> int:
        """Return where a mapping can go: the highest hole that is long enough.

        A mapping of whole PMD blocks is aligned to one, so that it can have them.
        """
        pgtable = self._pgtable
        if flags & MAP_FIXED:
            if addr & ~pgtable.page_mask or addr < 0:
                return -EINVAL
            if addr + length > pgtable.task_size:
                return -ENOMEM
            if flags & MAP_FIXED_NOREPLACE and self._overlaps(mm, addr, length):
                return -EEXIST
            return addr
        addr = -(-addr // pgtable.page_size) * pgtable.page_size
        if (
            addr >= MMAP_MIN_ADDR
            and addr + length <= pgtable.task_size
            and not self._overlaps(mm, addr, length)
        ):
            return addr
        align = pgtable.page_size
        if length % pgtable.pmd_size == 0:
            align = pgtable.pmd_size
        top = mm.mmap_base
        for vma in reversed(mm.vmas):
            if vma.start >= top:
                continue
            place = (top - length) // align * align
            if place >= vma.end:
                return place
            top = min(top, vma.start)
        place = (top - length) // align * align
        return place if place >= MMAP_MIN_ADDR else -ENOMEM

    def _overlaps(self, mm: MmStruct, addr: int, length: int) -> bool:
        return bool(self._kernel.vma.overlapping(mm, addr, addr + length))

    def mmap_region(self, mm: MmStruct, addr: int, length: int, vm_flags: int) -> int:
        """Put a new area in place; what was mapped there before is unmapped."""
        end = addr + length
        if self._overlaps(mm, addr, length):
            error = self.do_munmap(mm, addr, length)
            if error:
                return error
        if vm_flags & VM_WRITE and not vm_flags & (VM_SHARED | VM_NORESERVE):
            vm_flags |= VM_ACCOUNT
        pgoff = addr >> self._pgtable.page_shift
        vma = VmArea(mm, addr, end, vm_flags, 0, pgoff)
        self._kernel.vma.vma_set_page_prot(vma)
        self._kernel.vma.vma_insert(vma)
        mm.total_vm += length >> self._pgtable.page_shift
        return addr

    # -- munmap ----------------------------------------------------------------------

    def do_munmap(
        self,
        mm: MmStruct,
        start: int,
        length: int,
        uf: list[Unmapping] | None = None,
    ) -> int:
        """Remove every mapping of a range; 0 or a negative error number.

        The lock is held for writing. Areas are cut first, so that an error changes
        nothing that user space can see. Into *uf* goes whom to tell of it once the lock
        is released; without it nobody is told.
        """
        pgtable = self._pgtable
        if start & ~pgtable.page_mask or start < 0 or length <= 0:
            return -EINVAL
        end = start + -(-length // pgtable.page_size) * pgtable.page_size
        if end > pgtable.task_size:
            return -EINVAL
        vmas = self._kernel.vma.overlapping(mm, start, end)
        if not vmas:
            return 0
        splits = (vmas[0].start < start) + (vmas[-1].end > end)
        if splits == 2 and len(mm.vmas) >= DEFAULT_MAX_MAP_COUNT and len(vmas) == 1:
            return -ENOMEM
        if vmas[0].start < start:
            vmas[0] = self._kernel.vma.split_vma(vmas[0], start)
        if vmas[-1].end > end:
            self._kernel.vma.split_vma(vmas[-1], end)
        if uf is not None:
            for vma in vmas:
                self._kernel.fs_userfaultfd.userfaultfd_unmap_prep(vma, start, end, uf)
        self.unmap_region(mm, vmas)
        return 0

    def unmap_region(self, mm: MmStruct, vmas: list[VmArea]) -> None:
        """Take whole, neighbouring areas out of the address space."""
        first = mm.vmas.index(vmas[0])
        after = first + len(vmas)
        floor = mm.vmas[first - 1].end if first else 0
        ceiling = (
            mm.vmas[after].start if after < len(mm.vmas) else self._pgtable.task_size
        )
        for vma in vmas:
            self._kernel.mmap_lock.vma_start_write(vma)
        del mm.vmas[first:after]
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(mm)
        self._kernel.memory.unmap_vmas(tlb, vmas, vmas[0].start, vmas[-1].end)
        self._kernel.memory.free_pgtables(tlb, vmas, floor, ceiling)
        gather.tlb_finish_mmu(tlb)
        for vma in vmas:
            mm.total_vm -= (vma.end - vma.start) >> self._pgtable.page_shift

    def exit_mmap(self, mm: MmStruct) -> None:
        """Remove everything, because nobody uses the address space any more."""
        gather = self._kernel.gather
        vmas, mm.vmas = mm.vmas, []
        tlb = gather.tlb_gather_mmu_fullmm(mm)
        self._kernel.memory.unmap_vmas(tlb, vmas, 0, self._pgtable.task_size)
        self._kernel.memory.free_pgtables(tlb, vmas, 0, self._pgtable.task_size)
        gather.tlb_finish_mmu(tlb)
        mm.total_vm = 0
