"""From a folio to the entries that map it, and flushes that are waited for later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_present,
)
from tlbkit.linux.include.linux.mm_types import (
    TLB_FLUSH_BATCH_FLUSHED_SHIFT,
    TLB_FLUSH_BATCH_PENDING_LARGE,
    TLB_FLUSH_BATCH_PENDING_MASK,
    PG_dirty,
)
from tlbkit.linux.include.linux.swapops import make_migration_pte
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.rmap.counts import RmapCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.include.linux.mm_types import AnonVma, Folio, MmStruct, VmArea


class RmapWalk(RmapCounts):
    """Finds the entries of a folio, and takes them away."""

    __slots__ = ()

    # -- from a folio to its entries -------------------------------------------------

    def rmap_walk_anon(
        self, anon_vma: AnonVma, index: int, nr: int
    ) -> Iterator[tuple[VmArea, int, int]]:
        """Yield where *nr* pages from *index* on of a family of areas may be mapped.

        Each item is an area and the addresses, end not included. The kernel has a tree
        of the areas of each anon_vma; here all that there are are looked through.

        Source: mm/rmap.c, rmap_walk_anon()
        """
        shift = self._kernel.pgtable.page_shift
        for mm in self._kernel.fork.mmlist:
            for vma in mm.vmas:
                if vma.anon_vma is None or vma.anon_vma.root is not anon_vma.root:
                    continue
                base = vma.start + (index - vma.pgoff << shift)
                start = max(base, vma.start)
                end = min(base + (nr << shift), vma.end)
                if start < end:
                    yield vma, start, end

    def try_to_migrate_one(
        self, folio: Folio, vma: VmArea, start: int, end: int
    ) -> bool:
        """Let each entry in [start, end) that maps *folio* say that it migrates.

        Entries of single pages are flushed as they go, where the architecture can put
        off the wait: `try_to_unmap_flush` must follow.

        Returns:
            False if a page may be pinned: its entry stays, and so do all after it.

        Source: mm/rmap.c, try_to_migrate_one()
        Deviates: huge pages of hugetlb are unmapped by `unmap_one_hugetlb`. A PMD
        entry is always split, as TTU_SPLIT_HUGE_PMD asks for. The caller walks the
        VMAs: try_to_migrate().
        """
        pgtable = self._kernel.pgtable
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, start, end
        ):
            for pmdp, addr, until in self._kernel.memory.pmd_entries(
                vma.mm, start, end
            ):
                pmd = pgtable.read(pmdp)
                if pmd_trans_huge(pmd) and pgtable.pte_pfn(pmd) == folio.pfn:
                    with self._kernel.memory.pmd_lockptr(pmdp):
                        self._kernel.huge_memory.split_huge_pmd_locked(
                            vma, addr, pmdp, freeze=True
                        )
                    continue
                found = self._kernel.pgtable_generic.pte_offset_map_lock(
                    vma.mm, pmdp, addr
                )
                if found is not None:
                    ptep, ptl = found
                    migrated = self._try_to_migrate_ptes(folio, vma, ptep, addr, until)
                    ptl.release()
                    if not migrated:
                        return False
        return True

    def _try_to_migrate_ptes(
        self, folio: Folio, vma: VmArea, ptep: int, start: int, end: int
    ) -> bool:
        """Do so for the page entries of one locked table; false if one has to stay."""
        pgtable = self._kernel.pgtable
        pages = range(folio.pfn, folio.pfn + folio.nr_pages)
        for addr in range(start, end, pgtable.page_size):
            pte = pgtable.read(ptep)
            pfn = pgtable.pte_pfn(pte)
            if pte_present(pte) and not pgtable.pte_special(pte) and pfn in pages:
                pte = self._unmap_pte(vma, addr, ptep)
                if pte_dirty(pte):
                    folio.flags |= PG_dirty
                exclusive = folio.page_exclusive(pfn)
                if exclusive and not self.folio_try_share_anon_rmap(folio, pfn):
                    pgtable.set_ptes(vma.mm, addr, ptep, pte, 1)
                    return False
                entry = make_migration_pte(pte, pfn, exclusive=exclusive)
                pgtable.set_pte(ptep, entry)
                self.folio_remove_rmap_pte(folio, pfn, vma)
                self._kernel.swap.folio_put(folio)
            ptep += 8
        return True

    def _unmap_pte(self, vma: VmArea, addr: int, ptep: int) -> int:
        """Clear an entry and flush it, without a wait if that may come later."""
        pgtable = self._kernel.pgtable
        if not self._kernel.tlbflush.arch_tlbbatch_should_defer():
            return self._kernel.pgtable_generic.ptep_clear_flush(vma, addr, ptep)
        pte = pgtable.ptep_get_and_clear(vma.mm, addr, ptep)
        self.set_tlb_ubc_flush_pending(vma.mm, pte, addr, addr + pgtable.page_size)
        return pte

    # -- flushes that are waited for later -------------------------------------------

    def set_tlb_ubc_flush_pending(
        self, mm: MmStruct, pte: int, start: int, end: int
    ) -> None:
        """Start the flush of an entry that was *pte*, and note that it is not over.

        Source: mm/rmap.c, set_tlb_ubc_flush_pending().
        Deviates: the counter is read and changed in one step, so no exchange is tried
        again.
        """
        if not self._kernel.pgtable_generic.pte_accessible(mm, pte):
            return
        self._kernel.tlbflush.arch_tlbbatch_add_pending(mm, start, end)
        tlb_ubc = self._tlb_ubc[self._kernel.machine.running.number]
        tlb_ubc.flush_required = True
        batch = mm.tlb_flush_batched
        if batch & TLB_FLUSH_BATCH_PENDING_MASK > TLB_FLUSH_BATCH_PENDING_LARGE:
            mm.tlb_flush_batched = 1
        else:
            mm.tlb_flush_batched += 1
        if pte_dirty(pte):
            tlb_ubc.writable = True

    def try_to_unmap_flush(self) -> None:
        """Wait for the flushes that this task has started, if there are any.

        Source: mm/rmap.c, try_to_unmap_flush().
        """
        tlb_ubc = self._tlb_ubc[self._kernel.machine.running.number]
        if not tlb_ubc.flush_required:
            return
        self._kernel.tlbflush.arch_tlbbatch_flush()
        tlb_ubc.flush_required = False
        tlb_ubc.writable = False

    def try_to_unmap_flush_dirty(self) -> None:
        """Do so if a CPU may still write to one of the pages: it is to be written out.

        An entry that was dirty lets a CPU write without looking at the table again.

        Source: mm/rmap.c, try_to_unmap_flush_dirty().
        """
        if self._tlb_ubc[self._kernel.machine.running.number].writable:
            self.try_to_unmap_flush()

    def flush_tlb_batched_pending(self, mm: MmStruct) -> None:
        """Make sure that no entry of *mm* is cleared and not flushed yet; PTL held.

        Another CPU may have started such flushes, for which only it can wait. Whoever
        takes a cleared entry for proof that nobody uses the page asks this first. A
        batch that begins while this flush is under way stays pending.

        Source: mm/rmap.c, flush_tlb_batched_pending().
        """
        batch = mm.tlb_flush_batched
        pending = batch & TLB_FLUSH_BATCH_PENDING_MASK
        flushed = batch >> TLB_FLUSH_BATCH_FLUSHED_SHIFT
        if pending == flushed:
            return
        self._kernel.tlbflush.flush_tlb_mm(mm)
        if mm.tlb_flush_batched == batch:
            mm.tlb_flush_batched = pending | pending << TLB_FLUSH_BATCH_FLUSHED_SHIFT
