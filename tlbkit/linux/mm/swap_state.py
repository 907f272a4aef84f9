"""Folios that have the contents of swap slots: mm/swap_state.c, v6.17 to v6.19.

A folio is here from when it gets slots until it is gone from memory, and from when it
is read in until nobody needs the slots. Who faults on a slot finds it here.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import PG_swapbacked, PG_swapcache
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.mm.swap import FOLIO_BATCH_SIZE

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.include.linux.swapops import SwpEntry
    from tlbkit.linux.kernel.kernel import Kernel


class SwapState:
    """The swap cache.

    Attributes:
        folios: The folio of each cached slot. Each of its pages is held once for it.
    """

    __slots__ = ("_entries", "_kernel", "folios")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.folios: dict[SwpEntry, Folio] = {}
        self._entries: dict[int, SwpEntry] = {}

    def swap_cache_get_folio(self, entry: SwpEntry) -> Folio | None:
        """Return the folio that has the contents of a slot, held, or ``None``.

        Source: mm/swap_state.c, swap_cache_get_folio()
        """
        folio = self.folios.get(entry)
        if folio is not None:
            folio.refcount += 1
        return folio

    def page_swap_entry(self, folio: Folio, pfn: int) -> SwpEntry:
        """Return the slot of page *pfn* of a cached folio.

        Raises:
            BadPageError: The folio is not in the swap cache.

        Source: include/linux/swap.h, page_swap_entry()
        Deviates: the kernel takes whatever stands there for a slot; callers know that
        the folio is cached.
        """
        first = self._entries.get(folio.pfn)
        if first is None:
            raise BadPageError(folio, "asked for its slot, and in no swap cache")
        return first._replace(offset=first.offset + pfn - folio.pfn)

    def add_to_swap_cache(self, folio: Folio, entry: SwpEntry) -> None:
        """Let a locked folio be found under the slots from *entry* on.

        Source: mm/swap_state.c, swap_cache_add_folio()
        """
        folio.refcount += folio.nr_pages
        folio.flags |= PG_swapcache
        self._entries[folio.pfn] = entry
        for page in range(folio.nr_pages):
            self.folios[entry._replace(offset=entry.offset + page)] = folio

    def delete_from_swap_cache(self, folio: Folio) -> None:
        """Take a locked folio out; slots for which no entry stands become free.

        Source: mm/swap_state.c, swap_cache_del_folio()
        """
        entry = self._entries.pop(folio.pfn)
        folio.flags &= ~PG_swapcache
        for page in range(folio.nr_pages):
            slot = entry._replace(offset=entry.offset + page)
            del self.folios[slot]
            self._kernel.swapfile.swapcache_clear(slot)
            self._kernel.swap.folio_put(folio)

    def split(self, folio: Folio, pages: list[Folio]) -> None:
        """Let each of *pages* have the slot that it had as a part of *folio*.

        Source: mm/huge_memory.c, __folio_freeze_and_split_unmapped()
        """
        entry = self._entries.pop(folio.pfn)
        for number, page in enumerate(pages):
            slot = entry._replace(offset=entry.offset + number)
            self._entries[page.pfn] = slot
            self.folios[slot] = page
            page.flags |= PG_swapcache
            page.refcount += 1
        folio.refcount -= len(pages)

    def free_swap_cache(self, folio: Folio) -> None:
        """Free the slots of a folio that no entry maps, unless an entry needs them.

        Source: mm/swap_state.c, free_swap_cache().
        """
        if folio.flags & PG_swapcache and not folio.mapcount and folio_trylock(folio):
            self._kernel.swapfile.folio_free_swap(folio)
            folio_unlock(self._kernel.machine, folio)

    def free_pages_and_swap_cache(self, folios: list[Folio]) -> None:
        """Drop one reference for each entry of *folios*, a batch of them at a time.

        Source: mm/swap_state.c, free_pages_and_swap_cache().
        """
        for first in range(0, len(folios), FOLIO_BATCH_SIZE):
            batch = folios[first : first + FOLIO_BATCH_SIZE]
            for folio in batch:
                self.free_swap_cache(folio)
            for folio in batch:
                self._kernel.swap.folio_put(folio)

    def read_swap_cache_async(self, entry: SwpEntry) -> Folio | int:
        """Return a folio with the contents of a slot, held and cached, or an error.

        ``-ENOMEM``; what `Swapfile.swapcache_prepare` says if somebody else is reading
        it, or nobody needs it any more. The kernel reads slots near by as well; here
        there is no gain in that.

        Source: mm/swap_state.c, read_swap_cache_async()
        """
        folio = self.swap_cache_get_folio(entry)
        if folio is not None:
            return folio
        folio = self._kernel.page_alloc.alloc()
        if folio is None:
            return -ENOMEM
        error = self._kernel.swapfile.swapcache_prepare(entry)
        if error:
            self._kernel.swap.folio_put(folio)
            self._kernel.swapfile.wait_for_reader(entry)
            return error
        folio_trylock(folio)
        folio.flags |= PG_swapbacked
        self.add_to_swap_cache(folio, entry)
        self._kernel.swap.folio_add_lru(folio)
        self._kernel.page_io.swap_read_folio(folio, entry)
        folio_unlock(self._kernel.machine, folio)
        return folio
