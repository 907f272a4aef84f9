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
from tlbkit.linux.include.linux.mm import VM_MAYSHARE
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    make_pte_marker,
    pte_marker_get,
    pte_swp_uffd_wp,
)
from tlbkit.linux.mm.hugetlb.share import HugetlbShare
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.hugetlb import Hstate, HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.kernel.locking import SpinLock
    from tlbkit.linux.mm.hugetlb.entries import HugeEntries
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugetlbZap(HugetlbShare):
    """Clears ranges."""

    __slots__ = ()

    def hugetlb_zap_begin(self, vma: VmArea, start: int, end: int) -> tuple[int, int]:
        """Lock an area to be unmapped; return the range, widened to shared tables."""
        self.hugetlb_vma_lock_write(vma)
        self.mapping(vma).i_mmap_rwsem.down_write()
        return self.adjust_range_if_pmd_sharing_possible(vma, start, end)

    def hugetlb_zap_end(self, vma: VmArea, *, final: bool) -> None:
        """Release an area that was unmapped.

        One that goes away for good loses its lock while i_mmap_rwsem is still held: its
        tables are about to be freed, and nobody may come to share them.
        """
        if final:
            self.hugetlb_vma_unlock_write_free_(vma)
        else:
            self.hugetlb_vma_unlock_write(vma)
        self.mapping(vma).i_mmap_rwsem.up_write()

    def unmap_hugepage_range_(
        self,
        tlb: MmuGather,
        vma: VmArea,
        start: int,
        end: int,
        folio: HugetlbFolio | None = None,
        *,
        drop_marker: bool = False,
    ) -> None:
        """Clear the entries of [start, end): __unmap_hugepage_range().

        A table that others use too is unshared, and its entries stay.

        Args:
            tlb: The caller's gather.
            vma: The area, locked as `huge_pmd_unshare` needs it.
            start: The first address, whole huge pages.
            end: The one behind the last.
            folio: Clear only the entry of this page; the area must never see another
                page in its place.
            drop_marker: Leave no marker where a userfaultfd had protected a page.
        """
        gather = self._kernel.gather
        gather.tlb_start_vma(tlb, vma)
        entries = self.huge_entries(vma, start, end)
        for addr, ptep in entries:
            ptl = self.huge_pte_lockptr(vma, ptep)
            ptl.acquire()
            if self.huge_pmd_unshare(tlb, vma, addr, ptep):
                ptl.release()
                entries.skip_table()
            elif self.zap_huge_pte(
                tlb, vma, entries, addr, ptep, ptl, folio, drop_marker=drop_marker
            ):
                break
        gather.tlb_end_vma(tlb, vma)
        self.huge_pmd_unshare_flush(tlb, vma)

    def zap_huge_pte(
        self,
        tlb: MmuGather,
        vma: VmArea,
        entries: HugeEntries,
        addr: int,
        ptep: int,
        ptl: SpinLock,
        wanted: HugetlbFolio | None,
        *,
        drop_marker: bool,
    ) -> bool:
        """Clear one entry, and release its lock; tell whether it was the *wanted* one.

        The page is kept until the flush. Of empty ones, all that follow are done too.
        """
        h = self.hstate_vma(vma)
        pte = self._kernel.hugetlbpage.huge_ptep_get(ptep, h.size)
        gone = None
        if pte_none(pte):
            entries.skip_empty(ptep)
        else:
            gone = self._clear_one(
                tlb, vma, addr, ptep, pte, wanted, drop_marker=drop_marker
            )
        ptl.release()
        if gone is None:
            return False
        self._adjust_reservation(h, vma, addr, gone)
        self._kernel.gather.tlb_remove_page_size(tlb, gone)
        return wanted is not None

    def _clear_one(
        self,
        tlb: MmuGather,
        vma: VmArea,
        addr: int,
        ptep: int,
        pte: int,
        wanted: HugetlbFolio | None,
        *,
        drop_marker: bool,
    ) -> HugetlbFolio | None:
        """Clear one entry, whose table is locked; return the page it mapped, if any."""
        huge = self._kernel.hugetlbpage
        h = self.hstate_vma(vma)
        marker = make_pte_marker(PTE_MARKER_UFFD_WP)
        if not pte_present(pte):
            marked = pte_swp_uffd_wp(pte) or pte_marker_get(pte) & PTE_MARKER_UFFD_WP
            if marked and not drop_marker:
                huge.set_huge_pte_at(vma.mm, addr, ptep, marker, h.size)
            else:
                huge.huge_pte_clear(ptep, h.size)
            return None
        folio = self.folio(pte)
        if wanted is not None:
            if folio is not wanted:
                return None
            self.set_vma_resv_flags(vma, HPAGE_RESV_UNMAPPED)
        pte = huge.huge_ptep_get_and_clear(ptep, h.size)
        self._kernel.gather.tlb_remove_huge_tlb_entry(tlb, addr, h.size)
        if pte_dirty(pte) and folio.mapping is not None and not folio.anon:
            folio.mapping.ops.dirty_folio(folio.mapping, folio)
        if pte_uffd_wp(pte) and not drop_marker:
            huge.set_huge_pte_at(vma.mm, addr, ptep, marker, h.size)
        vma.mm.hugetlb_usage -= folio.nr_pages
        self._kernel.rmap.hugetlb_remove_rmap(folio, vma)
        return folio

    def _adjust_reservation(
        self, h: Hstate, vma: VmArea, addr: int, folio: HugetlbFolio
    ) -> None:
        """Have the pool promise a private page again that its owner unmaps."""
        with self.hugetlb_lock:
            restore = (
                not h.surplus_huge_pages
                and self.is_vma_resv_set(vma, HPAGE_RESV_OWNER)
                and folio.anon
            )
            if restore:
                folio.restore_reserve = True
        if restore and self.vma_needs_reservation(h, vma, addr):
            self.vma_add_reservation(h, vma, addr)

    def unmap_hugepage_range(
        self, vma: VmArea, start: int, end: int, folio: HugetlbFolio | None = None
    ) -> None:
        """Clear a range with a gather of its own; i_mmap_rwsem is held for writing."""
        gather = self._kernel.gather
        span = self.adjust_range_if_pmd_sharing_possible(vma, start, end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            tlb = gather.tlb_gather_mmu(vma.mm)
            self.unmap_hugepage_range_(tlb, vma, start, end, folio)
        gather.tlb_finish_mmu(tlb)

    def unmap_ref_private(self, vma: VmArea, folio: HugetlbFolio, addr: int) -> None:
        """Take a private page from all areas that were not promised one.

        *vma* was, and there is none left for its copy. The others are killed if they
        ever come back to it.
        """
        h = self.hstate_vma(vma)
        mapping = self.mapping(vma)
        shift = self._pgtable.page_shift
        index = (addr - vma.start >> shift) + vma.pgoff
        mapping.i_mmap_rwsem.down_write()
        for other in mapping.i_mmap:
            there = other.start + (index - other.pgoff << shift)
            if (
                other is not vma
                and other.start <= there < other.end
                and not other.flags & VM_MAYSHARE
                and not self.is_vma_resv_set(other, HPAGE_RESV_OWNER)
            ):
                self.unmap_hugepage_range(other, there, there + h.size, folio)
        mapping.i_mmap_rwsem.up_write()
