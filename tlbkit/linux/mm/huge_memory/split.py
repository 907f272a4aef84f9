"""Split: block entries into page entries, large folios into pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_mkdirty,
    pte_mkold,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_uffd_wp,
    pte_write,
    pte_young,
)
from tlbkit.linux.include.linux.mm import VM_MIXEDMAP, VM_PFNMAP
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
    PG_dirty,
    PG_locked,
    PG_lru,
    PG_referenced,
    PG_swapbacked,
    PG_swapcache,
    PG_uptodate,
)
from tlbkit.linux.include.linux.pagemap import (
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.linux.swapops import make_migration_pte
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
)
from tlbkit.linux.mm.huge_memory.settings import SMALLEST_ORDER
from tlbkit.linux.mm.huge_memory.zero import HugeZero
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea


class HugeSplit(HugeZero):
    """Takes blocks apart, and keeps the tables in store that this needs."""

    __slots__ = ()

    def _deposit(self, mm: MmStruct, pmdp: int, table: Folio) -> None:
        """Store a new table for the block that is about to be mapped, and count it."""
        self._kernel.pgtable_generic.pgtable_trans_huge_deposit(pmdp, table)
        mm.pgtables[3] += 1

    def zap_deposited_table(self, mm: MmStruct, pmdp: int) -> None:
        """Free a stored table. No walker ever saw it, so nothing is flushed for it."""
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmdp)
        self._kernel.page_alloc.free(table)
        mm.pgtables[3] -= 1

    def zap_file_table(self, mm: MmStruct, pmdp: int) -> None:
        """Free the table of a file's block, where the architecture wants one."""
        if self._kernel.pgtable_generic.arch_needs_pgtable_deposit:
            self.zap_deposited_table(mm, pmdp)

    @staticmethod
    def maps_raw_frames(vma: VmArea) -> bool:
        """Tell whether blocks of *vma* are frames that nobody counts.

        Source: vma_is_special_huge(), after DAX was excluded.
        """
        marked = vma.flags & (VM_PFNMAP | VM_MIXEDMAP)
        return not vma.dax and not vma.anonymous and bool(marked)

    @staticmethod
    def touched(entry: int, *, write: bool) -> int:
        """Return what an entry that allows an access says after it."""
        entry = pte_mkyoung(entry)
        return pte_mkdirty(entry) if write else entry

    # -- split an entry --------------------------------------------------------------

    def split_huge_pmd(self, vma: VmArea, pmdp: int, address: int) -> None:
        """Map what a block entry maps by page entries, if it is a block."""
        if pmd_trans_huge(self._pgtable.read(pmdp)):
            self.split_huge_pmd_(vma, pmdp, address)

    def split_huge_pmd_(self, vma: VmArea, pmdp: int, address: int) -> None:
        """Do so, telling devices; no lock is held: __split_huge_pmd()."""
        haddr = address & -self._pgtable.pmd_size
        end = haddr + self._pgtable.pmd_size
        with (
            self._kernel.mmu_notifier.invalidate_range(vma.mm, "CLEAR", haddr, end),
            self._kernel.memory.pmd_lockptr(pmdp),
        ):
            self.split_huge_pmd_locked(vma, haddr, pmdp, freeze=False)

    def split_huge_pmd_locked(
        self, vma: VmArea, haddr: int, pmdp: int, *, freeze: bool
    ) -> None:
        """Split a block entry; its table is locked.

        Args:
            vma: The area.
            haddr: Of the block.
            pmdp: Where the entry stands; what is no block is left alone.
            freeze: Let the page entries say that the pages migrate, and give up what
                the block entry held. Pages that may be pinned are mapped all the same.
        """
        huge = pmd_trans_huge(self._pgtable.read(pmdp))
        if not self._machine.holds("pmd_trans_huge", huge):
            return
        if not vma.anonymous:
            self._split_huge_file_pmd(vma, haddr, pmdp)
        elif self.is_huge_zero_pmd(self._pgtable.read(pmdp)):
            self._split_huge_zero_page_pmd(vma, haddr, pmdp)
        else:
            self._split_huge_anon_pmd(vma, haddr, pmdp, freeze=freeze)

    def _split_huge_file_pmd(self, vma: VmArea, haddr: int, pmdp: int) -> None:
        """Take the entry away, and nothing takes its place: faults find the pages."""
        old = self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, haddr, pmdp)
        self.zap_file_table(vma.mm, pmdp)
        if self.maps_raw_frames(vma) or self.is_huge_zero_pmd(old):
            return
        folio = self.folio_of(old)
        if pte_dirty(old):
            folio.flags |= PG_dirty
        if pte_young(old):
            folio.flags |= PG_referenced
        self._kernel.rmap.folio_remove_rmap_pmd(folio, vma)
        self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)
        self._kernel.swap.folio_put(folio)

    def _split_huge_zero_page_pmd(self, vma: VmArea, haddr: int, pmdp: int) -> None:
        """Map the zero page in place of the huge one, page by page."""
        pgtable = self._pgtable
        old = self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, haddr, pmdp)
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmdp)
        entry = pgtable.pte_mkspecial(
            pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot)
        )
        if pte_uffd_wp(old):
            entry = pte_mkuffd_wp(entry)
        first = table.pfn << pgtable.page_shift
        for ptep in range(first, first + pgtable.page_size, 8):
            pgtable.set_pte(ptep, entry)
        pgtable.populate(pmdp, table.pfn)

    def _split_huge_anon_pmd(
        self, vma: VmArea, haddr: int, pmdp: int, *, freeze: bool
    ) -> None:
        """Map the pages of a block one by one, with the rights that the block had.

        The block entry is hidden and flushed before the table takes its place, because
        a TLB must not see both.
        """
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        nr = pgtable.hpage_pmd_nr
        old = self._kernel.pgtable_generic.pmdp_invalidate(vma, haddr, pmdp)
        folio = self.folio_of(old)
        if pte_dirty(old):
            folio.flags |= PG_dirty
        exclusive = folio.page_exclusive(folio.pfn)
        if freeze and exclusive:
            freeze = rmap.folio_try_share_anon_rmap(folio, folio.pfn)
        if not freeze:
            folio.refcount += nr - 1
            rmap.folio_add_anon_rmap_ptes(
                folio, folio.pfn, nr, vma, exclusive=exclusive
            )
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmdp)
        first = table.pfn << pgtable.page_shift
        if freeze:
            for page in range(nr):
                entry = make_migration_pte(
                    pgtable.pte_advance_pfn(old, page),
                    folio.pfn + page,
                    exclusive=exclusive,
                )
                pgtable.set_pte(first + page * 8, entry)
        else:
            entry = pgtable.pfn_pte(folio.pfn, vma.page_prot)
            if pte_write(old):
                entry = pgtable.pte_mkwrite(entry)
            if not pte_young(old):
                entry = pte_mkold(entry)
            if pte_dirty(old):
                entry = pte_mkdirty(entry)
            if pte_uffd_wp(old):
                entry = pte_mkuffd_wp(entry)
            pgtable.set_ptes(vma.mm, haddr, first, entry, nr)
        rmap.folio_remove_rmap_pmd(folio, vma)
        if freeze:
            self._kernel.swap.folio_put(folio)
        pgtable.populate(pmdp, table.pfn)

    def split_huge_pmd_address(self, vma: VmArea, address: int) -> None:
        """Split the block around *address*, if there is one."""
        pmdp = self._pgtable.find_pmd(vma.mm, address)
        if pmdp is not None:
            self.split_huge_pmd(vma, pmdp, address)

    def split_huge_pmd_if_needed(self, vma: VmArea, address: int) -> None:
        """Split a block that *vma* can no longer have once it is cut at *address*.

        Source: split_huge_pmd_if_needed(), for vma_adjust_trans_huge().
        """
        size = self._pgtable.pmd_size
        start = address & -size
        if address != start and vma.start <= start and start + size <= vma.end:
            self.split_huge_pmd_address(vma, address)

    # -- split a folio ---------------------------------------------------------------

    def deferred_split_folio(
        self, folio: LargeFolio, *, partially_mapped: bool
    ) -> None:
        """Queue a folio to be split should memory become short.

        Every block is queued when it is mapped; that part of it became unused is what
        makes the split worth while.
        """
        if folio.order < SMALLEST_ORDER:
            return
        if partially_mapped:
            folio.partially_mapped = True
        if not folio.deferred_split:
            folio.deferred_split = True
            self.deferred_split_queue.append(folio)

    def folio_unqueue_deferred_split(self, folio: Folio) -> None:
        """Take a folio off the queue, as it is split or goes away."""
        if isinstance(folio, LargeFolio) and folio.deferred_split:
            self.deferred_split_queue.remove(folio)
            folio.deferred_split = False
            folio.partially_mapped = False

    def deferred_split_scan(self) -> int:
        """Split what waits for it and is partly unused; return how many folios.

        The kernel's shrinker also splits blocks that hold mostly zeros, if told to.
        """
        split = 0
        for folio in [f for f in self.deferred_split_queue if f.partially_mapped]:
            if not folio_trylock(folio):
                continue
            folio.refcount += 1
            head: Folio | int = self.split_folio(folio)
            if isinstance(head, int):
                head = folio
            else:
                split += 1
            folio_unlock(self._machine, head)
            self._kernel.swap.folio_put(head)
        return split

    def split_folio(self, folio: Folio) -> Folio | int:
        """Make every page of a large anonymous folio a folio of its own.

        The folio is locked, and the caller holds a reference. All its entries, of
        whatever process, first say that the page migrates; if then nobody else holds
        it, the pages part and the entries are made anew. A page of zeros is mapped no
        more: the zero page takes its place.

        Returns:
            The first page's folio, which has the lock and the reference now. Otherwise
            a negative error number, and nothing has changed: ``-EBUSY`` for what cannot
            be split, ``-EAGAIN`` while somebody holds a reference.
        """
        rmap = self._kernel.rmap
        assert isinstance(folio, LargeFolio)
        anon_vma = rmap.folio_get_anon_vma(folio)
        if anon_vma is None:
            return -EBUSY
        rmap.anon_vma_lock_write(anon_vma)
        head: Folio | int = -EAGAIN
        cached = folio.nr_pages if folio.flags & PG_swapcache else 0
        if folio.refcount - 1 - cached == folio.mapcount:  # can_split_folio()
            migrate = self._kernel.migrate
            first, nr, index = folio.pfn, folio.nr_pages, folio.index
            self._unmap_folio(folio)
            if folio.refcount == 1 + cached and not folio.mapcount:
                head = self._split_unmapped(folio)  # folio_ref_freeze()
            unused_to_zeropage = not isinstance(head, int) and not cached
            migrate.remove_migration_ptes(
                anon_vma, first, nr, index, unused_to_zeropage=unused_to_zeropage
            )
            if isinstance(head, Folio):
                self._release_tails(first, nr)
        rmap.anon_vma_unlock_write(anon_vma)
        rmap.put_anon_vma(anon_vma)
        return head

    def _unmap_folio(self, folio: LargeFolio) -> None:
        """Let every entry that maps a folio say that it migrates: unmap_folio()."""
        rmap = self._kernel.rmap
        for vma, start, end in rmap.rmap_walk_anon(
            folio.mapping, folio.index, folio.nr_pages
        ):
            rmap.try_to_migrate_one(folio, vma, start, end)
        rmap.try_to_unmap_flush()

    def _split_unmapped(self, folio: LargeFolio) -> Folio:
        """Give each page of a folio that nobody maps a folio of its own, all locked."""
        self.folio_unqueue_deferred_split(folio)
        self._kernel.vmstat.mod_mthp_stat(folio.order, -1)
        pages = self._kernel.page_alloc.split(folio)
        for number, page in enumerate(pages):
            page.flags = folio.flags & (
                PG_locked | PG_dirty | PG_lru | PG_swapbacked | PG_uptodate
            )
            page.mapping = folio.mapping
            page.index = folio.index + number
        if folio.flags & PG_swapcache:
            self._kernel.swap_state.split(folio, pages)
        folio.refcount = 0
        return pages[0]

    def _release_tails(self, first: int, nr: int) -> None:
        """Unlock all pages of a split folio but the first; the unmapped ones go."""
        for pfn in range(first + 1, first + nr):
            page = self._kernel.page_alloc.folio_of(pfn)
            folio_unlock(self._machine, page)
            self._kernel.swap.folio_put(page)

    # --------------------------------------------------------------------------------

    def folio_of(self, pmd: int) -> LargeFolio:
        """Return the folio that a block entry maps."""
        folio = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pmd))
        if not isinstance(folio, LargeFolio):
            raise BadPageError(folio, "an entry is taken for a block's, and is none")
        return folio
