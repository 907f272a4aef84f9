"""Reading and writing swap devices: mm/page_io.c. Every transfer is over at once.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm_types import PG_uptodate
from tlbkit.linux.include.linux.pagemap import folio_unlock

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.include.linux.swapops import SwpEntry
    from tlbkit.linux.kernel.kernel import Kernel

AOP_WRITEPAGE_ACTIVATE: Final = 0x80000
"""The answer of who did not write a folio, and left it locked: include/linux/fs.h."""


class PageIo:
    """Copies frames to slots, and slots to frames."""

    __slots__ = ("_kernel", "_memory")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory = kernel.machine.memory

    def swap_writeout(self, folio: Folio) -> int:
        """Write a locked, cached folio to its slots, and unlock it; 0.

        If no entry needs the slots any more they are given up instead.

        Source: mm/page_io.c, swap_writeout()
        Deviates: pages of zeros and of a compressed cache (zswap) are written like all
        others.
        """
        if self._kernel.swapfile.folio_free_swap(folio):
            folio_unlock(self._kernel.machine, folio)
            return 0
        for pfn in range(folio.pfn, folio.pfn + folio.nr_pages):
            entry = self._kernel.swap_state.page_swap_entry(folio, pfn)
            device = self._kernel.swapfile.devices[entry.type]
            device.contents[entry.offset] = self._memory.save_frame(pfn)
        folio_unlock(self._kernel.machine, folio)
        return 0

    def swap_read_folio(self, folio: Folio, entry: SwpEntry) -> None:
        """Read a slot into a folio of one page.

        Source: mm/page_io.c, swap_read_folio()
        Deviates: the caller unlocks the folio, as the read is over at once.
        """
        device = self._kernel.swapfile.devices[entry.type]
        self._memory.load_frame(folio.pfn, device.contents[entry.offset])
        folio.flags |= PG_uptodate
