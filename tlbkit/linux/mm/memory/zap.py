"""Clearing ranges, and giving tables back."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_dirty,
    pte_none,
    pte_present,
    pte_uffd_wp,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_VALID,
)
from tlbkit.linux.include.linux.huge_mm import pmd_is_huge
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import ZAP_FLAG_DROP_MARKER
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    is_migration_entry,
    make_pte_marker,
    non_swap_entry,
    pte_marker_get,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_wp
from tlbkit.linux.mm.internal import (
    folio_pte_batch,
)
from tlbkit.linux.mm.memory.normal import MemoryNormal
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR, MMU_NOTIFY_UNMAP

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


_TableLevel = tuple[
    int, int, "Callable[[int], None]", "Callable[[MmuGather, Folio, int], None]"
]
"""A level of tables: its number, log2 of what one maps, how an entry that points to
one is emptied, and how the table is given back."""


class ZapDetails(NamedTuple):
    """What to spare when a range is cleared: struct zap_details.

    Attributes:
        even_cows: Private copies of pages of a file go too.
        drop_markers: And so does what userfaultfd said of a page that is gone.
    """

    even_cows: bool
    drop_markers: bool = False

    def should_zap_folio(self, folio: Folio | None) -> bool:
        """Tell whether an entry that maps *folio* is to be cleared.

        Source: mm/memory.c, should_zap_folio()
        """
        return self.even_cows or folio is None or not folio.anon


_ALL: Final = ZapDetails(even_cows=True, drop_markers=True)
"""Nothing is spared of what is unmapped for good."""


class MemoryZap(MemoryNormal):
    """Takes entries, and then tables, out of an address space."""

    __slots__ = ()

    def unmap_vmas(
        self, tlb: MmuGather, vmas: list[VmArea], start: int, end: int
    ) -> None:
        """Clear all entries of *vmas* within [start, end), and keep their pages.

        Source: mm/memory.c, unmap_vmas()
        """
        if not vmas:
            return
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_UNMAP, 0, tlb.mm, start, end
        ):
            for vma in vmas:
                first, last = max(vma.start, start), min(vma.end, end)
                if first >= last:
                    continue
                self.hugetlb_zap_begin(vma, first, last)
                self.unmap_single_vma(tlb, vma, first, last, _ALL)
                self.hugetlb_zap_end(vma, final=True)

    def hugetlb_zap_begin(self, vma: VmArea, start: int, end: int) -> tuple[int, int]:
        """Lock an area of huge pages, and only such; return the range it concerns.

        Source: include/linux/hugetlb.h, hugetlb_zap_begin()
        """
        if is_vm_hugetlb_page(vma):
            return self._kernel.hugetlb.hugetlb_zap_begin(vma, start, end)
        return start, end

    def hugetlb_zap_end(self, vma: VmArea, *, final: bool) -> None:
        """Release it; *final* if it goes away for good.

        Source: include/linux/hugetlb.h, hugetlb_zap_end()
        """
        if is_vm_hugetlb_page(vma):
            self._kernel.hugetlb.hugetlb_zap_end(vma, final=final)

    def unmap_single_vma(
        self,
        tlb: MmuGather,
        vma: VmArea,
        start: int,
        end: int,
        details: ZapDetails | None = None,
    ) -> None:
        """Clear the entries of one area within [start, end), of whatever kind it is.

        Source: mm/memory.c, unmap_single_vma()
        """
        if is_vm_hugetlb_page(vma):
            self._kernel.hugetlb.unmap_hugepage_range_(
                tlb,
                vma,
                start,
                end,
                zap_flags=ZAP_FLAG_DROP_MARKER
                if details is not None and details.drop_markers
                else 0,
            )
        else:
            self.unmap_page_range(tlb, vma, start, end, details)

    def zap_page_range_single_batched(
        self,
        tlb: MmuGather,
        vma: VmArea,
        start: int,
        end: int,
        details: ZapDetails | None = None,
    ) -> None:
        """Clear the entries of a part of *vma*, which stays mapped.

        Source: mm/memory.c, zap_page_range_single_batched()
        """
        span = self.hugetlb_zap_begin(vma, start, end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            self.unmap_single_vma(tlb, vma, start, end, details)
        if is_vm_hugetlb_page(vma):
            # Whoever faults next may need the very pages that are kept in the gather.
            self._kernel.gather.tlb_flush_mmu(tlb)
        self.hugetlb_zap_end(vma, final=False)

    def zap_page_range_single(
        self, vma: VmArea, addr: int, size: int, details: ZapDetails | None = None
    ) -> None:
        """Do so in a gather of its own.

        Source: mm/memory.c, zap_page_range_single()
        """
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(vma.mm)
        self.zap_page_range_single_batched(tlb, vma, addr, addr + size, details)
        gather.tlb_finish_mmu(tlb)

    def unmap_page_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        addr: int,
        end: int,
        details: ZapDetails | None = None,
    ) -> None:
        """Clear the entries of one area within [addr, end).

        Source: mm/memory.c, unmap_page_range()
        """
        self._kernel.gather.tlb_start_vma(tlb, vma)
        if not vma.anonymous:
            huge = self._kernel.huge_memory
            for pudp, first, last in self.pud_leaves(vma.mm, addr, end):
                if last - first < self._pgtable.pud_size:
                    huge.split_huge_pud(vma, pudp, first)
                else:
                    huge.zap_huge_pud(tlb, vma, pudp, first)
        for pmdp, first, last in self.pmd_entries(vma.mm, addr, end):
            pmd = self._pgtable.read(pmdp)
            if pmd_is_huge(pmd):
                huge = self._kernel.huge_memory
                if last - first < self._pgtable.pmd_size:
                    huge.split_huge_pmd_(vma, pmdp, first, freeze=False)
                elif huge.zap_huge_pmd(tlb, vma, pmdp, first):
                    continue
            at = first
            while at < last and not pte_none(self._pgtable.read(pmdp)):
                at = self.zap_pte_range(tlb, vma, pmdp, at, last, details)
        self._kernel.gather.tlb_end_vma(tlb, vma)

    def unmap_mapping_pages(
        self,
        mapping: AddressSpace,
        start: int,
        nr: int | None = None,
        *,
        even_cows: bool,
    ) -> None:
        """Clear every entry that maps one of *nr* pages of a file from *start* on.

        Args:
            mapping: The pages of the file.
            start: The place of the first, in pages.
            nr: How many; all that follow if not given.
            even_cows: Private copies of such pages go as well.

        Source: mm/memory.c, unmap_mapping_pages()
        """
        shift = self._pgtable.page_shift
        details = ZapDetails(even_cows=even_cows)
        mapping.i_mmap_rwsem.down_read()
        for vma in mapping.i_mmap:
            first = max(start, vma.pgoff)
            last = vma.pgoff + (vma.end - vma.start >> shift)
            if nr is not None:
                last = min(last, start + nr)
            if first < last:
                addr = vma.start + (first - vma.pgoff << shift)
                self.zap_page_range_single(vma, addr, last - first << shift, details)
        mapping.i_mmap_rwsem.up_read()

    def zap_pte_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmdp: int,
        addr: int,
        end: int,
        details: ZapDetails | None = None,
    ) -> int:
        """Clear the entries of one table, until it ends or the gather is full.

        Returns:
            The address up to which it came.

        Source: mm/memory.c, zap_pte_range()
        """
        pgtable = self._pgtable
        size = pgtable.page_size
        read = self._memory.read
        gather = self._kernel.gather
        full = False
        marks = self._keeps_marks(vma, details)
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmdp, addr)
        if found is None:
            return addr
        ptep, ptl = found
        if vma.mm.tlb_flush_batched:
            self._kernel.rmap.flush_tlb_batched_pending(vma.mm)
        pgtable.arch_enter_lazy_mmu_mode()
        while addr < end and not full:
            pte = read(ptep)
            if pte & PTE_VALID or pte_present(pte):
                folio = self.vm_normal_folio(vma, addr, pte)
                nr = 1
                if details is None or details.should_zap_folio(folio):
                    if isinstance(folio, LargeFolio):
                        nr, full = self.zap_present_folio_ptes(
                            tlb, vma, folio, ptep, addr, end
                        )
                    else:
                        full = self.zap_present_pte(tlb, vma, folio, ptep, pte, addr)
                    if marks and pte_uffd_wp(pte):
                        self._install_marks(ptep, nr)
                ptep += (nr - 1) * 8
                addr += (nr - 1) * size
            elif pte and not self._spares(vma, pte, details):
                self.zap_nonpresent_pte(vma, ptep, pte)
            ptep += 8
            addr += size
        pgtable.arch_leave_lazy_mmu_mode()
        force_flush = full or bool(tlb.delayed_rmaps)
        if force_flush:
            gather.tlb_flush_mmu_tlbonly(tlb)
            gather.tlb_flush_rmaps(tlb, vma)
        ptl.release()
        if force_flush:
            gather.tlb_flush_mmu(tlb)
        return addr

    @staticmethod
    def _keeps_marks(vma: VmArea, details: ZapDetails | None) -> bool:
        """Tell whether a page that is taken away stays write-protected.

        A page of a file may come back at any time, and its entry is all that knows.
        """
        if vma.anonymous or not userfaultfd_wp(vma):
            return False
        return details is None or not details.drop_markers

    def _install_marks(self, ptep: int, nr: int) -> None:
        """Mark *nr* empty entries: zap_install_uffd_wp_if_needed()."""
        for n in range(nr):
            self._pgtable.set_pte(ptep + n * 8, make_pte_marker(PTE_MARKER_UFFD_WP))

    @staticmethod
    def _spares(vma: VmArea, pte: int, details: ZapDetails | None) -> bool:
        """Tell whether an entry that maps nothing stays."""
        if pte_marker_get(pte):
            return not vma.anonymous and (details is None or not details.drop_markers)
        return details is not None and not details.even_cows

    def zap_nonpresent_pte(self, vma: VmArea, ptep: int, pte: int) -> None:
        """Clear an entry of which no TLB and no folio's count knows."""
        entry = pte_to_swp_entry(pte)
        if is_migration_entry(entry):
            vma.mm.anonpages -= 1
        elif not non_swap_entry(entry):
            vma.mm.swapents -= 1
            self._kernel.swapfile.free_swap_and_cache(entry)
        self._pgtable.set_pte(ptep, 0)

    def zap_present_pte(
        self,
        tlb: MmuGather,
        vma: VmArea,
        folio: Folio | None,
        ptep: int,
        pte: int,
        addr: int,
    ) -> bool:
        """Clear one present entry; true if the gather must be flushed now."""
        pte = self._pgtable.ptep_get_and_clear_(ptep)
        self._kernel.gather.tlb_remove_tlb_entry(tlb, addr)
        if folio is None:
            return False
        if not folio.anon:
            self.zap_file_rmap(tlb, vma, folio, pte, 1)
        else:
            pfn = self._pgtable.pte_pfn(pte)
            vma.mm.anonpages -= 1
            self._kernel.rmap.folio_remove_rmap_pte(folio, pfn, vma)
            if folio.mapcount < 0:
                self.print_bad_pte(vma, addr, pte, pfn)
        return self._kernel.gather.tlb_remove_folio_pages(tlb, folio, 1)

    def zap_file_rmap(
        self, tlb: MmuGather, vma: VmArea, folio: Folio, pte: int, nr: int
    ) -> None:
        """Count off *nr* entries, which said *pte*, of a folio of a file.

        What the entries knew goes over to the folio. If it was dirty, it counts as
        mapped until the flush is over: CPUs may still write to it.
        """
        swap = self._kernel.swap
        pfn = self._pgtable.pte_pfn(pte)
        swap.dec_file_counter(vma.mm, folio, nr)
        if pte_young(pte):
            self._kernel.filemap.folio_mark_accessed(folio)
        if pte_dirty(pte):
            self._kernel.page_writeback.folio_mark_dirty(folio)
            if self._machine.sees("tlb_delay_rmap", condition=True):
                tlb.delayed_rmaps.append((folio, pfn, nr))
                return
        self._kernel.rmap.folio_remove_rmap_ptes(folio, pfn, nr, vma)

    def zap_present_folio_ptes(
        self,
        tlb: MmuGather,
        vma: VmArea,
        folio: LargeFolio,
        ptep: int,
        addr: int,
        end: int,
    ) -> tuple[int, bool]:
        """Clear the entries of consecutive pages of one large folio.

        Returns:
            How many, and whether the gather must be flushed now.

        Source: mm/memory.c, zap_present_folio_ptes()
        """
        pgtable = self._pgtable
        pte = pgtable.ptep_get(ptep)
        most = (end - addr) >> pgtable.page_shift
        nr = folio_pte_batch(pgtable, folio, ptep, pte, most)
        pte = pgtable.get_and_clear_full_ptes(vma.mm, addr, ptep, nr)
        self._kernel.gather.tlb_flush_pte_range(tlb, addr, nr * pgtable.page_size)
        if not folio.anon:
            self.zap_file_rmap(tlb, vma, folio, pte, nr)
        else:
            pfn = pgtable.pte_pfn(pte)
            vma.mm.anonpages -= nr
            self._kernel.rmap.folio_remove_rmap_ptes(folio, pfn, nr, vma)
        return nr, self._kernel.gather.tlb_remove_folio_pages(tlb, folio, nr)

    def free_pgtables(
        self, tlb: MmuGather, vmas: list[VmArea], floor: int, ceiling: int
    ) -> None:
        """Unhook the tables that only *vmas* used, and let their files forget them.

        A table stays if an area before *floor* or from *ceiling* on may use it too;
        a ceiling of 0 stands for the end of the address space.

        Source: mm/memory.c, free_pgtables()
        """
        self._kernel.gather.tlb_free_vmas(tlb)
        for vma, above in zip_longest(vmas, vmas[1:]):
            self._kernel.vma.unlink_file_vma(vma)
            high = above.start if above else ceiling
            self.free_pgd_range(tlb, vma.start, vma.end, floor, high)

    def free_pgd_range(
        self, tlb: MmuGather, addr: int, end: int, floor: int, ceiling: int
    ) -> None:
        """Unhook the PTE, PMD and PUD tables that lie between the limits.

        Source: mm/memory.c, free_pgd_range()
        """
        pgtable = self._pgtable
        gather = self._kernel.gather
        levels: list[_TableLevel] = [
            (1, pgtable.pgdir_shift, pgtable.p4d_clear, gather.pud_free_tlb),
            (2, pgtable.pud_shift, pgtable.pud_clear, gather.pmd_free_tlb),
            (3, pgtable.pmd_shift, pgtable.pmd_clear, gather.pte_free_tlb),
        ]
        if pgtable.folded_pud:
            del levels[0]
        limits = (floor, ceiling or pgtable.task_size)
        pgd = tlb.mm.pgd >> pgtable.page_shift
        self._free_tables_below(tlb, pgd, levels, addr, end, limits)

    def _free_tables_below(
        self,
        tlb: MmuGather,
        pfn: int,
        levels: list[_TableLevel],
        addr: int,
        end: int,
        limits: tuple[int, int],
    ) -> None:
        """Unhook the tables that the one in frame *pfn* points to for [addr, end).

        A table that reaches over a limit is not ours, though some below it may be.
        """
        (level, shift, clear, free_tlb), *deeper = levels
        pgtable = self._pgtable
        floor, top = limits
        size = 1 << shift
        entries = self._memory.frame(pfn)
        mask = pgtable.ptrs_per_pte - 1
        for span in range(addr >> shift, -(-end >> shift)):
            entry = entries[span & mask]
            if not pmd_table(entry):
                continue
            first = span << shift
            below = pgtable.pte_pfn(entry)
            if deeper:
                self._free_tables_below(
                    tlb,
                    below,
                    deeper,
                    max(addr, first),
                    min(end, first + size),
                    limits,
                )
            if first < floor or first + size > top:
                continue
            entryp = (pfn << pgtable.page_shift) + (span & mask) * 8
            clear(entryp)
            free_tlb(tlb, self._kernel.page_alloc.folio_of(below), first)
            tlb.mm.pgtables[level] -= 1
