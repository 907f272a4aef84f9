"""d82d09e48219: every PMD that maps the huge zero folio carries the special bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present
from tlbkit.linux.include.linux.mm_types import Folio
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import LargeFolio, VmArea


class HugeMemoryBefore(HugeMemory):
    """What maps the huge zero folio is told by its frame alone.

    Source: mm/huge_memory.c, just before the commit.
    """

    __slots__ = ()

    def set_huge_zero_folio(
        self, table: Folio, vma: VmArea, pmdp: int, zero: LargeFolio
    ) -> None:
        """Map the huge zero folio and store *table*."""
        entry = self._pgtable.mk_huge_pmd(zero.pfn, vma.page_prot)
        self._deposit(vma.mm, pmdp, table)
        self._pgtable.set_pte(pmdp, entry)

    def new_pmd(self, vma: VmArea, what: Folio | int, prot: int, *, write: bool) -> int:
        """Return an entry that maps *what*, and count it if it is counted."""
        if not isinstance(what, Folio):
            entry = self._pgtable.pmd_mkspecial(self._pgtable.mk_huge_pmd(what, prot))
        else:
            entry = self._pgtable.mk_huge_pmd(what.pfn, vma.page_prot)
            if what is not self.huge_zero_folio:
                self.count_block(vma, what)
        return self._written(vma, entry) if write else entry

    def is_raw_pmd(self, pmd: int) -> bool:
        """Tell whether an entry maps frames; nothing else is marked."""
        return pte_present(pmd) and self._pgtable.pmd_special(pmd)


PATCH = Patch(
    commit="d82d09e482199e6bbc204df10b2082f764cbe1f4",
    subject="THP: PMD mappings of the huge zero folio are marked special",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/huge_memory.c": ("set_huge_zero_folio", "insert_pmd", "copy_huge_pmd"),
        "mm/memory.c": ("vm_normal_page", "vm_normal_page_pmd"),
    },
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline d82d09e48219",
        "Message-ID 20250811112631.759341-6-david@redhat.com (v3 5/11)",
    ),
    needs={
        "5528ef06da01": "it marks the leaf that insert_pmd() learnt to build there",
        "b0f86aaebed1": (
            "otherwise DAX builds such a leaf by itself, and it would stay unmarked"
        ),
    },
    note=(
        "In mm/memory.c only comments change. The claim that nothing changes holds for "
        "vm_normal_page_pmd(); other readers of the bit do notice: lockless GUP goes "
        "the slow way, arm64 no longer initialises MTE tags when it maps the folio, "
        "and UFFDIO_MOVE rebuilds the entry without the bit. Its second version lacked "
        "the exclusion in copy_huge_pmd() that fork needs."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
