"""The two savings of 8ce720d5bd91, each without the other.

It waits until the end of a range before it interrupts anybody (*batching*), and
interrupts nobody while the tables have several users left (*skipping*). No kernel ever
had one alone; to see what each is worth, a kernel can be built with one of these.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.linux.mm.mmu_gather import Gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


class BatchingOnly(Gather):
    """One interrupt for a range in which anything was unshared, whoever is left."""

    __slots__ = ()

    def tlb_unshare_pmd_ptdesc(
        self, tlb: MmuGather, table: Folio, address: int
    ) -> None:
        """Record an unshared table as if nobody but its last user were left."""
        super().tlb_unshare_pmd_ptdesc(tlb, table, address)
        tlb.fully_unshared_tables = True


class SkippingOnly(Hugetlb):
    """One interrupt for each table that has a single user left, at once."""

    __slots__ = ()

    def huge_pmd_unshare(
        self, tlb: MmuGather, vma: VmArea, addr: int, ptep: int
    ) -> bool:
        """Unshare, and interrupt every CPU if this table asks for it."""
        unshared = super().huge_pmd_unshare(tlb, vma, addr, ptep)
        if tlb.fully_unshared_tables:
            self._kernel.gather.tlb_remove_table_sync_one()
            tlb.fully_unshared_tables = False
        return unshared


HALVES: Final[Mapping[str, Mapping[str, type[Any]]]] = MappingProxyType(
    {
        "batching": MappingProxyType({"gather": BatchingOnly}),
        "skipping": MappingProxyType({"hugetlb": SkippingOnly}),
    }
)
"""Saving -> the parts of a kernel that has only this one."""
