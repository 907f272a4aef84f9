"""Taking the entries of a huge page away: the hugetlb part of unmapping by rmap.

In one area this is either the entry, or all of the table that it stands in: a shared
table is unshared, and the page is unmapped there with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_dirty, pte_present
from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.linux.swapops import (
    SWP_HWPOISON,
    SwpEntry,
    make_migration_pte,
    swp_entry_to_pte,
)
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.rmap.hugetlb import RmapHugetlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import VmArea


class RmapHugetlbUnmap(RmapHugetlb):
    """Unmaps huge pages that went bad, or that migrate."""

    __slots__ = ()

    def rmap_walk_hugetlb(self, folio: HugetlbFolio) -> Iterator[tuple[VmArea, int]]:
        """Yield where a huge page may be mapped: an area, and an address in it.

        The lock of the file, or of the family of areas, is held.
        """
        if folio.anon:
            for vma, start, _ in self.rmap_walk_anon(
                folio.mapping, folio.index, folio.nr_pages
            ):
                yield vma, start
            return
        shift = self._kernel.pgtable.page_shift
        for vma in folio.mapping.i_mmap:
            addr = vma.start + (folio.index - vma.pgoff << shift)
            if vma.start <= addr < vma.end:
                yield vma, addr

    def try_to_unmap_hugetlb(self, folio: HugetlbFolio) -> bool:
        """Take a locked huge page that went bad out of every table; tell of success.

        Entries then say so, and who comes to them is told. The lock of the file is held
        for writing.
        """
        return self._unmap_everywhere(folio, self.poisoned_pte)

    def try_to_migrate_hugetlb(self, folio: HugetlbFolio) -> bool:
        """Let every entry of a locked huge page say that it migrates."""
        return self._unmap_everywhere(folio, self.migrating_pte)

    def _unmap_everywhere(
        self, folio: HugetlbFolio, replace: Callable[[HugetlbFolio, int], int]
    ) -> bool:
        for vma, addr in list(self.rmap_walk_hugetlb(folio)):
            if not self.unmap_one_hugetlb(folio, vma, addr, replace):
                return False
        return not folio.mapcount

    @staticmethod
    def poisoned_pte(folio: HugetlbFolio, pte: int) -> int:
        """Return what stands in place of a page that went bad."""
        del pte
        return swp_entry_to_pte(SwpEntry(SWP_HWPOISON, folio.pfn))

    @staticmethod
    def migrating_pte(folio: HugetlbFolio, pte: int) -> int:
        """Return what stands in place of a page that migrates."""
        exclusive = folio.anon and folio.page_exclusive(folio.pfn)
        return make_migration_pte(pte, folio.pfn, exclusive=exclusive)

    def unmap_one_hugetlb(
        self,
        folio: HugetlbFolio,
        vma: VmArea,
        addr: int,
        replace: Callable[[HugetlbFolio, int], int],
    ) -> bool:
        """Unmap a huge page from one area; false if somebody is in the area's tables.

        The lock of the area comes before that of the file, which is held already: it
        can only be tried.

        Source: try_to_unmap_one() and try_to_migrate_one().
        """
        hugetlb = self._kernel.hugetlb
        huge = self._kernel.hugetlbpage
        size = folio.hstate.size
        span = hugetlb.adjust_range_if_pmd_sharing_possible(vma, addr, addr + size)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            ptep = huge.huge_pte_offset(vma.mm, addr, size)
            if ptep is None:
                return True
            with hugetlb.huge_pte_lockptr(vma, ptep):
                pte = huge.huge_ptep_get(ptep, size)
                pfn = self._kernel.pgtable.pte_pfn(pte)
                if not pte_present(pte) or pfn != folio.pfn:
                    return True
                if not folio.anon:
                    if not hugetlb.hugetlb_vma_trylock_write(vma):
                        return False
                    if self.unshare_hugetlb(vma, addr, ptep, span):
                        return True
                pte = huge.huge_ptep_clear_flush(vma, addr, ptep, size)
                if pte_dirty(pte):
                    folio.flags |= PG_dirty
                entry = replace(folio, pte)
                huge.set_huge_pte_at(vma.mm, addr, ptep, entry, size)
                vma.mm.hugetlb_usage -= folio.nr_pages
                self.hugetlb_remove_rmap(folio, vma)
                self._kernel.swap.folio_put(folio)
        return True

    def unshare_hugetlb(
        self, vma: VmArea, addr: int, ptep: int, span: tuple[int, int]
    ) -> bool:
        """Unmap a page by unsharing the table that maps it; false if it is not shared.

        With the table this area lost the page, and every other page of the table. It is
        the table that was unmapped: neither is a reference dropped, nor the page's own
        count touched. The lock of the area, which is held, is released.
        """
        del span
        hugetlb = self._kernel.hugetlb
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu_vma(vma)
        unshared = hugetlb.huge_pmd_unshare(tlb, vma, addr, ptep)
        hugetlb.hugetlb_vma_unlock_write(vma)
        if unshared:
            hugetlb.huge_pmd_unshare_flush(tlb, vma)
        gather.tlb_finish_mmu(tlb)
        return unshared
