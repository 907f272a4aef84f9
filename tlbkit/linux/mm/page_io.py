"""Reading and writing swap devices: mm/page_io.c. Every transfer is over at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_uptodate

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.include.linux.swapops import SwpEntry
    from tlbkit.linux.kernel.kernel import Kernel


class PageIo:
    """Copies frames to slots, and slots to frames."""

    __slots__ = ("_kernel", "_memory")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory = kernel.machine.memory

    def swap_writeout(self, folio: Folio) -> None:
        """Write a cached folio to its slots; no CPU can write to it meanwhile."""
        for pfn in range(folio.pfn, folio.pfn + folio.nr_pages):
            entry = self._kernel.swap_state.page_swap_entry(folio, pfn)
            device = self._kernel.swapfile.devices[entry.type]
            device.contents[entry.offset] = self._memory.save_frame(pfn)
        folio.flags &= ~PG_dirty

    def swap_read_folio(self, folio: Folio, entry: SwpEntry) -> None:
        """Read a slot into a folio of one page."""
        device = self._kernel.swapfile.devices[entry.type]
        self._memory.load_frame(folio.pfn, device.contents[entry.offset])
        folio.flags |= PG_uptodate
