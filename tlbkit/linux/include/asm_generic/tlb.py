"""What a gather remembers of changed entries, and when that asks for a flush.

Four kinds of note, and they live for different times. What was cleared, at which level,
and which tables were unhooked is forgotten with each flush, because the flush takes
care of it. What is known of the area (huge pages, code) stays, as no area is begun
anew in the middle. And that a table now belongs to somebody else alone stays until
every CPU was interrupted, which no flush does.

Source: include/asm-generic/tlb.h, v6.19.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm import (
    ULONG_MAX,
    VM_EXEC,
    VM_HUGETLB,
    VM_MIXEDMAP,
    VM_PFNMAP,
)
from tlbkit.linux.include.linux.mm_types import (
    ptdesc_pmd_is_shared,
    ptdesc_pmd_pts_dec,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

MMU_GATHER_BUNDLE: Final = 8
"""Pages that fit before the first batch page is allocated."""
MAX_GATHER_PAGES: Final = 10_000
"""Pages that all batch pages of one gather hold, about: MAX_GATHER_BATCH_COUNT."""


@dataclass(slots=True)
class MmuGather:
    """One gather at work: struct mmu_gather.

    Attributes:
        mm: The address space.
        fullmm: All of it goes away; nothing need be flushed page by page.
        start, end: The hull of what was recorded.
        freed_tables: Page tables were unhooked, to be freed.
        unshared_tables: Tables were unhooked that others go on using.
        fully_unshared_tables: One of those has a single user left, who may do with it
            as it likes once the lock of the file is released.
        cleared_ptes, cleared_pmds, cleared_puds, cleared_p4ds: Levels touched.
        vma_exec, vma_huge: The area begun last holds code, or huge pages of hugetlb.
        vma_pfn: An area maps frames that are not counted, or may be such.
        pages: Folios to let go after the flush, one entry for each reference.
        room: Entries left before another batch page is needed.
        batches: Batch pages that there are.
        active: Batch pages in use.
        tables: Tables to free after the flush.
        delayed_rmaps: Dirty pages of files whose count of mappings still includes the
            entries that were cleared: folio, first frame, number.
    """

    mm: MmStruct
    fullmm: bool = False
    start: int = 0
    end: int = 0
    freed_tables: bool = False
    unshared_tables: bool = False
    fully_unshared_tables: bool = False
    cleared_ptes: bool = False
    cleared_pmds: bool = False
    cleared_puds: bool = False
    cleared_p4ds: bool = False
    vma_exec: bool = False
    vma_huge: bool = False
    vma_pfn: bool = False
    pages: list[Folio] = field(default_factory=list)
    room: int = MMU_GATHER_BUNDLE
    batches: int = 0
    active: int = 0
    tables: list[Folio] = field(default_factory=list)
    delayed_rmaps: list[tuple[Folio, int, int]] = field(default_factory=list)

    @property
    def recorded(self) -> bool:
        """Whether anything was recorded that a flush would be for.

        Source: none; it is the first question of tlb_flush_mmu_tlbonly().
        """
        return (
            self.freed_tables
            or self.unshared_tables
            or self.cleared_ptes
            or self.cleared_pmds
            or self.cleared_puds
            or self.cleared_p4ds
        )


class GenericTlb:
    """What is recorded in a gather, and the flush of it."""

    __slots__ = ("_kernel", "_task_size")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._task_size = kernel.pgtable.task_size

    # -- areas -----------------------------------------------------------------------

    @staticmethod
    def tlb_update_vma_flags(tlb: MmuGather, vma: VmArea) -> None:
        """Note what kind of area is at work; that it maps bare frames stays noted.

        Source: include/asm-generic/tlb.h, tlb_update_vma_flags()
        """
        tlb.vma_huge = bool(vma.flags & VM_HUGETLB)
        tlb.vma_exec = bool(vma.flags & VM_EXEC)
        tlb.vma_pfn |= bool(vma.flags & (VM_PFNMAP | VM_MIXEDMAP))

    def tlb_start_vma(self, tlb: MmuGather, vma: VmArea) -> None:
        """Begin one area, unless all of the address space goes away.

        Source: include/asm-generic/tlb.h, tlb_start_vma()
        """
        if not tlb.fullmm:
            self.tlb_update_vma_flags(tlb, vma)

    def tlb_end_vma(self, tlb: MmuGather, vma: VmArea) -> None:
        """End one area: flush what was recorded in it, unless all of mm goes away.

        Source: include/asm-generic/tlb.h, tlb_end_vma()
        """
        del vma
        if not tlb.fullmm:
            self.tlb_flush_mmu_tlbonly(tlb)

    def tlb_free_vmas(self, tlb: MmuGather) -> None:
        """Flush before areas leave their files, if frames are mapped uncounted.

        Who clears such frames by way of the file would not find the area any more, and
        take an entry in a TLB for one that is not there.

        Source: include/asm-generic/tlb.h, tlb_free_vmas()
        """
        if not tlb.fullmm and tlb.vma_pfn:
            self.tlb_flush_mmu_tlbonly(tlb)

    # -- record entries --------------------------------------------------------------

    @staticmethod
    def _adjust_range(tlb: MmuGather, address: int, size: int) -> None:
        """Widen the hull by [address, address + size): __tlb_adjust_range()."""
        # Two calls for each page would cost more than all the rest.
        if address < tlb.start:  # noqa: PLR1730
            tlb.start = address
        if address + size > tlb.end:  # noqa: PLR1730
            tlb.end = address + size

    def tlb_flush_pte_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record page entries that were changed.

        Source: include/asm-generic/tlb.h, tlb_flush_pte_range()
        """
        self._adjust_range(tlb, address, size)
        tlb.cleared_ptes = True

    def tlb_flush_pmd_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record PMD entries that were changed.

        Source: include/asm-generic/tlb.h, tlb_flush_pmd_range()
        """
        self._adjust_range(tlb, address, size)
        tlb.cleared_pmds = True

    def tlb_flush_pud_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record PUD entries that were changed.

        Source: include/asm-generic/tlb.h, tlb_flush_pud_range()
        """
        self._adjust_range(tlb, address, size)
        tlb.cleared_puds = True

    def tlb_flush_p4d_range(self, tlb: MmuGather, address: int, size: int) -> None:
        """Record top-level entries that were changed.

        Source: include/asm-generic/tlb.h, tlb_flush_p4d_range()
        """
        self._adjust_range(tlb, address, size)
        tlb.cleared_p4ds = True

    def tlb_remove_tlb_entry(self, tlb: MmuGather, address: int) -> None:
        """Record one page entry that was cleared.

        Source: include/asm-generic/tlb.h, tlb_remove_tlb_entry()
        """
        self.tlb_flush_pte_range(tlb, address, self._kernel.pgtable.page_size)

    def tlb_remove_huge_tlb_entry(
        self, tlb: MmuGather, address: int, size: int
    ) -> None:
        """Record one huge page of hugetlb that was changed, of *size* bytes.

        Source: include/asm-generic/tlb.h, tlb_remove_huge_tlb_entry()
        """
        pgtable = self._kernel.pgtable
        if size >= pgtable.pud_size:
            self.tlb_flush_pud_range(tlb, address, size)
        elif size >= pgtable.pmd_size:
            self.tlb_flush_pmd_range(tlb, address, size)
        else:
            self.tlb_flush_pte_range(tlb, address, size)

    def tlb_remove_pmd_tlb_entry(self, tlb: MmuGather, address: int) -> None:
        """Record one block entry that was cleared.

        Source: include/asm-generic/tlb.h, tlb_remove_pmd_tlb_entry()
        """
        self.tlb_flush_pmd_range(tlb, address, self._kernel.pgtable.pmd_size)

    def tlb_remove_pud_tlb_entry(self, tlb: MmuGather, address: int) -> None:
        """Record one entry of a PUD block that was cleared.

        Source: include/asm-generic/tlb.h, tlb_remove_pud_tlb_entry()
        """
        self.tlb_flush_pud_range(tlb, address, self._kernel.pgtable.pud_size)

    # -- record tables ---------------------------------------------------------------

    def pte_free_tlb(self, tlb: MmuGather, table: Folio, address: int) -> None:
        """Record that the PTE table for *address* was unhooked, and keep it.

        What was cleared is the entry that pointed to it, one level up.

        Source: include/asm-generic/tlb.h, pte_free_tlb()
        """
        self.tlb_flush_pmd_range(tlb, address, self._kernel.pgtable.page_size)
        tlb.freed_tables = True
        self._kernel.tlb.pte_free_tlb_(tlb, table)

    def pmd_free_tlb(self, tlb: MmuGather, table: Folio, address: int) -> None:
        """Record the same of a PMD table.

        Source: include/asm-generic/tlb.h, pmd_free_tlb()
        """
        self.tlb_flush_pud_range(tlb, address, self._kernel.pgtable.page_size)
        tlb.freed_tables = True
        self._kernel.tlb.pmd_free_tlb_(tlb, table)

    def pud_free_tlb(self, tlb: MmuGather, table: Folio, address: int) -> None:
        """Record the same of a PUD table.

        Source: include/asm-generic/tlb.h, pud_free_tlb()
        """
        self.tlb_flush_p4d_range(tlb, address, self._kernel.pgtable.page_size)
        tlb.freed_tables = True
        self._kernel.tlb.pud_free_tlb_(tlb, table)

    def tlb_unshare_pmd_ptdesc(
        self, tlb: MmuGather, table: Folio, address: int
    ) -> None:
        """Record that a shared PMD table was unhooked, which others go on using.

        What must leave the TLBs are the leaves that it led to, all of them: hence the
        whole span of the table, at PMD level. `tlb_flush_unshared_tables` must follow
        before the lock is released that keeps the others from changing the table.

        Source: include/asm-generic/tlb.h, tlb_unshare_pmd_ptdesc()
        """
        if not ptdesc_pmd_is_shared(table):
            self._kernel.panic.warn_on_once(
                "tlb_unshare_pmd_ptdesc", "the table is not shared"
            )
        ptdesc_pmd_pts_dec(table)
        size = self._kernel.pgtable.pud_size
        self.tlb_flush_pmd_range(tlb, address & -size, size)
        if not ptdesc_pmd_is_shared(table):
            tlb.fully_unshared_tables = True
        tlb.unshared_tables = True

    def tlb_flush_unshared_tables(self, tlb: MmuGather) -> None:
        """Make sure that nobody can reach unshared tables by the way that was cut.

        The flush is for this address space, whoever else uses the tables. If one of
        them has a single user left, every CPU is interrupted as well: who unhooked it
        before may have left lockless walkers in it, and from now on it may change.

        Source: include/asm-generic/tlb.h, tlb_flush_unshared_tables()
        """
        if tlb.unshared_tables:
            self.tlb_flush_mmu_tlbonly(tlb)
        if tlb.fully_unshared_tables:
            self._kernel.gather.tlb_remove_table_sync_one()
            tlb.fully_unshared_tables = False

    # -- flush -----------------------------------------------------------------------

    def tlb_flush_mmu_tlbonly(self, tlb: MmuGather) -> None:
        """Flush what was recorded, and begin to record anew.

        Source: include/asm-generic/tlb.h, tlb_flush_mmu_tlbonly()
        """
        if not tlb.recorded:
            return
        self._kernel.tlb.tlb_flush(tlb)
        self._reset_range(tlb)

    def _reset_range(self, tlb: MmuGather) -> None:
        """Forget what a flush takes care of: __tlb_reset_range()."""
        if tlb.fullmm:
            tlb.start = tlb.end = ULONG_MAX
        else:
            tlb.start, tlb.end = self._task_size, 0
        tlb.freed_tables = tlb.unshared_tables = False
        tlb.cleared_ptes = tlb.cleared_pmds = False
        tlb.cleared_puds = tlb.cleared_p4ds = False

    def tlb_get_unmap_size(self, tlb: MmuGather) -> int:
        """Return the bytes of the smallest level that was touched.

        Source: include/asm-generic/tlb.h, tlb_get_unmap_size()
        """
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
