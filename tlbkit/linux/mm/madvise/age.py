"""Advice that pages are not needed for a while: MADV_COLD and MADV_PAGEOUT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_mkold,
    pte_present,
    pte_young,
)
from tlbkit.linux.include.linux.mm import VM_HUGETLB, VM_LOCKED, VM_PFNMAP
from tlbkit.linux.include.linux.mm_types import PG_lru, PG_referenced
from tlbkit.linux.include.linux.pagemap import folio_lock
from tlbkit.linux.include.uapi.asm_generic.errno import EINTR, EINVAL
from tlbkit.linux.mm.madvise.discard import MadviseDiscard

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.mm.madvise.part import Mapped, Part
    from tlbkit.linux.mm.mmu_gather import MmuGather

_NOT_ON_LRU = VM_LOCKED | VM_PFNMAP | VM_HUGETLB


class MadviseAge(MadviseDiscard):
    """Lets pages look as if nobody had used them, or takes them back."""

    __slots__ = ()

    def madvise_cold(self, part: Part) -> int:
        """Let reclaim take the pages of a range before others: MADV_COLD."""
        return self._madvise_lru(part, pageout=False)

    def madvise_pageout(self, part: Part) -> int:
        """Let reclaim take the pages of a range now: MADV_PAGEOUT.

        Pages that cannot go stay, and nobody is told.
        """
        return self._madvise_lru(part, pageout=True)

    def _madvise_lru(self, part: Part, *, pageout: bool) -> int:
        if part.vma.flags & _NOT_ON_LRU:
            return -EINVAL
        self._kernel.swap.lru_add_drain()
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(part.vma.mm)
        error = self.madvise_cold_or_pageout(tlb, part, pageout=pageout)
        gather.tlb_end_vma(tlb, part.vma)
        gather.tlb_finish_mmu(tlb)
        return error

    def madvise_cold_or_pageout(
        self, tlb: MmuGather, part: Part, *, pageout: bool
    ) -> int:
        """Go through the tables of a range; 0, or ``-EINTR`` if the process dies.

        What is paged out is collected while a table is locked, and goes afterwards.
        """
        vma = part.vma
        isolated: list[Folio] = []

        def visit(mapped: Mapped) -> None:
            folio = mapped.folio
            if not folio.flags & PG_lru or folio.mapcount != folio.nr_pages:
                return
            if pageout:
                self.isolate(folio, isolated)
            else:
                self.cold_ptes(tlb, mapped)

        for pmdp, addr, end in self._kernel.memory.pmd_entries(
            vma.mm, part.start, part.end
        ):
            if self._kernel.sched.fatal_signal_pending(vma.mm):
                return -EINTR
            huge = pmd_trans_huge(self._pgtable.read(pmdp))
            into = isolated if pageout else None
            if not huge or not self.age_block(tlb, vma, pmdp, addr, end, into):
                self.walk_ptes(vma, pmdp, addr, end, visit)
            self._kernel.vmscan.reclaim_pages(isolated)
            isolated.clear()
        return 0

    def age_block(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmdp: int,
        addr: int,
        end: int,
        isolated: list[Folio] | None,
    ) -> bool:
        """Clear the access flag of a block, or put it into *isolated* if that is given.

        A block of which the range holds only a part is split.

        Returns:
            False if it was split: its pages are left to look at.
        """
        pgtable = self._pgtable
        huge = self._kernel.huge_memory
        ptl = huge.pmd_trans_huge_lock(pmdp, vma)
        if ptl is None:
            return True
        pmd = pgtable.read(pmdp)
        if huge.is_huge_zero_pmd(pmd) or not pte_present(pmd):
            ptl.release()
            return True
        folio = huge.pmd_folio(pmd)
        if folio.maybe_mapped_shared:
            ptl.release()
            return True
        if end - addr < pgtable.pmd_size:
            folio.refcount += 1
            ptl.release()
            folio_lock(self._kernel.machine, folio)
            return not self.split_held(folio)
        if isolated is not None:
            self.isolate(folio, isolated)
        else:
            if pte_young(pmd):
                self._kernel.pgtable_generic.pmdp_invalidate(vma, addr, pmdp)
                pgtable.set_pte(pmdp, pte_mkold(pmd))
                self._kernel.gather.tlb_remove_pmd_tlb_entry(tlb, addr)
            folio.flags &= ~PG_referenced
            self._kernel.swap.folio_deactivate(folio)
        ptl.release()
        return True

    def cold_ptes(self, tlb: MmuGather, mapped: Mapped) -> None:
        """Clear the access flags of the entries of one folio."""
        if pte_young(mapped.pte):
            self._pgtable.clear_young_dirty_ptes(mapped.ptep, mapped.nr, dirty=False)
            self._kernel.gather.tlb_flush_pte_range(
                tlb, mapped.addr, mapped.nr * self._pgtable.page_size
            )
        mapped.folio.flags &= ~PG_referenced
        self._kernel.swap.folio_deactivate(mapped.folio)

    def isolate(self, folio: Folio, isolated: list[Folio]) -> None:
        """Take a folio off the LRU lists, to be reclaimed."""
        folio.flags &= ~PG_referenced
        if self._kernel.vmscan.folio_isolate_lru(folio):
            isolated.append(folio)
