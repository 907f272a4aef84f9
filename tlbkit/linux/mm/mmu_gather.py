"""Gathering what a change leaves behind, to flush it once.

A gather widens one range over all entries that were changed or cleared, keeps the pages
and tables that nobody may reuse yet, flushes, and only then frees them.

Source: mm/mmu_gather.c, v6.19.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.asm_generic.tlb import (
    MAX_GATHER_PAGES,
    MMU_GATHER_BUNDLE,
    GenericTlb,
    MmuGather,
)
from tlbkit.linux.kernel.panic import BugError

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

__all__ = ["MAX_NR_FOLIOS_PER_FREE", "Gather", "MmuGather"]

MAX_NR_FOLIOS_PER_FREE: Final = 512
"""Folios that are freed before others may run."""
_BATCH_HEADER_WORDS: Final = 2
_TABLE_BATCH_HEADER_WORDS: Final = 3


class Gather(GenericTlb):
    """The operations on gathers.

    Attributes:
        max_gather_batch: Entries of one batch page.
        max_gather_batches: Batch pages of one gather.
        max_table_batch: Tables that are kept before they are flushed and freed.
    """

    __slots__ = ("max_gather_batch", "max_gather_batches", "max_table_batch")

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        words = kernel.pgtable.page_size // 8
        self.max_gather_batch = words - _BATCH_HEADER_WORDS
        self.max_gather_batches = MAX_GATHER_PAGES // self.max_gather_batch
        self.max_table_batch = words - _TABLE_BATCH_HEADER_WORDS

    # -- begin and end ---------------------------------------------------------------

    def tlb_gather_mmu(self, mm: MmStruct) -> MmuGather:
        """Begin a gather over part of *mm*.

        Source: mm/mmu_gather.c, tlb_gather_mmu()
        """
        return self._gather_mmu(mm, fullmm=False)

    def tlb_gather_mmu_fullmm(self, mm: MmStruct) -> MmuGather:
        """Begin a gather over all of *mm*, which nobody will use again.

        Source: mm/mmu_gather.c, tlb_gather_mmu_fullmm()
        """
        return self._gather_mmu(mm, fullmm=True)

    def tlb_gather_mmu_vma(self, vma: VmArea) -> MmuGather:
        """Begin a gather over part of one area, which then need not be begun itself.

        Source: mm/mmu_gather.c, tlb_gather_mmu_vma()
        """
        tlb = self._gather_mmu(vma.mm, fullmm=False)
        self.tlb_update_vma_flags(tlb, vma)
        return tlb

    def _gather_mmu(self, mm: MmStruct, *, fullmm: bool) -> MmuGather:
        """Begin a gather: __tlb_gather_mmu()."""
        tlb = MmuGather(mm, fullmm)
        self._reset_range(tlb)
        mm.tlb_flush_pending += 1  # inc_tlb_flush_pending()
        return tlb

    def tlb_finish_mmu(self, tlb: MmuGather) -> None:
        """Flush what is still recorded, free what was kept, and end the gather.

        If another gather of the address space is at work, entries that this one saw
        already cleared may not have been flushed yet, so everything is.

        To interrupt CPUs because of unshared tables would be too late here: the lock
        that kept their new owner off is no longer held.

        Source: mm/mmu_gather.c, tlb_finish_mmu()
        """
        if tlb.fully_unshared_tables and self._kernel.config.debug_vm:
            self._kernel.panic.warn_on_once(
                "tlb_finish_mmu", "tlb_flush_unshared_tables() was forgotten"
            )
        mm = tlb.mm
        nested = mm.tlb_flush_pending > 1  # mm_tlb_flush_nested()
        if self._kernel.machine.sees("mm_tlb_flush_nested", nested):
            tlb.fullmm = True
            self._reset_range(tlb)
            tlb.freed_tables = True
        self.tlb_flush_mmu(tlb)
        mm.tlb_flush_pending -= 1  # dec_tlb_flush_pending()

    # -- pages -----------------------------------------------------------------------

    def tlb_remove_page_size(self, tlb: MmuGather, folio: Folio) -> None:
        """Keep one reference until after the flush, which is made now if need be.

        Source: include/asm-generic/tlb.h, tlb_remove_page_size()
        """
        if self.tlb_remove_folio_pages(tlb, folio, 1):
            self.tlb_flush_mmu(tlb)

    def tlb_remove_folio_pages(self, tlb: MmuGather, folio: Folio, nr: int) -> bool:
        """Keep *nr* references until after the flush; true asks for a flush now.

        A batch counts as full while one entry is left, because several pages of one
        folio take two: the folio and the number.

        Source: __tlb_remove_folio_pages_size().
        """
        if not tlb.end and self._kernel.config.debug_vm:
            raise BugError("a page is kept for a flush that nobody has recorded")
        tlb.pages += [folio] * nr
        tlb.room -= 1 if nr == 1 else 2
        if tlb.room >= 2:
            return False
        return not self._next_batch(tlb)

    def _next_batch(self, tlb: MmuGather) -> bool:
        """Make room for more pages: tlb_next_batch(). It may fail.

        With counts of mappings waiting for the flush, two batches must do.
        """
        if tlb.delayed_rmaps and tlb.active:
            return False
        if tlb.active == tlb.batches:
            if tlb.batches >= self.max_gather_batches:
                return False
            if self._kernel.page_alloc.should_fail_alloc_page():
                return False
            tlb.batches += 1
        tlb.active += 1
        tlb.room = self.max_gather_batch
        return True

    def tlb_flush_rmaps(self, tlb: MmuGather, vma: VmArea) -> None:
        """Count the mappings off that had to wait for the flush, which is over.

        While a TLB may still let somebody write, a dirty page must look mapped: who
        writes it back must find that entry, and wait for the lock of its table.

        Source: mm/mmu_gather.c, tlb_flush_rmaps()
        """
        delayed, tlb.delayed_rmaps = tlb.delayed_rmaps, []
        for folio, pfn, nr in delayed:
            self._kernel.rmap.folio_remove_rmap_ptes(folio, pfn, nr, vma)

    def _batch_pages_flush(self, tlb: MmuGather) -> None:
        """Let go of the kept pages, some at a time: tlb_batch_pages_flush()."""
        pages, tlb.pages = tlb.pages, []
        tlb.active, tlb.room = 0, MMU_GATHER_BUNDLE
        for first in range(0, len(pages), MAX_NR_FOLIOS_PER_FREE):
            self._kernel.swap_state.free_pages_and_swap_cache(
                pages[first : first + MAX_NR_FOLIOS_PER_FREE]
            )

    # -- tables ----------------------------------------------------------------------

    def tlb_remove_table(self, tlb: MmuGather, table: Folio) -> None:
        """Keep an unhooked table until no walker can be in it.

        Source: mm/mmu_gather.c, tlb_remove_table()
        """
        if not tlb.tables and self._kernel.page_alloc.should_fail_alloc_page():
            # No page to keep tables in.
            self._table_invalidate(tlb)
            self._remove_table_one(table)
            return
        tlb.tables.append(table)
        if len(tlb.tables) >= self.max_table_batch:
            self._table_flush(tlb)

    def _remove_table_one(self, table: Folio) -> None:
        """Wait until no walker is in one table, and free it: tlb_remove_table_one()."""
        self.tlb_remove_table_sync_one()
        self._free_tables([table])

    def tlb_remove_table_sync_one(self) -> None:
        """Interrupt every other CPU, which proves that none is in a lockless walk.

        A lockless walk has interrupts off, so a CPU that takes the interrupt is not in
        a walk that began before. Walks that begin later do not find what was unhooked.

        Source: mm/mmu_gather.c, tlb_remove_table_sync_one()
        """
        self._kernel.smp.smp_call_function(
            _remove_table_smp_sync, "tlb_remove_table_sync_one"
        )

    def _table_invalidate(self, tlb: MmuGather) -> None:
        """Flush, as walk caches remember tables: tlb_table_invalidate()."""
        self.tlb_flush_mmu_tlbonly(tlb)

    def _table_flush(self, tlb: MmuGather) -> None:
        """Flush, then free the kept tables by RCU: tlb_table_flush().

        A grace period waits for CPUs with interrupts off, so for lockless walkers.
        """
        if not tlb.tables:
            return
        self._table_invalidate(tlb)
        tables, tlb.tables = tlb.tables, []
        self._kernel.rcu.call(lambda: self._free_tables(tables))

    def _free_tables(self, tables: list[Folio]) -> None:
        for table in tables:
            self._kernel.page_alloc.free(table)

    # -- flush -----------------------------------------------------------------------

    def tlb_flush_mmu(self, tlb: MmuGather) -> None:
        """Flush, then let go of the kept tables and pages.

        Source: mm/mmu_gather.c, tlb_flush_mmu()
        """
        self.tlb_flush_mmu_tlbonly(tlb)
        self._table_flush(tlb)
        self._batch_pages_flush(tlb)


def _remove_table_smp_sync(_cpu: object) -> None:
    """Be interrupted: that is all that the sender waits for."""
