"""Which pages may be moved to where memory should be: mm/mempolicy.c.

There is one node here, so a huge page that is moved goes to another frame of its pool.
Left out: policies, and moving pages that are not of hugetlb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import MM_CP_PROT_NUMA, is_cow_mapping
from tlbkit.linux.include.linux.mm_types import (
    PG_dirty,
    PG_ksm,
    PG_swapbacked,
    PG_zone_device,
    folio_maybe_mapped_shared,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EFAULT, EINVAL, EIO

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

MPOL_MF_STRICT: Final = 1 << 0
MPOL_MF_MOVE: Final = 1 << 1
MPOL_MF_MOVE_ALL: Final = 1 << 2

_MOVES: Final = MPOL_MF_MOVE | MPOL_MF_MOVE_ALL


class Mempolicy:
    """mbind(), as far as it moves huge pages, and hinting faults."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @staticmethod
    def folio_can_map_prot_numa(folio: Folio | None, vma: VmArea) -> bool:
        """Tell whether it is worth hiding a folio's pages to learn who uses them.

        A folio that several processes have, or that is pinned, does not move anyway.

        Source: mm/mempolicy.c, folio_can_map_prot_numa()
        Deviates: every folio counts as being on another node than the CPU that runs,
        and no node is slower than another.
        """
        if folio is None or folio.flags & (PG_zone_device | PG_ksm):
            return False
        if is_cow_mapping(vma.flags) and folio_maybe_mapped_shared(folio):
            return False
        if folio.maybe_dma_pinned():
            return False
        file_lru = not folio.flags & PG_swapbacked
        return not (file_lru and folio.flags & PG_dirty)

    def change_prot_numa(self, vma: VmArea, addr: int, end: int) -> int:
        """Hide the pages of a range, to learn by their faults who uses them.

        The scheduler calls it from time to time.

        Returns:
            How many were hidden.

        Source: mm/mempolicy.c, change_prot_numa()
        """
        tlb = self._kernel.gather.tlb_gather_mmu(vma.mm)
        nr_updated = self._kernel.mprotect.change_protection(
            tlb, vma, addr, end, MM_CP_PROT_NUMA
        )
        self._kernel.gather.tlb_finish_mmu(tlb)
        return nr_updated

    def do_mbind(self, mm: MmStruct, start: int, length: int, flags: int) -> int:
        """Move the huge pages of a range; how many moved, or a negative error number.

        MPOL_MF_MOVE moves what only this process maps, MPOL_MF_MOVE_ALL all of it. That
        a page is left alone because others use it is no failure, unless MPOL_MF_STRICT
        is given.

        Args:
            mm: The address space; its lock is not held.
            start: Page-aligned, or ``-EINVAL``.
            length: In bytes.
            flags: The ``MPOL_MF_`` bits.

        Source: mm/mempolicy.c, do_mbind()

        Deviates: there is one node and no policy, so nothing is bound; success is told
        by the number of pages that moved, and not by 0; the caller is root.
        """
        pgtable = self._kernel.pgtable
        if flags & ~(_MOVES | MPOL_MF_STRICT) or start & ~pgtable.page_mask:
            return -EINVAL
        end = start + pgtable.page_align(length)
        if end >> 64:
            return -EINVAL
        if end == start:
            return 0
        if flags & _MOVES:
            self._kernel.swap.lru_add_drain_all()  # lru_cache_disable()
        mm.mmap_lock.down_write()
        folios: list[HugetlbFolio] = []
        failed = 0
        at = start
        for vma in self._kernel.vma.overlapping(mm, start, end):
            if vma.start > at:
                break
            if is_vm_hugetlb_page(vma):
                failed += self.queue_folios_hugetlb(vma, start, end, flags, folios)
            at = vma.end
        hole = at < end
        mm.mmap_lock.up_write()
        moved = 0
        for folio in folios:
            if not hole:
                moved += self._kernel.migrate.unmap_and_move_huge_page(folio)
            self._kernel.swap.folio_put(folio)
        failed += len(folios) - moved
        if hole:
            return -EFAULT
        if failed and flags & MPOL_MF_STRICT:
            return -EIO
        return moved

    def queue_folios_hugetlb(
        self,
        vma: VmArea,
        start: int,
        end: int,
        flags: int,
        folios: list[HugetlbFolio],
    ) -> int:
        """Collect the huge pages of a range that may be moved, with a reference each.

        A huge page that is mapped once may still be used by many: through one table
        that they share.

        Returns:
            How many may not be moved, if that counts as failure.

        Source: mm/mempolicy.c, queue_folios_hugetlb()
        """
        hugetlb = self._kernel.hugetlb
        size = hugetlb.hstate_vma(vma).size
        failed = 0
        hugetlb.hugetlb_vma_lock_read(vma)
        first = max(start, vma.start) & -size
        for _, ptep in hugetlb.huge_entries(vma, first, min(end, vma.end)):
            with hugetlb.huge_pte_lockptr(vma, ptep):
                pte = self._kernel.hugetlbpage.huge_ptep_get(ptep, size)
                if not pte_present(pte):
                    continue
                folio = hugetlb.folio(pte)
                if not flags & _MOVES:
                    failed += 1
                elif flags & MPOL_MF_MOVE_ALL or not (
                    folio.maybe_mapped_shared or hugetlb.hugetlb_pmd_shared(ptep)
                ):
                    folio.refcount += 1  # folio_isolate_hugetlb()
                    folios.append(folio)
        hugetlb.hugetlb_vma_unlock_read(vma)
        return failed
