"""5528ef06da01: ``vmf_insert_folio_pmd()`` takes the huge zero folio, uncounted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import Folio
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


class HugeMemoryBefore(HugeMemory):
    """A folio is a folio: the huge zero folio would be counted like every other.

    Source: insert_pmd() of mm/huge_memory.c, just before the commit.
    """

    __slots__ = ()

    def new_pmd(self, vma: VmArea, what: Folio | int, prot: int, *, write: bool) -> int:
        """Return an entry that maps *what*, and count it if it is a folio."""
        if not isinstance(what, Folio):
            entry = self._pgtable.pmd_mkspecial(self._pgtable.mk_huge_pmd(what, prot))
        else:
            entry = self._pgtable.mk_huge_pmd(what.pfn, vma.page_prot)
            self.count_block(vma, what)
        return self._written(vma, entry) if write else entry


PATCH = Patch(
    commit="5528ef06da011aa35fc9704127e41a154649a6df",
    subject="THP: the huge zero folio may be inserted by PMD, and is not counted",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={"mm/huge_memory.c": ("insert_pmd",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline 5528ef06da01",
        "Message-ID 20250811112631.759341-4-david@redhat.com (v3 3/11)",
    ),
    needs={"b7298e418e29": "it changes insert_pmd() in the form given to it there"},
    note=(
        "The insertion does not ignore a write for the huge zero folio; its only "
        "caller in the tree asks for a read-only mapping."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
