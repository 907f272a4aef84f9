"""f66e2727ddfc: a huge page that would not move is not hidden for NUMA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_clear_uffd_wp,
    pte_mkuffd_wp,
    pte_modify,
    pte_protnone,
    pte_write,
)
from tlbkit.linux.include.linux.huge_mm import pmd_is_valid_softleaf
from tlbkit.linux.include.linux.mm import (
    MM_CP_PROT_NUMA,
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
)
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugeMemoryBefore(HugeMemory):
    """Every huge page but that of zeros was hidden, also one that is shared or pinned.

    Source: mm/huge_memory.c, v6.17.
    """

    __slots__ = ()

    def change_huge_pmd(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmd: int,
        addr: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Give a huge page the rights *newprot*; for hints its folio is not asked.

        Source: mm/huge_memory.c, change_huge_pmd(), v6.17
        """
        prot_numa = cp_flags & MM_CP_PROT_NUMA
        uffd_wp = bool(cp_flags & MM_CP_UFFD_WP)
        uffd_wp_resolve = bool(cp_flags & MM_CP_UFFD_WP_RESOLVE)
        ptl = self.pmd_trans_huge_lock_(pmd, vma)
        if ptl is None:
            return 0
        oldpmd = self._pgtable.read(pmd)
        if pmd_is_valid_softleaf(oldpmd):
            self.change_non_present_huge_pmd(
                pmd, uffd_wp=uffd_wp, uffd_wp_resolve=uffd_wp_resolve
            )
            ptl.release()
            return 1
        if prot_numa and (self.is_huge_zero_pmd(oldpmd) or pte_protnone(oldpmd)):
            ptl.release()
            return 1
        oldpmd = self._kernel.pgtable_generic.pmdp_invalidate_ad(vma, addr, pmd)
        entry = pte_modify(oldpmd, newprot)
        if uffd_wp:
            entry = pte_mkuffd_wp(entry)
        elif uffd_wp_resolve:
            entry = pte_clear_uffd_wp(entry)
        if (
            cp_flags & MM_CP_TRY_CHANGE_WRITABLE
            and not pte_write(entry)
            and self.can_change_pmd_writable(vma, addr, entry)
        ):
            entry = self._pgtable.pte_mkwrite(entry)
        self._pgtable.set_pte(pmd, entry)
        if self._kernel.tlbflush.huge_pmd_needs_flush(oldpmd, entry):
            size = self._pgtable.pmd_size
            self._kernel.gather.tlb_flush_pmd_range(tlb, addr, size)
        ptl.release()
        return self._pgtable.hpage_pmd_nr


PATCH = Patch(
    commit="f66e2727ddfcbbe3dbb459e809824f721a914464",
    subject="mprotect for NUMA hints asks the folio of a huge page as that of a page",
    series=series.CONTEXT,
    kind=Kind.PERFORMANCE,
    role=Role.CONTEXT,
    author="",
    release="v6.19",
    touches={"mm/huge_memory.c": ("change_huge_pmd",)},
    chapter="",
    sources=(
        "mm-stable f66e2727ddfc, as pushed on 2025-11-17; known by its title",
        "mm/huge_memory.c of v6.17 and v6.19, compared",
    ),
    reverts={"huge_memory": HugeMemoryBefore},
    note="Known by its title; its text was not read.",
)
