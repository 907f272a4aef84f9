"""Advice that drops pages: MADV_DONTNEED at once, MADV_FREE when memory is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_young,
)
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import VM_LOCKED, VM_PFNMAP
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_swapcache
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import non_swap_entry, pte_to_swp_entry
from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL, ENOMEM
from tlbkit.linux.mm.madvise.part import MadviseWalk
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.mm.madvise.part import Mapped, Part
    from tlbkit.linux.mm.mmu_gather import MmuGather

_KEPT = VM_LOCKED | VM_PFNMAP


class MadviseDiscard(MadviseWalk):
    """Drops the pages of a range, or lets reclaim drop them."""

    __slots__ = ()

    def madvise_dontneed(self, part: Part) -> int:
        """Drop the pages of a range now; the next access finds zeros: MADV_DONTNEED."""
        return self.madvise_dontneed_free(
            part, self.madvise_dontneed_single_vma, hugetlb=True
        )

    def madvise_free(self, part: Part) -> int:
        """Let reclaim drop the pages that are not written again: MADV_FREE."""
        return self.madvise_dontneed_free(
            part, self.madvise_free_single_vma, hugetlb=False
        )

    def madvise_dontneed_free_valid_vma(self, part: Part, *, hugetlb: bool) -> bool:
        """Tell whether the pages of a part may be dropped.

        Of huge pages of a pool only whole ones are, if *hugetlb* allows it at all: a
        part that ends within one is made shorter.
        """
        vma = part.vma
        if not is_vm_hugetlb_page(vma):
            return not vma.flags & _KEPT
        size = self._kernel.hugetlb.hstate_vma(vma).size
        if not hugetlb or part.start & (size - 1):
            return False
        part.end &= -size
        return True

    def madvise_dontneed_free(
        self, part: Part, drop: Callable[[Part], int], *, hugetlb: bool
    ) -> int:
        """Check the area, tell who watches it, and drop its pages; 0 or an error.

        Who is told is waited for without the lock, so the area is looked up anew.
        """
        if not self.madvise_dontneed_free_valid_vma(part, hugetlb=hugetlb):
            return -EINVAL
        if part.start == part.end:
            return 0
        mm = part.vma.mm
        uffd = self._kernel.fs_userfaultfd
        if not uffd.userfaultfd_remove(part.vma, part.start, part.end):
            part.lock_dropped = True
            mm.mmap_lock.down_read()
            vma = self._kernel.vma.vma_lookup(mm, part.start)
            if vma is None:
                return -ENOMEM
            part.vma = vma
            if not self.madvise_dontneed_free_valid_vma(part, hugetlb=hugetlb):
                return -EINVAL
            part.end = min(part.end, vma.end)
            if part.start == part.end:
                return 0
        return drop(part)

    def madvise_dontneed_single_vma(self, part: Part) -> int:
        """Clear the entries of a range, and keep their pages until the flush."""
        assert part.tlb is not None
        self._kernel.memory.zap_page_range_single_batched(
            part.tlb, part.vma, part.start, part.end
        )
        return 0

    def madvise_free_single_vma(self, part: Part) -> int:
        """Take the pages of a range for clean and old, so that nobody writes them out.

        A write makes its entry dirty again. A TLB that still holds the dirty entry
        would let one pass unseen: hence the flush at the end of the area.
        """
        vma, tlb = part.vma, part.tlb
        assert tlb is not None
        if not vma.anonymous:
            return -EINVAL
        self._kernel.swap.lru_add_drain()

        def free(mapped: Mapped) -> None:
            self.free_ptes(tlb, mapped)

        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, part.start, part.end
        ):
            for pmdp, addr, end in self._kernel.memory.pmd_entries(
                vma.mm, part.start, part.end
            ):
                if not self._free_block(tlb, vma, pmdp, addr, end):
                    self.walk_ptes(vma, pmdp, addr, end, free, self.free_swapped)
            self._kernel.gather.tlb_end_vma(tlb, vma)
        return 0

    def _free_block(
        self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int, end: int
    ) -> bool:
        """Do so with a block as one; tell whether nothing is left to do."""
        return pmd_trans_huge(
            self._pgtable.read(pmdp)
        ) and self._kernel.huge_memory.madvise_free_huge_pmd(tlb, vma, pmdp, addr, end)

    def free_swapped(self, vma: VmArea, ptep: int, pte: int) -> None:
        """Drop a page in swap at once: to read it in would cost more than zeros do."""
        entry = pte_to_swp_entry(pte)
        if not non_swap_entry(entry):
            vma.mm.swapents -= 1
            self._kernel.swapfile.free_swap_and_cache(entry)
            self._pgtable.set_pte(ptep, 0)

    def free_ptes(self, tlb: MmuGather, mapped: Mapped) -> None:
        """Take one folio for clean and old: a round of madvise_free_pte_range()."""
        folio = mapped.folio
        if folio.flags & (PG_dirty | PG_swapcache) and not self._clean_folio(folio):
            return
        if pte_young(mapped.pte) or pte_dirty(mapped.pte):
            self._pgtable.clear_young_dirty_ptes(mapped.ptep, mapped.nr, dirty=True)
            self._kernel.gather.tlb_flush_pte_range(
                tlb, mapped.addr, mapped.nr * self._pgtable.page_size
            )
        self._kernel.swap.folio_mark_lazyfree(folio)

    def _clean_folio(self, folio: Folio) -> bool:
        """Take a folio for clean, and out of the swap cache; false if others use it."""
        if not folio_trylock(folio):
            return False
        alone = folio.mapcount == folio.nr_pages
        if alone and folio.flags & PG_swapcache:
            alone = self._kernel.swapfile.folio_free_swap(folio)
        if alone:
            folio.flags &= ~PG_dirty
        folio_unlock(self._kernel.machine, folio)
        return alone
