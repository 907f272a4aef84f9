"""fae654083bfa: UFFDIO_MOVE moves a huge zero entry instead of building a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.page_alloc import RAM_BASE
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


_PAGE_STRUCT: Final = 64
"""Bytes of one struct page."""
_VMEMMAP_GAP: Final = 1 << 30
"""Bytes between the end of the array of all pages and the last address."""


class HugeMemoryBefore(HugeMemory):
    """A huge zero entry is built anew, from a folio that nobody looked up.

    Source: mm/huge_memory.c, v6.16 to v6.19.
    """

    __slots__ = ()

    def moved_huge_zero_pmd(self, pmd: int, dst_vma: VmArea) -> int:
        """Return an entry for the folio at address 0, with the target's rights."""
        del pmd
        return self._pgtable.mk_huge_pmd(self.null_folio_pfn(), dst_vma.page_prot)

    def null_folio_pfn(self) -> int:
        """Return the frame that the folio at address 0 would describe.

        The kernel's array of all pages begins at a negative address, so this lies a
        long way behind its first element. Worked out from the layout of addresses in
        arch/arm64/include/asm/memory.h, for 48 bits: half of them are the kernel's
        linear map, and each of its pages has 64 bytes in the array, which ends 1 GiB
        before the last address.
        """
        shift = self._pgtable.page_shift
        linear_map = 1 << self._pgtable.va_bits - 1
        array = (linear_map >> shift) * _PAGE_STRUCT
        return (array + _VMEMMAP_GAP) // _PAGE_STRUCT + (RAM_BASE >> shift)


PATCH = Patch(
    commit="fae654083bfa409bb2244f390232e2be47f05bfc",
    subject="userfaultfd MOVE: a huge zero PMD keeps its frame and its special bit",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="Chris Down",
    release="v7.0",
    touches={"mm/huge_memory.c": ("move_pages_huge_pmd",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline fae654083bfa; in v6.18.20 and v6.19.10",
        "Message-ID aaBVaHs8rIkNcwM0@chrisdown.name (v2, still two patches)",
        "OSV record of CVE-2026-31397",
    ),
    repairs="d82d09e48219",
    note=(
        "Two faults in one commit. The special bit was lost since d82d09e48219; the "
        "bogus frame, or the NULL dereference, came with e3981db444a0 (v6.16), which "
        "is none of the commits here. Posted as two patches, joined when merged."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
