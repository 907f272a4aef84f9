"""Entry operations that flush: mm/pgtable-generic.c and include/linux/pgtable.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_mkinvalid,
    pte_present,
    pte_valid,
    pte_valid_cont,
)
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.kernel.locking import SpinLock


class PgtableGeneric:
    """Clears that end with a flush, and the tables that block entries keep in store.

    Attributes:
        arch_needs_pgtable_deposit: Blocks of files need a table in store as well. Not
            on arm64; powerpc keeps the hash slots of a block's pages in it.
    """

    __slots__ = (
        "_deposited",
        "_kernel",
        "_pgtable",
        "_read",
        "arch_needs_pgtable_deposit",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable
        self._read = kernel.machine.memory.read
        self._deposited: dict[int, list[Folio]] = {}
        self.arch_needs_pgtable_deposit = False

    @staticmethod
    def pfnmap_setup_cachemode_pfn(pfn: int, prot: int) -> int:
        """Return *prot* with the memory type set for a frame; arm64 keeps no such list.

        On x86 the tables of PAT are asked.

        Source: include/linux/pgtable.h, pfnmap_setup_cachemode_pfn()
        """
        del pfn
        return prot

    # -- page entries ----------------------------------------------------------------

    @staticmethod
    def pte_accessible(mm: MmStruct, pte: int) -> bool:
        """Tell whether a TLB may hold what the entry said.

        A present entry that the hardware cannot see now may have been visible until a
        moment ago, if somebody still owes the flush for that.

        Source: arch/arm64/include/asm/pgtable.h, pte_accessible()
        """
        return pte_present(pte) if mm.tlb_flush_pending else pte_valid(pte)

    def ptep_clear_flush(self, vma: VmArea, address: int, ptep: int) -> int:
        """Clear an entry and flush it everywhere; return what it was.

        Source: mm/pgtable-generic.c, ptep_clear_flush()
        """
        pte = self._pgtable.ptep_get_and_clear(vma.mm, address, ptep)
        if self.pte_accessible(vma.mm, pte):
            self._kernel.tlbflush.flush_tlb_page(vma, address)
        return pte

    def pmdp_clear_flush_young(self, vma: VmArea, address: int, pmdp: int) -> bool:
        """Clear the access flag of a huge page and flush it; tell whether it was set.

        Source: mm/pgtable-generic.c, pmdp_clear_flush_young()
        """
        young = self._pgtable.ptep_test_and_clear_young_(pmdp)
        if young:
            end = address + self._pgtable.pmd_size
            self._kernel.tlbflush.flush_pmd_tlb_range(vma, address, end)
        return young

    def ptep_clear_flush_young(self, vma: VmArea, address: int, ptep: int) -> bool:
        """Clear the access flag, start a flush, and do not wait for it.

        A CPU that goes on using the old entry only makes the page look idle; the DSB of
        its next context switch ends even that.

        Source: arch/arm64/include/asm/pgtable.h, __ptep_clear_flush_young()
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
        """Clear a block entry and flush it everywhere; return what it was.

        Source: mm/pgtable-generic.c, pmdp_huge_clear_flush()
        """
        pmd = self._pgtable.ptep_get_and_clear_(pmdp)
        self._flush_pmd(vma, address)
        return pmd

    def pudp_huge_clear_flush(self, vma: VmArea, address: int, pudp: int) -> int:
        """Do the same to the block of a PUD entry.

        Source: mm/pgtable-generic.c, pudp_huge_clear_flush()
        """
        pud = self._pgtable.ptep_get_and_clear_(pudp)
        end = address + self._pgtable.pud_size
        self._kernel.tlbflush.flush_pud_tlb_range(vma, address, end)
        return pud

    def pmdp_invalidate(self, vma: VmArea, address: int, pmdp: int) -> int:
        """Hide a block entry from the hardware and flush it; return what it was.

        It stays present for software, so nobody takes it for empty meanwhile. The flush
        comes also if the hardware could not see the entry before.

        Source: mm/pgtable-generic.c, pmdp_invalidate()
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

        Source: mm/pgtable-generic.c, pmdp_invalidate_ad()
        """
        return self.pmdp_invalidate(vma, address, pmdp)

    def pudp_invalidate(self, vma: VmArea, address: int, pudp: int) -> int:
        """Invalidate the huge entry of a PUD and flush it; return what it was.

        Source: arch/x86/mm/pgtable.c, pudp_invalidate()
        Deviates: arm64 has no huge entries of PUDs but those of hugetlb; this is what
        it would do, as for the entry of a PMD.
        """
        invalid = pte_mkinvalid(self._pgtable.read(pudp))
        pud = self._kernel.machine.running.swap(pudp, invalid, "pudp_establish")
        end = address + self._pgtable.pud_size
        self._kernel.tlbflush.flush_pud_tlb_range(vma, address, end)
        return pud

    def pmdp_collapse_flush(self, vma: VmArea, address: int, pmdp: int) -> int:
        """Clear an entry that points to a table, and flush all that it led to.

        Source: mm/pgtable-generic.c, pmdp_collapse_flush()
        """
        pmd = self._pgtable.ptep_get_and_clear_(pmdp)
        end = address + self._pgtable.pmd_size
        self._kernel.tlbflush.flush_tlb_range(vma, address, end)
        return pmd

    def _flush_pmd(self, vma: VmArea, address: int) -> None:
        end = address + self._pgtable.pmd_size
        self._kernel.tlbflush.flush_pmd_tlb_range(vma, address, end)

    # -- a table that may have gone --------------------------------------------------

    def pte_offset_map(self, pmd: int, addr: int) -> int | None:
        """Return where the PTE for *addr* stands, or ``None`` if there is no table.

        The entry at *pmd* may be empty, huge, or not present by now. Nothing is locked,
        so what the PTE says may change at any time.

        Source: mm/pgtable-generic.c, ___pte_offset_map()
        Deviates: There is no RCU read section to leave: no CPU frees a table between
        the read of *pmd* and the end of the look, because the model has no step
        there. An entry that is neither empty, huge nor a table does not exist here,
        so there is no pmd_clear_bad().
        """
        pmdval = self._read(pmd)
        if not pmd_table(pmdval):
            return None
        return self._pgtable.pte_offset_lockless(pmdval, addr)

    def pte_offset_map_ro_nolock(
        self, mm: MmStruct, pmd: int, addr: int
    ) -> tuple[int, SpinLock] | None:
        """Return the same with the PTL of the table, which is not taken.

        Even under that lock the table may be one that was unhooked meanwhile: for
        readers only.

        Source: mm/pgtable-generic.c, pte_offset_map_ro_nolock()
        """
        found = self.pte_offset_map_rw_nolock(mm, pmd, addr)
        return None if found is None else (found[0], found[2])

    def pte_offset_map_rw_nolock(
        self, mm: MmStruct, pmd: int, addr: int
    ) -> tuple[int, int, SpinLock] | None:
        """Return the PTE's place, what *pmd* said, and the PTL, which is not taken.

        Who writes must find under the lock that *pmd*, or the PTE, still says the same.

        Source: mm/pgtable-generic.c, pte_offset_map_rw_nolock()
        """
        del mm
        pmdval = self._read(pmd)
        if not pmd_table(pmdval):
            return None
        ptep = self._pgtable.pte_offset_lockless(pmdval, addr)
        return ptep, pmdval, self._kernel.memory.pte_lockptr(pmdval)

    def pte_offset_map_lock(
        self, mm: MmStruct, pmd: int, addr: int
    ) -> tuple[int, SpinLock] | None:
        """Return the PTE's place and the PTL, taken; ``None`` if there is no table.

        Under the lock the entry at *pmd* is read again: if it changed, all is repeated.
        So a table can be unhooked or replaced by whoever holds its lock.

        Source: mm/pgtable-generic.c, __pte_offset_map_lock()
        Deviates: no RCU read section lasts until the lock is released. A table is freed
        only by who has parted its VMAs from their files and anon_vmas, which waits for
        every walk that may be in it, or holds the locks of all of them.
        """
        del mm
        read = self._read
        while True:
            pmdval = read(pmd)
            if not pmd_table(pmdval):
                return None
            ptl = self._kernel.memory.pte_lockptr(pmdval)
            ptl.acquire()
            if read(pmd) == pmdval:
                return self._pgtable.pte_offset_lockless(pmdval, addr), ptl
            ptl.release()

    # -- tables in store -------------------------------------------------------------

    def pgtable_trans_huge_deposit(self, pmdp: int, table: Folio) -> None:
        """Keep a page table for the day when a block under *pmdp*'s table is split.

        Source: mm/pgtable-generic.c, pgtable_trans_huge_deposit()
        """
        self._kernel.memory.pmd_lockptr(pmdp).assert_held()
        key = pmdp >> self._pgtable.page_shift
        self._deposited.setdefault(key, []).append(table)

    def pgtable_trans_huge_withdraw(self, pmdp: int) -> Folio:
        """Return a page table that was kept for a block under *pmdp*'s table.

        Source: mm/pgtable-generic.c, pgtable_trans_huge_withdraw()
        """
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
        """Return how many page tables are kept under *pmdp*'s table.

        Source: none; tests count them.
        """
        return len(self._deposited.get(pmdp >> self._pgtable.page_shift, ()))
