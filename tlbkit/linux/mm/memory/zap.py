"""Clearing ranges, and giving tables back.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pte_dirty,
    pte_none,
    pte_present,
    pte_uffd_wp,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.huge_mm import pmd_is_huge
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    ULONG_MAX,
    ZAP_FLAG_DROP_MARKER,
    ZAP_FLAG_UNMAP,
)
from tlbkit.linux.include.linux.mm_inline import vma_has_recency
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_GUARD,
    PTE_MARKER_UFFD_WP,
    is_migration_entry,
    make_pte_marker,
    migration_entry_pfn,
    non_swap_entry,
    pte_marker_get,
    pte_swp_uffd_wp_any,
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
        single_folio: The folio for which a file is unmapped, if it is for one.
        even_cows: Private copies of pages of a file go too.
        zap_flags: ``ZAP_FLAG_`` bits.
    """

    single_folio: Folio | None = None
    even_cows: bool = False
    zap_flags: int = 0


class ZapWork:
    """What clearing some entries asks of the one who clears the table.

    Attributes:
        force_flush: A flush before the PTL is released.
        force_break: To let go of what was gathered, since there is no more room.
    """

    __slots__ = ("force_break", "force_flush")

    def __init__(self) -> None:
        self.force_flush = self.force_break = False


class MemoryZap(MemoryNormal):
    """Takes entries, and then tables, out of an address space."""

    __slots__ = ()

    @staticmethod
    def should_zap_cows(details: ZapDetails | None) -> bool:
        """Tell whether private pages go, as they do unless the caller spares them.

        Source: mm/memory.c, should_zap_cows()
        Deviates: no table is freed for being empty (CONFIG_PT_RECLAIM is not arm64's),
        so that nobody asks for that.
        """
        return details is None or details.even_cows

    def should_zap_folio(self, details: ZapDetails | None, folio: Folio) -> bool:
        """Tell whether an entry that maps *folio* is to be cleared.

        Source: mm/memory.c, should_zap_folio()
        """
        return self.should_zap_cows(details) or not folio.anon

    @staticmethod
    def zap_drop_markers(details: ZapDetails | None) -> bool:
        """Tell whether what userfaultfd said of a page is to be forgotten.

        Source: mm/memory.c, zap_drop_markers()
        """
        return details is not None and bool(details.zap_flags & ZAP_FLAG_DROP_MARKER)

    def zap_install_uffd_wp_if_needed(
        self,
        vma: VmArea,
        pte: int,
        nr: int,
        details: ZapDetails | None,
        pteval: int,
    ) -> None:
        """Leave a marker in *nr* cleared entries if *pteval* was write-protected.

        A page of a file may come back at any time, and its entry is all that knows.

        Source: mm/memory.c, zap_install_uffd_wp_if_needed()
        """
        if vma.anonymous or self.zap_drop_markers(details):
            return
        for ptep in range(pte, pte + nr * SLOT, SLOT):
            self.pte_install_uffd_wp_if_needed(vma, ptep, pteval)

    def pte_install_uffd_wp_if_needed(self, vma: VmArea, pte: int, pteval: int) -> bool:
        """Leave a marker at *pte*, where now is nothing, if *pteval* asks for one.

        Source: include/linux/mm_inline.h, pte_install_uffd_wp_if_needed()
        """
        if vma.anonymous or not userfaultfd_wp(vma):
            return False
        if pte_present(pteval):
            arm = pte_uffd_wp(pteval)
        else:
            arm = not pte_none(pteval) and pte_swp_uffd_wp_any(pteval)
        if arm:
            self._pgtable.set_pte(pte, make_pte_marker(PTE_MARKER_UFFD_WP))
        return arm

    def zap_present_folio_ptes(
        self,
        tlb: MmuGather,
        vma: VmArea,
        folio: Folio,
        pte: int,
        ptent: int,
        nr: int,
        addr: int,
        details: ZapDetails | None,
        work: ZapWork,
    ) -> None:
        """Clear *nr* entries of consecutive pages of one folio.

        What the entries of a file's folio knew goes over to it. If it was dirty it
        counts as mapped until the flush is over: CPUs may still write to it.

        Source: mm/memory.c, zap_present_folio_ptes()
        """
        pgtable = self._pgtable
        delay_rmap = False
        pfn = pgtable.pte_pfn(ptent)
        ptent = pgtable.get_and_clear_full_ptes(vma.mm, addr, pte, nr)
        if folio.anon:
            vma.mm.anonpages -= nr
        else:
            if pte_dirty(ptent):
                self._kernel.page_writeback.folio_mark_dirty(folio)
                if self._machine.sees("tlb_delay_rmap", condition=True):
                    delay_rmap = True
                    work.force_flush = True
            if pte_young(ptent) and vma_has_recency(vma):
                self._kernel.filemap.folio_mark_accessed(folio)
            self._kernel.swap.dec_file_counter(vma.mm, folio, nr)
        gather = self._kernel.gather
        gather.tlb_flush_pte_range(tlb, addr, nr * pgtable.page_size)
        if pte_uffd_wp(ptent) and userfaultfd_wp(vma):
            self.zap_install_uffd_wp_if_needed(vma, pte, nr, details, ptent)
        if delay_rmap:
            tlb.delayed_rmaps.append((folio, pfn, nr))
        else:
            self._kernel.rmap.folio_remove_rmap_ptes(folio, pfn, nr, vma)
            if folio.mapcount < 0:
                self.print_bad_pte(vma, addr, ptent, pfn)
        if gather.tlb_remove_folio_pages(tlb, folio, nr):
            work.force_flush = work.force_break = True

    def zap_present_ptes(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pte: int,
        ptent: int,
        max_nr: int,
        addr: int,
        details: ZapDetails | None,
        work: ZapWork,
    ) -> int:
        """Clear or spare a present entry, and those that go on with its folio.

        Returns:
            How many entries were looked at, one at least.

        Source: mm/memory.c, zap_present_ptes()
        """
        folio = self.vm_normal_folio(vma, addr, ptent)
        if folio is None:
            self._pgtable.ptep_get_and_clear(vma.mm, addr, pte)
            self._kernel.gather.tlb_remove_tlb_entry(tlb, addr)
            if pte_uffd_wp(ptent) and userfaultfd_wp(vma):
                self.zap_install_uffd_wp_if_needed(vma, pte, 1, details, ptent)
            return 1
        nr = 1
        if details is None or self.should_zap_folio(details, folio):
            if max_nr != 1 and isinstance(folio, LargeFolio):
                nr = folio_pte_batch(self._pgtable, folio, pte, ptent, max_nr)
            self.zap_present_folio_ptes(
                tlb, vma, folio, pte, ptent, nr, addr, details, work
            )
        return nr

    def zap_nonpresent_ptes(
        self, vma: VmArea, pte: int, ptent: int, details: ZapDetails | None
    ) -> int:
        """Clear or spare an entry of which no TLB knows; 1.

        Source: mm/memory.c, zap_nonpresent_ptes()
        Deviates: slots in a row are not given back at once, and there is no memory of
        devices.
        """
        entry = pte_to_swp_entry(ptent)
        marker = pte_marker_get(ptent)
        if not non_swap_entry(entry):
            if not self.should_zap_cows(details):
                return 1
            vma.mm.swapents -= 1
            self._kernel.swapfile.free_swap_and_cache(entry)
        elif is_migration_entry(entry):
            folio = self._kernel.page_alloc.folio_of(migration_entry_pfn(entry))
            if not self.should_zap_folio(details, folio):
                return 1
            if folio.anon:
                vma.mm.anonpages -= 1
            else:
                self._kernel.swap.dec_file_counter(vma.mm, folio)
        elif marker == PTE_MARKER_UFFD_WP:
            # Of anonymous memory it always goes.
            if not vma.anonymous and not self.zap_drop_markers(details):
                return 1
        elif marker & PTE_MARKER_GUARD:
            if not self.zap_drop_markers(details):
                return 1
        elif not self.should_zap_cows(details):
            return 1  # poison
        self._pgtable.set_pte(pte, 0)
        self.zap_install_uffd_wp_if_needed(vma, pte, 1, details, ptent)
        return 1

    def do_zap_pte_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pte: int,
        addr: int,
        end: int,
        details: ZapDetails | None,
        work: ZapWork,
    ) -> int:
        """Step over empty entries, and clear what comes next; return how many in all.

        Source: mm/memory.c, do_zap_pte_range()
        """
        max_nr = end - addr >> self._pgtable.page_shift
        read = self._memory.read
        ptent = read(pte)
        nr = 0
        while not ptent:
            nr += 1
            if nr == max_nr:
                return nr
            ptent = read(pte + nr * SLOT)
        if nr:
            max_nr -= nr
            pte += nr * SLOT
            addr += nr << self._pgtable.page_shift
        if pte_present(ptent):
            return nr + self.zap_present_ptes(
                tlb, vma, pte, ptent, max_nr, addr, details, work
            )
        return nr + self.zap_nonpresent_ptes(vma, pte, ptent, details)

    def zap_pte_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmd: int,
        addr: int,
        end: int,
        details: ZapDetails | None = None,
    ) -> int:
        """Clear the entries of one table.

        If there is no more room in the gather, all that it has is flushed and freed on
        the way.

        Returns:
            *end*; or how far it came if there is no table any more.

        Source: mm/memory.c, zap_pte_range()
        """
        pgtable = self._pgtable
        gather = self._kernel.gather
        while True:
            work = ZapWork()
            found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmd, addr)
            if found is None:
                return addr
            pte, ptl = found
            if vma.mm.tlb_flush_batched:
                self._kernel.rmap.flush_tlb_batched_pending(vma.mm)
            pgtable.arch_enter_lazy_mmu_mode()
            while True:
                nr = self.do_zap_pte_range(tlb, vma, pte, addr, end, details, work)
                pte += nr * SLOT
                addr += nr << pgtable.page_shift
                if work.force_break or addr == end:
                    break
            pgtable.arch_leave_lazy_mmu_mode()
            if work.force_flush:
                gather.tlb_flush_mmu_tlbonly(tlb)
                gather.tlb_flush_rmaps(tlb, vma)
            ptl.release()
            if work.force_flush:
                gather.tlb_flush_mmu(tlb)
            if addr == end:
                return addr

    def zap_pmd_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pud: int,
        addr: int,
        end: int,
        details: ZapDetails | None,
    ) -> None:
        """Clear what the entries of one PMD table map.

        An entry that changed its kind meanwhile is looked at again.

        Source: mm/memory.c, zap_pmd_range()
        """
        pgtable = self._pgtable
        huge = self._kernel.huge_memory
        pmd = pgtable.pmd_offset(pud, addr)
        while addr != end:
            following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
            whole = following - addr == pgtable.pmd_size
            pmdval = pgtable.read(pmd)
            if pmd_is_huge(pmdval):
                if not whole:
                    huge.split_huge_pmd_(vma, pmd, addr, freeze=False)
                elif huge.zap_huge_pmd(tlb, vma, pmd, addr):
                    addr = following
                    pmd += SLOT
                    continue
            elif (
                whole
                and details is not None
                and details.single_folio is not None
                and details.single_folio.order >= pgtable.hpage_pmd_order
                and pte_none(pmdval)
            ):
                # Who cleared the entry may have it still to count off.
                with self.pmd_lockptr(pmd):
                    pass
            if pte_none(pgtable.read(pmd)):
                addr = following
            else:
                addr = self.zap_pte_range(tlb, vma, pmd, addr, following, details)
            if addr == following:
                pmd += SLOT

    def zap_pud_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pgd: int,
        addr: int,
        end: int,
        details: ZapDetails | None,
    ) -> None:
        """Clear what the entries of one PUD table map.

        Source: mm/memory.c, zap_pud_range()
        """
        pgtable = self._pgtable
        huge = self._kernel.huge_memory
        while addr != end:
            pud = pgtable.pud_offset(pgd, addr)
            following = pgtable.addr_end(addr, end, pgtable.pud_shift)
            pudval = pgtable.read(pud)
            zapped = False
            if pmd_leaf(pudval):
                if following - addr != pgtable.pud_size:
                    huge.split_huge_pud(vma, pud, addr)
                else:
                    zapped = huge.zap_huge_pud(tlb, vma, pud, addr)
                pudval = pgtable.read(pud)
            if not zapped and pmd_table(pudval):
                self.zap_pmd_range(tlb, vma, pud, addr, following, details)
            addr = following

    def unmap_page_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        addr: int,
        end: int,
        details: ZapDetails | None = None,
    ) -> None:
        """Clear the entries of one VMA within [addr, end).

        Source: mm/memory.c, unmap_page_range() and zap_p4d_range()
        """
        pgtable = self._pgtable
        shift = pgtable.pud_shift if pgtable.folded_pud else pgtable.pgdir_shift
        self._kernel.gather.tlb_start_vma(tlb, vma)
        while addr != end:
            pgd = pgtable.pgd_offset(vma.mm, addr)
            following = pgtable.addr_end(addr, end, shift)
            if not pte_none(pgtable.read(pgd)):
                self.zap_pud_range(tlb, vma, pgd, addr, following, details)
            addr = following
        self._kernel.gather.tlb_end_vma(tlb, vma)

    def unmap_single_vma(
        self,
        tlb: MmuGather,
        vma: VmArea,
        start_addr: int,
        end_addr: int,
        details: ZapDetails | None = None,
    ) -> None:
        """Clear the entries of one VMA that lie in a range, of whatever kind it is.

        Source: mm/memory.c, unmap_single_vma()
        """
        start = max(vma.start, start_addr)
        end = min(vma.end, end_addr)
        if start >= end:
            return
        if is_vm_hugetlb_page(vma):
            zap_flags = details.zap_flags if details is not None else 0
            self._kernel.hugetlb.unmap_hugepage_range_(
                tlb, vma, start, end, zap_flags=zap_flags
            )
        else:
            self.unmap_page_range(tlb, vma, start, end, details)

    def unmap_vmas(
        self, tlb: MmuGather, vmas: list[VmArea], start_addr: int, end_addr: int
    ) -> None:
        """Clear all entries of *vmas* in a range for good, and keep their pages.

        Source: mm/memory.c, unmap_vmas()
        """
        if not vmas:
            return
        details = ZapDetails(
            even_cows=True, zap_flags=ZAP_FLAG_DROP_MARKER | ZAP_FLAG_UNMAP
        )
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_UNMAP, 0, tlb.mm, start_addr, end_addr
        ):
            for vma in vmas:
                start, end = self.hugetlb_zap_begin(vma, start_addr, end_addr)
                self.unmap_single_vma(tlb, vma, start, end, details)
                self.hugetlb_zap_end(vma, details)

    def hugetlb_zap_begin(self, vma: VmArea, start: int, end: int) -> tuple[int, int]:
        """Lock a VMA of huge pages, and only such; return the range it concerns.

        Source: include/linux/hugetlb.h, hugetlb_zap_begin()
        """
        if is_vm_hugetlb_page(vma):
            return self._kernel.hugetlb.hugetlb_zap_begin(vma, start, end)
        return start, end

    def hugetlb_zap_end(self, vma: VmArea, details: ZapDetails | None) -> None:
        """Release a VMA of huge pages.

        Source: include/linux/hugetlb.h, hugetlb_zap_end()
        """
        if is_vm_hugetlb_page(vma):
            zap_flags = details.zap_flags if details is not None else 0
            self._kernel.hugetlb.hugetlb_zap_end(vma, zap_flags)

    def zap_page_range_single_batched(
        self,
        tlb: MmuGather,
        vma: VmArea,
        address: int,
        size: int,
        details: ZapDetails | None = None,
    ) -> MmuGather:
        """Clear the entries of a part of *vma*, which stays mapped.

        Huge pages of hugetlb are flushed and freed at once, since whoever faults next
        may need those very pages.

        Returns:
            The gather to go on with.

        Source: mm/memory.c, zap_page_range_single_batched()
        """
        gather = self._kernel.gather
        end = address + size
        span = self.hugetlb_zap_begin(vma, address, end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            self.unmap_single_vma(tlb, vma, address, end, details)
        if is_vm_hugetlb_page(vma):
            gather.tlb_finish_mmu(tlb)
            self.hugetlb_zap_end(vma, details)
            tlb = gather.tlb_gather_mmu(vma.mm)
        return tlb

    def zap_page_range_single(
        self, vma: VmArea, address: int, size: int, details: ZapDetails | None = None
    ) -> None:
        """Clear the entries of a part of *vma*, in a gather of its own.

        Source: mm/memory.c, zap_page_range_single()
        """
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(vma.mm)
        tlb = self.zap_page_range_single_batched(tlb, vma, address, size, details)
        gather.tlb_finish_mmu(tlb)

    # -- by way of a file ------------------------------------------------------------

    def unmap_mapping_range_vma(
        self, vma: VmArea, start_addr: int, end_addr: int, details: ZapDetails
    ) -> None:
        """Clear a part of one VMA that maps a file.

        Source: mm/memory.c, unmap_mapping_range_vma()
        """
        self.zap_page_range_single(vma, start_addr, end_addr - start_addr, details)

    def unmap_mapping_range_tree(
        self,
        mapping: AddressSpace,
        first_index: int,
        last_index: int,
        details: ZapDetails,
    ) -> None:
        """Clear what any VMA maps of a file's pages, the last one included.

        Source: mm/memory.c, unmap_mapping_range_tree()
        Deviates: all VMAs of the file are looked at, where the kernel asks a tree for
        those that map such pages.
        """
        shift = self._pgtable.page_shift
        for vma in mapping.i_mmap:
            vba = vma.pgoff
            vea = vba + (vma.end - vma.start >> shift) - 1
            zba = max(first_index, vba)
            zea = min(last_index, vea)
            if zba <= zea:
                self.unmap_mapping_range_vma(
                    vma,
                    (zba - vba << shift) + vma.start,
                    (zea - vba + 1 << shift) + vma.start,
                    details,
                )

    def unmap_mapping_folio(self, folio: Folio) -> None:
        """Unmap a locked folio that its file gives up; private copies stay.

        Source: mm/memory.c, unmap_mapping_folio()
        """
        mapping: AddressSpace = folio.mapping
        details = ZapDetails(single_folio=folio, zap_flags=ZAP_FLAG_DROP_MARKER)
        mapping.i_mmap_rwsem.down_read()
        self.unmap_mapping_range_tree(
            mapping, folio.index, folio.index + folio.nr_pages - 1, details
        )
        mapping.i_mmap_rwsem.up_read()

    def unmap_mapping_pages(
        self, mapping: AddressSpace, start: int, nr: int = 0, *, even_cows: bool
    ) -> None:
        """Clear every entry that maps one of *nr* pages of a file from *start* on.

        Args:
            mapping: The pages of the file.
            start: The place of the first, in pages.
            nr: How many; 0 for all that follow.
            even_cows: Private copies of such pages go as well.

        Source: mm/memory.c, unmap_mapping_pages()
        """
        last_index = start + nr - 1 if nr else ULONG_MAX
        mapping.i_mmap_rwsem.down_read()
        self.unmap_mapping_range_tree(
            mapping, start, last_index, ZapDetails(even_cows=even_cows)
        )
        mapping.i_mmap_rwsem.up_read()

    # -- tables ----------------------------------------------------------------------

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
            self._kernel.rmap.unlink_anon_vmas(vma)
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
            entryp = (pfn << pgtable.page_shift) + (span & mask) * SLOT
            clear(entryp)
            free_tlb(tlb, self._kernel.page_alloc.folio_of(below), first)
            tlb.mm.pgtables[level] -= 1
