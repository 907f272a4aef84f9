"""878d9e8cebbb: adding an rmap also does its statistics, as removing one always did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.include.linux.pgtable import PgtableLevel
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.include.linux.pgtable import LeafLevel


class RmapBefore(Rmap):
    """The helper said what to add to the statistics, and left it to its callers.

    Source: mm/rmap.c, v6.17.
    """

    __slots__ = ()

    def folio_add_rmap_(  # type: ignore[override] # it returned what to count
        self, folio: Folio, pfn: int, nr_pages: int, vma: VmArea, level: LeafLevel
    ) -> tuple[int, int]:
        """Count one more entry of *level*, or several of pages.

        Returns:
            How many pages are now mapped, and how many by a PMD entry, that were not.
        """
        nr = nr_pmdmapped = 0
        self.folio_rmap_sanity_checks_(folio, pfn, nr_pages, level)
        match level:
            case PgtableLevel.PTE:
                nr = self._add_ptes(folio, pfn, nr_pages, vma)
            case PgtableLevel.PMD | PgtableLevel.PUD:
                assert isinstance(folio, LargeFolio)
                nr, first = self._add_entire(folio, vma)
                if first and level is PgtableLevel.PMD:
                    nr_pmdmapped = folio.nr_pages
            case _:
                self._unsupported_level(level)
        return nr, nr_pmdmapped

    def folio_add_anon_rmap_(
        self,
        folio: Folio,
        pfn: int,
        nr_pages: int,
        vma: VmArea,
        level: LeafLevel,
        *,
        exclusive: bool,
    ) -> None:
        """Map anonymous memory once more; the statistics come after the check.

        Source: mm/rmap.c, __folio_add_anon_rmap()
        """
        nr, nr_pmdmapped = self.folio_add_rmap_(folio, pfn, nr_pages, vma, level)
        self.page_check_anon_rmap_(folio, vma)
        self.folio_mod_stat_(folio, nr, nr_pmdmapped)
        if exclusive:
            self._mark_exclusive(folio, pfn, nr_pages, level)

    def folio_add_file_rmap_(
        self, folio: Folio, pfn: int, nr_pages: int, vma: VmArea, level: LeafLevel
    ) -> None:
        """Map a file's pages once more, and then count them."""
        nr, nr_pmdmapped = self.folio_add_rmap_(folio, pfn, nr_pages, vma, level)
        self.folio_mod_stat_(folio, nr, nr_pmdmapped)


PATCH = Patch(
    commit="878d9e8cebbb111a678e1f83d7daee917922f700",
    subject="rmap: adding does its statistics in the helper, as removing does",
    series=series.RMAP,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="Wei Yang",
    release="v6.18",
    touches={
        "mm/rmap.c": (
            "__folio_add_rmap",
            "__folio_add_anon_rmap",
            "__folio_add_file_rmap",
        ),
    },
    chapter="book/commits/rmap.md",
    sources=("mainline 878d9e8cebbb", series.PULL_REQUEST),
    reverts={"rmap": RmapBefore},
    note=(
        "In the anonymous case the statistics now change before the debug check of the "
        "anon rmap, not after it; every final state is the same."
    ),
)
