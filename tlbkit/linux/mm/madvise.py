"""What a process says of its memory: mm/madvise.c.

Compared with: v6.17, v6.18 and v6.19, whose modelled functions do the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_mkold,
    pte_none,
    pte_present,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.arch.arm64.include.asm.uaccess import untagged_addr
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WIPEONFORK,
)
from tlbkit.linux.include.linux.mm_types import (
    LargeFolio,
    PG_dirty,
    PG_lru,
    PG_referenced,
    PG_swapcache,
)
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import non_swap_entry, pte_to_swp_entry
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_armed
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EACCES,
    EAGAIN,
    EINTR,
    EINVAL,
    ENOMEM,
)
from tlbkit.linux.include.uapi.linux.falloc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)
from tlbkit.linux.mm.internal import FPB_MERGE_YOUNG_DIRTY, folio_pte_batch_flags
from tlbkit.linux.mm.madvise_guard import MadviseGuard
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather

MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24
MADV_COLLAPSE: Final = 25
MADV_GUARD_INSTALL: Final = 102
MADV_GUARD_REMOVE: Final = 103

ADVICE: Final = {
    "normal": MADV_NORMAL,
    "random": MADV_RANDOM,
    "sequential": MADV_SEQUENTIAL,
    "willneed": MADV_WILLNEED,
    "hugepage": MADV_HUGEPAGE,
    "nohugepage": MADV_NOHUGEPAGE,
    "collapse": MADV_COLLAPSE,
    "populate_read": MADV_POPULATE_READ,
    "populate_write": MADV_POPULATE_WRITE,
    "dontneed": MADV_DONTNEED,
    "dontneed_locked": MADV_DONTNEED_LOCKED,
    "free": MADV_FREE,
    "remove": MADV_REMOVE,
    "guard_install": MADV_GUARD_INSTALL,
    "guard_remove": MADV_GUARD_REMOVE,
    "cold": MADV_COLD,
    "pageout": MADV_PAGEOUT,
    "dontfork": MADV_DONTFORK,
    "dofork": MADV_DOFORK,
    "dontdump": MADV_DONTDUMP,
    "dodump": MADV_DODUMP,
    "wipeonfork": MADV_WIPEONFORK,
    "keeponfork": MADV_KEEPONFORK,
}
"""All advice that is known here, by the names that `Thread.madvise` takes."""

MADVISE_NO_LOCK: Final = 0
MADVISE_MMAP_READ_LOCK: Final = 1
MADVISE_MMAP_WRITE_LOCK: Final = 2
MADVISE_VMA_READ_LOCK: Final = 3

_ULONG: Final = (1 << 64) - 1


@dataclass(slots=True)
class MadviseBehavior:
    """One madvise() at work: struct madvise_behavior.

    Attributes:
        mm: The address space.
        behavior: The advice, a number of `ADVICE`.
        start: Of what is left of the range, or of its part within *vma*.
        end: Likewise.
        lock_mode: Which lock is held: ``MADVISE_MMAP_READ_LOCK`` and so on.
        vma: The VMA at work.
        tlb: The gather of the whole call, for advice that clears entries.
        lock_dropped: The mmap lock was released meanwhile, and *vma* may be gone.
    """

    mm: MmStruct
    behavior: int
    start: int = 0
    end: int = 0
    lock_mode: int = MADVISE_NO_LOCK
    vma: VmArea | None = None
    tlb: MmuGather | None = None
    lock_dropped: bool = False

    @property
    def area(self) -> VmArea:
        """The VMA at work, where it is known to be there.

        Source: none; it is never asked for where there is none.
        """
        assert self.vma is not None
        return self.vma


class Madvise(MadviseGuard):
    """The system call, and what it does for each advice."""

    __slots__ = ()

    def madvise_update_vma(self, new_flags: int, madv_behavior: MadviseBehavior) -> int:
        """Give a part of a VMA other flags; 0 or a negative error number.

        Source: mm/madvise.c, madvise_update_vma()

        Deviates: VMAs have no names, which one advice would set.
        """
        vma = madv_behavior.area
        if new_flags == vma.flags:
            return 0
        part = self._kernel.vma.vma_modify(
            vma, madv_behavior.start, madv_behavior.end, new_flags
        )
        if isinstance(part, int):
            return part
        madv_behavior.vma = part
        self._kernel.mmap_lock.vma_start_write(part)
        part.flags = new_flags
        return 0

    # -- cold pages ------------------------------------------------------------------

    def madvise_folio_pte_batch(
        self, addr: int, end: int, folio: LargeFolio, ptep: int, pte: int
    ) -> tuple[int, int]:
        """Return how many entries map *folio* from *ptep* on, and *pte*.

        That is young or dirty if any of them is.

        Source: mm/madvise.c, madvise_folio_pte_batch()
        """
        max_nr = (end - addr) >> self._pgtable.page_shift
        return folio_pte_batch_flags(
            self._pgtable, folio, ptep, pte, max_nr, FPB_MERGE_YOUNG_DIRTY
        )

    def madvise_cold_or_pageout_pte_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmd: int,
        addr: int,
        end: int,
        *,
        pageout: bool,
    ) -> int:
        """Age the pages of one PMD entry, or take them back; 0 or ``-EINTR``.

        A large folio of which the range holds only a part is split first. What is paged
        out is collected while the table is locked, and goes afterwards.

        Source: mm/madvise.c, madvise_cold_or_pageout_pte_range()

        Deviates: the caller may write every file, so pages of files go as well; nobody
        asks for the CPU meanwhile.
        """
        pgtable = self._pgtable
        folio_list: list[Folio] = []
        if self._kernel.sched.fatal_signal_pending(vma.mm):
            return -EINTR
        if pmd_trans_huge(pgtable.read(pmd)) and not self._cold_or_pageout_huge_pmd(
            tlb, vma, pmd, addr, end, folio_list if pageout else None
        ):
            self._kernel.vmscan.reclaim_pages(folio_list)
            return 0
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmd, addr)
        if found is None:
            return 0
        pte, ptl = found
        if vma.mm.tlb_flush_batched:
            self._kernel.rmap.flush_tlb_batched_pending(vma.mm)
        pgtable.arch_enter_lazy_mmu_mode()
        while addr < end:
            nr = 1
            ptent = pgtable.ptep_get(pte)
            folio = None
            if pte_present(ptent):
                folio = self._kernel.memory.vm_normal_folio(vma, addr, ptent)
            if isinstance(folio, LargeFolio):
                nr, ptent = self.madvise_folio_pte_batch(addr, end, folio, pte, ptent)
                if nr < folio.nr_pages:
                    if not folio.maybe_mapped_shared and folio_trylock(folio):
                        folio.refcount += 1
                        pgtable.arch_leave_lazy_mmu_mode()
                        ptl.release()
                        split = self._split_folio(folio)
                        found = self._kernel.pgtable_generic.pte_offset_map_lock(
                            vma.mm, pmd, addr
                        )
                        if found is None:
                            break
                        pte, ptl = found
                        if vma.mm.tlb_flush_batched:
                            self._kernel.rmap.flush_tlb_batched_pending(vma.mm)
                        pgtable.arch_enter_lazy_mmu_mode()
                        nr = 0 if split else nr
                    folio = None
            if (
                folio is not None
                and folio.flags & PG_lru
                and folio.mapcount == folio.nr_pages
            ):
                if not pageout and pte_young(ptent):
                    pgtable.clear_young_dirty_ptes(pte, nr, dirty=False)
                    self._kernel.gather.tlb_flush_pte_range(
                        tlb, addr, nr * pgtable.page_size
                    )
                folio.flags &= ~PG_referenced
                if not pageout:
                    self._kernel.swap.folio_deactivate(folio)
                elif self._kernel.vmscan.folio_isolate_lru(folio):
                    folio_list.append(folio)
            pte += nr * SLOT
            addr += nr * pgtable.page_size
        else:
            pgtable.arch_leave_lazy_mmu_mode()
            ptl.release()
        if pageout:
            self._kernel.vmscan.reclaim_pages(folio_list)
        return 0

    def _cold_or_pageout_huge_pmd(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmd: int,
        addr: int,
        end: int,
        folio_list: list[Folio] | None,
    ) -> bool:
        """Age a PMD mapping, or put its folio into *folio_list* if that is given.

        Returns:
            True if it was split: its pages are left to look at.

        Source: mm/madvise.c, madvise_cold_or_pageout_pte_range()
        """
        pgtable = self._pgtable
        huge = self._kernel.huge_memory
        ptl = huge.pmd_trans_huge_lock(pmd, vma)
        if ptl is None:
            return False
        orig_pmd = pgtable.read(pmd)
        if huge.is_huge_zero_pmd(orig_pmd) or not pte_present(orig_pmd):
            ptl.release()
            return False
        folio = huge.pmd_folio(orig_pmd)
        if folio.maybe_mapped_shared:
            ptl.release()
            return False
        if end - addr != pgtable.pmd_size:
            folio.refcount += 1
            ptl.release()
            folio_lock(self._kernel.machine, folio)
            return self._split_folio(folio)
        if folio_list is None and pte_young(orig_pmd):
            self._kernel.pgtable_generic.pmdp_invalidate(vma, addr, pmd)
            pgtable.set_pte(pmd, pte_mkold(orig_pmd))
            self._kernel.gather.tlb_remove_pmd_tlb_entry(tlb, addr)
        folio.flags &= ~PG_referenced
        if folio_list is None:
            self._kernel.swap.folio_deactivate(folio)
        elif self._kernel.vmscan.folio_isolate_lru(folio):
            folio_list.append(folio)
        ptl.release()
        return False

    def _split_folio(self, folio: Folio) -> bool:
        """Split a folio that is locked and held, and let go; tell whether it split.

        Source: include/linux/huge_mm.h, split_folio()
        """
        head = self._kernel.huge_memory.split_folio(folio)
        left = folio if isinstance(head, int) else head
        folio_unlock(self._kernel.machine, left)
        self._kernel.swap.folio_put(left)
        return left is not folio

    def _cold_or_pageout_page_range(
        self, tlb: MmuGather, madv_behavior: MadviseBehavior, *, pageout: bool
    ) -> None:
        """Go through the tables of a range; who is killed stops, and nobody is told.

        Source: mm/madvise.c, madvise_cold_page_range() and madvise_pageout_page_range()
        """
        vma = madv_behavior.area
        self._kernel.gather.tlb_start_vma(tlb, vma)
        for pmd, addr, end in self._kernel.memory.pmd_entries(
            vma.mm, madv_behavior.start, madv_behavior.end
        ):
            if pte_none(self._pgtable.read(pmd)):
                continue
            if self.madvise_cold_or_pageout_pte_range(
                tlb, vma, pmd, addr, end, pageout=pageout
            ):
                break
        self._kernel.gather.tlb_end_vma(tlb, vma)

    @staticmethod
    def can_madv_lru_vma(vma: VmArea) -> bool:
        """Tell whether the pages of *vma* are on LRU lists that reclaim looks at.

        Source: mm/madvise.c, can_madv_lru_vma()
        """
        return not vma.flags & (VM_LOCKED | VM_PFNMAP | VM_HUGETLB)

    def madvise_cold(self, madv_behavior: MadviseBehavior) -> int:
        """Let reclaim take the pages of a range before others: MADV_COLD.

        Source: mm/madvise.c, madvise_cold()
        """
        return self._cold_or_pageout(madv_behavior, pageout=False)

    def madvise_pageout(self, madv_behavior: MadviseBehavior) -> int:
        """Let reclaim take the pages of a range now: MADV_PAGEOUT.

        Pages that cannot go stay, and nobody is told.

        Source: mm/madvise.c, madvise_pageout()

        Deviates: the caller may write every file, which the kernel asks here.
        """
        return self._cold_or_pageout(madv_behavior, pageout=True)

    def _cold_or_pageout(self, madv_behavior: MadviseBehavior, *, pageout: bool) -> int:
        if not self.can_madv_lru_vma(madv_behavior.area):
            return -EINVAL
        self._kernel.swap.lru_add_drain()
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(madv_behavior.mm)
        self._cold_or_pageout_page_range(tlb, madv_behavior, pageout=pageout)
        gather.tlb_finish_mmu(tlb)
        return 0

    # -- pages that are dropped ------------------------------------------------------

    def madvise_free_pte_range(
        self, tlb: MmuGather, vma: VmArea, pmd: int, addr: int, end: int
    ) -> None:
        """Take the pages of one PMD entry for clean and old.

        A write makes its entry dirty again. A TLB that still holds the dirty entry
        would let one pass unseen: hence the flush at the end of the VMA. A page in swap
        goes at once: to read it in would cost more than zeros do.

        Source: mm/madvise.c, madvise_free_pte_range()

        Deviates: swap entries go one by one; there are no poisoned pages.
        """
        pgtable = self._pgtable
        mm = vma.mm
        if pmd_trans_huge(
            pgtable.read(pmd)
        ) and self._kernel.huge_memory.madvise_free_huge_pmd(tlb, vma, pmd, addr, end):
            return
        found = self._kernel.pgtable_generic.pte_offset_map_lock(mm, pmd, addr)
        if found is None:
            return
        pte, ptl = found
        if mm.tlb_flush_batched:
            self._kernel.rmap.flush_tlb_batched_pending(mm)
        pgtable.arch_enter_lazy_mmu_mode()
        while addr != end:
            nr = 1
            ptent = pgtable.ptep_get(pte)
            folio = None
            if pte_present(ptent):
                folio = self._kernel.memory.vm_normal_folio(vma, addr, ptent)
            elif not pte_none(ptent):
                entry = pte_to_swp_entry(ptent)
                if not non_swap_entry(entry):
                    mm.swapents -= 1
                    self._kernel.swapfile.free_swap_and_cache(entry)
                    pgtable.set_pte(pte, 0)
            if isinstance(folio, LargeFolio):
                nr, ptent = self.madvise_folio_pte_batch(addr, end, folio, pte, ptent)
                if nr < folio.nr_pages:
                    if not folio.maybe_mapped_shared and folio_trylock(folio):
                        folio.refcount += 1
                        pgtable.arch_leave_lazy_mmu_mode()
                        ptl.release()
                        split = self._split_folio(folio)
                        found = self._kernel.pgtable_generic.pte_offset_map_lock(
                            mm, pmd, addr
                        )
                        if found is None:
                            return
                        pte, ptl = found
                        if mm.tlb_flush_batched:
                            self._kernel.rmap.flush_tlb_batched_pending(mm)
                        pgtable.arch_enter_lazy_mmu_mode()
                        nr = 0 if split else nr
                    folio = None
            if folio is not None and (
                not folio.flags & (PG_swapcache | PG_dirty) or self._clear_dirty(folio)
            ):
                if pte_young(ptent) or pte_dirty(ptent):
                    pgtable.clear_young_dirty_ptes(pte, nr, dirty=True)
                    self._kernel.gather.tlb_flush_pte_range(
                        tlb, addr, nr * pgtable.page_size
                    )
                self._kernel.swap.folio_mark_lazyfree(folio)
            pte += nr * SLOT
            addr += nr * pgtable.page_size
        pgtable.arch_leave_lazy_mmu_mode()
        ptl.release()

    def _clear_dirty(self, folio: Folio) -> bool:
        """Take a folio for clean, and out of the swap cache; false if others use it.

        Source: mm/madvise.c, madvise_free_pte_range()
        """
        if not folio_trylock(folio):
            return False
        alone = folio.mapcount == folio.nr_pages
        if alone and folio.flags & PG_swapcache:
            alone = self._kernel.swapfile.folio_free_swap(folio)
        if alone:
            folio.flags &= ~PG_dirty
        folio_unlock(self._kernel.machine, folio)
        return alone

    def madvise_free_single_vma(self, madv_behavior: MadviseBehavior) -> int:
        """Let reclaim drop the pages that are not written again: MADV_FREE.

        Source: mm/madvise.c, madvise_free_single_vma()
        """
        vma, tlb = madv_behavior.area, madv_behavior.tlb
        assert tlb is not None
        if not vma.anonymous:
            return -EINVAL
        start, end = madv_behavior.start, madv_behavior.end
        self._kernel.swap.lru_add_drain()
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, start, end
        ):
            self._kernel.gather.tlb_start_vma(tlb, vma)
            for pmd, addr, following in self._kernel.memory.pmd_entries(
                vma.mm, start, end
            ):
                if not pte_none(self._pgtable.read(pmd)):
                    self.madvise_free_pte_range(tlb, vma, pmd, addr, following)
            self._kernel.gather.tlb_end_vma(tlb, vma)
        return 0

    def madvise_dontneed_single_vma(self, madv_behavior: MadviseBehavior) -> int:
        """Clear the entries of a range, and keep their pages until the flush.

        Source: mm/madvise.c, madvise_dontneed_single_vma()

        Deviates: empty page tables stay, as on arm64 without CONFIG_PT_RECLAIM.
        """
        assert madv_behavior.tlb is not None
        zap = self._kernel.memory.zap_page_range_single_batched
        madv_behavior.tlb = zap(
            madv_behavior.tlb,
            madv_behavior.area,
            madv_behavior.start,
            madv_behavior.end - madv_behavior.start,
        )
        return 0

    def madvise_dontneed_free_valid_vma(self, madv_behavior: MadviseBehavior) -> bool:
        """Tell whether the pages of a range may be dropped.

        Of huge pages of a pool only whole ones are: a range that ends within one is
        made shorter.

        Source: mm/madvise.c, madvise_dontneed_free_valid_vma()
        """
        vma = madv_behavior.area
        behavior = madv_behavior.behavior
        if not is_vm_hugetlb_page(vma):
            forbidden = VM_PFNMAP
            if behavior != MADV_DONTNEED_LOCKED:
                forbidden |= VM_LOCKED
            return not vma.flags & forbidden
        if behavior not in {MADV_DONTNEED, MADV_DONTNEED_LOCKED}:
            return False
        size = self._kernel.hugetlb.hstate_vma(vma).size
        if madv_behavior.start & (size - 1):
            return False
        madv_behavior.end &= -size
        return True

    def madvise_dontneed_free(self, madv_behavior: MadviseBehavior) -> int:
        """Check the VMA, tell who watches it, and drop its pages; 0 or an error.

        Who is told is waited for without the lock, so the VMA is looked up anew.

        Source: mm/madvise.c, madvise_dontneed_free()
        """
        if not self.madvise_dontneed_free_valid_vma(madv_behavior):
            return -EINVAL
        if madv_behavior.start == madv_behavior.end:
            return 0
        mm = madv_behavior.mm
        if not self._kernel.fs_userfaultfd.userfaultfd_remove(
            madv_behavior.area, madv_behavior.start, madv_behavior.end
        ):
            madv_behavior.lock_dropped = True  # mark_mmap_lock_dropped()
            mm.mmap_lock.down_read()
            vma = self._kernel.vma.vma_lookup(mm, madv_behavior.start)
            madv_behavior.vma = vma
            if vma is None:
                return -ENOMEM
            if not self.madvise_dontneed_free_valid_vma(madv_behavior):
                return -EINVAL
            madv_behavior.end = min(madv_behavior.end, vma.end)
            if madv_behavior.start == madv_behavior.end:
                return 0
        if madv_behavior.behavior == MADV_FREE:
            return self.madvise_free_single_vma(madv_behavior)
        return self.madvise_dontneed_single_vma(madv_behavior)

    def madvise_remove(self, madv_behavior: MadviseBehavior) -> int:
        """Punch a hole into the file that a range maps shared; 0 or an error number.

        Source: mm/madvise.c, madvise_remove()
        """
        mm = madv_behavior.mm
        vma = madv_behavior.area
        start, end = madv_behavior.start, madv_behavior.end
        madv_behavior.lock_dropped = True  # mark_mmap_lock_dropped()
        if vma.flags & VM_LOCKED or vma.file is None:
            return -EINVAL
        if (VM_SHARED | VM_MAYWRITE) & ~vma.flags:  # vma_is_shared_maywrite()
            return -EACCES
        offset = start - vma.start + (vma.pgoff << self._pgtable.page_shift)
        files = self._kernel.file_table
        file = files.get_file(vma.file)
        if self._kernel.fs_userfaultfd.userfaultfd_remove(vma, start, end):
            mm.mmap_lock.up_read()
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        error = files.vfs_fallocate(file, mode, offset, end - start)
        files.fput(file)
        mm.mmap_lock.down_read()
        return error

    # -- pages that will be needed ---------------------------------------------------

    def madvise_willneed(self, madv_behavior: MadviseBehavior) -> int:
        """Read what a range will need from swap, or from its file; 0.

        No entry changes: the faults that follow find the pages in memory. Without
        memory less is read, and nobody is told.

        Source: mm/madvise.c, madvise_willneed()
        Deviates: shared memory is never swapped; the mmap lock is kept meanwhile, as
        nobody waits for a disk here.
        """
        vma = madv_behavior.area
        start, end = madv_behavior.start, madv_behavior.end
        if vma.file is None:
            for pmd, begin, stop in self._kernel.memory.pmd_entries(vma.mm, start, end):
                self.swapin_walk_pmd_entry(vma, pmd, begin, stop)
            self._kernel.swap.lru_add_drain()
            return 0
        mapping = vma.file.mapping
        if mapping.ops.can_writeback and not vma.dax:  # vfs_fadvise()
            shift = self._pgtable.page_shift
            first = vma.pgoff + (start - vma.start >> shift)
            pages = self._kernel.filemap.pages_in_file(mapping.host)
            for index in range(first, min(first + (end - start >> shift), pages)):
                folio = self._kernel.filemap.read_mapping_folio(mapping, index)
                if isinstance(folio, int):
                    break
                self._kernel.swap.folio_put(folio)
        return 0

    def swapin_walk_pmd_entry(
        self, vma: VmArea, pmd: int, start: int, end: int
    ) -> None:
        """Read the slots that the entries of one table stand for into the swap cache.

        Source: mm/madvise.c, swapin_walk_pmd_entry()
        """
        pgtable = self._pgtable
        for addr in range(start, end, pgtable.page_size):
            if not pmd_table(pgtable.read(pmd)):
                return
            found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmd, addr)
            if found is None:
                return
            ptep, ptl = found
            pte = pgtable.ptep_get(ptep)
            ptl.release()
            if pte_none(pte) or pte_present(pte):
                continue
            entry = pte_to_swp_entry(pte)
            if non_swap_entry(entry):
                continue
            folio = self._kernel.swap_state.read_swap_cache_async(entry)
            if not isinstance(folio, int):
                self._kernel.swap.folio_put(folio)

    def madvise_populate(self, madv_behavior: MadviseBehavior) -> int:
        """Fault in the pages of a range, bit by bit; 0 or a negative error number.

        Source: mm/madvise.c, madvise_populate()
        """
        mm = madv_behavior.mm
        write = madv_behavior.behavior == MADV_POPULATE_WRITE
        start = madv_behavior.start
        while start < madv_behavior.end:
            pages, locked = self._kernel.gup.faultin_page_range(
                mm, start, madv_behavior.end, write=write
            )
            if not locked:
                mm.mmap_lock.down_read()
            if pages < 0:
                return pages
            start += pages << self._pgtable.page_shift
        return 0

    # -- the call --------------------------------------------------------------------

    def madvise_vma_behavior(self, madv_behavior: MadviseBehavior) -> int:
        """Follow advice for a part of one VMA; 0 or a negative error number.

        Source: mm/madvise.c, madvise_vma_behavior()
        """
        behavior = madv_behavior.behavior
        vma = madv_behavior.area
        new_flags = vma.flags
        if behavior == MADV_REMOVE:
            return self.madvise_remove(madv_behavior)
        if behavior == MADV_WILLNEED:
            return self.madvise_willneed(madv_behavior)
        if behavior == MADV_GUARD_INSTALL:
            return self.madvise_guard_install(madv_behavior)
        if behavior == MADV_GUARD_REMOVE:
            return self.madvise_guard_remove(madv_behavior)
        if behavior == MADV_COLD:
            return self.madvise_cold(madv_behavior)
        if behavior == MADV_PAGEOUT:
            return self.madvise_pageout(madv_behavior)
        if behavior in {MADV_FREE, MADV_DONTNEED, MADV_DONTNEED_LOCKED}:
            return self.madvise_dontneed_free(madv_behavior)
        if behavior == MADV_COLLAPSE:
            madv_behavior.lock_dropped = True
            return self._kernel.khugepaged.madvise_collapse(
                vma, madv_behavior.start, madv_behavior.end
            )
        if behavior == MADV_NORMAL:
            new_flags &= ~(VM_RAND_READ | VM_SEQ_READ)
        elif behavior == MADV_SEQUENTIAL:
            new_flags = new_flags & ~VM_RAND_READ | VM_SEQ_READ
        elif behavior == MADV_RANDOM:
            new_flags = new_flags & ~VM_SEQ_READ | VM_RAND_READ
        elif behavior == MADV_DONTFORK:
            new_flags |= VM_DONTCOPY
        elif behavior == MADV_DOFORK:
            if new_flags & VM_IO:
                return -EINVAL
            new_flags &= ~VM_DONTCOPY
        elif behavior == MADV_WIPEONFORK:
            if vma.file is not None or new_flags & VM_SHARED:
                return -EINVAL
            new_flags |= VM_WIPEONFORK
        elif behavior == MADV_KEEPONFORK:
            new_flags &= ~VM_WIPEONFORK
        elif behavior == MADV_DONTDUMP:
            new_flags |= VM_DONTDUMP
        elif behavior == MADV_DODUMP:
            if not is_vm_hugetlb_page(vma) and new_flags & VM_SPECIAL:
                return -EINVAL
            new_flags &= ~VM_DONTDUMP
        elif behavior == MADV_HUGEPAGE:
            new_flags = new_flags & ~VM_NOHUGEPAGE | VM_HUGEPAGE
        elif behavior == MADV_NOHUGEPAGE:
            new_flags = new_flags & ~VM_HUGEPAGE | VM_NOHUGEPAGE
        error = self.madvise_update_vma(new_flags, madv_behavior)
        return -EAGAIN if error == -ENOMEM else error

    @staticmethod
    def madvise_behavior_valid(behavior: int) -> bool:
        """Tell whether there is such advice.

        Source: mm/madvise.c, madvise_behavior_valid()

        Deviates: what is for KSM or for broken memory is not modelled, and refused like
        advice that does not exist.
        """
        return behavior in ADVICE.values()

    @staticmethod
    def is_vma_lock_sufficient(vma: VmArea, madv_behavior: MadviseBehavior) -> bool:
        """Tell whether the lock of one VMA is enough.

        It must hold all of the range. Who watches it is told of the change without the
        mmap lock, so for such a VMA that lock must be held instead.

        Source: mm/madvise.c, is_vma_lock_sufficient()

        Deviates: a part of try_vma_read_lock() before v6.19, in which guards always
        take the mmap lock.
        """
        if madv_behavior.end > vma.end or userfaultfd_armed(vma):
            return False
        install = madv_behavior.behavior == MADV_GUARD_INSTALL
        return not install or not vma.anonymous or vma.anon_vma is not None

    def try_vma_read_lock(self, madv_behavior: MadviseBehavior) -> bool:
        """Lock the one VMA of a range, or if that is not enough the mmap lock.

        Source: mm/madvise.c, try_vma_read_lock()
        """
        mm = madv_behavior.mm
        mmap_lock = self._kernel.mmap_lock
        vma = mmap_lock.lock_vma_under_rcu(mm, madv_behavior.start)
        if vma is not None:
            if self.is_vma_lock_sufficient(vma, madv_behavior):
                madv_behavior.vma = vma
                return True
            mmap_lock.vma_end_read(vma)
        mm.mmap_lock.down_read()
        madv_behavior.lock_mode = MADVISE_MMAP_READ_LOCK
        return False

    def madvise_walk_vmas(self, madv_behavior: MadviseBehavior) -> int:
        """Follow advice for every VMA of a range; 0 or a negative error number.

        Addresses that nothing is mapped at are stepped over; ``-ENOMEM`` tells of them
        in the end.

        Source: mm/madvise.c, madvise_walk_vmas()
        """
        mm = madv_behavior.mm
        last_end = madv_behavior.end
        unmapped_error = 0
        if madv_behavior.lock_mode == MADVISE_VMA_READ_LOCK and self.try_vma_read_lock(
            madv_behavior
        ):
            error = self.madvise_vma_behavior(madv_behavior)
            self._kernel.mmap_lock.vma_end_read(madv_behavior.area)
            return error
        vma = self._kernel.vma.find_vma(mm, madv_behavior.start)
        while True:
            if vma is None:
                return -ENOMEM
            if madv_behavior.start < vma.start:
                unmapped_error = -ENOMEM
                madv_behavior.start = vma.start
                if madv_behavior.start >= last_end:
                    break
            madv_behavior.end = min(vma.end, last_end)
            madv_behavior.vma = vma
            error = self.madvise_vma_behavior(madv_behavior)
            if error:
                return error
            vma = madv_behavior.vma
            if madv_behavior.lock_dropped:
                vma = None
                madv_behavior.lock_dropped = False
            if vma is not None:
                # What was rounded down to huge pages is stepped over whole.
                madv_behavior.end = max(madv_behavior.end, vma.end)
            if madv_behavior.end >= last_end:
                break
            vma = self._kernel.vma.find_vma(mm, madv_behavior.end)
            madv_behavior.start = madv_behavior.end
        return unmapped_error

    @staticmethod
    def get_lock_mode(madv_behavior: MadviseBehavior) -> int:
        """Return which lock an advice needs.

        What holds the mmap lock for reading may release it and take it again, and then
        the next VMA is looked up anew.

        Source: mm/madvise.c, get_lock_mode()
        """
        behavior = madv_behavior.behavior
        if behavior in {
            MADV_REMOVE,
            MADV_WILLNEED,
            MADV_COLD,
            MADV_PAGEOUT,
            MADV_POPULATE_READ,
            MADV_POPULATE_WRITE,
            MADV_COLLAPSE,
        }:
            return MADVISE_MMAP_READ_LOCK
        if behavior in {
            MADV_DONTNEED,
            MADV_DONTNEED_LOCKED,
            MADV_FREE,
            MADV_GUARD_INSTALL,
            MADV_GUARD_REMOVE,
        }:
            return MADVISE_VMA_READ_LOCK
        return MADVISE_MMAP_WRITE_LOCK

    def madvise_lock(self, madv_behavior: MadviseBehavior) -> None:
        """Take the mmap lock, unless that of a VMA may be enough.

        Source: mm/madvise.c, madvise_lock()

        Deviates: nobody is killed while it waits.
        """
        lock_mode = self.get_lock_mode(madv_behavior)
        mmap_lock = madv_behavior.mm.mmap_lock
        if lock_mode == MADVISE_MMAP_WRITE_LOCK:
            mmap_lock.down_write()
        elif lock_mode == MADVISE_MMAP_READ_LOCK:
            mmap_lock.down_read()
        madv_behavior.lock_mode = lock_mode

    @staticmethod
    def madvise_unlock(madv_behavior: MadviseBehavior) -> None:
        """Release the mmap lock, if it is held.

        Source: mm/madvise.c, madvise_unlock()
        """
        mmap_lock = madv_behavior.mm.mmap_lock
        if madv_behavior.lock_mode == MADVISE_MMAP_WRITE_LOCK:
            mmap_lock.up_write()
        elif madv_behavior.lock_mode == MADVISE_MMAP_READ_LOCK:
            mmap_lock.up_read()
        madv_behavior.lock_mode = MADVISE_NO_LOCK

    @staticmethod
    def madvise_batch_tlb_flush(behavior: int) -> bool:
        """Tell whether all VMAs of a call share one gather.

        Source: mm/madvise.c, madvise_batch_tlb_flush()
        """
        return behavior in {MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE}

    def is_valid_madvise(self, start: int, len_in: int, behavior: int) -> bool:
        """Tell whether there is such advice, and such a range.

        Source: mm/madvise.c, is_valid_madvise()
        """
        if not self.madvise_behavior_valid(behavior):
            return False
        if start & ~self._pgtable.page_mask:
            return False
        length = self._pgtable.page_align(len_in)
        if len_in and not length:
            return False
        return start + length <= _ULONG

    def madvise_should_skip(self, start: int, len_in: int, behavior: int) -> int | None:
        """Return the answer of a call that does nothing; ``None`` if there is work.

        Source: mm/madvise.c, madvise_should_skip()
        """
        if not self.is_valid_madvise(start, len_in, behavior):
            return -EINVAL
        return 0 if not self._pgtable.page_align(len_in) else None

    @staticmethod
    def is_madvise_populate(madv_behavior: MadviseBehavior) -> bool:
        """Tell whether pages are to be faulted in, whatever VMAs there are.

        Source: mm/madvise.c, is_madvise_populate()
        """
        return madv_behavior.behavior in {MADV_POPULATE_READ, MADV_POPULATE_WRITE}

    def madvise_do_behavior(
        self, start: int, len_in: int, madv_behavior: MadviseBehavior
    ) -> int:
        """Follow advice for a range; 0 or a negative error number.

        Source: mm/madvise.c, madvise_do_behavior()
        """
        madv_behavior.start = untagged_addr(start)
        madv_behavior.end = madv_behavior.start + self._pgtable.page_align(len_in)
        if self.is_madvise_populate(madv_behavior):
            return self.madvise_populate(madv_behavior)
        return self.madvise_walk_vmas(madv_behavior)

    def do_madvise(self, mm: MmStruct, start: int, len_in: int, behavior: int) -> int:
        """Follow advice for [start, start + len_in); 0 or a negative error number.

        Args:
            mm: The address space.
            start: Page-aligned, or ``-EINVAL``.
            len_in: In bytes, rounded up to pages.
            behavior: A number of `ADVICE`, or ``-EINVAL``.

        Source: mm/madvise.c, do_madvise()
        """
        answer = self.madvise_should_skip(start, len_in, behavior)
        if answer is not None:
            return answer
        madv_behavior = MadviseBehavior(mm, behavior)
        gather = self._kernel.gather
        self.madvise_lock(madv_behavior)
        if self.madvise_batch_tlb_flush(behavior):
            madv_behavior.tlb = gather.tlb_gather_mmu(mm)
        error = self.madvise_do_behavior(start, len_in, madv_behavior)
        if madv_behavior.tlb is not None:
            gather.tlb_finish_mmu(madv_behavior.tlb)
        self.madvise_unlock(madv_behavior)
        return error
