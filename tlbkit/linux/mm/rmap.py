"""Who maps a page: mm/rmap.c and include/linux/rmap.h, for page-level mappings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import (
    AnonVma,
    LargeFolio,
    PG_anon_exclusive,
    PG_swapbacked,
)
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class Rmap:
    """Adds, removes and duplicates mappings; the mapcount is exact after each."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # -- the anon_vma of an area -----------------------------------------------------

    def anon_vma_prepare(self, vma: VmArea) -> None:
        """Give *vma* an anon_vma before its first private page."""
        if vma.anon_vma is None:
            vma.anon_vma = AnonVma(RwSemaphore(self._kernel.machine, "anon_vma"))

    def anon_vma_fork(self, child: VmArea, parent: VmArea) -> None:
        """Give a child's copy of *parent* an anon_vma under the same root."""
        if parent.anon_vma is not None:
            root = parent.anon_vma.root
            child.anon_vma = AnonVma(root.lock, root)

    # -- one page --------------------------------------------------------------------

    def folio_add_new_anon_rmap(self, folio: Folio, vma: VmArea, address: int) -> None:
        """Map a new page for the first time; it belongs to one process only."""
        folio.mapcount = 1
        folio.flags |= PG_swapbacked | PG_anon_exclusive
        folio.mapping = vma.anon_vma
        folio.index = self.linear_page_index(vma, address)

    def folio_add_anon_rmap_pte(
        self, folio: Folio, pfn: int, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map page *pfn* of an anonymous folio once more, or again after swap."""
        folio.mapcount += 1
        if isinstance(folio, LargeFolio):
            folio.page_mapcount[pfn - folio.pfn] += 1
            folio.mm_ids[vma.mm] = folio.mm_ids.get(vma.mm, 0) + 1
        if exclusive:
            self.set_page_anon_exclusive(folio, pfn)

    def folio_add_file_rmap_pte(self, folio: Folio, pfn: int, vma: VmArea) -> None:
        """Map page *pfn* of a file's folio."""
        self.folio_add_anon_rmap_pte(folio, pfn, vma, exclusive=False)

    def folio_remove_rmap_pte(self, folio: Folio, pfn: int, vma: VmArea) -> None:
        """Take one mapping of page *pfn* away."""
        folio.mapcount -= 1
        if isinstance(folio, LargeFolio):
            folio.page_mapcount[pfn - folio.pfn] -= 1
            folio.mm_ids[vma.mm] -= 1
            if not folio.mm_ids[vma.mm]:
                del folio.mm_ids[vma.mm]

    def folio_dup_file_rmap_pte(self, folio: Folio, pfn: int, child: VmArea) -> None:
        """Map page *pfn* of a file's folio for a child too."""
        self.folio_add_file_rmap_pte(folio, pfn, child)

    def folio_try_dup_anon_rmap_pte(
        self, folio: Folio, pfn: int, child: VmArea, parent: VmArea
    ) -> bool:
        """Share page *pfn* with a child; false if somebody may have pinned it.

        A page that was exclusive to the parent stops being so.
        """
        exclusive = folio.page_exclusive(pfn)
        if exclusive and self._kernel.gup.folio_needs_cow_for_dma(parent, folio):
            return False
        if exclusive:
            self.clear_page_anon_exclusive(folio, pfn)
        self.folio_add_anon_rmap_pte(folio, pfn, child, exclusive=False)
        return True

    # -- exclusive -------------------------------------------------------------------

    @staticmethod
    def set_page_anon_exclusive(folio: Folio, pfn: int) -> None:
        """Note that page *pfn* belongs to one process: SetPageAnonExclusive()."""
        if isinstance(folio, LargeFolio):
            folio.exclusive[pfn - folio.pfn] = 1
        else:
            folio.flags |= PG_anon_exclusive

    @staticmethod
    def clear_page_anon_exclusive(folio: Folio, pfn: int) -> None:
        """Note that page *pfn* may be shared: ClearPageAnonExclusive()."""
        if isinstance(folio, LargeFolio):
            folio.exclusive[pfn - folio.pfn] = 0
        else:
            folio.flags &= ~PG_anon_exclusive

    @staticmethod
    def folio_move_anon_rmap(folio: Folio, vma: VmArea) -> None:
        """Make *vma*'s own anon_vma the one of a page that only it maps."""
        folio.mapping = vma.anon_vma

    def linear_page_index(self, vma: VmArea, address: int) -> int:
        """Return the place of *address* in what *vma* maps, in pages."""
        return ((address - vma.start) >> self._kernel.pgtable.page_shift) + vma.pgoff
