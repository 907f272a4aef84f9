"""What a page-table entry maps: the family of vm_normal_page()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_special,
)
from tlbkit.linux.mm.memory.tables import MemoryTables

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import (
        Folio,
        VmArea,
    )


class MemoryNormal(MemoryTables):
    """Tells pages that are counted from frames that only are mapped."""

    __slots__ = ()

    def vm_normal_folio(self, vma: VmArea, addr: int, pte: int) -> Folio | None:
        """Return the folio that a present entry maps, if it is counted like one."""
        del vma, addr
        if pte_special(pte):
            return None
        return self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pte))

    def vm_normal_folio_pmd(self, vma: VmArea, addr: int, pmd: int) -> Folio | None:
        """Return the same of a block entry."""
        return self.vm_normal_folio(vma, addr, pmd)
