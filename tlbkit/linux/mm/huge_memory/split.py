"""Split: huge entries into small ones, large folios into pages, and migration.

The last part of mm/huge_memory.c. Every PMD entry that maps anonymous memory has a page
table deposited, so that to split it never needs memory. That of a file has none: it is
taken away, and its pages are found again by faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_trans_huge,
    pte_dirty,
    pte_mkdirty,
    pte_mkold,
    pte_mkuffd_wp,
    pte_present,
    pte_uffd_wp,
    pte_write,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_UFFD_WP, SLOT
from tlbkit.linux.include.linux.huge_mm import (
    pmd_is_huge,
    pmd_is_migration_entry,
    pmd_is_valid_softleaf,
)
from tlbkit.linux.include.linux.mm import VM_MIXEDMAP, VM_PFNMAP
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
    PG_active,
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
from tlbkit.linux.include.linux.swapops import (
    SWP_MIGRATION_READ,
    SWP_MIGRATION_READ_EXCLUSIVE,
    SWP_MIGRATION_WRITE,
    is_migration_entry_dirty,
    is_migration_entry_young,
    make_migration_pte,
    migration_entry_pfn,
    pte_swp_uffd_wp,
    pte_to_swp_entry,
    swp_entry_to_pte,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EINVAL,
)
from tlbkit.linux.mm.huge_memory.settings import SMALLEST_ORDER, HugeSettings
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.mm.rmap.walk import (
    TTU_BATCH_FLUSH,
    TTU_RMAP_LOCKED,
    TTU_SPLIT_HUGE_PMD,
    TTU_SYNC,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea


class HugeSplit(HugeSettings):
    """Takes huge entries and large folios apart."""

    __slots__ = ()

    def pmd_folio(self, pmd: int) -> LargeFolio:
        """Return the folio that a present huge entry maps.

        Source: include/linux/pgtable.h, pmd_folio()
        """
        folio = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pmd))
        if not isinstance(folio, LargeFolio):
            raise BadPageError(folio, "an entry is taken for a huge page's, and is not")
        return folio

    def softleaf_to_folio(self, pmd: int) -> Folio:
        """Return the folio that a migration entry stands for.

        Source: include/linux/leafops.h, softleaf_to_folio()
        """
        pfn = migration_entry_pfn(pte_to_swp_entry(pmd))
        return self._kernel.page_alloc.folio_of(pfn)

    def zap_deposited_table(self, mm: MmStruct, pmd: int) -> None:
        """Free a deposited table. No walker ever saw it, so nothing is flushed for it.

        Source: mm/huge_memory.c, zap_deposited_table()
        """
        pgtable = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmd)
        self._kernel.page_alloc.free(pgtable)
        mm.pgtables[3] -= 1

    # -- split an entry of a PUD -----------------------------------------------------

    def split_huge_pud_locked_(self, vma: VmArea, pud: int, haddr: int) -> None:
        """Take the huge entry of a PUD away; the PTL is held.

        What device DAX maps is counted, and given up.

        Source: mm/huge_memory.c, __split_huge_pud_locked()
        Deviates: Asks what `zap_huge_pud` asks; the kernel takes any VMA but one of DAX
        for one of frames, as nobody else inserts folios there.
        """
        old_pud = self._kernel.pgtable_generic.pudp_huge_clear_flush(vma, haddr, pud)
        if not vma.dax and vma_is_special_huge(vma):
            return
        folio = self.pmd_folio(old_pud)
        if pte_dirty(old_pud):
            folio.flags |= PG_dirty
        if pte_young(old_pud):
            folio.flags |= PG_referenced
        self._kernel.rmap.folio_remove_rmap_pud(folio, vma)
        self._kernel.swap.folio_put(folio)
        self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)

    def split_huge_pud_(self, vma: VmArea, pud: int, address: int) -> None:
        """Take the huge entry of a PUD away, if it still is one; no lock is held.

        Source: mm/huge_memory.c, __split_huge_pud()
        """
        haddr = address & -self._pgtable.pud_size
        end = haddr + self._pgtable.pud_size
        with (
            self._kernel.mmu_notifier.mmu_notifier_range_init(
                MMU_NOTIFY_CLEAR, 0, vma.mm, haddr, end
            ),
            self._kernel.memory.pud_lockptr(vma.mm),
        ):
            if pmd_leaf(self._pgtable.read(pud)):
                self.split_huge_pud_locked_(vma, pud, haddr)

    def split_huge_pud(self, vma: VmArea, pud: int, address: int) -> None:
        """Take the huge entry of a PUD away; later faults map smaller pieces.

        Source: include/linux/huge_mm.h, split_huge_pud()
        """
        if pmd_leaf(self._pgtable.read(pud)):
            self.split_huge_pud_(vma, pud, address)

    # -- split an entry of a PMD -----------------------------------------------------

    def split_huge_zero_page_pmd_(self, vma: VmArea, haddr: int, pmd: int) -> None:
        """Map the zero page in place of the huge one, by small entries.

        Source: mm/huge_memory.c, __split_huge_zero_page_pmd()
        """
        pgtable = self._pgtable
        old_pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, haddr, pmd)
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmd)
        pgtable.queue_pte_barriers()  # pmd_populate() of a copy on the stack
        entry = pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot)
        entry = pgtable.pte_mkspecial(entry)
        if pte_uffd_wp(old_pmd):
            entry = pte_mkuffd_wp(entry)
        pte = table.pfn << pgtable.page_shift
        for ptep in range(pte, pte + pgtable.page_size, SLOT):
            pgtable.set_pte(ptep, entry)
        pgtable.pmd_populate(pmd, table.pfn)

    def split_huge_pmd_locked_(
        self, vma: VmArea, pmd: int, haddr: int, *, freeze: bool
    ) -> None:
        """Split the entry of a huge page, or of one that migrates; the PTL is held.

        The entry is invalidated and flushed before the table takes its place: a TLB
        must not see both. ``PageAnonExclusive`` of the head page, which is the mark of
        the entry, becomes that of each page.

        Args:
            vma: The VMA.
            pmd: Where the entry stands.
            haddr: Where the huge page begins.
            freeze: Store migration entries, and give up what the entry held. Pages that
                may be pinned are mapped all the same.

        Source: mm/huge_memory.c, __split_huge_pmd_locked()
        Deviates: There is no memory of devices.
        """
        if not vma.anonymous:
            self._split_file_pmd(vma, pmd, haddr)
            return
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        nr = pgtable.hpage_pmd_nr
        old_pmd = pgtable.read(pmd)
        if self.is_huge_zero_pmd(old_pmd):
            self.split_huge_zero_page_pmd_(vma, haddr, pmd)
            return
        migrating = pmd_is_migration_entry(old_pmd)
        if migrating:
            folio = self.softleaf_to_folio(old_pmd)
            anon_exclusive = (
                pte_to_swp_entry(old_pmd).type == SWP_MIGRATION_READ_EXCLUSIVE
            )
        else:
            old_pmd = self._kernel.pgtable_generic.pmdp_invalidate(vma, haddr, pmd)
            folio = self.pmd_folio(old_pmd)
            if pte_dirty(old_pmd):
                folio.flags |= PG_dirty
            anon_exclusive = folio.page_exclusive(folio.pfn)
            if freeze and anon_exclusive:
                freeze = rmap.folio_try_share_anon_rmap(folio, folio.pfn)
            if not freeze:
                folio.refcount += nr - 1
                rmap.folio_add_anon_rmap_ptes(
                    folio, folio.pfn, nr, vma, exclusive=anon_exclusive
                )
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmd)
        pgtable.queue_pte_barriers()  # pmd_populate() of a copy on the stack
        pte = table.pfn << pgtable.page_shift
        if migrating:
            moving = pte_to_swp_entry(old_pmd)
            for page in range(nr):
                entry = swp_entry_to_pte(
                    moving._replace(offset=moving.offset + page)
                ) | (old_pmd & PTE_SWP_UFFD_WP)
                pgtable.set_pte(pte + page * SLOT, entry)
        elif freeze:
            for page in range(nr):
                entry = make_migration_pte(
                    old_pmd, folio.pfn + page, exclusive=anon_exclusive
                )
                pgtable.set_pte(pte + page * SLOT, entry)
        else:
            entry = pgtable.pfn_pte(folio.pfn, vma.page_prot)
            if pte_write(old_pmd):
                entry = pgtable.pte_mkwrite(entry)
            if not pte_young(old_pmd):
                entry = pte_mkold(entry)
            if pte_dirty(old_pmd):
                entry = pte_mkdirty(entry)
            if pte_uffd_wp(old_pmd):
                entry = pte_mkuffd_wp(entry)
            pgtable.set_ptes(vma.mm, haddr, pte, entry, nr)
        if not migrating:
            assert isinstance(folio, LargeFolio)
            rmap.folio_remove_rmap_pmd(folio, vma)
            if freeze:
                self._kernel.swap.folio_put(folio)
        pgtable.pmd_populate(pmd, table.pfn)

    def _split_file_pmd(self, vma: VmArea, pmd: int, haddr: int) -> None:
        """Take the entry away, and nothing takes its place: faults find the pages.

        Source: mm/huge_memory.c, __split_huge_pmd_locked(), of a VMA that is not
        anonymous
        """
        old_pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, haddr, pmd)
        if self._kernel.pgtable_generic.arch_needs_pgtable_deposit:
            self.zap_deposited_table(vma.mm, pmd)
        if not vma.dax and vma_is_special_huge(vma):
            return
        if pmd_is_migration_entry(old_pmd):
            folio = self.softleaf_to_folio(old_pmd)
        elif self.is_huge_zero_pmd(old_pmd):
            return
        else:
            huge = folio = self.pmd_folio(old_pmd)
            if pte_dirty(old_pmd):
                folio.flags |= PG_dirty
            if pte_young(old_pmd):
                folio.flags |= PG_referenced
            self._kernel.rmap.folio_remove_rmap_pmd(huge, vma)
            self._kernel.swap.folio_put(folio)
        self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)

    def split_huge_pmd_locked(
        self, vma: VmArea, address: int, pmd: int, *, freeze: bool
    ) -> None:
        """Split the entry at *pmd* if it maps a huge page; the PTL is held.

        Source: mm/huge_memory.c, split_huge_pmd_locked()
        """
        pmdval = self._pgtable.read(pmd)
        huge = pmd_trans_huge(pmdval) or pmd_is_valid_softleaf(pmdval)
        if self._machine.holds("pmd_trans_huge", huge):
            self.split_huge_pmd_locked_(vma, pmd, address, freeze=freeze)

    def split_huge_pmd_(
        self, vma: VmArea, pmd: int, address: int, *, freeze: bool
    ) -> None:
        """Split the entry around *address*, telling devices; no lock is held.

        Source: mm/huge_memory.c, __split_huge_pmd()
        """
        haddr = address & -self._pgtable.pmd_size
        end = haddr + self._pgtable.pmd_size
        with (
            self._kernel.mmu_notifier.mmu_notifier_range_init(
                MMU_NOTIFY_CLEAR, 0, vma.mm, haddr, end
            ),
            self._kernel.memory.pmd_lockptr(pmd),
        ):
            self.split_huge_pmd_locked(vma, haddr, pmd, freeze=freeze)

    def split_huge_pmd(self, vma: VmArea, pmd: int, address: int) -> None:
        """Split the entry at *pmd* if it maps a huge page; no lock is held.

        Source: include/linux/huge_mm.h, split_huge_pmd()
        """
        if pmd_is_huge(self._pgtable.read(pmd)):
            self.split_huge_pmd_(vma, pmd, address, freeze=False)

    def split_huge_pmd_address(
        self, vma: VmArea, address: int, *, freeze: bool
    ) -> None:
        """Split the entry around *address*, if there is a PMD table for it.

        Source: mm/huge_memory.c, split_huge_pmd_address()
        """
        pmd = self._pgtable.find_pmd(vma.mm, address)
        if pmd is not None:
            self.split_huge_pmd_(vma, pmd, address, freeze=freeze)

    def split_huge_pmd_if_needed(self, vma: VmArea, address: int) -> None:
        """Split a huge page that *vma* can no longer have once it is cut at *address*.

        Each end that moves is asked for in turn, as vma_adjust_trans_huge() does.

        Source: mm/huge_memory.c, split_huge_pmd_if_needed()
        """
        size = self._pgtable.pmd_size
        haddr = address & -size
        if address != haddr and vma.start <= haddr and haddr + size <= vma.end:
            self.split_huge_pmd_address(vma, address, freeze=False)

    # -- reclaim ---------------------------------------------------------------------

    def unmap_huge_pmd_locked(
        self, vma: VmArea, addr: int, pmdp: int, folio: LargeFolio
    ) -> bool:
        """Drop a huge page that MADV_FREE gave up, unless it was written since.

        One that was is kept from now on. One that somebody else holds stays mapped. The
        folio is locked, and the PTL is held.

        Source: mm/huge_memory.c, unmap_huge_pmd_locked()
        """
        return self.discard_anon_folio_pmd_locked_(vma, addr, pmdp, folio)

    def discard_anon_folio_pmd_locked_(
        self, vma: VmArea, addr: int, pmdp: int, folio: LargeFolio
    ) -> bool:
        """Unmap a huge page and give up its contents; false if it is mapped again.

        The entry is cleared before references are counted: lockless GUP takes its
        reference before it looks at the entry again.

        Source: mm/huge_memory.c, __discard_anon_folio_pmd_locked()
        Deviates: There are no droppable VMAs, and pages that are locked in memory wait
        in no batch.
        """
        orig_pmd = self._pgtable.read(pmdp)
        if pte_dirty(orig_pmd):
            folio.flags |= PG_dirty
        if folio.flags & PG_dirty:
            folio.flags |= PG_swapbacked
            return False
        orig_pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, addr, pmdp)
        ref_count, map_count = folio.refcount, folio.mapcount
        if self._machine.sees("pmd_dirty", pte_dirty(orig_pmd)):
            folio.flags |= PG_dirty
        if folio.flags & PG_dirty:
            folio.flags |= PG_swapbacked
            self._pgtable.set_pte(pmdp, orig_pmd)
            return False
        if ref_count != map_count + 1:
            self._pgtable.set_pte(pmdp, orig_pmd)
            return False
        self._kernel.rmap.folio_remove_rmap_pmd(folio, vma)
        self.zap_deposited_table(vma.mm, pmdp)
        vma.mm.anonpages -= folio.nr_pages
        self._kernel.swap.folio_put(folio)
        return True

    # -- split a folio ---------------------------------------------------------------

    def unmap_folio(self, folio: LargeFolio) -> None:
        """Store a migration entry wherever a folio is mapped.

        Source: mm/huge_memory.c, unmap_folio()
        Deviates: Only anonymous folios are split.
        """
        ttu_flags = TTU_RMAP_LOCKED | TTU_SYNC | TTU_BATCH_FLUSH
        if folio.order >= self._pgtable.hpage_pmd_order:
            ttu_flags |= TTU_SPLIT_HUGE_PMD
        self._kernel.rmap.try_to_migrate(folio, ttu_flags)
        self._kernel.rmap.try_to_unmap_flush()

    def folio_check_splittable(self, folio: Folio) -> int:
        """Return 0 for a locked folio whose pages can part, or a negative error number.

        Source: mm/huge_memory.c, folio_check_splittable()
        Deviates: Folios are split into pages and nothing larger, and only anonymous
        ones are; no folio is under writeback while it is unlocked.
        """
        if folio.mapping is None or not folio.anon:
            return -EBUSY
        return -EINVAL if self.is_huge_zero_folio(folio) else 0

    def split_unmapped_folio_(self, folio: LargeFolio) -> list[Folio]:
        """Give each page of a folio that nobody maps a folio of its own, all locked.

        Source: mm/huge_memory.c, __split_unmapped_folio()
        """
        self._kernel.vmstat.mod_mthp_stat(folio.order, -1)
        pages = self._kernel.page_alloc.split(folio)
        for number, page in enumerate(pages):
            page.flags = folio.flags & (
                PG_locked
                | PG_dirty
                | PG_lru
                | PG_swapbacked
                | PG_uptodate
                | PG_active
                | PG_referenced
            )
            page.mapping = folio.mapping
            page.index = folio.index + number
        return pages

    def folio_freeze_and_split_unmapped_(self, folio: LargeFolio) -> Folio | int:
        """Part the pages of a folio that only the caller and the swap cache hold.

        Returns:
            The first page's folio, or ``-EAGAIN`` while somebody holds a reference.

        Source: mm/huge_memory.c, __folio_freeze_and_split_unmapped()
        """
        cached = bool(folio.flags & PG_swapcache)
        if folio.refcount != 1 + cached * folio.nr_pages:  # folio_ref_freeze()
            return -EAGAIN
        self.folio_unqueue_deferred_split(folio)
        pages = self.split_unmapped_folio_(folio)
        if cached:
            self._kernel.swap_state.split(folio, pages)
        folio.refcount = 0
        return pages[0]

    def folio_split_(self, folio: LargeFolio) -> Folio | int:
        """Make every page of a large anonymous folio a folio of its own.

        The folio is locked, and the caller holds a reference. All its entries, of
        whatever process, first become migration entries; if then nobody else holds it,
        the pages part and the entries are made anew. A page of zeros is mapped no more:
        the zero page takes its place.

        Returns:
            The first page's folio, which has the lock and the reference now. Otherwise
            a negative error number, and nothing has changed: ``-EBUSY`` for what cannot
            be split, ``-EAGAIN`` while somebody holds a reference.

        Source: mm/huge_memory.c, __folio_split()
        Deviates: Returns the first page's folio, which is another object here; there it
        is the folio itself, grown smaller. Folios are split into pages only, and
        only anonymous ones are.
        """
        kernel = self._kernel
        rmap = kernel.rmap
        error = self.folio_check_splittable(folio)
        if error:
            return error
        anon_vma = rmap.folio_get_anon_vma(folio)
        if anon_vma is None:
            return -EBUSY
        rmap.anon_vma_lock_write(anon_vma)
        head: Folio | int = -EAGAIN
        cached = folio.nr_pages if folio.flags & PG_swapcache else 0
        if folio.refcount - 1 == folio.mapcount + cached:  # folio_expected_ref_count()
            first, nr, index = folio.pfn, folio.nr_pages, folio.index
            self.unmap_folio(folio)
            head = self.folio_freeze_and_split_unmapped_(folio)
            kernel.migrate.remove_migration_ptes(  # remap_page()
                anon_vma, first, nr, index, unused_to_zeropage=isinstance(head, Folio)
            )
            if isinstance(head, Folio):
                for pfn in range(first + 1, first + nr):
                    new_folio = kernel.page_alloc.folio_of(pfn)
                    folio_unlock(self._machine, new_folio)
                    if new_folio.flags & PG_swapcache:
                        kernel.swap_state.free_swap_cache(new_folio)
                    kernel.swap.folio_put(new_folio)
        rmap.anon_vma_unlock_write(anon_vma)
        rmap.put_anon_vma(anon_vma)
        return head

    def split_folio(self, folio: Folio) -> Folio | int:
        """Make every page of a large anonymous folio a folio of its own.

        Returns:
            As `folio_split_`.

        Source: include/linux/huge_mm.h, split_folio()
        """
        assert isinstance(folio, LargeFolio)
        return self.folio_split_(folio)

    # -- the queue of folios that may be split ---------------------------------------

    def folio_unqueue_deferred_split(self, folio: Folio) -> None:
        """Take a folio off the queue, as it is split or goes away.

        Source: mm/huge_memory.c, __folio_unqueue_deferred_split()
        """
        if isinstance(folio, LargeFolio) and folio.deferred_split:
            self.deferred_split_queue.remove(folio)
            folio.deferred_split = False
            folio.partially_mapped = False

    def deferred_split_folio(
        self, folio: LargeFolio, *, partially_mapped: bool
    ) -> None:
        """Queue a folio to be split should memory become short.

        Every huge page is queued when it is mapped; that part of it became unused is
        what makes the split worth while.

        Source: mm/huge_memory.c, deferred_split_folio()
        Deviates: shrink_underused is on, as it is unless an administrator says no.
        """
        if folio.order < SMALLEST_ORDER or folio.flags & PG_swapcache:
            return
        if partially_mapped:
            folio.partially_mapped = True
        if not folio.deferred_split:
            folio.deferred_split = True
            self.deferred_split_queue.append(folio)

    def deferred_split_scan(self) -> int:
        """Split what waits for it and is partly unused; return how many folios.

        What is mapped as a whole leaves the queue. A partly unused folio that cannot be
        split stays in it.

        Source: mm/huge_memory.c, deferred_split_scan()
        Deviates: A whole folio counts as used: thp_underused() says so of every one
        with the khugepaged/max_ptes_none that a kernel boots with. The queue is
        scanned to its end.
        """
        queue = list(self.deferred_split_queue)
        self.deferred_split_queue.clear()
        for folio in queue:
            folio.refcount += 1
            folio.deferred_split = False
        split = 0
        for folio in queue:
            held: Folio = folio
            if folio.partially_mapped and folio_trylock(folio):
                head = self.split_folio(folio)
                if isinstance(head, Folio):
                    held = head
                    split += 1
                folio_unlock(self._machine, held)
            if held is folio and folio.partially_mapped and not folio.deferred_split:
                folio.deferred_split = True
                self.deferred_split_queue.append(folio)
            self._kernel.swap.folio_put(held)
        return split

    # -- migration of a huge page as a whole -----------------------------------------

    def set_pmd_migration_entry(
        self, vma: VmArea, address: int, pmd: int, folio: LargeFolio
    ) -> int:
        """Store a migration entry in place of the entry of a huge page.

        The folio is locked and the PTL is held; what the entry held is given up.

        Returns:
            0, or ``-EBUSY`` if the page may be pinned; then the entry is as it was.

        Source: mm/huge_memory.c, set_pmd_migration_entry()
        Deviates: Takes VMA, address and entry in place of the walk that found them.
        """
        pmdval = self._pgtable.read(pmd)
        if pte_present(pmdval):
            pmdval = self._kernel.pgtable_generic.pmdp_invalidate(vma, address, pmd)
        else:
            pmdval = self._pgtable.ptep_get_and_clear_(pmd)
        rmap = self._kernel.rmap
        anon_exclusive = folio.anon and folio.page_exclusive(folio.pfn)
        if anon_exclusive and not rmap.folio_try_share_anon_rmap(folio, folio.pfn):
            self._pgtable.set_pte(pmd, pmdval)
            return -EBUSY
        if pte_dirty(pmdval):
            folio.flags |= PG_dirty
        self._pgtable.set_pte(
            pmd, make_migration_pte(pmdval, folio.pfn, exclusive=anon_exclusive)
        )
        rmap.folio_remove_rmap_pmd(folio, vma)
        self._kernel.swap.folio_put(folio)
        return 0

    def remove_migration_pmd(self, vma: VmArea, pmd: int, new: LargeFolio) -> None:
        """Map *new* in place of the migration entry of a huge page; the PTL is held.

        Nothing is flushed: no TLB has seen a migration entry.

        Source: mm/huge_memory.c, remove_migration_pmd()
        Deviates: Takes VMA and entry in place of the walk that found them.
        There is no memory of devices.
        """
        rmap = self._kernel.rmap
        old = self._pgtable.read(pmd)
        entry = pte_to_swp_entry(old)
        new.refcount += 1
        pmde = self._pgtable.mk_huge_pmd(new.pfn, vma.page_prot)
        if entry.type == SWP_MIGRATION_WRITE:
            pmde = self._pgtable.pte_mkwrite(pmde)
        if pte_swp_uffd_wp(old):
            pmde = pte_mkuffd_wp(pmde)
        if not is_migration_entry_young(entry):
            pmde = pte_mkold(pmde)
        if new.flags & PG_dirty and is_migration_entry_dirty(entry):
            pmde = pte_mkdirty(pmde)
        if new.anon:
            rmap.folio_add_anon_rmap_pmd(
                new, vma, exclusive=entry.type != SWP_MIGRATION_READ
            )
        else:
            rmap.folio_add_file_rmap_pmd(new, vma)
        self._pgtable.set_pte(pmd, pmde)


def vma_is_special_huge(vma: VmArea) -> bool:
    """Tell whether huge entries of *vma* map frames that nobody counts.

    Source: include/linux/mm.h, vma_is_special_huge()
    """
    return vma.dax or (
        vma.file is not None and bool(vma.flags & (VM_PFNMAP | VM_MIXEDMAP))
    )
