"""Entry operations that flush: mm/pgtable-generic.c and include/linux/pgtable.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_present,
    pte_valid,
    pte_valid_cont,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class PgtableGeneric:
    """Clears that end with a flush."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @staticmethod
    def pte_accessible(mm: MmStruct, pte: int) -> bool:
        """Tell whether a TLB may hold what the entry said.

        A present entry that the hardware cannot see now may have been visible until a
        moment ago, if somebody still owes the flush for that.
        """
        return pte_present(pte) if mm.tlb_flush_pending else pte_valid(pte)

    def ptep_clear_flush(self, vma: VmArea, address: int, ptep: int) -> int:
        """Clear an entry and flush it everywhere; return what it was."""
        pte = self._kernel.pgtable.ptep_get_and_clear(vma.mm, address, ptep)
        if self.pte_accessible(vma.mm, pte):
            self._kernel.tlbflush.flush_tlb_page(vma, address)
        return pte

    def ptep_clear_flush_young(self, vma: VmArea, address: int, ptep: int) -> bool:
        """Clear the access flag, start a flush, and do not wait for it.

        A CPU that goes on using the old entry only makes the page look idle; the DSB of
        its next context switch ends even that.
        """
        pgtable = self._kernel.pgtable
        if pte_valid_cont(pgtable.read(ptep)):
            return self._kernel.contpte.contpte_ptep_clear_flush_young(
                vma, address, ptep
            )
        young = pgtable.ptep_test_and_clear_young_(ptep)
        if young:
            self._kernel.tlbflush.flush_tlb_page_nosync(vma.mm, address)
        return young
