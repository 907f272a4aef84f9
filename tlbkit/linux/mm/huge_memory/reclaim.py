"""Blocks whose pages are not needed: MADV_FREE and MADV_COLD, and what reclaim does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_mkclean,
    pte_mkold,
    pte_young,
)
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_swapbacked
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.mm.huge_memory.split import HugeSplit

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import LargeFolio, VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugeReclaim(HugeSplit):
    """Takes blocks for old and clean."""

    __slots__ = ()

    def madvise_free_huge_pmd(
        self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int, end: int
    ) -> bool:
        """Let reclaim drop a block; false if there are pages to look at instead.

        A block of which the range holds only a part is split. One that another process
        may map stays as it is, and so do its pages.
        """
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        folio = self.block_of_one(self._pgtable.read(pmdp))
        if folio is None or not folio_trylock(folio):
            ptl.release()
            return False
        if end - addr < self._pgtable.pmd_size:
            folio.refcount += 1
            ptl.release()
            head = self.split_folio(folio)
            left = folio if isinstance(head, int) else head
            folio_unlock(self._machine, left)
            self._kernel.swap.folio_put(left)
            return False
        folio.flags &= ~PG_dirty
        folio_unlock(self._machine, folio)
        pmd = self._pgtable.read(pmdp)
        if pte_young(pmd) or pte_dirty(pmd):
            self.age_huge_pmd(tlb, vma, pmdp, addr, dirty=True)
        self._kernel.swap.folio_mark_lazyfree(folio)
        ptl.release()
        return True

    def block_of_one(self, pmd: int) -> LargeFolio | None:
        """Return the folio of a block that only one process can map, or ``None``."""
        if not pmd_trans_huge(pmd) or self.is_huge_zero_pmd(pmd):
            return None
        folio = self.folio_of(pmd)
        return None if folio.maybe_mapped_shared else folio

    def age_huge_pmd(
        self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int, *, dirty: bool
    ) -> None:
        """Clear the access flag of a block, and maybe its dirty state; it is locked.

        The entry is hidden and flushed before it is rewritten; the gather flushes it
        once more.
        """
        pmd = self._kernel.pgtable_generic.pmdp_invalidate(vma, addr, pmdp)
        pmd = pte_mkold(pte_mkclean(pmd) if dirty else pmd)
        self._pgtable.set_pte(pmdp, pmd)
        self._kernel.gather.tlb_remove_pmd_tlb_entry(tlb, addr)

    def unmap_huge_pmd_locked(
        self, vma: VmArea, addr: int, pmdp: int, folio: LargeFolio
    ) -> bool:
        """Drop a block that was given up, unless it was written since; it is locked.

        One that was is kept from now on. One that somebody else holds stays mapped.
        """
        if folio.flags & PG_dirty:
            folio.flags |= PG_swapbacked
            return False
        pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, addr, pmdp)
        if self._machine.sees("pmd_dirty", pte_dirty(pmd)):
            folio.flags |= PG_dirty | PG_swapbacked
            self._pgtable.set_pte(pmdp, pmd)
            return False
        if folio.refcount != folio.mapcount + 1:
            self._pgtable.set_pte(pmdp, pmd)
            return False
        self._kernel.rmap.folio_remove_rmap_pmd(folio, vma)
        self.zap_deposited_table(vma.mm, pmdp)
        vma.mm.anonpages -= folio.nr_pages
        self._kernel.swap.folio_put(folio)
        return True
