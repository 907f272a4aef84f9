"""ec63a44011dc: the report of a bad page-table entry works at every level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.memory import Memory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Page, VmArea


class MemoryBefore(Memory):
    """Reports were of page entries, and walked down before it was known who reads them.

    Source: mm/memory.c, v6.17.
    """

    __slots__ = ()

    def print_bad_pte(
        self, vma: VmArea, addr: int, pte: int, page: Page | None
    ) -> None:
        """Report a page entry, with the PMD entry above it.

        Source: mm/memory.c, print_bad_pte()
        """
        pgtable = self._pgtable
        # No level is tested: a caller that holds a page entry has a table above it.
        pudp = pgtable.pud_offset(pgtable.pgd_offset(vma.mm, addr), addr)
        pmd = pgtable.read(pgtable.pmd_offset(pudp, addr))
        if self.is_bad_page_map_ratelimited():
            return
        self._kernel.printk.pr_alert(
            f"BUG: Bad page map in process {self._comm()}  pte:{pte:08x} pmd:{pmd:08x}"
        )
        if page is not None:
            self._dump_page(page, "bad pte")
        self._print_area(vma, addr)
        self._taint()


PATCH = Patch(
    commit="ec63a44011dccebca24e7ef7e8a9521306de1bc9",
    subject="mm: print_bad_pte() becomes print_bad_page_map(), for any level",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "include/linux/pgtable.h": ("pgtable_level_to_str",),
        "mm/memory.c": (
            "is_bad_page_map_ratelimited",
            "__print_bad_page_map_pgtable",
            "print_bad_page_map",
            "print_bad_pte",
        ),
    },
    chapter="book/commits/bad-page-map.md",
    sources=(
        "mainline ec63a44011dc",
        "Message-ID 20250811112631.759341-9-david@redhat.com (v3 8/11)",
    ),
    needs={"b22cc9a9c7ff": "the report names a level of enum pgtable_level"},
    reverts={"memory": MemoryBefore},
    note=(
        "The sample in the changelog shows the address before the table entries; the "
        "code prints the table entries first. The warning that the posting had in "
        "pgtable_level_to_str() was dropped, because it broke an xtensa build."
    ),
)
