"""From a folio and a VMA to the entries that map it there: mm/page_vma_mapped.c.

A walk is an object that is asked again and again. Each time it stands at an entry that
maps a page of the folio, with the lock of the entry's table held; in the end it holds
nothing.

Compared with: v6.17 and v6.19.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_none,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.huge_mm import pmd_is_migration_entry
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.swapops import (
    is_migration_entry,
    migration_entry_pfn,
    pte_to_swp_entry,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.kernel.locking import SpinLock

PVMW_SYNC: Final = 1 << 0
PVMW_MIGRATION: Final = 1 << 1
PVMW_PGTABLE_CROSSED: Final = 1 << 2


@dataclass(slots=True)
class PageVmaMappedWalk:
    """A walk and where it stands: struct page_vma_mapped_walk.

    Attributes:
        pfn: The first frame.
        nr_pages: How many.
        pgoff: The place of the first in what *vma* maps, in pages.
        vma: The VMA.
        address: Of the entry; at first of the first page that *vma* may map.
        flags: ``PVMW_`` bits.
        pmd: Where the PMD entry stands.
        pte: Where the entry of a page stands, or that of a huge page of hugetlb;
            ``None`` at a PMD entry that maps a huge page.
        ptl: The lock that is held.
    """

    pfn: int
    nr_pages: int
    pgoff: int
    vma: VmArea
    address: int
    flags: int = 0
    pmd: int | None = None
    pte: int | None = None
    ptl: SpinLock | None = None


class PageVmaMapped:
    """The walk from a folio to its entries in one VMA."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    @staticmethod
    def define_folio_vma_walk(
        folio: Folio, vma: VmArea, address: int, flags: int = 0
    ) -> PageVmaMappedWalk:
        """Return a walk to the entries of *folio*, which stands before the first.

        Source: include/linux/rmap.h, DEFINE_FOLIO_VMA_WALK()
        """
        return PageVmaMappedWalk(
            folio.pfn, folio.nr_pages, folio.index, vma, address, flags
        )

    def vma_address_end(self, pvmw: PageVmaMappedWalk) -> int:
        """Return where the pages of a walk end, within their VMA.

        Source: mm/internal.h, vma_address_end()
        """
        vma = pvmw.vma
        if pvmw.nr_pages == 1:
            return pvmw.address + self._pgtable.page_size
        pgoff = pvmw.pgoff + pvmw.nr_pages
        return min(vma.start + (pgoff - vma.pgoff << self._pgtable.page_shift), vma.end)

    @staticmethod
    def page_vma_mapped_walk_done(pvmw: PageVmaMappedWalk) -> None:
        """End a walk before it has come to its end.

        Source: include/linux/rmap.h, page_vma_mapped_walk_done()
        """
        if pvmw.ptl is not None:
            pvmw.ptl.release()
            pvmw.ptl = None

    @staticmethod
    def page_vma_mapped_walk_restart(pvmw: PageVmaMappedWalk) -> None:
        """Have the PMD entry looked at again that has just changed.

        Source: include/linux/rmap.h, page_vma_mapped_walk_restart()
        """
        assert pvmw.ptl is not None
        pvmw.ptl.release()
        pvmw.pmd = pvmw.ptl = None

    def not_found(self, pvmw: PageVmaMappedWalk) -> bool:
        """End a walk that has come to its end; false.

        Source: mm/page_vma_mapped.c, not_found()
        """
        self.page_vma_mapped_walk_done(pvmw)
        return False

    def map_pte(self, pvmw: PageVmaMappedWalk, pmdval: int) -> tuple[bool, int]:
        """Find the first entry in the table that *pmd* points to, if there is one.

        Without PVMW_SYNC the lock is only taken if the entry may be one of the walk's.

        Returns:
            Whether it is locked, and may be; and what *pmd* said.

        Source: mm/page_vma_mapped.c, map_pte()
        Deviates: the lock of an entry that is passed over is found again by what *pmd*
        said. There is no memory of devices.
        """
        generic = self._kernel.pgtable_generic
        mm = pvmw.vma.mm
        assert pvmw.pmd is not None
        if pvmw.flags & PVMW_SYNC:
            found = generic.pte_offset_map_lock(mm, pvmw.pmd, pvmw.address)
            if found is not None:
                pvmw.pte, pvmw.ptl = found
            return found is not None, pmdval
        while True:
            mapped = generic.pte_offset_map_rw_nolock(mm, pvmw.pmd, pvmw.address)
            if mapped is None:
                return False, pmdval
            pvmw.pte, pmdval, ptl = mapped
            pteval = self._pgtable.ptep_get(pvmw.pte)
            if pvmw.flags & PVMW_MIGRATION:
                if pte_none(pteval) or pte_present(pteval):
                    return False, pmdval
            elif not pte_present(pteval):
                return False, pmdval
            ptl.acquire()
            if self._pgtable.read(pvmw.pmd) == pmdval:
                pvmw.ptl = ptl
                return True, pmdval
            ptl.release()
            pvmw.pte = None

    def check_pte(self, pvmw: PageVmaMappedWalk, pte_nr: int) -> bool:
        """Tell whether an entry for *pte_nr* pages is one of the walk's.

        Source: mm/page_vma_mapped.c, check_pte()
        Deviates: there is no memory of devices.
        """
        assert pvmw.pte is not None
        ptent = self._pgtable.ptep_get(pvmw.pte)
        if pvmw.flags & PVMW_MIGRATION:
            if pte_none(ptent) or pte_present(ptent):
                return False
            entry = pte_to_swp_entry(ptent)
            if not is_migration_entry(entry):
                return False
            pfn = migration_entry_pfn(entry)
        elif pte_present(ptent):
            pfn = self._pgtable.pte_pfn(ptent)
        else:
            return False
        return pfn + pte_nr > pvmw.pfn and pfn < pvmw.pfn + pvmw.nr_pages

    def check_pmd(self, pfn: int, pvmw: PageVmaMappedWalk) -> bool:
        """Tell whether a huge page that begins at *pfn* has pages of the walk's.

        Source: mm/page_vma_mapped.c, check_pmd()
        """
        end = pfn + self._pgtable.hpage_pmd_nr
        return end > pvmw.pfn and pfn < pvmw.pfn + pvmw.nr_pages

    @staticmethod
    def step_forward(pvmw: PageVmaMappedWalk, size: int) -> None:
        """Go on behind all that one entry maps, of *size* bytes.

        Source: mm/page_vma_mapped.c, step_forward()
        """
        pvmw.address = (pvmw.address + size) & -size

    def page_vma_mapped_walk(self, pvmw: PageVmaMappedWalk) -> bool:
        """Go on to the next entry of the folio; false if there are no more.

        A PMD entry that maps a huge page is the only one there can be.

        Source: mm/page_vma_mapped.c, page_vma_mapped_walk()
        """
        pgtable = self._pgtable
        if pvmw.pmd is not None and pvmw.pte is None:
            return self.not_found(pvmw)
        if is_vm_hugetlb_page(pvmw.vma):
            return self._hugetlb_walk(pvmw)
        end = self.vma_address_end(pvmw)
        pmde = 0 if pvmw.pmd is None else pgtable.read(pvmw.pmd)
        while True:
            if pvmw.pte is None:
                if pvmw.address >= end:
                    return False
                pmd = self._find_pmd(pvmw)
                if pmd is None:
                    continue
                pvmw.pmd = pmd
                pmde = pgtable.read(pmd)
                if pmd_trans_huge(pmde) or pmd_is_migration_entry(pmde):
                    pvmw.ptl = self._kernel.memory.pmd_lockptr(pmd)
                    pvmw.ptl.acquire()
                    pmde = pgtable.read(pmd)
                    if not pmd_table(pmde):
                        return self._check_huge(pvmw, pmde) or self.not_found(pvmw)
                    pvmw.ptl.release()  # it was split meanwhile
                    pvmw.ptl = None
                elif not pte_present(pmde):
                    if pvmw.flags & PVMW_SYNC and pvmw.nr_pages >= pgtable.hpage_pmd_nr:
                        # Who cleared the entry may have it still to count off.
                        with self._kernel.memory.pmd_lockptr(pmd):
                            pass
                    self.step_forward(pvmw, pgtable.pmd_size)
                    continue
                locked, pmde = self.map_pte(pvmw, pmde)
                if pvmw.pte is None:
                    continue
                if locked and self.check_pte(pvmw, 1):
                    return True
            while self._next_pte(pvmw, pmde, end):
                if self.check_pte(pvmw, 1):
                    return True
            if pvmw.address >= end:
                return self.not_found(pvmw)

    def _next_pte(self, pvmw: PageVmaMappedWalk, pmde: int, end: int) -> bool:
        """Go on to the next entry of a table that says anything, and lock the table.

        False at the end of the pages, or of the table; or if the table has gone.
        """
        pgtable = self._pgtable
        assert pvmw.pte is not None
        assert pvmw.pmd is not None
        while True:
            pvmw.address += pgtable.page_size
            if pvmw.address >= end:
                return False
            if not pvmw.address & (pgtable.pmd_size - 1):
                self.page_vma_mapped_walk_done(pvmw)
                pvmw.pte = None
                pvmw.flags |= PVMW_PGTABLE_CROSSED
                return False
            pvmw.pte += SLOT
            if not pte_none(pgtable.ptep_get(pvmw.pte)):
                break
        if pvmw.ptl is None:
            ptl = self._kernel.memory.pte_lockptr(pmde)
            ptl.acquire()
            if pgtable.read(pvmw.pmd) != pmde:
                ptl.release()
                pvmw.pte = None
                return False
            pvmw.ptl = ptl
        return True

    def _check_huge(self, pvmw: PageVmaMappedWalk, pmde: int) -> bool:
        """Tell whether a PMD entry that is no table is the walk's."""
        migration = bool(pvmw.flags & PVMW_MIGRATION)
        if pte_present(pmde):
            pfn = self._pgtable.pte_pfn(pmde)
            return not migration and self.check_pmd(pfn, pvmw)
        if not migration or not pmd_is_migration_entry(pmde):
            return False
        return self.check_pmd(migration_entry_pfn(pte_to_swp_entry(pmde)), pvmw)

    def _hugetlb_walk(self, pvmw: PageVmaMappedWalk) -> bool:
        """Go to the one entry that may map a huge page of hugetlb."""
        if pvmw.pte is not None:
            return self.not_found(pvmw)
        hugetlb = self._kernel.hugetlb
        h = hugetlb.hstate_vma(pvmw.vma)
        pvmw.pte = hugetlb.hugetlb_walk(pvmw.vma, pvmw.address, h.size)
        if pvmw.pte is None:
            return False
        pvmw.ptl = hugetlb.huge_pte_lockptr(pvmw.vma, pvmw.pte)
        pvmw.ptl.acquire()
        return self.check_pte(pvmw, 1 << h.order) or self.not_found(pvmw)

    def _find_pmd(self, pvmw: PageVmaMappedWalk) -> int | None:
        """Return where the PMD entry stands; ``None``, and go on, without a table."""
        pgtable = self._pgtable
        pgd = pgtable.pgd_offset(pvmw.vma.mm, pvmw.address)
        if not pmd_table(pgtable.read(pgd)):
            folded = pgtable.folded_pud
            shift = pgtable.pud_shift if folded else pgtable.pgdir_shift
            self.step_forward(pvmw, 1 << shift)
            return None
        pud = pgtable.pud_offset(pgd, pvmw.address)
        if not pmd_table(pgtable.read(pud)):
            self.step_forward(pvmw, pgtable.pud_size)
            return None
        return pgtable.pmd_offset(pud, pvmw.address)
