"""c012f568dca2: how pull request 350 brings 8ce720d5bd91, one line misplaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none, pte_present
from tlbkit.linux.include.linux.mm import MM_CP_UFFD_WP
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM
from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_PROTECTION_VMA
from tlbkit.patches import series
from tlbkit.patches.patch import AsPushed

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


class HugetlbAsPushed(Hugetlb):
    """One line lower: what is recorded is the entry that is empty."""

    __slots__ = ()

    def hugetlb_change_protection(
        self, vma: VmArea, start: int, end: int, newprot: int, cp_flags: int
    ) -> int:
        """Give a range other rights; record a flush for what was empty.

        Source: mm/hugetlb.c, hugetlb_change_protection(), pull request 350
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
                    elif pte_present(pte):
                        self.modify_huge_pte(vma, address, ptep, newprot, cp_flags)
                        pages += 1
                    else:
                        pages += self.change_non_present_huge_pte(
                            vma, address, ptep, pte, cp_flags
                        )
                        if pte_none(pte):
                            gather.tlb_remove_huge_tlb_entry(tlb, address, h.size)
                address += h.size
            gather.tlb_flush_mmu_tlbonly(tlb)
            self.huge_pmd_unshare_flush(tlb, vma)
            i_mmap_rwsem.up_write()
            self.hugetlb_vma_unlock_write(vma)
        gather.tlb_finish_mmu(tlb)
        return pages << h.order if pages > 0 else pages


VARIANT = AsPushed(
    of="8ce720d5bd91",
    backport="c012f568dca23d178ce5eeb4b3478c6aa1d6a571",
    subject=(
        "hugetlb_change_protection() records a flush for empty entries, not for those "
        "that it changes"
    ),
    touches={"mm/hugetlb.c": ("hugetlb_change_protection",)},
    effects=(
        (
            "Present, unshared huge pages record nothing, so nothing is invalidated "
            "while the locks are held; blocks that were unshared are still flushed."
        ),
        (
            "A range with an empty entry flushes the span of its empty entries, for "
            "nothing."
        ),
        (
            "The gather is nested in the one of mprotect or UFFDIO_WRITEPROTECT, so "
            "its end flushes the whole ASID before the call returns: no stale entry "
            "survives the call, by accident."
        ),
        (
            "What is left to see is a range flush that is missing, and entries that "
            "are stale between the release of the locks and the end of the gather."
        ),
    ),
    sources=(
        "NVIDIA/NV-Kernels c012f568dca2, mm/hugetlb.c",
        "mainline 8ce720d5bd91 and its backport to 6.18, which agree with each other",
        f"{series.PULL_REQUEST}; a reviewer saw that the commit had not picked clean",
    ),
    replaces={"hugetlb": HugetlbAsPushed},
)
