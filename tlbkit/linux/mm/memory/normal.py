"""Which page, if any, a leaf entry maps: the question that every walker asks first.

A page is *normal* if it is counted: who maps it holds a reference, and its mapcount
says so. A mapped frame may be no page at all (a device's registers), or a page that
nobody counts (a page of zeros, or what a driver maps by its frame number).

An architecture with a special bit marks what is not normal. The others must find out
from the area and the frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm import (
    VM_MIXEDMAP,
    VM_PFNMAP,
    NormalPageOperations,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
)
from tlbkit.linux.mm.memory.bad_page_map import BadPageMap

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, Page, VmArea
    from tlbkit.linux.include.linux.pgtable import PgtableLevel


class MemoryNormal(BadPageMap):
    """One decision for all levels, and what asks it."""

    __slots__ = ()

    def vm_normal_page_(
        self,
        vma: VmArea,
        addr: int,
        pfn: int,
        *,
        special: bool,
        entry: int,
        level: PgtableLevel,
    ) -> Page | None:
        """Return the page that a present leaf maps, if it is a normal one.

        Args:
            vma: The area.
            addr: An address that the entry is for; of a block, where it begins.
            pfn: The first frame that it maps.
            special: Its special bit; false where the level has none.
            entry: All of it, for a report.
            level: Where it stands, for a report and for whether there is such a bit.

        Returns:
            The page of *pfn*, also of a block, or ``None``. What must not be there is
            reported and treated as not normal.

        Source: mm/memory.c, __vm_normal_page()
        """
        if self.pgtable_level_has_pxx_special(level):
            if special:
                if self._kernel.config.find_normal_page and isinstance(
                    vma.ops, NormalPageOperations
                ):
                    return vma.ops.find_normal_page(vma, addr)
                if vma.flags & (VM_PFNMAP | VM_MIXEDMAP):
                    return None
                if self.is_zero_pfn(pfn) or self.is_huge_zero_pfn(pfn):
                    return None
                self.print_bad_page_map(vma, addr, entry, None, level)
                return None
        elif self._raw_by_area(vma, addr, pfn) or (
            self.is_zero_pfn(pfn) or self.is_huge_zero_pfn(pfn)
        ):
            return None
        kernel = self._kernel
        if pfn > kernel.page_alloc.highest_memmap_pfn or kernel.config.debug_vm:
            return self._page_unless_bad(vma, addr, pfn, entry, level)
        return pfn

    def pgtable_level_has_pxx_special(self, level: PgtableLevel) -> bool:
        """Tell whether leaves of *level* have a special bit on this architecture.

        Source: none; the kernel asks for each level whether CONFIG_ARCH_HAS_PTE_SPECIAL
        and its kin are set.
        """
        return self._kernel.config.has_special(level)

    def _raw_by_area(self, vma: VmArea, addr: int, pfn: int) -> bool:
        """Tell, without a special bit, whether the area says that *pfn* is raw.

        A private area that maps frames in a row, and says where the row begins, may
        hold copies among them: a frame out of the row is a copy, thus a normal page.
        """
        if vma.flags & VM_MIXEDMAP:
            return not self._kernel.page_alloc.pfn_valid(pfn)
        if vma.flags & VM_PFNMAP:
            offset = (addr - vma.start) >> self._pgtable.page_shift
            return pfn == vma.pgoff + offset or not is_cow_mapping(vma.flags)
        return False

    def _page_unless_bad(
        self, vma: VmArea, addr: int, pfn: int, entry: int, level: PgtableLevel
    ) -> Page | None:
        """Return the page of *pfn*; report one that lies beyond all memory."""
        if pfn > self._kernel.page_alloc.highest_memmap_pfn:
            self.print_bad_page_map(vma, addr, entry, None, level)
            return None
        if self._kernel.config.debug_vm and (
            self.is_zero_pfn(pfn) or self.is_huge_zero_pfn(pfn)
        ):
            self._kernel.panic.warn_on_once(
                "__vm_normal_page", "a page of zeros is taken for a normal one"
            )
        return pfn

    def is_zero_pfn(self, pfn: int) -> bool:
        """Tell whether *pfn* is the zero page.

        Source: include/linux/pgtable.h, is_zero_pfn()
        """
        return pfn == self._kernel.zero_pfn

    def is_huge_zero_pfn(self, pfn: int) -> bool:
        """Tell whether *pfn* is any page of the huge zero folio.

        Source: include/linux/huge_mm.h, is_huge_zero_pfn()
        """
        return self._kernel.huge_memory.is_huge_zero_pfn(pfn)

    # -- level by level --------------------------------------------------------------

    def vm_normal_page(self, vma: VmArea, addr: int, pte: int) -> Page | None:
        """Return the normal page that a present page entry maps.

        Source: mm/memory.c, vm_normal_page()
        """
        return self.vm_normal_page_(
            vma,
            addr,
            self._pgtable.pte_pfn(pte),
            special=self._pgtable.pte_special(pte),
            entry=pte,
            level=PGTABLE_LEVEL_PTE,
        )

    def vm_normal_page_pmd(self, vma: VmArea, addr: int, pmd: int) -> Page | None:
        """Return the first page of what a present PMD leaf maps, if it is normal.

        Source: mm/memory.c, vm_normal_page_pmd()
        """
        return self.vm_normal_page_(
            vma,
            addr,
            self._pgtable.pmd_pfn(pmd),
            special=self._pgtable.pmd_special(pmd),
            entry=pmd,
            level=PGTABLE_LEVEL_PMD,
        )

    def vm_normal_page_pud(self, vma: VmArea, addr: int, pud: int) -> Page | None:
        """Return the same of a PUD leaf.

        Source: mm/memory.c, vm_normal_page_pud()
        """
        return self.vm_normal_page_(
            vma,
            addr,
            self._pgtable.pud_pfn(pud),
            special=self._pgtable.pud_special(pud),
            entry=pud,
            level=PGTABLE_LEVEL_PUD,
        )

    def vm_normal_folio(self, vma: VmArea, addr: int, pte: int) -> Folio | None:
        """Return the folio of the normal page that a present page entry maps.

        Source: mm/memory.c, vm_normal_folio()
        """
        page = self.vm_normal_page(vma, addr, pte)
        return None if page is None else self._kernel.page_alloc.folio_of(page)

    def vm_normal_folio_pmd(self, vma: VmArea, addr: int, pmd: int) -> Folio | None:
        """Return the same of a PMD leaf.

        Source: mm/memory.c, vm_normal_folio_pmd()
        """
        page = self.vm_normal_page_pmd(vma, addr, pmd)
        return None if page is None else self._kernel.page_alloc.folio_of(page)
