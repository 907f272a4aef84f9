"""Blocks of a PUD entry, which only drivers and device DAX map: no anonymous ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_dirty,
    pte_mkold,
    pte_write,
    pte_young,
)
from tlbkit.linux.include.linux.mm import FAULT_FLAG_WRITE, is_cow_mapping
from tlbkit.linux.include.linux.mm_types import LargeFolio, PG_dirty, PG_referenced
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN
from tlbkit.linux.mm.huge_memory.insert import HugeInsert

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugePud(HugeInsert):
    """Faults, fork, zap and split at the level of PUD entries."""

    __slots__ = ()

    def huge_pud_set_accessed(self, vmf: VmFault, orig_pud: int) -> None:
        """Note an access that the entry allows."""
        with self._kernel.memory.pud_lockptr(vmf.vma.mm):
            if self._pgtable.read(vmf.pud) != orig_pud:
                return
            write = bool(vmf.flags & FAULT_FLAG_WRITE)
            haddr = vmf.address & -self._pgtable.pud_size
            self._kernel.fault.pmdp_set_access_flags(
                vmf.vma,
                haddr,
                vmf.pud,
                self.touched(orig_pud, write=write),
                dirty=write,
            )

    def copy_huge_pud(
        self, child: VmArea, parent: VmArea, target: int, source: int
    ) -> int:
        """Copy a block's entry for a child; 0, or ``-EAGAIN`` if it is none any more.

        Its frames are never counted: areas whose pages are leave it to the child's own
        faults to find them again.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        with memory.pud_lockptr(child.mm), memory.pud_lockptr(parent.mm):
            pud = pgtable.read(source)
            if not pmd_leaf(pud):
                return -EAGAIN
            if is_cow_mapping(parent.flags) and pte_write(pud):
                pud = pgtable.ptep_set_wrprotect_(source, pud)
            pgtable.set_pte(target, pte_mkold(pud))
        return 0

    def zap_huge_pud(self, tlb: MmuGather, vma: VmArea, pudp: int, addr: int) -> bool:
        """Clear a block's entry, and keep its folio until the flush.

        Returns:
            False if it is no block any more, and nothing was done.
        """
        pgtable = self._pgtable
        gather = self._kernel.gather
        lock = self._kernel.memory.pud_lockptr(vma.mm)
        lock.acquire()
        if not pmd_leaf(pgtable.read(pudp)):
            lock.release()
            return False
        pud = pgtable.ptep_get_and_clear_(pudp)
        gather.tlb_flush_pud_range(tlb, addr, pgtable.pud_size)
        if self.maps_raw_frames(vma):
            lock.release()
            return True
        folio = self._pud_folio(pud)
        self._kernel.rmap.folio_remove_rmap_pud(folio, vma)
        self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)
        lock.release()
        if gather.tlb_remove_folio_pages(tlb, folio, 1):
            gather.tlb_flush_mmu(tlb)
        return True

    def split_huge_pud(self, vma: VmArea, pudp: int, address: int) -> None:
        """Take a block's entry away, if it is one; later faults map smaller pieces."""
        if not pmd_leaf(self._pgtable.read(pudp)):
            return
        haddr = address & -self._pgtable.pud_size
        end = haddr + self._pgtable.pud_size
        with (
            self._kernel.mmu_notifier.invalidate_range(vma.mm, "CLEAR", haddr, end),
            self._kernel.memory.pud_lockptr(vma.mm),
        ):
            if pmd_leaf(self._pgtable.read(pudp)):
                self.split_huge_pud_locked(vma, pudp, haddr)

    def split_huge_pud_locked(self, vma: VmArea, pudp: int, haddr: int) -> None:
        """Do so; the lock is held. What device DAX maps is counted, and given up."""
        old = self._kernel.pgtable_generic.pudp_huge_clear_flush(vma, haddr, pudp)
        if self.maps_raw_frames(vma):
            return
        folio = self._pud_folio(old)
        if pte_dirty(old):
            folio.flags |= PG_dirty
        if pte_young(old):
            folio.flags |= PG_referenced
        self._kernel.rmap.folio_remove_rmap_pud(folio, vma)
        self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)
        self._kernel.swap.folio_put(folio)

    def _pud_folio(self, pud: int) -> LargeFolio:
        """Return the folio that a block's entry maps."""
        folio = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pud))
        assert isinstance(folio, LargeFolio)
        return folio
