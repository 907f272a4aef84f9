"""Gathering what a change leaves behind, to flush it once.

A gather widens one range over all entries that were changed or cleared, keeps the pages
and tables that nobody may reuse yet, flushes, and only then frees them.

Source: mm/mmu_gather.c and include/asm-generic/tlb.h, v6.19.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

MMU_GATHER_BUNDLE: Final = 8
"""Pages that fit before the first batch page is allocated."""
MAX_GATHER_PAGES: Final = 10_000
"""Pages that all batch pages of one gather hold, about: MAX_GATHER_BATCH_COUNT."""
_BATCH_HEADER_WORDS: Final = 2
_TABLE_BATCH_HEADER_WORDS: Final = 3


@dataclass(slots=True)
class MmuGather:
    """One gather at work: struct mmu_gather.

    Attributes:
        mm: The address space.
        fullmm: All of it goes away; nothing need be flushed page by page.
        start, end: The hull of what was recorded.
        freed_tables: Page tables were unhooked.
        cleared_ptes, cleared_pmds, cleared_puds, cleared_p4ds: Levels touched.
        pages: Folios to let go after the flush, one entry for each reference.
        room: Entries left before another batch page is needed.
        batches: Batch pages in use.
        tables: Tables to free after the flush.
        delayed_rmaps: Dirty pages of files whose count of mappings still includes the
            entries that were cleared: folio, first frame, number.
    """

    mm: MmStruct
    fullmm: bool = False
    start: int = 0
    end: int = 0
    freed_tables: bool = False
    cleared_ptes: bool = False
    cleared_pmds: bool = False
    cleared_puds: bool = False
    cleared_p4ds: bool = False
    pages: list[Folio] = field(default_factory=list)
    room: int = MMU_GATHER_BUNDLE
    batches: int = 0
    tables: list[Folio] = field(default_factory=list)
    delayed_rmaps: list[tuple[Folio, int, int]] = field(default_factory=list)

    @property
    def recorded(self) -> bool:
        """Whether anything was recorded that a flush would be for."""
        return (
            self.freed_tables
            or self.cleared_ptes
            or self.cleared_pmds
            or self.cleared_puds
            or self.cleared_p4ds
        )


class Gather:
    """The operations on gathers."""

    __slots__ = (
        "_batch_pages",
        "_batch_tables",
        "_kernel",
        "_max_batches",
        "_task_size",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        words = kernel.pgtable.page_size // 8
        self._batch_pages = words - _BATCH_HEADER_WORDS
        self._batch_tables = words - _TABLE_BATCH_HEADER_WORDS
        self._max_batches = MAX_GATHER_PAGES // self._batch_pages
        self._task_size = kernel.pgtable.task_size

    # -- begin and end ---------------------------------------------------------------

    def tlb_gather_mmu(self, mm: MmStruct) -> MmuGather:
        """Begin a gather over part of *mm*."""
        tlb = MmuGather(mm)
        self._reset_range(tlb)
        mm.tlb_flush_pending += 1  # inc_tlb_flush_pending()
        return tlb

    def tlb_gather_mmu_fullmm(self, mm: MmStruct) -> MmuGather:
        """Begin a gather over all of *mm*, which nobody will use again."""
        tlb = MmuGather(mm, fullmm=True)
        self._reset_range(tlb)
        mm.tlb_flush_pending += 1
        return tlb

    def tlb_finish_mmu(self, tlb: MmuGather) -> None:
        """Flush what is still recorded, free what was kept, and end the gather.

        If another gather of the address space is at work, entries that this one saw
        already cleared may not have been flushed yet, so everything is.
        """
        mm = tlb.mm
        nested = mm.tlb_flush_pending > 1  # mm_tlb_flush_nested()
        if nested and not self._kernel.machine.skips("mm_tlb_flush_nested"):
            tlb.fullmm = True
            self._reset_range(tlb)
            tlb.freed_tables = True
        self.tlb_flush_mmu(tlb)
        mm.tlb_flush_pending -= 1  # dec_tlb_flush_pending()

    # -- record ----------------------------------------------------------------------

    @staticmethod
    def _adjust_range(tlb: MmuGather, address: int, size: int) -> None:
        """Widen the hull by [address, address + size): __tlb_adjust_range()."""
        tlb.start = min(tlb.start, address)
        tlb.end = max(tlb.end, address + size)

    def tlb_flush_pte_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record page entries that were changed."""
        self._adjust_range(tlb, address, size)
        tlb.cleared_ptes = True

    def tlb_flush_pmd_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record PMD entries that were changed."""
        self._adjust_range(tlb, address, size)
        tlb.cleared_pmds = True

    def tlb_flush_pud_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record PUD entries that were changed."""
        self._adjust_range(tlb, address, size)
        tlb.cleared_puds = True

    def tlb_flush_p4d_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record top-level entries that were changed."""
        self._adjust_range(tlb, address, size)
        tlb.cleared_p4ds = True

    def tlb_remove_tlb_entry(self, tlb: MmuGather, address: int) -> None:
        """Record one page entry that was cleared."""
        self.tlb_flush_pte_range(tlb, address, self._kernel.pgtable.page_size)

    def tlb_remove_pmd_tlb_entry(self, tlb: MmuGather, address: int) -> None:
        """Record one block entry that was cleared."""
        self.tlb_flush_pmd_range(tlb, address, self._kernel.pgtable.pmd_size)

    def tlb_end_vma(self, tlb: MmuGather, vma: VmArea) -> None:
        """End one area: flush what was recorded in it, unless all of mm goes away."""
        del vma
        if not tlb.fullmm:
            self.tlb_flush_mmu_tlbonly(tlb)

    # -- keep ------------------------------------------------------------------------

    def tlb_remove_folio_pages(self, tlb: MmuGather, folio: Folio, nr: int) -> bool:
        """Keep *nr* references until after the flush; true asks for a flush now.

        Source: __tlb_remove_folio_pages_size(); several pages of one folio take two
        places, the folio and the count.
        """
        tlb.pages += [folio] * nr
        tlb.room -= 1 if nr == 1 else 2
        if tlb.room >= 2:
            return False
        return not self._next_batch(tlb)

    def tlb_flush_rmaps(self, tlb: MmuGather, vma: VmArea) -> None:
        """Count the mappings off that had to wait for the flush, which is over.

        While a TLB may still let somebody write, a dirty page must look mapped: who
        writes it back must find that entry, and wait for the lock of its table.
        """
        delayed, tlb.delayed_rmaps = tlb.delayed_rmaps, []
        for folio, pfn, nr in delayed:
            self._kernel.rmap.folio_remove_rmap_ptes(folio, pfn, nr, vma)

    def _next_batch(self, tlb: MmuGather) -> bool:
        """Make room for more pages: tlb_next_batch(). It may fail."""
        if tlb.batches >= self._max_batches:
            return False
        fail = self._kernel.page_alloc.fail
        if fail is not None and fail():
            return False
        tlb.batches += 1
        tlb.room = self._batch_pages
        return True

    def tlb_remove_table(self, tlb: MmuGather, table: Folio) -> None:
        """Keep an unhooked table until no walker can be in it."""
        fail = self._kernel.page_alloc.fail
        if not tlb.tables and fail is not None and fail():
            # No page to keep tables in: wait for all walkers, then free this one.
            self._table_invalidate(tlb)
            self.tlb_remove_table_sync_one()
            self._kernel.page_alloc.free(table)
            return
        tlb.tables.append(table)
        if len(tlb.tables) >= self._batch_tables:
            self._table_flush(tlb)

    def tlb_remove_table_sync_one(self) -> None:
        """Interrupt every other CPU, which proves that none is in a lockless walk."""
        self._kernel.machine.send_ipi(
            self._kernel.machine.cpus, _do_nothing, "tlb_remove_table_sync_one"
        )

    def _table_invalidate(self, tlb: MmuGather) -> None:
        self.tlb_flush_mmu_tlbonly(tlb)

    def _table_flush(self, tlb: MmuGather) -> None:
        """Flush, then free the kept tables: tlb_table_flush().

        The kernel frees them by RCU, once every CPU has had interrupts on.
        """
        self._table_invalidate(tlb)
        tables, tlb.tables = tlb.tables, []
        self._kernel.rcu.call(lambda: self._free_tables(tables))

    def _free_tables(self, tables: list[Folio]) -> None:
        for table in tables:
            self._kernel.page_alloc.free(table)

    # -- flush -----------------------------------------------------------------------

    def tlb_flush_mmu_tlbonly(self, tlb: MmuGather) -> None:
        """Flush what was recorded, and begin to record anew."""
        if not tlb.recorded:
            return
        self._kernel.tlb.tlb_flush(tlb)
        self._reset_range(tlb)

    def tlb_flush_mmu(self, tlb: MmuGather) -> None:
        """Flush, then let go of the kept tables and pages."""
        self.tlb_flush_mmu_tlbonly(tlb)
        if tlb.tables:
            self._table_flush(tlb)
        pages, tlb.pages = tlb.pages, []
        self._kernel.swap.free_pages_and_swap_cache(pages)
        tlb.room = MMU_GATHER_BUNDLE
        tlb.batches = 0

    def _reset_range(self, tlb: MmuGather) -> None:
        """Forget what was recorded: __tlb_reset_range()."""
        if tlb.fullmm:
            tlb.start = tlb.end = (1 << 64) - 1
        else:
            tlb.start, tlb.end = self._task_size, 0
        tlb.freed_tables = False
        tlb.cleared_ptes = tlb.cleared_pmds = False
        tlb.cleared_puds = tlb.cleared_p4ds = False

    def tlb_get_unmap_size(self, tlb: MmuGather) -> int:
        """Return the bytes of the smallest level that was touched."""
        pgtable = self._kernel.pgtable
        if tlb.cleared_ptes:
            return pgtable.page_size
        if tlb.cleared_pmds:
            return pgtable.pmd_size
        if tlb.cleared_puds:
            return pgtable.pud_size
        if tlb.cleared_p4ds:
            return 1 << pgtable.pgdir_shift
        return pgtable.page_size


def _do_nothing(_cpu: object) -> None:
    """Be interrupted: that is all that the sender waits for."""
