"""Which folio an address is mapped to: mm/pagewalk.c, folio_walk_start()."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_none,
    pte_present,
)
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, Page, VmArea
    from tlbkit.linux.include.linux.pgtable import LeafLevel
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.kernel.locking import SpinLock

FW_ZEROPAGE: Final = 1 << 0
"""Pages of zeros count as found, though nobody counts them."""


@dataclass(slots=True)
class FolioWalk:
    """What was found, and the lock that keeps it so: struct folio_walk.

    Attributes:
        folio: The folio.
        page: The page of the address, or ``None`` if the folio is full of zeros.
        level: Where the entry stands.
        entry: What it says.
        ptl: The lock on its table, which is held.
    """

    folio: Folio
    page: Page | None
    level: LeafLevel
    entry: int
    ptl: SpinLock


class Pagewalk:
    """Walks down to one address, and stays there with the lock."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    def folio_walk_start(
        self, vma: VmArea, addr: int, flags: int = 0
    ) -> FolioWalk | None:
        """Find the folio at *addr*, and keep the lock of its entry's table.

        The lock of the address space is held for reading, and *addr* lies in *vma*.
        What is found must be given back with `folio_walk_end`. ``None``: nothing that
        is normal is mapped there, and no lock is kept.

        Source: mm/pagewalk.c, folio_walk_start()
        """
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(vma.mm, addr)
        if not pgtable.folded_pud and not pmd_table(pgtable.read(pgdp)):
            return None
        pudp = pgtable.pud_offset(pgdp, addr)
        pud = pgtable.read(pudp)
        if pte_none(pud):
            return None
        if not pmd_table(pud):
            ptl = self._kernel.memory.pud_lockptr(vma.mm)
            ptl.acquire()
            pud = pgtable.read(pudp)
            if pte_none(pud) or not pte_present(pud):
                ptl.release()
                return None
            if not pmd_table(pud):
                page = self.page_of_pud(vma, addr, pud)
                if page is None:
                    ptl.release()
                    return None
                return self._found(page, addr, PGTABLE_LEVEL_PUD, pud, ptl)
            ptl.release()  # it became a table meanwhile
        return self._walk_pmd(vma, addr, flags, pgtable.pmd_offset(pudp, addr))

    def page_of_pud(self, vma: VmArea, addr: int, pud: int) -> Page | None:
        """Return the first page of what a present PUD leaf maps, if it is normal.

        Source: mm/pagewalk.c, folio_walk_start()
        """
        return self._kernel.memory.vm_normal_page_pud(vma, addr, pud)

    def _walk_pmd(
        self, vma: VmArea, addr: int, flags: int, pmdp: int
    ) -> FolioWalk | None:
        """Go on at a PMD entry."""
        pgtable = self._pgtable
        memory = self._kernel.memory
        pmd = pgtable.read(pmdp)
        if pte_none(pmd):
            return None
        if not pmd_table(pmd):
            ptl = memory.pmd_lockptr(pmdp)
            ptl.acquire()
            pmd = pgtable.read(pmdp)
            if not pmd_table(pmd):
                if pte_present(pmd):
                    page = memory.vm_normal_page_pmd(vma, addr, pmd)
                    if page is not None:
                        return self._found(page, addr, PGTABLE_LEVEL_PMD, pmd, ptl)
                    zero = self._kernel.huge_memory.huge_zero_folio
                    huge_zero = self._kernel.huge_memory.is_huge_zero_pmd(pmd)
                    if flags & FW_ZEROPAGE and zero is not None and huge_zero:
                        return FolioWalk(zero, None, PGTABLE_LEVEL_PMD, pmd, ptl)
                ptl.release()
                return None
            ptl.release()  # it became a table meanwhile
        return self._walk_pte(vma, addr, flags, pmdp)

    def _walk_pte(
        self, vma: VmArea, addr: int, flags: int, pmdp: int
    ) -> FolioWalk | None:
        """Go on at a page entry."""
        pgtable = self._pgtable
        memory = self._kernel.memory
        located = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmdp, addr)
        if located is None:
            return None
        ptep, ptl = located
        pte = pgtable.ptep_get(ptep)
        if pte_present(pte):
            page = memory.vm_normal_page(vma, addr, pte)
            if page is not None:
                return self._found(page, addr, PGTABLE_LEVEL_PTE, pte, ptl)
            pfn = pgtable.pte_pfn(pte)
            if flags & FW_ZEROPAGE and memory.is_zero_pfn(pfn):
                zero = self._kernel.page_alloc.folio_of(pfn)
                return FolioWalk(zero, None, PGTABLE_LEVEL_PTE, pte, ptl)
        ptl.release()
        return None

    def _found(
        self, page: Page, addr: int, level: LeafLevel, entry: int, ptl: SpinLock
    ) -> FolioWalk:
        """Return what was found; of a block, the page that *addr* lies in."""
        pgtable = self._pgtable
        size = {
            PGTABLE_LEVEL_PTE: pgtable.page_size,
            PGTABLE_LEVEL_PMD: pgtable.pmd_size,
            PGTABLE_LEVEL_PUD: pgtable.pud_size,
        }[level]
        folio = self._kernel.page_alloc.folio_of(page)
        page += (addr & size - 1) >> pgtable.page_shift
        return FolioWalk(folio, page, level, entry, ptl)

    @staticmethod
    def folio_walk_end(walk: FolioWalk) -> None:
        """Give back the lock of what was found.

        Source: include/linux/pagewalk.h, folio_walk_end()
        """
        walk.ptl.release()
