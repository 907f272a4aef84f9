"""Huge pages from pools: mm/hugetlb.c.

A huge page of hugetlb comes from a pool that was filled beforehand, belongs to a file
of hugetlbfs, and is mapped as a whole, by entries of its own size. Address spaces that
map the same file may share the tables of those entries.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.hugetlb.copy import HugetlbCopy, HugetlbVmOperations

if TYPE_CHECKING:
    from tlbkit.linux.kernel.kernel import Kernel


class Hugetlb(HugetlbCopy):
    """Pools, sharing, faults, zaps, changes and copies.

    Attributes:
        vm_ops: What areas of huge pages do.
    """

    __slots__ = ("vm_ops",)

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.vm_ops = HugetlbVmOperations(kernel)
