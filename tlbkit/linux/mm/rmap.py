"""Who maps a page: mm/rmap.c and include/linux/rmap.h.

A large folio is mapped by page entries, by block entries, or by both at a time. What
its counts mean is told in `tlbkit.linux.include.linux.mm_types.LargeFolio`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_present,
    pte_special,
)
from tlbkit.linux.include.linux.mm_types import (
    ENTIRELY_MAPPED,
    AnonVma,
    LargeFolio,
    PG_anon_exclusive,
    PG_dirty,
    PG_swapbacked,
)
from tlbkit.linux.include.linux.swapops import make_migration_pte
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class Rmap:
    """Adds, removes and duplicates mappings; the mapcount is exact after each."""

    __slots__ = ("_flush_required", "_kernel")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._flush_required: set[int] = set()

    # -- the anon_vma of an area -----------------------------------------------------

    def anon_vma_prepare(self, vma: VmArea) -> None:
        """Give *vma* an anon_vma before its first private page."""
        if vma.anon_vma is None:
            vma.anon_vma = AnonVma(RwSemaphore(self._kernel.machine, "anon_vma"))

    def anon_vma_fork(self, child: VmArea, parent: VmArea) -> None:
        """Give a child's copy of *parent* an anon_vma under the same root."""
        if parent.anon_vma is not None:
            root = parent.anon_vma.root
            child.anon_vma = AnonVma(root.lock, root)

    def folio_get_anon_vma(self, folio: Folio) -> AnonVma | None:
        """Return the anon_vma of a mapped folio, with a reference, or ``None``."""
        if not folio.anon or not folio.mapcount:
            return None
        anon_vma: AnonVma = folio.mapping
        anon_vma.refcount += 1
        return anon_vma

    @staticmethod
    def put_anon_vma(anon_vma: AnonVma) -> None:
        """Drop a reference to an anon_vma."""
        anon_vma.refcount -= 1

    @staticmethod
    def anon_vma_lock_write(anon_vma: AnonVma) -> None:
        """Lock all of the tree that *anon_vma* belongs to, waiting if need be."""
        anon_vma.root.lock.down_write()

    @staticmethod
    def anon_vma_trylock_write(anon_vma: AnonVma) -> bool:
        """Lock it if nobody has; tell whether it was locked."""
        return anon_vma.root.lock.down_write_trylock()

    @staticmethod
    def anon_vma_unlock_write(anon_vma: AnonVma) -> None:
        """Release it."""
        anon_vma.root.lock.up_write()

    # -- the first mapping -----------------------------------------------------------

    def folio_add_new_anon_rmap(self, folio: Folio, vma: VmArea, address: int) -> None:
        """Map a new folio for the first time; it belongs to one process only.

        A folio as large as a block is mapped by a block entry, any other by its pages'
        entries. *address* is where its first page goes.
        """
        folio.mapping = vma.anon_vma
        folio.index = self.linear_page_index(vma, address)
        if not isinstance(folio, LargeFolio):
            folio.mapcount = 1
            folio.flags |= PG_swapbacked | PG_anon_exclusive
            return
        folio.flags |= PG_swapbacked
        nr = folio.nr_pages
        if folio.order < self._kernel.pgtable.hpage_pmd_order:
            for page in range(nr):
                folio.page_mapcount[page] = 1
                folio.exclusive[page] = 1
            folio.nr_pages_mapped = nr
            folio.add_mapcount(nr, vma.mm)
        else:
            folio.entire_mapcount = 1
            folio.exclusive[0] = 1
            folio.nr_pages_mapped = ENTIRELY_MAPPED
            folio.add_mapcount(1, vma.mm)

    # -- page entries ----------------------------------------------------------------

    def folio_add_anon_rmap_pte(
        self, folio: Folio, pfn: int, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map page *pfn* of an anonymous folio once more, or again after swap."""
        self.folio_add_anon_rmap_ptes(folio, pfn, 1, vma, exclusive=exclusive)

    def folio_add_anon_rmap_ptes(
        self, folio: Folio, pfn: int, nr: int, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map the *nr* pages of a folio from *pfn* on once more each."""
        self._add_rmap_ptes(folio, pfn, nr, vma)
        if exclusive:
            for page in range(pfn, pfn + nr):
                self.set_page_anon_exclusive(folio, page)

    def folio_add_file_rmap_pte(self, folio: Folio, pfn: int, vma: VmArea) -> None:
        """Map page *pfn* of a file's folio."""
        self._add_rmap_ptes(folio, pfn, 1, vma)

    def folio_dup_file_rmap_ptes(
        self, folio: Folio, pfn: int, nr: int, child: VmArea
    ) -> None:
        """Map *nr* pages of a file's folio for a child too."""
        self._add_rmap_ptes(folio, pfn, nr, child)

    @staticmethod
    def _add_rmap_ptes(folio: Folio, pfn: int, nr: int, vma: VmArea) -> None:
        """Count *nr* more page entries: __folio_add_rmap()."""
        if not isinstance(folio, LargeFolio):
            folio.mapcount += 1
            return
        counts = folio.page_mapcount
        first = pfn - folio.pfn
        for page in range(first, first + nr):
            if not counts[page]:
                folio.nr_pages_mapped += 1
            counts[page] += 1
        folio.add_mapcount(nr, vma.mm)

    def folio_remove_rmap_pte(self, folio: Folio, pfn: int, vma: VmArea) -> None:
        """Take one mapping of page *pfn* away."""
        if isinstance(folio, LargeFolio):
            self.folio_remove_rmap_ptes(folio, pfn, 1, vma)
        else:
            folio.mapcount -= 1

    def folio_remove_rmap_ptes(
        self, folio: LargeFolio, pfn: int, nr: int, vma: VmArea
    ) -> None:
        """Take one mapping of each of *nr* pages of a large folio away.

        If pages lost their last mapping and others have not, the folio may be split.
        """
        folio.sub_mapcount(nr, vma.mm)
        counts = folio.page_mapcount
        first = pfn - folio.pfn
        unmapped = 0
        for page in range(first, first + nr):
            counts[page] -= 1
            unmapped += not counts[page]
        folio.nr_pages_mapped -= unmapped
        if folio.nr_pages_mapped >= ENTIRELY_MAPPED:
            unmapped = 0  # a block entry still maps them
        if unmapped and folio.nr_pages_mapped:
            self._partially_mapped(folio)

    def folio_try_dup_anon_rmap_pte(
        self, folio: Folio, pfn: int, child: VmArea, parent: VmArea
    ) -> bool:
        """Share page *pfn* with a child; false if somebody may have pinned it.

        A page that was exclusive to the parent stops being so.
        """
        exclusive = folio.page_exclusive(pfn)
        if exclusive and self._kernel.gup.folio_needs_cow_for_dma(parent, folio):
            return False
        if exclusive:
            self.clear_page_anon_exclusive(folio, pfn)
        self._add_rmap_ptes(folio, pfn, 1, child)
        return True

    def folio_try_dup_anon_rmap_ptes(
        self, folio: LargeFolio, pfn: int, nr: int, child: VmArea, parent: VmArea
    ) -> bool:
        """Share *nr* pages with a child; false, and nothing done, if one is pinned."""
        first = pfn - folio.pfn
        if self._kernel.gup.folio_needs_cow_for_dma(parent, folio) and any(
            folio.exclusive[first : first + nr]
        ):
            return False
        folio.exclusive[first : first + nr] = bytes(nr)
        self._add_rmap_ptes(folio, pfn, nr, child)
        return True

    # -- block entries ---------------------------------------------------------------

    def folio_add_anon_rmap_pmd(
        self, folio: LargeFolio, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map all of an anonymous folio by one more block entry."""
        self._add_rmap_pmd(folio, vma)
        if exclusive:
            self.set_page_anon_exclusive(folio, folio.pfn)

    @staticmethod
    def _add_rmap_pmd(folio: LargeFolio, vma: VmArea) -> None:
        """Count one more block entry: __folio_add_rmap()."""
        if not folio.entire_mapcount:
            folio.nr_pages_mapped += ENTIRELY_MAPPED
        folio.entire_mapcount += 1
        folio.add_mapcount(1, vma.mm)

    def folio_remove_rmap_pmd(self, folio: LargeFolio, vma: VmArea) -> None:
        """Take one block entry's mapping of all of a folio away.

        If it was the last of its kind, pages that no page entry maps are free now.
        """
        folio.sub_mapcount(1, vma.mm)
        folio.entire_mapcount -= 1
        if folio.entire_mapcount:
            return
        folio.nr_pages_mapped -= ENTIRELY_MAPPED
        if 0 < folio.nr_pages_mapped < folio.nr_pages:
            self._partially_mapped(folio)

    def folio_try_dup_anon_rmap_pmd(
        self, folio: LargeFolio, child: VmArea, parent: VmArea
    ) -> bool:
        """Share a block with a child; false, and nothing done, if it may be pinned."""
        exclusive = folio.page_exclusive(folio.pfn)
        if exclusive and self._kernel.gup.folio_needs_cow_for_dma(parent, folio):
            return False
        self.clear_page_anon_exclusive(folio, folio.pfn)
        self._add_rmap_pmd(folio, child)
        return True

    def folio_try_share_anon_rmap(self, folio: Folio, pfn: int) -> bool:
        """Give up that page *pfn* belongs to one process; false if it may be pinned.

        For a page that is about to be unmapped: its entry, of either kind, is cleared
        and flushed already. Source: folio_try_share_anon_rmap_pte() and _pmd().
        """
        if folio.maybe_dma_pinned():
            return False
        self.clear_page_anon_exclusive(folio, pfn)
        return True

    def _partially_mapped(self, folio: LargeFolio) -> None:
        """Note that part of an anonymous folio became unused."""
        if folio.anon and not folio.partially_mapped:
            self._kernel.huge_memory.deferred_split_folio(folio, partially_mapped=True)

    # -- exclusive -------------------------------------------------------------------

    @staticmethod
    def set_page_anon_exclusive(folio: Folio, pfn: int) -> None:
        """Note that page *pfn* belongs to one process: SetPageAnonExclusive()."""
        if isinstance(folio, LargeFolio):
            folio.exclusive[pfn - folio.pfn] = 1
        else:
            folio.flags |= PG_anon_exclusive

    @staticmethod
    def clear_page_anon_exclusive(folio: Folio, pfn: int) -> None:
        """Note that page *pfn* may be shared: ClearPageAnonExclusive()."""
        if isinstance(folio, LargeFolio):
            folio.exclusive[pfn - folio.pfn] = 0
        else:
            folio.flags &= ~PG_anon_exclusive

    @staticmethod
    def folio_move_anon_rmap(folio: Folio, vma: VmArea) -> None:
        """Make *vma*'s own anon_vma the one of a page that only it maps."""
        folio.mapping = vma.anon_vma

    def linear_page_index(self, vma: VmArea, address: int) -> int:
        """Return the place of *address* in what *vma* maps, in pages."""
        return ((address - vma.start) >> self._kernel.pgtable.page_shift) + vma.pgoff

    # -- from a folio to its entries -------------------------------------------------

    def rmap_walk_anon(
        self, anon_vma: AnonVma, index: int, nr: int
    ) -> Iterator[tuple[VmArea, int, int]]:
        """Yield where *nr* pages from *index* on of a family of areas may be mapped.

        Each item is an area and the addresses, end not included. The kernel has a tree
        of the areas of each anon_vma; here all that there are are looked through.
        """
        shift = self._kernel.pgtable.page_shift
        for mm in self._kernel.fork.mmlist:
            for vma in mm.vmas:
                if vma.anon_vma is None or vma.anon_vma.root is not anon_vma.root:
                    continue
                base = vma.start + (index - vma.pgoff << shift)
                start = max(base, vma.start)
                end = min(base + (nr << shift), vma.end)
                if start < end:
                    yield vma, start, end

    def try_to_migrate_one(
        self, folio: Folio, vma: VmArea, start: int, end: int
    ) -> None:
        """Let each entry in [start, end) that maps *folio* say that it migrates.

        Entries of single pages are flushed as they go, where the architecture can put
        off the wait: `try_to_unmap_flush` must follow.
        """
        pgtable = self._kernel.pgtable
        with self._kernel.mmu_notifier.invalidate_range(vma.mm, "CLEAR", start, end):
            for pmdp, addr, until in self._kernel.memory.pmd_entries(
                vma.mm, start, end
            ):
                pmd = pgtable.read(pmdp)
                if pmd_trans_huge(pmd) and pgtable.pte_pfn(pmd) == folio.pfn:
                    with self._kernel.memory.pmd_lockptr(pmdp):
                        self._kernel.huge_memory.split_huge_pmd_locked(
                            vma, addr, pmdp, freeze=True
                        )
                elif pmd_table(pmd):
                    with self._kernel.memory.pte_lockptr(pmd):
                        self._try_to_migrate_ptes(folio, vma, pmdp, addr, until)

    def _try_to_migrate_ptes(
        self, folio: Folio, vma: VmArea, pmdp: int, start: int, end: int
    ) -> None:
        """Do so for the page entries of one locked table."""
        pgtable = self._kernel.pgtable
        pages = range(folio.pfn, folio.pfn + folio.nr_pages)
        ptep = pgtable.pte_offset(pmdp, start)
        for addr in range(start, end, pgtable.page_size):
            pte = pgtable.read(ptep)
            pfn = pgtable.pte_pfn(pte)
            if pte_present(pte) and not pte_special(pte) and pfn in pages:
                pte = self._unmap_pte(vma, addr, ptep)
                exclusive = folio.page_exclusive(pfn)
                if exclusive and not self.folio_try_share_anon_rmap(folio, pfn):
                    pgtable.set_ptes(vma.mm, addr, ptep, pte, 1)
                else:
                    if pte_dirty(pte):
                        folio.flags |= PG_dirty
                    entry = make_migration_pte(pte, pfn, exclusive=exclusive)
                    pgtable.set_pte(ptep, entry)
                    self.folio_remove_rmap_pte(folio, pfn, vma)
                    self._kernel.swap.folio_put(folio)
            ptep += 8

    def _unmap_pte(self, vma: VmArea, addr: int, ptep: int) -> int:
        """Clear an entry and flush it, without a wait if that may come later."""
        pgtable = self._kernel.pgtable
        if not self._kernel.tlbflush.arch_tlbbatch_should_defer():
            return self._kernel.pgtable_generic.ptep_clear_flush(vma, addr, ptep)
        pte = pgtable.ptep_get_and_clear(vma.mm, addr, ptep)
        self.set_tlb_ubc_flush_pending(vma.mm, pte, addr, addr + pgtable.page_size)
        return pte

    # -- flushes that are waited for later -------------------------------------------

    def set_tlb_ubc_flush_pending(
        self, mm: MmStruct, pte: int, start: int, end: int
    ) -> None:
        """Start the flush of an entry that was *pte*, and note that it is not over."""
        if not self._kernel.pgtable_generic.pte_accessible(mm, pte):
            return
        self._kernel.tlbflush.arch_tlbbatch_add_pending(mm, start, end)
        self._flush_required.add(self._kernel.machine.running.number)
        mm.tlb_flush_batched = True

    def try_to_unmap_flush(self) -> None:
        """Wait for the flushes that this CPU has started, if there are any."""
        number = self._kernel.machine.running.number
        if number in self._flush_required:
            self._kernel.tlbflush.arch_tlbbatch_flush()
            self._flush_required.remove(number)

    def flush_tlb_batched_pending(self, mm: MmStruct) -> None:
        """Make sure that no entry of *mm* is cleared and not flushed yet.

        Another CPU may have started such flushes, for which only it can wait. Whoever
        takes a cleared entry for proof that nobody uses the page asks this first.
        """
        if mm.tlb_flush_batched:
            self._kernel.tlbflush.flush_tlb_mm(mm)
            mm.tlb_flush_batched = False
