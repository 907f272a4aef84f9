"""Entry operations that flush: mm/pgtable-generic.c and include/linux/pgtable.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkinvalid,
    pte_present,
    pte_valid,
    pte_valid_cont,
)
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class PgtableGeneric:
    """Clears that end with a flush, and the tables that block entries keep in store.

    Attributes:
        arch_needs_pgtable_deposit: Blocks of files need a table in store as well. Not
            on arm64; powerpc keeps the hash slots of a block's pages in it.
    """

    __slots__ = ("_deposited", "_kernel", "_pgtable", "arch_needs_pgtable_deposit")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable
        self._deposited: dict[int, list[Folio]] = {}
        self.arch_needs_pgtable_deposit = False

    @staticmethod
    def pfnmap_setup_cachemode_pfn(pfn: int, prot: int) -> int:
        """Return *prot* with the memory type set for a frame; arm64 keeps no such list.

        On x86 the tables of PAT are asked.
        """
        del pfn
        return prot

    # -- page entries ----------------------------------------------------------------

    @staticmethod
    def pte_accessible(mm: MmStruct, pte: int) -> bool:
        """Tell whether a TLB may hold what the entry said.

        A present entry that the hardware cannot see now may have been visible until a
        moment ago, if somebody still owes the flush for that.
        """
        return pte_present(pte) if mm.tlb_flush_pending else pte_valid(pte)

    def ptep_clear_flush(self, vma: VmArea, address: int, ptep: int) -> int:
        """Clear an entry and flush it everywhere; return what it was."""
        pte = self._pgtable.ptep_get_and_clear(vma.mm, address, ptep)
        if self.pte_accessible(vma.mm, pte):
            self._kernel.tlbflush.flush_tlb_page(vma, address)
        return pte

    def ptep_clear_flush_young(self, vma: VmArea, address: int, ptep: int) -> bool:
        """Clear the access flag, start a flush, and do not wait for it.

        A CPU that goes on using the old entry only makes the page look idle; the DSB of
        its next context switch ends even that.
        """
        pgtable = self._pgtable
        if pte_valid_cont(pgtable.read(ptep)):
            return self._kernel.contpte.contpte_ptep_clear_flush_young(
                vma, address, ptep
            )
        young = pgtable.ptep_test_and_clear_young_(ptep)
        if young:
            self._kernel.tlbflush.flush_tlb_page_nosync(vma.mm, address)
        return young

    # -- block entries ---------------------------------------------------------------

    def pmdp_huge_clear_flush(self, vma: VmArea, address: int, pmdp: int) -> int:
        """Clear a block entry and flush it everywhere; return what it was."""
        pmd = self._pgtable.ptep_get_and_clear_(pmdp)
        self._flush_pmd(vma, address)
        return pmd

    def pudp_huge_clear_flush(self, vma: VmArea, address: int, pudp: int) -> int:
        """Do the same to the block of a PUD entry."""
        pud = self._pgtable.ptep_get_and_clear_(pudp)
        end = address + self._pgtable.pud_size
        self._kernel.tlbflush.flush_pud_tlb_range(vma, address, end)
        return pud

    def pmdp_invalidate(self, vma: VmArea, address: int, pmdp: int) -> int:
        """Hide a block entry from the hardware and flush it; return what it was.

        It stays present for software, so nobody takes it for empty meanwhile. The flush
        comes also if the hardware could not see the entry before.
        """
        running = self._kernel.machine.running
        invalid = pte_mkinvalid(self._pgtable.read(pmdp))
        pmd = running.swap(pmdp, invalid, "pmdp_establish")
        self._flush_pmd(vma, address)
        return pmd

    def pmdp_invalidate_ad(self, vma: VmArea, address: int, pmdp: int) -> int:
        """Do the same for who only needs access flag and dirty state to stay put.

        An architecture whose hardware leaves them alone in an invalid entry could do
        with less; arm64 has no form of its own.
        """
        return self.pmdp_invalidate(vma, address, pmdp)

    def pmdp_collapse_flush(self, vma: VmArea, address: int, pmdp: int) -> int:
        """Clear an entry that points to a table, and flush all that it led to."""
        pmd = self._pgtable.ptep_get_and_clear_(pmdp)
        end = address + self._pgtable.pmd_size
        self._kernel.tlbflush.flush_tlb_range(vma, address, end)
        return pmd

    def _flush_pmd(self, vma: VmArea, address: int) -> None:
        end = address + self._pgtable.pmd_size
        self._kernel.tlbflush.flush_pmd_tlb_range(vma, address, end)

    # -- tables in store -------------------------------------------------------------

    def pgtable_trans_huge_deposit(self, pmdp: int, table: Folio) -> None:
        """Keep a page table for the day when a block under *pmdp*'s table is split."""
        self._kernel.memory.pmd_lockptr(pmdp).assert_held()
        key = pmdp >> self._pgtable.page_shift
        self._deposited.setdefault(key, []).append(table)

    def pgtable_trans_huge_withdraw(self, pmdp: int) -> Folio:
        """Return a page table that was kept for a block under *pmdp*'s table."""
        self._kernel.memory.pmd_lockptr(pmdp).assert_held()
        key = pmdp >> self._pgtable.page_shift
        tables = self._deposited.get(key)
        if tables is None:
            pfn = pmdp >> self._pgtable.page_shift
            raise BadPageError(
                self._kernel.page_alloc.folio_of(pfn), "no table is kept for a block"
            )
        table = tables.pop()
        if not tables:
            del self._deposited[key]
        return table

    def deposited(self, pmdp: int) -> int:
        """Return how many page tables are kept under *pmdp*'s table."""
        return len(self._deposited.get(pmdp >> self._pgtable.page_shift, ()))
