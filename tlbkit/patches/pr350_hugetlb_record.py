"""c012f568dca2: how pull request 350 brings 8ce720d5bd91, one line misplaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none, pte_present
from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.patches import series
from tlbkit.patches.patch import AsPushed

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugetlbAsPushed(Hugetlb):
    """One line lower: what is recorded is the entry that is empty."""

    __slots__ = ()

    def change_huge_pte(
        self, tlb: MmuGather, vma: VmArea, addr: int, ptep: int, prot: int, how: int
    ) -> bool:
        """Rewrite one entry, whose table is locked; tell whether its rights changed."""
        size = self.hstate_vma(vma).size
        pte = self._kernel.hugetlbpage.huge_ptep_get(ptep, size)
        if pte_present(pte):
            self.modify_huge_pte(vma, addr, ptep, prot, how)
            return True
        changed = self.change_absent_huge_pte(vma, addr, ptep, pte, how)
        if pte_none(pte):
            self._kernel.gather.tlb_remove_huge_tlb_entry(tlb, addr, size)
        return changed


VARIANT = AsPushed(
    of="8ce720d5bd91",
    backport="c012f568dca23d178ce5eeb4b3478c6aa1d6a571",
    subject=(
        "hugetlb_change_protection() records a flush for empty entries, not for those "
        "that it changes"
    ),
    touches={"mm/hugetlb.c": ("hugetlb_change_protection",)},
    effects=(
        (
            "Present, unshared huge pages record nothing, so nothing is invalidated "
            "while the locks are held; blocks that were unshared are still flushed."
        ),
        (
            "A range with an empty entry flushes the span of its empty entries, for "
            "nothing."
        ),
        (
            "The gather is nested in the one of mprotect or UFFDIO_WRITEPROTECT, so "
            "its end flushes the whole ASID before the call returns: no stale entry "
            "survives the call, by accident."
        ),
        (
            "What is left to see is a range flush that is missing, and entries that "
            "are stale between the release of the locks and the end of the gather."
        ),
    ),
    sources=(
        "NVIDIA/NV-Kernels c012f568dca2, mm/hugetlb.c",
        "mainline 8ce720d5bd91 and its backport to 6.18, which agree with each other",
        f"{series.PULL_REQUEST}; a reviewer saw that the commit had not picked clean",
    ),
    replaces={"hugetlb": HugetlbAsPushed},
)
