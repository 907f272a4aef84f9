"""Changing the rights and the place of huge pages: mprotect, uffd-wp, mremap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_clear_uffd_wp,
    pte_mkuffd_wp,
    pte_modify,
    pte_none,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_CONT,
    PTE_SWP_UFFD_WP,
)
from tlbkit.linux.include.linux.mm import (
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    SWP_MIGRATION_WRITE,
    is_migration_entry,
    make_pte_marker,
    make_readable_migration_pte,
    migration_entry_pfn,
    pte_marker_get,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import vma_has_uffd_without_event_remap
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM
from tlbkit.linux.mm.hugetlb.fault import HugetlbFault
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR, MMU_NOTIFY_PROTECTION_VMA

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugetlbChange(HugetlbFault):
    """Rewrites entries, and moves them."""

    __slots__ = ()

    def hugetlb_change_protection(
        self, vma: VmArea, start: int, end: int, prot: int, how: int
    ) -> int:
        """Give the huge pages of a range other rights.

        Args:
            vma: The area, with its new flags.
            start: The first address, whole huge pages.
            end: The one behind the last.
            prot: The entry bits of the new rights.
            how: The ``MM_CP_`` bits.

        Returns:
            How many pages changed; a table that was unshared counts as one huge page.
            Or ``-ENOMEM``.
        """
        h = self.hstate_vma(vma)
        gather = self._kernel.gather
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        span = self.adjust_range_if_pmd_sharing_possible(vma, start, end)
        tlb = gather.tlb_gather_mmu_vma(vma)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_PROTECTION_VMA, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            changed = self._change_range(tlb, vma, start, end, prot, how)
            gather.tlb_flush_mmu_tlbonly(tlb)
            self.huge_pmd_unshare_flush(tlb, vma)
            i_mmap_rwsem.up_write()
            self.hugetlb_vma_unlock_write(vma)
        gather.tlb_finish_mmu(tlb)
        return changed << h.order if changed > 0 else changed

    def _change_range(
        self, tlb: MmuGather, vma: VmArea, start: int, end: int, prot: int, how: int
    ) -> int:
        """Rewrite the entries of a range; return how many, or ``-ENOMEM``."""
        if how & MM_CP_UFFD_WP and not self.alloc_huge_ptes(vma, start, end):
            return -ENOMEM
        changed = 0
        entries = self.huge_entries(vma, start, end)
        for addr, ptep in entries:
            with self.huge_pte_lockptr(vma, ptep):
                if self.huge_pmd_unshare(tlb, vma, addr, ptep):
                    changed += 1
                    entries.skip_table()
                else:
                    changed += self.change_huge_pte(tlb, vma, addr, ptep, prot, how)
        return changed

    def alloc_huge_ptes(self, vma: VmArea, start: int, end: int) -> bool:
        """Make all tables of a range, for markers; false without memory.

        The kernel makes each when it comes to it.
        """
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        skip = huge.hugetlb_mask_last_page(size)
        addr = start
        while addr < end:
            if huge.huge_pte_alloc(vma.mm, vma, addr, size) is None:
                return False
            addr = (addr | skip) + size
        return True

    def change_huge_pte(
        self, tlb: MmuGather, vma: VmArea, addr: int, ptep: int, prot: int, how: int
    ) -> bool:
        """Rewrite one entry, whose table is locked; tell whether its rights changed.

        Only what the hardware could see must be flushed.
        """
        size = self.hstate_vma(vma).size
        pte = self._kernel.hugetlbpage.huge_ptep_get(ptep, size)
        if pte_present(pte):
            self.modify_huge_pte(vma, addr, ptep, prot, how)
            self._kernel.gather.tlb_remove_huge_tlb_entry(tlb, addr, size)
            return True
        return self.change_absent_huge_pte(vma, addr, ptep, pte, how)

    def modify_huge_pte(
        self, vma: VmArea, addr: int, ptep: int, prot: int, how: int
    ) -> None:
        """Give a present entry the rights *prot*, by taking it out and putting it back.

        Nothing is flushed.
        """
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        pte = huge.huge_ptep_get_and_clear(ptep, size)
        pte = huge.arch_make_huge_pte(pte_modify(pte & ~PTE_CONT, prot), size)
        if how & MM_CP_UFFD_WP:
            pte = pte_mkuffd_wp(pte)
        elif how & MM_CP_UFFD_WP_RESOLVE:
            pte = pte_clear_uffd_wp(pte)
        huge.set_huge_pte_at(vma.mm, addr, ptep, pte, size)

    def change_absent_huge_pte(
        self, vma: VmArea, addr: int, ptep: int, pte: int, how: int
    ) -> bool:
        """Do what there is to do for an entry that the hardware does not see."""
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        if pte_none(pte):
            if how & MM_CP_UFFD_WP:
                marker = make_pte_marker(PTE_MARKER_UFFD_WP)
                huge.set_huge_pte_at(vma.mm, addr, ptep, marker, size)
            return False
        if pte_marker_get(pte):
            marked = pte_marker_get(pte) & PTE_MARKER_UFFD_WP
            if marked and how & MM_CP_UFFD_WP_RESOLVE:
                huge.huge_pte_clear(ptep, size)
            return False
        entry = pte_to_swp_entry(pte)
        if not is_migration_entry(entry):
            return False
        new = pte
        downgraded = entry.type == SWP_MIGRATION_WRITE
        if downgraded:
            folio = self._kernel.page_alloc.folio_of(migration_entry_pfn(entry))
            new = make_readable_migration_pte(pte, exclusive=folio.anon)
        if how & MM_CP_UFFD_WP:
            new |= PTE_SWP_UFFD_WP
        elif how & MM_CP_UFFD_WP_RESOLVE:
            new &= ~PTE_SWP_UFFD_WP
        if new != pte:
            huge.set_huge_pte_at(vma.mm, addr, ptep, new, size)
        return downgraded

    # -- to another place ------------------------------------------------------------

    def move_hugetlb_page_tables(
        self, vma: VmArea, new_vma: VmArea, old_addr: int, new_addr: int, length: int
    ) -> int:
        """Move the entries of a range from one area to another.

        Shared tables do not move: faults find them at the new place.

        Returns:
            How many bytes were moved; fewer than *length* if there was no memory.
        """
        gather = self._kernel.gather
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        end = old_addr + length
        span = self.adjust_range_if_pmd_sharing_possible(vma, old_addr, end)
        tlb = gather.tlb_gather_mmu_vma(vma)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            moved = self._move_range(tlb, vma, new_vma, old_addr, new_addr, length)
            gather.tlb_flush_mmu_tlbonly(tlb)
            self.huge_pmd_unshare_flush(tlb, vma)
        i_mmap_rwsem.up_write()
        self.hugetlb_vma_unlock_write(vma)
        gather.tlb_finish_mmu(tlb)
        return moved

    def _move_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        new_vma: VmArea,
        old_addr: int,
        new_addr: int,
        length: int,
    ) -> int:
        """Move entries, or unshare their tables; return how many bytes were moved."""
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        entries = self.huge_entries(vma, old_addr, old_addr + length)
        for addr, ptep in entries:
            if pte_none(huge.huge_ptep_get(ptep, size)):
                continue
            if self.huge_pmd_unshare(tlb, vma, addr, ptep):
                entries.skip_table()
                continue
            to = new_addr + addr - old_addr
            target = huge.huge_pte_alloc(vma.mm, new_vma, to, size)
            if target is None:
                return addr - old_addr
            self.move_huge_pte(tlb, vma, addr, to, ptep, target)
        return length

    def move_huge_pte(
        self,
        tlb: MmuGather,
        vma: VmArea,
        addr: int,
        new_addr: int,
        ptep: int,
        target: int,
    ) -> None:
        """Move one entry and record it; both tables are locked, *target*'s first."""
        huge = self._kernel.hugetlbpage
        h = self.hstate_vma(vma)
        unwatched = vma_has_uffd_without_event_remap(vma)
        target_ptl = self.huge_pte_lockptr(vma, target)
        ptl = self.huge_pte_lockptr(vma, ptep)
        target_ptl.acquire()
        if ptl is not target_ptl:
            ptl.acquire()
        pte = huge.huge_ptep_get_and_clear(ptep, h.size)
        if unwatched and pte_marker_get(pte) & PTE_MARKER_UFFD_WP:
            huge.huge_pte_clear(target, h.size)
        else:
            if unwatched:
                if pte_present(pte):
                    pte = pte_clear_uffd_wp(pte)
                else:
                    pte &= ~PTE_SWP_UFFD_WP
            huge.set_huge_pte_at(vma.mm, new_addr, target, pte, h.size)
        if ptl is not target_ptl:
            ptl.release()
        target_ptl.release()
        self._kernel.gather.tlb_remove_huge_tlb_entry(tlb, addr, h.size)
