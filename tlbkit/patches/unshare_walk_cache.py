"""c2ff4764e03e: after unsharing, arm64's flush reaches the walk cache again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.tlb import Tlb
from tlbkit.linux.include.linux.mm_types import VmArea
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.asm_generic.tlb import MmuGather


class TlbBefore(Tlb):
    """arm64's choice of one flush for one gather, as it knew freed tables only."""

    __slots__ = ()

    def tlb_flush(self, tlb: MmuGather) -> None:
        """Flush what *tlb* recorded: leaves alone, unless tables were freed.

        Source: arch/arm64/include/asm/tlb.h, tlb_flush()
        """
        if tlb.fullmm:
            if tlb.freed_tables:
                self._kernel.tlbflush.flush_tlb_mm(tlb.mm)
            return
        self._kernel.tlbflush.flush_tlb_range_(
            VmArea(tlb.mm, tlb.start, tlb.end, 0, 0, 0),
            tlb.start,
            tlb.end,
            self._kernel.gather.tlb_get_unmap_size(tlb),
            last_level=not tlb.freed_tables,
            level=self.tlb_get_level(tlb),
        )


PATCH = Patch(
    commit="c2ff4764e03e7a8d758352f4aceb8fe1be6ac971",
    subject="arm64: a gather that unshared tables flushes the walk cache too",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="Zeng Heng",
    release="v7.1",
    touches={"arch/arm64/include/asm/tlb.h": ("tlb_flush",)},
    chapter="book/commits/hugetlb-walk-cache.md",
    sources=(
        "mainline c2ff4764e03e; in v6.18.35 and v7.0.12",
        "Message-ID 20260616145137.729334018@linuxfoundation.org (6.6 review)",
        "OSV record of CVE-2026-63875",
    ),
    needs={"8ce720d5bd91": "it tests a flag of mmu_gather that was added there"},
    repairs="8ce720d5bd91",
    note=(
        "While the process lives it shows only where the flush is one range operation: "
        "with FEAT_TLBIRANGE and a span of 1 to 8 GiB at 4 KiB pages. Other flushes "
        "name the whole ASID anyway. A process that unshares while it exits now "
        "flushes its ASID, which it did not."
    ),
    reverts={"tlb": TlbBefore},
)
