"""Unmapping huge pages: munmap, exit, MADV_DONTNEED, truncation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_none,
    pte_present,
    pte_uffd_wp,
)
from tlbkit.linux.include.linux.hugetlb import HPAGE_RESV_OWNER, HPAGE_RESV_UNMAPPED
from tlbkit.linux.include.linux.mm import (
    VM_MAYSHARE,
    ZAP_FLAG_DROP_MARKER,
    ZAP_FLAG_UNMAP,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    make_pte_marker,
    pte_swp_uffd_wp_any,
)
from tlbkit.linux.mm.hugetlb.share import HugetlbShare
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugetlbZap(HugetlbShare):
    """Clears ranges."""

    __slots__ = ()

    def unmap_hugepage_range_(
        self,
        tlb: MmuGather,
        vma: VmArea,
        start: int,
        end: int,
        folio: HugetlbFolio | None = None,
        zap_flags: int = 0,
    ) -> None:
        """Clear the entries of [start, end).

        A table that others use too is unshared, and its entries stay.

        Args:
            tlb: The caller's gather.
            vma: The VMA, locked as `huge_pmd_unshare` needs it.
            start: The first address, whole huge pages.
            end: The one behind the last.
            folio: Clear only the entry of this page; the VMA must never see another
                page in its place.
            zap_flags: ``ZAP_FLAG_DROP_MARKER``: leave no marker where a userfaultfd had
                protected a page.

        Source: mm/hugetlb.c, __unmap_hugepage_range()
        Deviates: Empty entries that follow an empty one are stepped over at once, and
        not one by one: nothing is done for any of them.
        """
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        gather = self._kernel.gather
        keep_marker = not zap_flags & ZAP_FLAG_DROP_MARKER
        marker = make_pte_marker(PTE_MARKER_UFFD_WP)
        folio_provided = folio is not None
        gather.tlb_start_vma(tlb, vma)
        entries = self.huge_entries(vma, start, end)
        for address, ptep in entries:
            ptl = self.huge_pte_lockptr(vma, ptep)
            ptl.acquire()
            if self.huge_pmd_unshare(tlb, vma, address, ptep):
                ptl.release()
                entries.skip_table()
                continue
            pte = huge.huge_ptep_get(ptep, h.size)
            if pte_none(pte):
                entries.skip_empty(ptep)
                ptl.release()
                continue
            if not pte_present(pte):
                if keep_marker and pte_swp_uffd_wp_any(pte):
                    huge.set_huge_pte_at(vma.mm, address, ptep, marker, h.size)
                else:
                    huge.huge_pte_clear(ptep, h.size)
                ptl.release()
                continue
            if folio_provided:
                if folio is not self.folio(pte):
                    ptl.release()
                    continue
                self.set_vma_resv_flags(vma, HPAGE_RESV_UNMAPPED)
            folio = self.folio(pte)
            pte = huge.huge_ptep_get_and_clear(ptep, h.size)
            gather.tlb_remove_huge_tlb_entry(tlb, address, h.size)
            if pte_dirty(pte) and folio.mapping is not None and not folio.anon:
                folio.mapping.ops.dirty_folio(folio.mapping, folio)
            if pte_uffd_wp(pte) and keep_marker:
                huge.set_huge_pte_at(vma.mm, address, ptep, marker, h.size)
            vma.mm.hugetlb_usage -= folio.nr_pages
            self._kernel.rmap.hugetlb_remove_rmap(folio, vma)
            ptl.release()
            # A private page is promised to its owner again, or it could be stolen.
            with self.hugetlb_lock:
                adjust_reservation = (
                    not h.surplus_huge_pages
                    and self.is_vma_resv_set(vma, HPAGE_RESV_OWNER)
                    and folio.anon
                )
                if adjust_reservation:
                    folio.restore_reserve = True
            if adjust_reservation and self.vma_needs_reservation(h, vma, address):
                self.vma_add_reservation(h, vma, address)
            gather.tlb_remove_page_size(tlb, folio)
            if folio_provided:
                break
        gather.tlb_end_vma(tlb, vma)
        self.huge_pmd_unshare_flush(tlb, vma)

    def hugetlb_zap_begin(self, vma: VmArea, start: int, end: int) -> tuple[int, int]:
        """Lock a VMA to be unmapped; return the range, widened to shared tables.

        Source: mm/hugetlb.c, __hugetlb_zap_begin()
        """
        span = self.adjust_range_if_pmd_sharing_possible(vma, start, end)
        self.hugetlb_vma_lock_write(vma)
        self.mapping(vma).i_mmap_rwsem.down_write()
        return span

    def hugetlb_zap_end(self, vma: VmArea, zap_flags: int) -> None:
        """Release a VMA that was unmapped.

        One that goes away for good loses its lock while i_mmap_rwsem is still held: its
        tables are about to be freed, and nobody may come to share them.

        Source: mm/hugetlb.c, __hugetlb_zap_end()
        """
        if zap_flags & ZAP_FLAG_UNMAP:
            self.hugetlb_vma_unlock_write_free_(vma)
        else:
            self.hugetlb_vma_unlock_write(vma)
        self.mapping(vma).i_mmap_rwsem.up_write()

    def unmap_hugepage_range(
        self,
        vma: VmArea,
        start: int,
        end: int,
        folio: HugetlbFolio | None,
        zap_flags: int,
    ) -> None:
        """Clear a range with a gather of its own; i_mmap_rwsem is held for writing.

        Source: mm/hugetlb.c, unmap_hugepage_range()
        """
        gather = self._kernel.gather
        span = self.adjust_range_if_pmd_sharing_possible(vma, start, end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            tlb = gather.tlb_gather_mmu(vma.mm)
            self.unmap_hugepage_range_(tlb, vma, start, end, folio, zap_flags)
        gather.tlb_finish_mmu(tlb)

    def unmap_ref_private(self, vma: VmArea, folio: HugetlbFolio, address: int) -> None:
        """Take a private page from all VMAs that were not promised one.

        *vma* was, and there is none left for its copy. The others are killed if they
        ever come back to it.

        Source: mm/hugetlb.c, unmap_ref_private()
        Deviates: Unmaps a VMA at its own address of the page, where the kernel takes
        that of *vma*: children, which are meant, have it at the same.
        """
        h = self.hstate_vma(vma)
        mapping = self.mapping(vma)
        shift = self._pgtable.page_shift
        pgoff = (address - vma.start >> shift) + vma.pgoff
        mapping.i_mmap_rwsem.down_write()
        for iter_vma in mapping.i_mmap:
            there = iter_vma.start + (pgoff - iter_vma.pgoff << shift)
            if not iter_vma.start <= there < iter_vma.end:
                continue
            if iter_vma is vma or iter_vma.flags & VM_MAYSHARE:
                continue
            if not self.is_vma_resv_set(iter_vma, HPAGE_RESV_OWNER):
                self.unmap_hugepage_range(iter_vma, there, there + h.size, folio, 0)
        mapping.i_mmap_rwsem.up_write()
