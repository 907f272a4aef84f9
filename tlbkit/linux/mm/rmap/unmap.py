"""Taking every entry of a folio away, to swap it out or to drop it: try_to_unmap()."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_present,
    pte_uffd_wp,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_SWP_EXCLUSIVE,
    PTE_SWP_UFFD_WP,
)
from tlbkit.linux.include.linux.mm import VM_LOCKED
from tlbkit.linux.include.linux.mm_types import LargeFolio, PG_dirty, PG_swapbacked
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    make_pte_marker,
    swp_entry_to_pte,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_wp
from tlbkit.linux.mm.internal import FPB_RESPECT_WRITE, folio_pte_batch_flags
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.rmap.file import RmapFile

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea

TTU_SPLIT_HUGE_PMD: Final = 0x4
TTU_BATCH_FLUSH: Final = 0x40


class RmapUnmap(RmapFile):
    """Unmaps folios, to swap them out, to write them back, or to drop them."""

    __slots__ = ()

    def try_to_unmap(self, folio: Folio, flags: int) -> None:
        """Take away the entries that map a locked folio; some may have to stay.

        With TTU_BATCH_FLUSH the flushes are started and not waited for: before the
        pages are written out or given away, `try_to_unmap_flush` must follow.

        Source: mm/rmap.c, try_to_unmap()
        """
        if not folio.anon:
            self._try_to_unmap_file(folio, flags)
            return
        anon_vma = self.folio_get_anon_vma(folio)
        if anon_vma is None:
            return
        lock = anon_vma.root.lock
        lock.down_read()
        for vma, start, end in self.rmap_walk_anon(
            anon_vma, folio.index, folio.nr_pages
        ):
            unmapped = self.try_to_unmap_one(folio, vma, start, end, flags)
            if not unmapped or not folio.mapcount:
                break
        lock.up_read()
        self.put_anon_vma(anon_vma)

    def _try_to_unmap_file(self, folio: Folio, flags: int) -> None:
        """Do so with a folio of a file, in all areas that the file knows."""
        mapping: AddressSpace | None = folio.mapping
        if mapping is None:
            return
        mapping.i_mmap_rwsem.down_read()
        for vma, start, end in self.rmap_walk_file(
            mapping, folio.index, folio.nr_pages
        ):
            unmapped = self.try_to_unmap_one(folio, vma, start, end, flags)
            if not unmapped or not folio.mapcount:
                break
        mapping.i_mmap_rwsem.up_read()

    def try_to_unmap_one(
        self, folio: Folio, vma: VmArea, start: int, end: int, flags: int
    ) -> bool:
        """Do so in one area; false if an entry has to stay, and then the rest does.

        Source: mm/rmap.c, try_to_unmap_one()
        """
        pgtable = self._kernel.pgtable
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, start, end
        ):
            for pmdp, addr, until in self._kernel.memory.pmd_entries(
                vma.mm, start, end
            ):
                pmd = pgtable.read(pmdp)
                if pmd_trans_huge(pmd) and pgtable.pte_pfn(pmd) == folio.pfn:
                    if vma.flags & VM_LOCKED:
                        return False
                    with self._kernel.memory.pmd_lockptr(pmdp):
                        # It may have changed until it was locked.
                        still = pgtable.read(pmdp)
                        if (
                            pmd_trans_huge(still)
                            and pgtable.pte_pfn(still) == folio.pfn
                            and not self._unmap_block(folio, vma, pmdp, addr, flags)
                        ):
                            return False
                    pmd = pgtable.read(pmdp)
                found = self._kernel.pgtable_generic.pte_offset_map_lock(
                    vma.mm, pmdp, addr
                )
                if found is not None:
                    ptep, ptl = found
                    unmapped = self._unmap_ptes(folio, vma, ptep, addr, until, flags)
                    ptl.release()
                    if not unmapped:
                        return False
        return True

    def _unmap_block(
        self, folio: Folio, vma: VmArea, pmdp: int, addr: int, flags: int
    ) -> bool:
        """Drop a block that need not be kept, or split its entry; the lock is held."""
        huge = self._kernel.huge_memory
        if not folio.flags & PG_swapbacked:
            assert isinstance(folio, LargeFolio)
            return huge.unmap_huge_pmd_locked(vma, addr, pmdp, folio)
        if flags & TTU_SPLIT_HUGE_PMD:
            huge.split_huge_pmd_locked(vma, addr, pmdp, freeze=False)
            return True
        return False

    def _unmap_ptes(
        self, folio: Folio, vma: VmArea, ptep: int, start: int, end: int, flags: int
    ) -> bool:
        """Unmap the pages of a folio that one locked table maps; false if one stays."""
        pgtable = self._kernel.pgtable
        pages = range(folio.pfn, folio.pfn + folio.nr_pages)
        addr = start
        while addr < end:
            pte = pgtable.ptep_get(ptep)
            nr = 1
            if (
                pte_present(pte)
                and not pgtable.pte_special(pte)
                and pgtable.pte_pfn(pte) in pages
            ):
                if vma.flags & VM_LOCKED:
                    return False
                nr = self.folio_unmap_pte_batch(folio, ptep, pte, addr, end)
                if not self._unmap_run(folio, vma, addr, ptep, nr, flags):
                    return False
            ptep += nr * 8
            addr += nr * pgtable.page_size
        return True

    def folio_unmap_pte_batch(
        self, folio: Folio, ptep: int, pte: int, addr: int, end: int
    ) -> int:
        """Return how many entries are unmapped at once: several only to be dropped.

        They agree in the write bit, for they may have to be restored as they were.

        Source: mm/rmap.c, folio_unmap_pte_batch()
        """
        if not isinstance(folio, LargeFolio):
            return 1
        if not folio.anon or folio.flags & PG_swapbacked:
            return 1
        pgtable = self._kernel.pgtable
        most = (end - addr) >> pgtable.page_shift
        return folio_pte_batch_flags(
            pgtable, folio, ptep, pte, most, FPB_RESPECT_WRITE
        )[0]

    def _unmap_run(
        self, folio: Folio, vma: VmArea, addr: int, ptep: int, nr: int, flags: int
    ) -> bool:
        """Clear *nr* entries, and put in their place what is right; false if they stay.

        A CPU may go on writing through what its TLB still holds of them. If an entry
        was clean, the hardware must look at it before the first write, and faults.
        """
        pgtable = self._kernel.pgtable
        mm = vma.mm
        pfn = pgtable.pte_pfn(pgtable.read(ptep))
        pte = pgtable.get_and_clear_full_ptes(mm, addr, ptep, nr)
        end = addr + nr * pgtable.page_size
        if self.should_defer_flush(flags):
            self.set_tlb_ubc_flush_pending(mm, pte, addr, end)
        else:
            self._kernel.tlbflush.flush_tlb_range(vma, addr, end)
        if pte_dirty(pte):
            folio.flags |= PG_dirty
        if not folio.anon:
            self._leave_file(folio, vma, ptep, pte)
        elif folio.flags & PG_swapbacked:
            if not self._install_swap_entry(folio, pfn, vma, ptep, pte):
                pgtable.set_ptes(mm, addr, ptep, pte, nr)
                return False
        elif not self._may_discard(folio):
            pgtable.set_ptes(mm, addr, ptep, pte, nr)
            return False
        else:
            mm.anonpages -= nr
        if isinstance(folio, LargeFolio):
            self.folio_remove_rmap_ptes(folio, pfn, nr, vma)
        else:
            self.folio_remove_rmap_pte(folio, pfn, vma)
        for _ in range(nr):
            self._kernel.swap.folio_put(folio)
        return True

    def _leave_file(self, folio: Folio, vma: VmArea, ptep: int, pte: int) -> None:
        """Count an entry off that was *pte*; the file knows its page by itself.

        Only that a userfaultfd protects it, nobody else knows.
        """
        self._kernel.swap.dec_file_counter(vma.mm, folio)
        if userfaultfd_wp(vma) and pte_uffd_wp(pte):
            marker = make_pte_marker(PTE_MARKER_UFFD_WP)
            self._kernel.pgtable.set_pte(ptep, marker)

    def _may_discard(self, folio: Folio) -> bool:
        """Tell whether the contents of a folio that was given up may go.

        Not if it was written since; then it is kept from now on. Not if somebody else
        holds it, who might have written to it without an entry.
        """
        if self._kernel.machine.sees("folio_test_dirty", folio.flags & PG_dirty):
            folio.flags |= PG_swapbacked
            return False
        return folio.refcount == 1 + folio.mapcount

    def _install_swap_entry(
        self, folio: Folio, pfn: int, vma: VmArea, ptep: int, pte: int
    ) -> bool:
        """Let an entry that was *pte* say which slot has its page; false if pinned."""
        entry = self._kernel.swap_state.page_swap_entry(folio, pfn)
        self._kernel.swapfile.swap_duplicate(entry)
        exclusive = folio.page_exclusive(pfn)
        if exclusive and not self.folio_try_share_anon_rmap(folio, pfn):
            self._kernel.swapfile.swap_free(entry)
            return False
        vma.mm.anonpages -= 1
        vma.mm.swapents += 1
        swapped = swp_entry_to_pte(entry)
        if exclusive:
            swapped |= PTE_SWP_EXCLUSIVE
        if pte_uffd_wp(pte):
            swapped |= PTE_SWP_UFFD_WP
        self._kernel.pgtable.set_pte(ptep, swapped)
        return True

    def should_defer_flush(self, flags: int) -> bool:
        """Tell whether an unmap may leave the wait for its flush to its caller.

        Source: mm/rmap.c, should_defer_flush()
        """
        if not flags & TTU_BATCH_FLUSH:
            return False
        return self._kernel.tlbflush.arch_tlbbatch_should_defer()
