"""Whose tags are good: arch/arm64/kernel/mte.c, and tag_clear_highpages().

A page's tags outlive its use, as its bytes do. User space may see them once the page is
mapped as tagged memory, so before that they must be made 0. That this has been done is
a flag of the page, PG_mte_tagged, which goes when the page is freed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    MT_NORMAL_TAGGED,
    PTE_ATTRINDX_MASK,
    PTE_ATTRINDX_SHIFT,
    PTE_TABLE_BIT,
)

if TYPE_CHECKING:
    from tlbkit.linux.kernel.kernel import Kernel


class Mte:
    """Tags of pages.

    Attributes:
        supported: The CPUs have tags: system_supports_mte().
        tagged: The frames with PG_mte_tagged.
    """

    __slots__ = ("_kernel", "_machine", "supported", "tagged")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self.supported = kernel.machine.model.mte
        self.tagged: set[int] = set()

    def sync_cache_and_tags(self, pte: int, nr: int = 1) -> None:
        """See to the tags of what an entry is about to map: __sync_cache_and_tags().

        An entry that is marked special is passed by: its frames are not the kernel's,
        or have been seen to before.

        Args:
            pte: The entry, of a page or of a block.
            nr: How many page entries for consecutive frames follow one another.

        Source: arch/arm64/include/asm/pgtable.h, __sync_cache_and_tags()
        """
        pgtable = self._kernel.pgtable
        kind = (pte & PTE_ATTRINDX_MASK) >> PTE_ATTRINDX_SHIFT
        if not pte_present(pte) or kind != MT_NORMAL_TAGGED or pgtable.pte_special(pte):
            return
        if not pte & PTE_TABLE_BIT:
            nr = pgtable.hpage_pmd_nr
        self.mte_sync_tags(pgtable.pte_pfn(pte), nr)

    def mte_sync_tags(self, pfn: int, nr: int) -> None:
        """Clear the tags of those of *nr* frames that are not good.

        Source: arch/arm64/kernel/mte.c, mte_sync_tags()
        """
        for frame in range(pfn, pfn + nr):
            if frame not in self.tagged:
                self._machine.tags.clear_frame(frame)
                self.tagged.add(frame)

    def tag_clear_highpages(self, pfn: int, nr: int, *, clear_pages: bool) -> None:
        """Clear the tags of new pages, and the pages too if they are not clear yet.

        The CPU can do both at once. Source: arch/arm64/mm/fault.c.

        Source: arch/arm64/mm/fault.c, tag_clear_highpages()
        """
        for frame in range(pfn, pfn + nr):
            self._machine.tags.clear_frame(frame)
            if clear_pages:
                self._machine.memory.clear_frame(frame)
            self.tagged.add(frame)

    def pages_freed(self, pfn: int, nr: int) -> None:
        """Forget that the tags are good; what they are stays in memory.

        Source: none; the flag of each frame is kept here, and not with its page.
        """
        self.tagged.difference_update(range(pfn, pfn + nr))
