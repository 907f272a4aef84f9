"""cb1fa2e99955: a write fault that only adds rights flushes the CPU that faulted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.mm.contpte import Contpte
from tlbkit.linux.arch.arm64.mm.fault import ArmFault
from tlbkit.linux.include.linux.pgtable import PGTABLE_LEVEL_PTE
from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.include.linux.pgtable import PgtableLevel

_CHANGELOG = "changelog of cb1fa2e99955"
_USEMEM = (
    "usemem of vm-scalability with fork()/exec() every 40 s, 4 threads, 100 GB, on an "
    "arm64 server that is not named"
)


class ArmFaultBefore(ArmFault):
    """Every relaxed entry is broadcast, so no CPU ever faults for a stale one.

    Source: arch/arm64/mm/fault.c and arch/arm64/include/asm/pgtable.h, v6.17.
    """

    __slots__ = ()

    def flush_relaxed(self, vma: VmArea, address: int) -> None:
        """Drop the strict entry from every CPU's TLB."""
        self._kernel.tlbflush.flush_tlb_page(vma, address)

    def flush_tlb_fix_spurious_fault(
        self, vma: VmArea, address: int, level: PgtableLevel = PGTABLE_LEVEL_PTE
    ) -> None:
        """Do nothing: the CPU that made the change has told all others.

        Source: arch/arm64/include/asm/pgtable.h, flush_tlb_fix_spurious_fault()
        """
        del vma, address, level


class ContpteBefore(Contpte):
    """A contiguous block that was relaxed is broadcast as well.

    Source: arch/arm64/mm/contpte.c, v6.17.
    """

    __slots__ = ()

    def flush_relaxed_block(self, vma: VmArea, addr: int) -> None:
        """Drop the strict entries of a block from every CPU's TLB."""
        self._kernel.tlbflush.flush_tlb_range_(
            vma,
            addr,
            addr + self.cont_pte_size,
            self._pgtable.page_size,
            last_level=True,
            level=3,
        )


PATCH = Patch(
    commit="cb1fa2e999558fd93b519f7c4c16e75e805af1e6",
    subject="arm64: reuse of a page in a write fault flushes locally, not by broadcast",
    series=series.WRITE_FAULT,
    kind=Kind.PERFORMANCE,
    role=Role.CLAIMED,
    author="Huang Ying",
    release="v6.19",
    touches={
        "arch/arm64/include/asm/pgtable.h": (
            "flush_tlb_fix_spurious_fault",
            "flush_tlb_fix_spurious_fault_pmd",
        ),
        "arch/arm64/include/asm/tlbflush.h": (
            "local_flush_tlb_page_nonotify",
            "local_flush_tlb_page",
            "local_flush_tlb_contpte",
        ),
        "arch/arm64/mm/contpte.c": ("contpte_ptep_set_access_flags",),
        "arch/arm64/mm/fault.c": ("__ptep_set_access_flags",),
    },
    chapter="book/commits/write-fault.md",
    sources=(
        "mainline cb1fa2e99955",
        "Message-ID 20251114085403.101552-3-ying.huang@linux.alibaba.com (v6 2/2)",
        series.PULL_REQUEST,
    ),
    figures=(
        Figure(
            name="score gained",
            value=40.6,
            unit="%",
            what=f"higher score, both patches of the series; {_USEMEM}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="flush cycles before",
            value=50.5,
            unit="%",
            what=f"of cycles in the functions that flush the TLB, before; {_USEMEM}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="flush cycles after",
            value=0.3,
            unit="%",
            what=f"of cycles in the functions that flush the TLB, after; {_USEMEM}",
            source=_CHANGELOG,
            qualifier="about",
        ),
    ),
    reverts={"fault": ArmFaultBefore, "contpte": ContpteBefore},
    needs={
        "79301c7d605a": (
            "a CPU that still holds a huge page read-only could otherwise fault on it "
            "for ever"
        ),
    },
)
