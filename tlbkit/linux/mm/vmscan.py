"""Taking pages back that were asked for: mm/vmscan.c, as far as MADV_PAGEOUT needs it.

The kernel looks for such pages by itself when memory is short; who is old enough is
then a matter of LRU lists, which are left out. What happens to a page that was chosen
is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import (
    LargeFolio,
    PG_active,
    PG_dirty,
    PG_lru,
    PG_swapbacked,
    PG_swapcache,
)
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.mm.rmap.unmap import TTU_BATCH_FLUSH, TTU_SPLIT_HUGE_PMD

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel


class Vmscan:
    """Swaps folios out, or drops them, and gives their frames back."""

    __slots__ = ("_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine

    @staticmethod
    def folio_isolate_lru(folio: Folio) -> bool:
        """Take a folio off the LRU lists, held; tell whether it was on one."""
        if not folio.flags & PG_lru:
            return False
        folio.flags &= ~PG_lru
        folio.refcount += 1
        return True

    def folio_putback_lru(self, folio: Folio) -> None:
        """Put an isolated folio back by a batch, and let go of it.

        Source: mm/vmscan.c, folio_putback_lru().
        """
        self._kernel.swap.folio_add_lru(folio)
        self._kernel.swap.folio_put(folio)

    def reclaim_pages(self, folios: list[Folio]) -> int:
        """Take back isolated folios, used or not; return how many pages went."""
        if not folios:
            return 0
        reclaimed, left = self.shrink_folio_list(folios)
        for folio in left:
            self.folio_putback_lru(folio)
        return reclaimed

    def shrink_folio_list(self, folios: list[Folio]) -> tuple[int, list[Folio]]:
        """Swap out or drop isolated folios, as far as possible.

        The flushes of all that are unmapped are waited for once, before any frame is
        given back, unless a page must be written out: then before that.

        Returns:
            How many pages went, and the folios that did not.
        """
        free: list[Folio] = []
        left: list[Folio] = []
        waiting = folios[::-1]
        while waiting:
            folio = waiting.pop()
            if not folio_trylock(folio):
                left.append(folio)
                continue
            parts = self._add_swap(folio)
            if parts is not None:
                # It is in pieces now; each is looked at by itself.
                waiting += parts[::-1]
                continue
            gone = self._shrink_folio(folio)
            folio_unlock(self._machine, folio)
            (free if gone else left).append(folio)
        self._kernel.rmap.try_to_unmap_flush()
        for folio in free:
            self._kernel.swap.folio_put(folio)
        return sum(folio.nr_pages for folio in free), left

    def _add_swap(self, folio: Folio) -> list[Folio] | None:
        """Give a locked folio slots if it needs them: they are what it is kept in.

        Returns:
            ``None``, unless there is no row of slots for a large folio: then its pages,
            which are isolated folios now.
        """
        if not folio.anon or not folio.flags & PG_swapbacked:
            return None
        if folio.flags & PG_swapcache or folio.maybe_dma_pinned():
            return None  # it has them; or it must stay where it is
        if isinstance(folio, LargeFolio):
            if folio.refcount - 1 != folio.mapcount:
                return None
            if folio.partially_mapped:
                return self._split(folio)
        if self._kernel.swapfile.folio_alloc_swap(folio):
            return self._split(folio) if isinstance(folio, LargeFolio) else None
        # What was given up and written again may look clean; it must be written out.
        folio.flags |= PG_dirty
        return None

    def _split(self, folio: LargeFolio) -> list[Folio] | None:
        """Split a locked folio, and isolate and unlock its pages; ``None`` if not."""
        first, nr = folio.pfn, folio.nr_pages
        pages = self._kernel.page_alloc
        head = self._kernel.huge_memory.split_folio(folio)
        if isinstance(head, int):
            return None
        folio_unlock(self._machine, head)
        parts = [head]
        for pfn in range(first + 1, first + nr):
            page = pages.folio(pfn)
            if page is not None:
                page.refcount += 1  # it was off the lists, so its pages are too
                parts.append(page)
        return parts

    def _shrink_folio(self, folio: Folio) -> bool:
        """Unmap a locked folio, and write it out if need be; tell whether it can go."""
        if folio.anon and folio.flags & (PG_swapbacked | PG_swapcache) == PG_swapbacked:
            return self._keep(folio)  # there are no slots for it
        if not folio.anon and folio.flags & PG_swapbacked:
            return self._keep(folio)  # shared memory is not swapped here
        if folio.mapcount:
            flags = TTU_BATCH_FLUSH
            if folio.order >= self._kernel.pgtable.hpage_pmd_order:
                flags |= TTU_SPLIT_HUGE_PMD
            self._kernel.rmap.try_to_unmap(folio, flags)
            if folio.mapcount:
                return self._keep(folio)
        if folio.maybe_dma_pinned():
            return self._keep(folio)
        if folio.flags & PG_dirty:
            if not folio.flags & PG_swapcache:
                return False  # the pages of a file are for its writers to write
            self._kernel.rmap.try_to_unmap_flush_dirty()
            self._kernel.page_io.swap_writeout(folio)
        if folio.anon and not folio.flags & PG_swapcache:
            return folio.refcount == 1
        return self._remove_mapping(folio)

    def _keep(self, folio: Folio) -> bool:
        """Leave a folio where it is, for somebody uses it."""
        folio.flags |= PG_active
        if folio.flags & PG_swapcache and self._kernel.swapfile.vm_swap_full():
            self._kernel.swapfile.folio_free_swap(folio)
        return False

    def _remove_mapping(self, folio: Folio) -> bool:
        """Take a folio out of its file or the swap cache if nobody else holds it."""
        if self._machine.sees("folio_ref_freeze", folio.refcount != 1 + folio.nr_pages):
            return False
        if folio.flags & PG_dirty:
            return False
        if not folio.anon:
            self._kernel.filemap.filemap_remove_folio(folio)
            return True
        self._kernel.swap_state.delete_from_swap_cache(folio)
        return True
