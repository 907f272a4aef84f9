"""How arm64 flushes what a gather recorded: arch/arm64/include/asm/tlb.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.tlbflush import TLBI_TTL_UNKNOWN
from tlbkit.linux.include.linux.mm_types import VmArea

if TYPE_CHECKING:
    from tlbkit.linux.include.asm_generic.tlb import MmuGather
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel


class Tlb:
    """The choice of one flush for one gather."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @staticmethod
    def tlb_get_level(tlb: MmuGather) -> int | None:
        """Return the level of every recorded leaf, if it is one and tables stayed.

        Source: arch/arm64/include/asm/tlb.h, tlb_get_level()
        """
        if tlb.freed_tables:
            return TLBI_TTL_UNKNOWN
        levels = (
            tlb.cleared_ptes,
            tlb.cleared_pmds,
            tlb.cleared_puds,
            tlb.cleared_p4ds,
        )
        if sum(levels) != 1:
            return TLBI_TTL_UNKNOWN
        return 3 - levels.index(True)

    def tlb_flush(self, tlb: MmuGather) -> None:
        """Flush what *tlb* recorded.

        Leaves alone will do unless tables were unhooked, be it to be freed or because
        others go on using them: then walk caches must let go of the way to them too.

        An address space that goes away needs no flush page by page: its ASID is not
        given out again before a rollover has flushed everything. The tables that it
        leaves are used for something else now, though.

        Source: arch/arm64/include/asm/tlb.h, tlb_flush()
        """
        last_level = not (tlb.freed_tables or tlb.unshared_tables)
        if tlb.fullmm:
            if not last_level:
                self._kernel.tlbflush.flush_tlb_mm(tlb.mm)
            return
        self._kernel.tlbflush.flush_tlb_range_(
            VmArea(tlb.mm, tlb.start, tlb.end, 0, 0, 0),
            tlb.start,
            tlb.end,
            self._kernel.gather.tlb_get_unmap_size(tlb),
            last_level=last_level,
            level=self.tlb_get_level(tlb),
        )

    def pte_free_tlb_(self, tlb: MmuGather, table: Folio) -> None:
        """Keep a PTE table until no walker can be in it: __pte_free_tlb().

        Source: arch/arm64/include/asm/tlb.h, __pte_free_tlb()
        """
        self._kernel.gather.tlb_remove_table(tlb, table)

    def pmd_free_tlb_(self, tlb: MmuGather, table: Folio) -> None:
        """Keep a PMD table: __pmd_free_tlb().

        Source: arch/arm64/include/asm/tlb.h, __pmd_free_tlb()
        """
        self._kernel.gather.tlb_remove_table(tlb, table)

    def pud_free_tlb_(self, tlb: MmuGather, table: Folio) -> None:
        """Keep a PUD table: __pud_free_tlb().

        Source: arch/arm64/include/asm/tlb.h, __pud_free_tlb()
        """
        self._kernel.gather.tlb_remove_table(tlb, table)
