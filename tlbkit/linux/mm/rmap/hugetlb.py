"""The counts of folios of hugetlb: one mapping is one entry, whatever its size.

No page of such a folio has a count of its own, and no statistics are kept here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.rmap.counts import RmapCounts

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import LargeFolio, VmArea


class RmapHugetlb(RmapCounts):
    """hugetlb's families of add, duplicate, share and remove."""

    __slots__ = ()

    def hugetlb_add_file_rmap(self, folio: LargeFolio, vma: VmArea) -> None:
        """Map a file's huge page once more.

        Source: include/linux/rmap.h, hugetlb_add_file_rmap()
        """
        folio.entire_mapcount += 1
        folio.add_mapcount(1, vma.mm)

    def hugetlb_add_anon_rmap(
        self, folio: LargeFolio, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map a private huge page once more.

        Source: mm/rmap.c, hugetlb_add_anon_rmap()
        """
        self.hugetlb_add_file_rmap(folio, vma)
        if exclusive:
            self.set_page_anon_exclusive(folio, folio.pfn)

    def hugetlb_add_new_anon_rmap(
        self, folio: HugetlbFolio, vma: VmArea, address: int
    ) -> None:
        """Map a new private huge page for the first time: its promise is kept.

        Source: mm/rmap.c, hugetlb_add_new_anon_rmap()
        """
        folio.restore_reserve = False
        folio.mapping = vma.anon_vma
        folio.index = self.linear_page_index(vma, address)
        folio.entire_mapcount = 1
        folio.add_mapcount(1, vma.mm)
        self.set_page_anon_exclusive(folio, folio.pfn)

    def hugetlb_try_dup_anon_rmap(
        self, folio: LargeFolio, child: VmArea, parent: VmArea
    ) -> bool:
        """Share a private huge page with a child; false if it may be pinned.

        Source: include/linux/rmap.h, hugetlb_try_dup_anon_rmap()
        """
        if folio.page_exclusive(folio.pfn):
            if self._kernel.gup.folio_needs_cow_for_dma(parent, folio):
                return False
            self.clear_page_anon_exclusive(folio, folio.pfn)
        self.hugetlb_add_file_rmap(folio, child)
        return True

    def hugetlb_try_share_anon_rmap(self, folio: LargeFolio) -> bool:
        """Give up that it belongs to one process; false if it may be pinned.

        Source: include/linux/rmap.h, hugetlb_try_share_anon_rmap()
        """
        return self.folio_try_share_anon_rmap(folio, folio.pfn)

    @staticmethod
    def hugetlb_remove_rmap(folio: LargeFolio, vma: VmArea) -> None:
        """Take one mapping of a huge page away.

        Source: include/linux/rmap.h, hugetlb_remove_rmap()
        """
        folio.entire_mapcount -= 1
        folio.sub_mapcount(1, vma.mm)
