"""Reclaim: mm/vmscan.c. Folios are unmapped, written out, and their frames given back.

User space asks for it by MADV_PAGEOUT, and `Vmscan.kswapd` is the flow by which the
kernel does so itself. Left out are the LRU lists, and with them how old a folio is and
how hard reclaim tries: every folio that is on a list can be looked at.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm import VM_LOCKED
from tlbkit.linux.include.linux.mm_types import (
    LargeFolio,
    PG_active,
    PG_dirty,
    PG_lru,
    PG_referenced,
    PG_swapbacked,
    PG_swapcache,
)
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.mm.page_io import AOP_WRITEPAGE_ACTIVATE
from tlbkit.linux.mm.rmap.walk import (
    TTU_BATCH_FLUSH,
    TTU_SPLIT_HUGE_PMD,
    TTU_SYNC,
)
from tlbkit.linux.mm.swap import FOLIO_BATCH_SIZE

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel

SWAP_CLUSTER_MAX: Final = 32
DEF_PRIORITY: Final = 12


class Pageout(Enum):
    """What came of writing a folio out: pageout_t."""

    PAGE_KEEP = auto()
    PAGE_ACTIVATE = auto()
    PAGE_SUCCESS = auto()
    PAGE_CLEAN = auto()


class FolioReferences(Enum):
    """What the use of a folio asks for: enum folio_references."""

    FOLIOREF_RECLAIM = auto()
    FOLIOREF_KEEP = auto()
    FOLIOREF_ACTIVATE = auto()


class Fate(Enum):
    """Where shrink_folio_list() goes with a folio: the names of its labels."""

    FREE_IT = auto()
    ACTIVATE_LOCKED = auto()
    KEEP_LOCKED = auto()
    KEEP = auto()


class Vmscan:
    """Swaps folios out, or drops them, and gives their frames back."""

    __slots__ = ("_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine

    # -- one folio -------------------------------------------------------------------

    def writeout(self, folio: Folio) -> Pageout:
        """Write a locked folio out; it is unlocked unless it is to be kept.

        Source: mm/vmscan.c, writeout()
        """
        if folio.anon:
            res = self._kernel.page_io.swap_writeout(folio)
        else:
            res = self._kernel.shmem.shmem_writeout(folio)
        if res == AOP_WRITEPAGE_ACTIVATE:
            return Pageout.PAGE_ACTIVATE
        return Pageout.PAGE_SUCCESS

    def pageout(self, folio: Folio, mapping: object) -> Pageout:
        """Write a locked, dirty folio out if only its mapping and the caller hold it.

        Source: mm/vmscan.c, pageout()
        """
        if folio.refcount != 1 + folio.nr_pages or mapping is None:
            return Pageout.PAGE_KEEP
        if not folio.anon and not folio.mapping.ops.swap_backed:
            return Pageout.PAGE_ACTIVATE
        if not self._kernel.page_writeback.folio_clear_dirty_for_io(folio):
            return Pageout.PAGE_CLEAN
        return self.writeout(folio)

    def remove_mapping_(self, folio: Folio) -> bool:
        """Take a locked folio out of its file or the swap cache if nobody else has it.

        References are looked at before the dirty flag: who had one may have written,
        noted that, and let go of it.

        Source: mm/vmscan.c, __remove_mapping()
        Deviates: the caller's reference stays until the frames are given back, where
        the kernel freezes the count at 0.
        """
        refcount = 1 + folio.nr_pages
        if not self._machine.holds("folio_ref_freeze", folio.refcount == refcount):
            return False
        if folio.flags & PG_dirty:
            return False
        if folio.flags & PG_swapcache:
            self._kernel.swap_state.delete_from_swap_cache(folio)
        else:
            self._kernel.filemap.filemap_remove_folio(folio)
        return True

    @staticmethod
    def folio_isolate_lru(folio: Folio) -> bool:
        """Take a folio off the LRU lists, held; tell whether it was on one.

        Source: mm/vmscan.c, folio_isolate_lru()
        """
        if not folio.flags & PG_lru:
            return False
        folio.flags &= ~PG_lru
        folio.refcount += 1
        return True

    def folio_putback_lru(self, folio: Folio) -> None:
        """Put an isolated folio back by a batch, and let go of it.

        Source: mm/vmscan.c, folio_putback_lru()
        """
        self._kernel.swap.folio_add_lru(folio)
        self._kernel.swap.folio_put(folio)

    def folio_check_references(self, folio: Folio) -> FolioReferences:
        """Tell whether a locked folio was used so lately that it should stay.

        Source: mm/vmscan.c, folio_check_references()
        """
        referenced_ptes, vm_flags = self._kernel.rmap.folio_referenced(folio)
        if vm_flags & VM_LOCKED:
            return FolioReferences.FOLIOREF_ACTIVATE
        if referenced_ptes == -1:
            return FolioReferences.FOLIOREF_KEEP
        if not referenced_ptes:
            return FolioReferences.FOLIOREF_RECLAIM
        if folio.flags & PG_referenced:
            return FolioReferences.FOLIOREF_ACTIVATE
        folio.flags |= PG_referenced
        return FolioReferences.FOLIOREF_KEEP

    # -- a list of folios ------------------------------------------------------------

    def shrink_folio_list(
        self, folio_list: list[Folio], *, ignore_references: bool
    ) -> int:
        """Reclaim isolated folios as far as possible; return how many pages went.

        The flushes of all that is unmapped are waited for once for a batch, before its
        frames are given back, unless a folio must be written out: then before that.

        Args:
            folio_list: Is taken from its end; those that stay are left in it, isolated.
            ignore_references: Do not ask whether they were used.

        Source: mm/vmscan.c, shrink_folio_list()
        Deviates: there is one node, so nothing is demoted. What is written is written
        when the call returns, so no folio is ever under writeback.
        """
        ret_folios: list[Folio] = []
        free_folios: list[Folio] = []
        nr_reclaimed = 0
        while folio_list:
            folio = folio_list.pop()
            if not folio_trylock(folio):
                ret_folios.append(folio)
                continue
            kept, fate = self.shrink_folio(
                folio, folio_list, ignore_references=ignore_references
            )
            if fate is Fate.FREE_IT:
                folio_unlock(self._machine, kept)
                nr_reclaimed += kept.nr_pages
                free_folios.append(kept)
                if len(free_folios) >= FOLIO_BATCH_SIZE:
                    self._free_folios(free_folios)
                continue
            if fate is Fate.ACTIVATE_LOCKED:
                swapfile = self._kernel.swapfile
                if kept.flags & PG_swapcache and swapfile.vm_swap_full():
                    swapfile.folio_free_swap(kept)
                kept.flags |= PG_active
            if fate is not Fate.KEEP:
                folio_unlock(self._machine, kept)
            ret_folios.append(kept)
        self._free_folios(free_folios)
        folio_list += ret_folios
        return nr_reclaimed

    def _free_folios(self, free_folios: list[Folio]) -> None:
        """Wait for the flushes of what was unmapped, and give its frames back."""
        self._kernel.rmap.try_to_unmap_flush()
        folios = free_folios[:]
        free_folios.clear()
        for folio in folios:
            self._kernel.swap.folio_put(folio)

    def shrink_folio(
        self, folio: Folio, folio_list: list[Folio], *, ignore_references: bool
    ) -> tuple[Folio, Fate]:
        """Do all that makes one locked folio free, until something stands against it.

        A mapped folio is unmapped before it is known that it can be written out: what
        cannot be stays in memory, and is found again by a fault.

        Returns:
            The folio, or what is left of it after a split, and what to do with it.

        Source: mm/vmscan.c, the body of the loop of shrink_folio_list()
        """
        rmap = self._kernel.rmap
        if not ignore_references:
            references = self.folio_check_references(folio)
            if references is FolioReferences.FOLIOREF_ACTIVATE:
                return folio, Fate.ACTIVATE_LOCKED
            if references is FolioReferences.FOLIOREF_KEEP:
                return folio, Fate.KEEP_LOCKED
        kept = folio.flags & (PG_swapbacked | PG_swapcache)
        if folio.anon and kept == PG_swapbacked:
            if folio.maybe_dma_pinned():
                return folio, Fate.KEEP_LOCKED
            if isinstance(folio, LargeFolio):
                if folio.mapcount != folio.refcount - 1:
                    return folio, Fate.ACTIVATE_LOCKED
                if folio.deferred_split and folio.partially_mapped:
                    head = self.split_folio_to_list(folio, folio_list)
                    if isinstance(head, int):
                        return folio, Fate.ACTIVATE_LOCKED
                    folio = head
            if self._kernel.swapfile.folio_alloc_swap(folio):
                if not isinstance(folio, LargeFolio):
                    return folio, Fate.ACTIVATE_LOCKED
                head = self.split_folio_to_list(folio, folio_list)
                if isinstance(head, int):
                    return folio, Fate.ACTIVATE_LOCKED
                folio = head
                if self._kernel.swapfile.folio_alloc_swap(folio):
                    return folio, Fate.ACTIVATE_LOCKED
            # What was given up and written again may look clean.
            self._kernel.page_writeback.folio_mark_dirty(folio)
        if folio.mapcount:
            flags = TTU_BATCH_FLUSH
            if folio.order >= self._kernel.pgtable.hpage_pmd_order:
                flags |= TTU_SPLIT_HUGE_PMD
            if folio.order:
                flags |= TTU_SYNC
            rmap.try_to_unmap(folio, flags)
            if folio.mapcount:
                return folio, Fate.ACTIVATE_LOCKED
        if folio.maybe_dma_pinned():
            return folio, Fate.ACTIVATE_LOCKED
        mapping = self.folio_mapping(folio)
        if folio.flags & PG_dirty:
            if not folio.flags & PG_swapbacked:
                return folio, Fate.ACTIVATE_LOCKED
            rmap.try_to_unmap_flush_dirty()
            outcome = self.pageout(folio, mapping)
            if outcome is Pageout.PAGE_KEEP:
                return folio, Fate.KEEP_LOCKED
            if outcome is Pageout.PAGE_ACTIVATE:
                return folio, Fate.ACTIVATE_LOCKED
            if outcome is Pageout.PAGE_SUCCESS:
                if folio.flags & PG_dirty or not folio_trylock(folio):
                    return folio, Fate.KEEP
                if folio.flags & PG_dirty:
                    return folio, Fate.KEEP_LOCKED
                mapping = self.folio_mapping(folio)
        if folio.anon and not folio.flags & PG_swapbacked:
            return folio, Fate.FREE_IT if folio.refcount == 1 else Fate.KEEP_LOCKED
        if mapping is None or not self.remove_mapping_(folio):
            return folio, Fate.KEEP_LOCKED
        return folio, Fate.FREE_IT

    def folio_mapping(self, folio: Folio) -> object:
        """Return the file of a folio, the swap cache if it is there, or ``None``.

        Source: mm/util.c, folio_mapping()
        """
        if folio.flags & PG_swapcache:
            return self._kernel.swap_state
        return None if folio.anon else folio.mapping

    def split_folio_to_list(
        self, folio: LargeFolio, folio_list: list[Folio]
    ) -> Folio | int:
        """Split a locked, isolated folio; its other pages are put at the list's end.

        Returns:
            Its first page, locked, or a negative error number.

        Source: include/linux/huge_mm.h, split_folio_to_list()
        Deviates: a page that nothing maps goes at once, and not by way of the list.
        """
        first, nr = folio.pfn, folio.nr_pages
        head = self._kernel.huge_memory.split_folio(folio)
        if isinstance(head, int):
            return head
        for pfn in range(first + 1, first + nr):
            page = self._kernel.page_alloc.folio(pfn)
            if page is not None:
                page.refcount += 1
                folio_list.append(page)
        return head

    def reclaim_folio_list(self, folio_list: list[Folio]) -> int:
        """Reclaim isolated folios, used or not, and put those back that stay.

        Source: mm/vmscan.c, reclaim_folio_list()
        """
        nr_reclaimed = self.shrink_folio_list(folio_list, ignore_references=True)
        while folio_list:
            self.folio_putback_lru(folio_list.pop())
        return nr_reclaimed

    def reclaim_pages(self, folio_list: list[Folio]) -> int:
        """Reclaim isolated folios, the first first; return how many pages went.

        Source: mm/vmscan.c, reclaim_pages()
        Deviates: there is one node.
        """
        if not folio_list:
            return 0
        node_folio_list = folio_list[::-1]
        for folio in node_folio_list:
            folio.flags &= ~PG_active
        return self.reclaim_folio_list(node_folio_list)

    # -- kswapd ----------------------------------------------------------------------

    def isolate_lru_folios(self, nr_to_scan: int) -> list[Folio]:
        """Take folios of up to *nr_to_scan* pages off the lists, the last one first.

        Source: mm/vmscan.c, isolate_lru_folios()
        Deviates: the order is that of the frames, as there are no lists.
        """
        isolated: list[Folio] = []
        for folio in self._kernel.page_alloc.folios():
            if nr_to_scan <= 0:
                break
            if self.folio_isolate_lru(folio):
                folio.flags &= ~PG_active
                isolated.append(folio)
                nr_to_scan -= folio.nr_pages
        isolated.reverse()
        return isolated

    def shrink_inactive_list(self, nr_to_scan: int) -> int:
        """Reclaim some folios unless they are in use; return how many pages went.

        Source: mm/vmscan.c, shrink_inactive_list()
        """
        self._kernel.swap.lru_add_drain()
        folio_list = self.isolate_lru_folios(nr_to_scan)
        if not folio_list:
            return 0
        nr_reclaimed = self.shrink_folio_list(folio_list, ignore_references=False)
        while folio_list:  # move_folios_to_lru()
            folio = folio_list.pop()
            folio.flags |= PG_lru
            self._kernel.swap.folio_put(folio)
        return nr_reclaimed

    def kswapd(self, nr_to_reclaim: int = SWAP_CLUSTER_MAX) -> int:
        """Run kswapd once on this CPU, as if memory had run short.

        It is a flow like a system call: whoever runs a CPU calls it there, between two
        steps of others, as often as wanted::

            machine.running = machine.cpu(2)
            kernel.vmscan.kswapd()

        A folio that was used since the last round loses its access flags and stays;
        the next round takes it. Nothing random decides, so that a run can be repeated.

        Args:
            nr_to_reclaim: Pages that are wanted. Rounds go on, at most 12, until there
                are so many.

        Returns:
            How many pages went.

        Source: mm/vmscan.c, kswapd() and balance_pgdat()
        Deviates: whoever plays the sleeping thread wakes it, and says what is wanted,
        as no watermark is ever met; it runs in whatever address space is loaded, as a
        kernel thread does.
        """
        nr_reclaimed = 0
        for priority in range(DEF_PRIORITY, 0, -1):
            nr_to_scan = max(self._kernel.page_alloc.in_use >> priority, nr_to_reclaim)
            nr_reclaimed += self.shrink_inactive_list(nr_to_scan)
            if nr_reclaimed >= nr_to_reclaim:
                break
        return nr_reclaimed
