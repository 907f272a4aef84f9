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


class HugetlbChange(HugetlbFault):
    """Rewrites entries, and moves them."""

    __slots__ = ()

    def hugetlb_change_protection(
        self, vma: VmArea, start: int, end: int, newprot: int, cp_flags: int
    ) -> int:
        """Give the huge pages of a range other rights.

        What the hardware could see is recorded in a gather of its own, and flushed
        before i_mmap_rwsem is released.

        Args:
            vma: The VMA, with its new flags.
            start: The first address, whole huge pages.
            end: The one behind the last.
            newprot: The entry bits of the new rights.
            cp_flags: The ``MM_CP_`` bits.

        Returns:
            How many pages changed; a table that was unshared counts as one huge page.
            Or ``-ENOMEM``.

        Source: mm/hugetlb.c, hugetlb_change_protection()
        """
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        gather = self._kernel.gather
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        uffd_wp = cp_flags & MM_CP_UFFD_WP
        last_addr_mask = huge.hugetlb_mask_last_page(h.size)
        span = self.adjust_range_if_pmd_sharing_possible(vma, start, end)
        tlb = gather.tlb_gather_mmu_vma(vma)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_PROTECTION_VMA, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            pages = 0
            address = start
            while address < end:
                ptep = self.hugetlb_walk(vma, address, h.size)
                if ptep is None:
                    if not uffd_wp:
                        address = (address | last_addr_mask) + h.size
                        continue
                    ptep = huge.huge_pte_alloc(vma.mm, vma, address, h.size)
                    if ptep is None:
                        pages = -ENOMEM
                        break
                with self.huge_pte_lockptr(vma, ptep):
                    pte = huge.huge_ptep_get(ptep, h.size)
                    if self.huge_pmd_unshare(tlb, vma, address, ptep):
                        self.warn_on_unshared(cp_flags)
                        pages += 1
                        address |= last_addr_mask
                    elif not pte_present(pte):
                        pages += self.change_non_present_huge_pte(
                            vma, address, ptep, pte, cp_flags
                        )
                    else:
                        self.modify_huge_pte(vma, address, ptep, newprot, cp_flags)
                        pages += 1
                        gather.tlb_remove_huge_tlb_entry(tlb, address, h.size)
                address += h.size
            gather.tlb_flush_mmu_tlbonly(tlb)
            self.huge_pmd_unshare_flush(tlb, vma)
            i_mmap_rwsem.up_write()
            self.hugetlb_vma_unlock_write(vma)
        gather.tlb_finish_mmu(tlb)
        return pages << h.order if pages > 0 else pages

    def warn_on_unshared(self, cp_flags: int) -> None:
        """Warn of a shared table that a userfaultfd watches: there should be none.

        Source: mm/hugetlb.c, the WARN_ON_ONCE() of hugetlb_change_protection()
        """
        if cp_flags & (MM_CP_UFFD_WP | MM_CP_UFFD_WP_RESOLVE):
            self._kernel.panic.warn_on_once(
                "hugetlb_change_protection", "a shared table is watched"
            )

    def modify_huge_pte(
        self, vma: VmArea, address: int, ptep: int, newprot: int, cp_flags: int
    ) -> None:
        """Give a present entry the rights *newprot*: taken out, and put back.

        Nothing is flushed.

        Source: mm/hugetlb.c, hugetlb_change_protection(), of an entry that is present
        """
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        pte = huge.huge_ptep_get_and_clear(ptep, size)
        pte = huge.arch_make_huge_pte(pte_modify(pte & ~PTE_CONT, newprot), size)
        if cp_flags & MM_CP_UFFD_WP:
            pte = pte_mkuffd_wp(pte)
        elif cp_flags & MM_CP_UFFD_WP_RESOLVE:
            pte = pte_clear_uffd_wp(pte)
        huge.set_huge_pte_at(vma.mm, address, ptep, pte, size)

    def change_non_present_huge_pte(
        self, vma: VmArea, address: int, ptep: int, pte: int, cp_flags: int
    ) -> int:
        """Do what there is to do for an entry that the hardware does not see.

        Returns:
            1 if the rights of a page that migrates changed, otherwise 0.

        Source: mm/hugetlb.c, hugetlb_change_protection(), of any other entry
        """
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        uffd_wp = cp_flags & MM_CP_UFFD_WP
        uffd_wp_resolve = cp_flags & MM_CP_UFFD_WP_RESOLVE
        if pte_none(pte):
            if uffd_wp:
                marker = make_pte_marker(PTE_MARKER_UFFD_WP)
                huge.set_huge_pte_at(vma.mm, address, ptep, marker, size)
            return 0
        if pte_marker_get(pte):
            if pte_marker_get(pte) & PTE_MARKER_UFFD_WP and uffd_wp_resolve:
                huge.huge_pte_clear(ptep, size)
            return 0
        entry = pte_to_swp_entry(pte)
        if not is_migration_entry(entry):
            return 0
        newpte = pte
        downgraded = entry.type == SWP_MIGRATION_WRITE
        if downgraded:
            folio = self._kernel.page_alloc.folio_of(migration_entry_pfn(entry))
            newpte = make_readable_migration_pte(pte, exclusive=folio.anon)
        if uffd_wp:
            newpte |= PTE_SWP_UFFD_WP
        elif uffd_wp_resolve:
            newpte &= ~PTE_SWP_UFFD_WP
        if newpte != pte:
            huge.set_huge_pte_at(vma.mm, address, ptep, newpte, size)
        return int(downgraded)

    # -- to another place ------------------------------------------------------------

    def move_huge_pte(
        self, vma: VmArea, old_addr: int, new_addr: int, src_pte: int, dst_pte: int
    ) -> None:
        """Move one entry; nothing is recorded.

        Source: mm/hugetlb.c, move_huge_pte()
        """
        del old_addr
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(vma).size
        need_clear_uffd_wp = vma_has_uffd_without_event_remap(vma)
        dst_ptl = self.huge_pte_lockptr(vma, dst_pte)
        dst_ptl.acquire()
        src_ptl = self.huge_pte_lockptr(vma, src_pte)
        if src_ptl is not dst_ptl:
            src_ptl.acquire()
        pte = huge.huge_ptep_get_and_clear(src_pte, size)
        if need_clear_uffd_wp and pte_marker_get(pte) & PTE_MARKER_UFFD_WP:
            huge.huge_pte_clear(dst_pte, size)
        else:
            if need_clear_uffd_wp:
                if pte_present(pte):
                    pte = pte_clear_uffd_wp(pte)
                else:
                    pte &= ~PTE_SWP_UFFD_WP
            huge.set_huge_pte_at(vma.mm, new_addr, dst_pte, pte, size)
        if src_ptl is not dst_ptl:
            src_ptl.release()
        dst_ptl.release()

    def move_hugetlb_page_tables(
        self, vma: VmArea, new_vma: VmArea, old_addr: int, new_addr: int, length: int
    ) -> int:
        """Move the entries of a range from one VMA to another.

        Shared tables do not move: faults find them at the new place.

        Returns:
            How many bytes were moved; fewer than *length* if there was no memory.

        Source: mm/hugetlb.c, move_hugetlb_page_tables()
        """
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        gather = self._kernel.gather
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        old_end = old_addr + length
        span = self.adjust_range_if_pmd_sharing_possible(vma, old_addr, old_end)
        tlb = gather.tlb_gather_mmu_vma(vma)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            moved = length
            entries = self.huge_entries(vma, old_addr, old_end)
            for addr, src_pte in entries:
                if pte_none(huge.huge_ptep_get(src_pte, h.size)):
                    continue
                if self.huge_pmd_unshare(tlb, vma, addr, src_pte):
                    entries.skip_table()
                    continue
                to = new_addr + addr - old_addr
                dst_pte = huge.huge_pte_alloc(vma.mm, new_vma, to, h.size)
                if dst_pte is None:
                    moved = addr - old_addr
                    break
                self.move_huge_pte(vma, addr, to, src_pte, dst_pte)
                gather.tlb_remove_huge_tlb_entry(tlb, addr, h.size)
            gather.tlb_flush_mmu_tlbonly(tlb)
            self.huge_pmd_unshare_flush(tlb, vma)
        i_mmap_rwsem.up_write()
        self.hugetlb_vma_unlock_write(vma)
        gather.tlb_finish_mmu(tlb)
        return moved
