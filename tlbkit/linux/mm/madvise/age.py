"""Advice that pages are not needed for a while: MADV_COLD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_trans_huge, pte_young
from tlbkit.linux.include.linux.mm import VM_HUGETLB, VM_LOCKED, VM_PFNMAP
from tlbkit.linux.include.linux.mm_types import PG_active, PG_lru, PG_referenced
from tlbkit.linux.include.linux.pagemap import folio_lock
from tlbkit.linux.include.uapi.asm_generic.errno import EINTR, EINVAL
from tlbkit.linux.mm.madvise.discard import MadviseDiscard

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.mm.madvise.part import Mapped, Part
    from tlbkit.linux.mm.mmu_gather import MmuGather

_NOT_ON_LRU = VM_LOCKED | VM_PFNMAP | VM_HUGETLB


class MadviseAge(MadviseDiscard):
    """Lets pages look as if nobody had used them."""

    __slots__ = ()

    def madvise_cold(self, part: Part) -> int:
        """Let reclaim take the pages of a range before others: MADV_COLD."""
        if part.vma.flags & _NOT_ON_LRU:
            return -EINVAL
        self._kernel.swap.lru_add_drain()
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(part.vma.mm)
        error = self.madvise_cold_page_range(tlb, part)
        gather.tlb_end_vma(tlb, part.vma)
        gather.tlb_finish_mmu(tlb)
        return error

    def madvise_cold_page_range(self, tlb: MmuGather, part: Part) -> int:
        """Clear the access flags of a range; 0, or ``-EINTR`` if the process dies."""
        vma = part.vma

        def age(mapped: Mapped) -> None:
            self.cold_ptes(tlb, mapped)

        for pmdp, addr, end in self._kernel.memory.pmd_entries(
            vma.mm, part.start, part.end
        ):
            if self._kernel.sched.fatal_signal_pending(vma.mm):
                return -EINTR
            if pmd_trans_huge(self._pgtable.read(pmdp)) and self.cold_huge_pmd(
                tlb, vma, pmdp, addr, end
            ):
                continue
            self.walk_ptes(vma, pmdp, addr, end, age)
        return 0

    def cold_huge_pmd(
        self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int, end: int
    ) -> bool:
        """Clear the access flag of a block; false if it was split: pages are left.

        A block of which the range holds only a part is split.
        """
        pgtable = self._pgtable
        huge = self._kernel.huge_memory
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        pmd = pgtable.read(pmdp)
        folio = None
        if pmd_trans_huge(pmd) and not huge.is_huge_zero_pmd(pmd):
            folio = huge.folio_of(pmd)
        if folio is None or folio.maybe_mapped_shared:
            ptl.release()
            return True
        if end - addr < pgtable.pmd_size:
            folio.refcount += 1
            ptl.release()
            folio_lock(self._kernel.machine, folio)
            return not self.split_held(folio)
        if pte_young(pmd):
            huge.age_huge_pmd(tlb, vma, pmdp, addr, dirty=False)
        self.deactivate(folio)
        ptl.release()
        return True

    def cold_ptes(self, tlb: MmuGather, mapped: Mapped) -> None:
        """Clear the access flags of one folio that nobody else maps."""
        folio = mapped.folio
        if not folio.flags & PG_lru or folio.mapcount != folio.nr_pages:
            return
        if pte_young(mapped.pte):
            self._pgtable.clear_young_dirty_ptes(mapped.ptep, mapped.nr, dirty=False)
            self._kernel.gather.tlb_flush_pte_range(
                tlb, mapped.addr, mapped.nr * self._pgtable.page_size
            )
        self.deactivate(folio)

    @staticmethod
    def deactivate(folio: Folio) -> None:
        """Forget that a folio was used: folio_deactivate()."""
        folio.flags &= ~(PG_referenced | PG_active)
