"""What mapping and unmapping does to the counts of a folio, and to the statistics.

Three families: *add* maps a page that may not have been mapped, *remove* takes one
mapping away, *duplicate* is for fork, where the page is mapped already and no
statistics can change. Each takes the level of the entry.

There are two ways to count a large folio. By default each page has a count of its own,
and the folio counts how many of its pages have one. With CONFIG_NO_PAGE_MAPCOUNT there
are only the number of entries and of block entries, and a folio of which anything is
mapped counts as mapped whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Never

from tlbkit.linux.include.linux.mm_types import (
    ENTIRELY_MAPPED,
    FOLIO_PAGES_MAPPED,
    AnonVma,
    LargeFolio,
    PG_anon_exclusive,
    PG_swapbacked,
)
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
    unsupported_level,
)
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.mm.rmap.anon import RmapAnon

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.include.linux.pgtable import LeafLevel


class RmapCounts(RmapAnon):
    """The arithmetic of mappings."""

    __slots__ = ()

    # -- rules -----------------------------------------------------------------------

    def folio_rmap_sanity_checks_(
        self, folio: Folio, pfn: int, nr: int, level: LeafLevel
    ) -> None:
        """Look whether a call makes sense: __folio_rmap_sanity_checks().

        The rules for folios are looked at only in a kernel that is built to; the level
        is looked at always.

        Raises:
            LevelError: No entry of that level maps anything. Nothing has changed.

        Source: include/linux/rmap.h, __folio_rmap_sanity_checks()
        """
        if level is PGTABLE_LEVEL_PTE:
            whole = None
        elif level is PGTABLE_LEVEL_PMD:
            whole = self._kernel.pgtable.hpage_pmd_nr
        elif level is PGTABLE_LEVEL_PUD:
            whole = self._kernel.pgtable.hpage_pud_nr
        else:
            self._unsupported_level(level)
            return
        if not self._kernel.config.debug_vm:
            return
        first = pfn - folio.pfn
        for broken, rule in (
            (folio.pfn == self._kernel.zero_pfn, "the zero page is not counted"),
            (nr <= 0, "at least one page is mapped"),
            (first < 0 or first + nr > folio.nr_pages, "pages lie in one folio"),
            (
                whole is not None and (folio.nr_pages != whole or nr != whole),
                "a block entry maps exactly a folio of its size",
            ),
        ):
            if broken:
                self._kernel.panic.warn_on_once("__folio_rmap_sanity_checks", rule)

    def _unsupported_level(self, level: Never) -> None:
        """Refuse a level that no caller can pass; the kernel does not even build.

        Raises:
            LevelError: always.

        Source: none; the kernel does not even build with such a level.
        """
        unsupported_level(level)

    def page_check_anon_rmap_(self, folio: Folio, vma: VmArea) -> None:
        """Look, in a kernel that is built to, whether a folio belongs into *vma*.

        The kernel compares the place in the area as well: __page_check_anon_rmap().

        Raises:
            BadPageError: It is of another family of areas.

        Source: mm/rmap.c, __page_check_anon_rmap()
        """
        if not self._kernel.config.debug_vm:
            return
        if (
            not folio.anon
            or vma.anon_vma is None
            or folio.mapping.root is not vma.anon_vma.root
        ):
            raise BadPageError(folio, "mapped where its anon_vma does not belong")

    # -- statistics ------------------------------------------------------------------

    def folio_mod_stat_(self, folio: Folio, nr: int, nr_pmdmapped: int) -> None:
        """Count so many pages more, or less, as mapped: __folio_mod_stat().

        Args:
            folio: Decides between anonymous memory, shared memory and files.
            nr: Pages that are now mapped, and were not.
            nr_pmdmapped: Pages that are now mapped by a PMD entry, and were not.

        Source: mm/rmap.c, __folio_mod_stat()
        """
        vmstat = self._kernel.vmstat
        anon = isinstance(folio.mapping, AnonVma)
        if nr:
            vmstat.lruvec_stat_mod_folio(
                "NR_ANON_MAPPED" if anon else "NR_FILE_MAPPED", nr
            )
        if nr_pmdmapped:
            if anon:
                vmstat.lruvec_stat_mod_folio("NR_ANON_THPS", nr_pmdmapped)
            elif folio.flags & PG_swapbacked:
                vmstat.mod_node_page_state("NR_SHMEM_PMDMAPPED", nr_pmdmapped)
            else:
                vmstat.mod_node_page_state("NR_FILE_PMDMAPPED", nr_pmdmapped)

    # -- add -------------------------------------------------------------------------

    def folio_add_rmap_(
        self, folio: Folio, pfn: int, nr_pages: int, vma: VmArea, level: LeafLevel
    ) -> None:
        """Count one more entry of *level*, or several of pages: __folio_add_rmap().

        Source: mm/rmap.c, __folio_add_rmap()
        """
        nr = nr_pmdmapped = 0
        self.folio_rmap_sanity_checks_(folio, pfn, nr_pages, level)
        if level is PGTABLE_LEVEL_PTE:
            nr = self._add_ptes(folio, pfn, nr_pages, vma)
        elif level is PGTABLE_LEVEL_PMD or level is PGTABLE_LEVEL_PUD:
            assert isinstance(folio, LargeFolio)
            nr, first = self._add_entire(folio, vma)
            if first and level is PGTABLE_LEVEL_PMD:
                nr_pmdmapped = folio.nr_pages
        else:
            self._unsupported_level(level)
        self.folio_mod_stat_(folio, nr, nr_pmdmapped)

    def _add_ptes(self, folio: Folio, pfn: int, nr_pages: int, vma: VmArea) -> int:
        """Count page entries; return how many pages were not mapped before."""
        if not isinstance(folio, LargeFolio):
            folio.mapcount += 1
            return int(folio.mapcount == 1)
        folio.add_mapcount(nr_pages, vma.mm)
        if not self._kernel.config.page_mapcount:
            return folio.nr_pages if folio.mapcount == nr_pages else 0
        counts = folio.page_mapcount
        newly = 0
        for page in range(pfn - folio.pfn, pfn - folio.pfn + nr_pages):
            counts[page] += 1
            newly += counts[page] == 1
        folio.nr_pages_mapped += newly
        return newly if folio.nr_pages_mapped < ENTIRELY_MAPPED else 0

    def _add_entire(self, folio: LargeFolio, vma: VmArea) -> tuple[int, bool]:
        """Count a block entry; return pages not mapped before, and if it is the first.

        The limits that the kernel has for two CPUs that count at once are never met
        here: a count is changed in one step.
        """
        folio.entire_mapcount += 1
        first = folio.entire_mapcount == 1
        folio.add_mapcount(1, vma.mm)
        if not self._kernel.config.page_mapcount:
            return folio.nr_pages if folio.mapcount == 1 else 0, first
        if not first:
            return 0, False
        folio.nr_pages_mapped += ENTIRELY_MAPPED
        mapped = folio.nr_pages_mapped & FOLIO_PAGES_MAPPED
        return max(0, folio.nr_pages - mapped), True

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
        """Map anonymous memory once more: __folio_add_anon_rmap().

        Source: mm/rmap.c, __folio_add_anon_rmap()
        """
        self.folio_add_rmap_(folio, pfn, nr_pages, vma, level)
        self.page_check_anon_rmap_(folio, vma)
        if exclusive:
            self._mark_exclusive(folio, pfn, nr_pages, level)

    def _mark_exclusive(
        self, folio: Folio, pfn: int, nr_pages: int, level: LeafLevel
    ) -> None:
        """Note that what was just mapped belongs to one process.

        Every page of page entries has a mark; a block has its first page's.

        Source: mm/rmap.c, __folio_add_anon_rmap()
        """
        if level is PGTABLE_LEVEL_PTE:
            for page in range(pfn, pfn + nr_pages):
                self.set_page_anon_exclusive(folio, page)
        elif level is PGTABLE_LEVEL_PMD:
            self.set_page_anon_exclusive(folio, pfn)
        elif level is PGTABLE_LEVEL_PUD:
            self._kernel.panic.warn_on_once(
                "__folio_add_anon_rmap", "there are no anonymous PUD blocks"
            )
        else:
            self._unsupported_level(level)

    def folio_add_file_rmap_(
        self, folio: Folio, pfn: int, nr_pages: int, vma: VmArea, level: LeafLevel
    ) -> None:
        """Map a file's pages once more: __folio_add_file_rmap().

        Source: mm/rmap.c, __folio_add_file_rmap()
        """
        self.folio_add_rmap_(folio, pfn, nr_pages, vma, level)

    def folio_add_new_anon_rmap(self, folio: Folio, vma: VmArea, address: int) -> None:
        """Map a new folio for the first time; it belongs to one process only.

        A folio as large as a block is mapped by a block entry, any other by its pages'
        entries. *address* is where its first page goes. Counts are set, not increased:
        nobody else can see them yet.

        Source: mm/rmap.c, folio_add_new_anon_rmap()
        """
        folio.mapping = vma.anon_vma
        folio.index = self.linear_page_index(vma, address)
        nr = 1 << folio.order
        nr_pmdmapped = 0
        folio.flags |= PG_swapbacked
        if not isinstance(folio, LargeFolio):
            folio.mapcount = 1
            folio.flags |= PG_anon_exclusive
        elif folio.order < self._kernel.pgtable.hpage_pmd_order:
            for page in range(nr):
                folio.exclusive[page] = 1
                if self._kernel.config.page_mapcount:
                    folio.page_mapcount[page] = 1
            if self._kernel.config.page_mapcount:
                folio.nr_pages_mapped = nr
            folio.add_mapcount(nr, vma.mm)
        else:
            folio.entire_mapcount = 1
            folio.exclusive[0] = 1
            if self._kernel.config.page_mapcount:
                folio.nr_pages_mapped = ENTIRELY_MAPPED
            folio.add_mapcount(1, vma.mm)
            nr_pmdmapped = nr
        self.folio_mod_stat_(folio, nr, nr_pmdmapped)
        self._kernel.vmstat.mod_mthp_stat(folio.order, 1)

    def folio_add_anon_rmap_pte(
        self, folio: Folio, pfn: int, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map page *pfn* of an anonymous folio once more, or again after swap.

        Source: include/linux/rmap.h, folio_add_anon_rmap_pte()
        """
        self.folio_add_anon_rmap_ptes(folio, pfn, 1, vma, exclusive=exclusive)

    def folio_add_anon_rmap_ptes(
        self, folio: Folio, pfn: int, nr: int, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map the *nr* pages of a folio from *pfn* on once more each.

        Source: mm/rmap.c, folio_add_anon_rmap_ptes()
        """
        self.folio_add_anon_rmap_(
            folio, pfn, nr, vma, PGTABLE_LEVEL_PTE, exclusive=exclusive
        )

    def folio_add_anon_rmap_pmd(
        self, folio: LargeFolio, vma: VmArea, *, exclusive: bool
    ) -> None:
        """Map all of an anonymous folio by one more block entry.

        Source: mm/rmap.c, folio_add_anon_rmap_pmd()
        """
        self.folio_add_anon_rmap_(
            folio,
            folio.pfn,
            folio.nr_pages,
            vma,
            PGTABLE_LEVEL_PMD,
            exclusive=exclusive,
        )

    def folio_add_file_rmap_pte(self, folio: Folio, pfn: int, vma: VmArea) -> None:
        """Map page *pfn* of a file's folio.

        Source: include/linux/rmap.h, folio_add_file_rmap_pte()
        """
        self.folio_add_file_rmap_ptes(folio, pfn, 1, vma)

    def folio_add_file_rmap_ptes(
        self, folio: Folio, pfn: int, nr: int, vma: VmArea
    ) -> None:
        """Map *nr* pages of a file's folio from *pfn* on.

        Source: mm/rmap.c, folio_add_file_rmap_ptes()
        """
        self.folio_add_file_rmap_(folio, pfn, nr, vma, PGTABLE_LEVEL_PTE)

    def folio_add_file_rmap_pmd(self, folio: Folio, vma: VmArea) -> None:
        """Map all of a file's folio by a PMD entry.

        Source: mm/rmap.c, folio_add_file_rmap_pmd()
        """
        self.folio_add_file_rmap_(
            folio, folio.pfn, folio.nr_pages, vma, PGTABLE_LEVEL_PMD
        )

    def folio_add_file_rmap_pud(self, folio: Folio, vma: VmArea) -> None:
        """Map all of a file's folio by a PUD entry.

        Source: mm/rmap.c, folio_add_file_rmap_pud()
        """
        self.folio_add_file_rmap_(
            folio, folio.pfn, folio.nr_pages, vma, PGTABLE_LEVEL_PUD
        )

    # -- remove ----------------------------------------------------------------------

    def folio_remove_rmap_(
        self, folio: Folio, pfn: int, nr_pages: int, vma: VmArea, level: LeafLevel
    ) -> None:
        """Count an entry of *level* less, or several of pages: __folio_remove_rmap().

        An anonymous folio of which pages are used no more, and others are, is queued
        to be split.

        Source: mm/rmap.c, __folio_remove_rmap()
        """
        nr = nr_pmdmapped = 0
        partially_mapped = False
        self.folio_rmap_sanity_checks_(folio, pfn, nr_pages, level)
        if level is PGTABLE_LEVEL_PTE:
            nr, partially_mapped = self._remove_ptes(folio, pfn, nr_pages, vma)
        elif level is PGTABLE_LEVEL_PMD or level is PGTABLE_LEVEL_PUD:
            assert isinstance(folio, LargeFolio)
            nr, last, partially_mapped = self._remove_entire(folio, vma)
            if last and level is PGTABLE_LEVEL_PMD:
                nr_pmdmapped = folio.nr_pages
            elif self._kernel.config.page_mapcount:
                partially_mapped = False  # of PUDs it is not kept track
        else:
            self._unsupported_level(level)
        if partially_mapped and folio.anon and isinstance(folio, LargeFolio):
            self._partially_mapped(folio)
        self.folio_mod_stat_(folio, -nr, -nr_pmdmapped)

    def _remove_ptes(
        self, folio: Folio, pfn: int, nr_pages: int, vma: VmArea
    ) -> tuple[int, bool]:
        """Count page entries less.

        Returns:
            How many pages are mapped no more, and whether others still are.
        """
        if not isinstance(folio, LargeFolio):
            folio.mapcount -= 1
            return int(not folio.mapcount), False
        folio.sub_mapcount(nr_pages, vma.mm)
        if not self._kernel.config.page_mapcount:
            if not folio.mapcount:
                return folio.nr_pages, False
            return 0, folio.mapcount < folio.nr_pages and not folio.entire_mapcount
        counts = folio.page_mapcount
        unmapped = 0
        for page in range(pfn - folio.pfn, pfn - folio.pfn + nr_pages):
            counts[page] -= 1
            unmapped += not counts[page]
        folio.nr_pages_mapped -= unmapped
        if folio.nr_pages_mapped >= ENTIRELY_MAPPED:
            return 0, False  # a block entry still maps them
        return unmapped, bool(unmapped and folio.nr_pages_mapped)

    def _remove_entire(self, folio: LargeFolio, vma: VmArea) -> tuple[int, bool, bool]:
        """Count a block entry less.

        Returns:
            How many pages are mapped no more, whether it was the last block entry, and
            whether some pages are still mapped and others not.
        """
        folio.sub_mapcount(1, vma.mm)
        folio.entire_mapcount -= 1
        last = not folio.entire_mapcount
        if not self._kernel.config.page_mapcount:
            if not folio.mapcount:
                return folio.nr_pages, last, False
            return 0, last, last and folio.mapcount < folio.nr_pages
        if not last:
            return 0, False, False
        folio.nr_pages_mapped -= ENTIRELY_MAPPED
        nr = max(0, folio.nr_pages - folio.nr_pages_mapped)
        return nr, True, 0 < nr < folio.nr_pages

    def folio_remove_rmap_pte(self, folio: Folio, pfn: int, vma: VmArea) -> None:
        """Take one mapping of page *pfn* away.

        Source: include/linux/rmap.h, folio_remove_rmap_pte()
        """
        self.folio_remove_rmap_ptes(folio, pfn, 1, vma)

    def folio_remove_rmap_ptes(
        self, folio: Folio, pfn: int, nr: int, vma: VmArea
    ) -> None:
        """Take one mapping of each of *nr* pages of a folio away.

        Source: mm/rmap.c, folio_remove_rmap_ptes()
        """
        self.folio_remove_rmap_(folio, pfn, nr, vma, PGTABLE_LEVEL_PTE)

    def folio_remove_rmap_pmd(self, folio: LargeFolio, vma: VmArea) -> None:
        """Take one PMD entry's mapping of all of a folio away.

        If it was the last of its kind, pages that no page entry maps are free now.

        Source: mm/rmap.c, folio_remove_rmap_pmd()
        """
        self.folio_remove_rmap_(
            folio, folio.pfn, folio.nr_pages, vma, PGTABLE_LEVEL_PMD
        )

    def folio_remove_rmap_pud(self, folio: LargeFolio, vma: VmArea) -> None:
        """Take one PUD entry's mapping of all of a folio away.

        Source: mm/rmap.c, folio_remove_rmap_pud()
        """
        self.folio_remove_rmap_(
            folio, folio.pfn, folio.nr_pages, vma, PGTABLE_LEVEL_PUD
        )

    def _partially_mapped(self, folio: LargeFolio) -> None:
        """Note that part of an anonymous folio became unused."""
        if not folio.partially_mapped:
            self._kernel.huge_memory.deferred_split_folio(folio, partially_mapped=True)

    # -- duplicate -------------------------------------------------------------------

    def folio_dup_file_rmap_(
        self, folio: Folio, pfn: int, nr_pages: int, child: VmArea, level: LeafLevel
    ) -> None:
        """Count what is mapped already once more, for a child; no statistics change.

        Source: include/linux/rmap.h, __folio_dup_file_rmap()
        """
        self.folio_rmap_sanity_checks_(folio, pfn, nr_pages, level)
        self._dup(folio, pfn, nr_pages, child, level)

    def _dup(
        self, folio: Folio, pfn: int, nr_pages: int, child: VmArea, level: LeafLevel
    ) -> None:
        """Do so for what was looked at already."""
        if level is PGTABLE_LEVEL_PTE:
            if not isinstance(folio, LargeFolio):
                folio.mapcount += 1
                return
            if self._kernel.config.page_mapcount:
                first = pfn - folio.pfn
                for page in range(first, first + nr_pages):
                    folio.page_mapcount[page] += 1
            folio.add_mapcount(nr_pages, child.mm)
        elif level is PGTABLE_LEVEL_PMD or level is PGTABLE_LEVEL_PUD:
            assert isinstance(folio, LargeFolio)
            folio.entire_mapcount += 1
            folio.add_mapcount(1, child.mm)
        else:
            self._unsupported_level(level)

    def folio_dup_file_rmap_ptes(
        self, folio: Folio, pfn: int, nr: int, child: VmArea
    ) -> None:
        """Map *nr* pages of a file's folio for a child too.

        Source: include/linux/rmap.h, folio_dup_file_rmap_ptes()
        """
        self.folio_dup_file_rmap_(folio, pfn, nr, child, PGTABLE_LEVEL_PTE)

    def folio_dup_file_rmap_pmd(self, folio: LargeFolio, child: VmArea) -> None:
        """Do so for a block. As in the kernel, pages are counted and not the block.

        Nobody notices: fork copies no block entry of a file.

        Source: include/linux/rmap.h, folio_dup_file_rmap_pmd()
        """
        self.folio_dup_file_rmap_(
            folio, folio.pfn, folio.nr_pages, child, PGTABLE_LEVEL_PTE
        )

    def folio_try_dup_anon_rmap_(
        self,
        folio: Folio,
        pfn: int,
        nr_pages: int,
        child: VmArea,
        parent: VmArea,
        level: LeafLevel,
    ) -> bool:
        """Share anonymous memory with a child: __folio_try_dup_anon_rmap().

        What was exclusive to the parent stops being so, so both sides must be
        read-only afterwards.

        Returns:
            False, and nothing has changed, if an exclusive page may be pinned.

        Source: include/linux/rmap.h, __folio_try_dup_anon_rmap()
        """
        self.folio_rmap_sanity_checks_(folio, pfn, nr_pages, level)
        maybe_pinned = self._kernel.gup.folio_needs_cow_for_dma(parent, folio)
        if not isinstance(folio, LargeFolio) and level is PGTABLE_LEVEL_PTE:
            if maybe_pinned and folio.flags & PG_anon_exclusive:
                return False
            folio.flags &= ~PG_anon_exclusive
            folio.mapcount += 1
            return True
        pages = range(pfn, pfn + (nr_pages if level is PGTABLE_LEVEL_PTE else 1))
        if maybe_pinned and any(map(folio.page_exclusive, pages)):
            return False
        for page in pages:
            self.clear_page_anon_exclusive(folio, page)
        self._dup(folio, pfn, nr_pages, child, level)
        return True

    def folio_try_dup_anon_rmap_pte(
        self, folio: Folio, pfn: int, child: VmArea, parent: VmArea
    ) -> bool:
        """Share page *pfn* with a child; false if somebody may have pinned it.

        Source: include/linux/rmap.h, folio_try_dup_anon_rmap_pte()
        """
        return self.folio_try_dup_anon_rmap_(
            folio, pfn, 1, child, parent, PGTABLE_LEVEL_PTE
        )

    def folio_try_dup_anon_rmap_ptes(
        self, folio: Folio, pfn: int, nr: int, child: VmArea, parent: VmArea
    ) -> bool:
        """Share *nr* pages with a child; false, and nothing done, if one is pinned.

        Source: include/linux/rmap.h, folio_try_dup_anon_rmap_ptes()
        """
        return self.folio_try_dup_anon_rmap_(
            folio, pfn, nr, child, parent, PGTABLE_LEVEL_PTE
        )

    def folio_try_dup_anon_rmap_pmd(
        self, folio: LargeFolio, child: VmArea, parent: VmArea
    ) -> bool:
        """Share a block with a child; false, and nothing done, if it may be pinned.

        Source: include/linux/rmap.h, folio_try_dup_anon_rmap_pmd()
        """
        return self.folio_try_dup_anon_rmap_(
            folio, folio.pfn, folio.nr_pages, child, parent, PGTABLE_LEVEL_PMD
        )

    def folio_try_share_anon_rmap(self, folio: Folio, pfn: int) -> bool:
        """Give up that page *pfn* belongs to one process; false if it may be pinned.

        For a page that is about to be unmapped: its entry, of either kind, is cleared
        and flushed already.

        Source: include/linux/rmap.h, folio_try_share_anon_rmap_pte() and
        folio_try_share_anon_rmap_pmd()
        """
        if folio.maybe_dma_pinned():
            return False
        self.clear_page_anon_exclusive(folio, pfn)
        return True

    # -- exclusive -------------------------------------------------------------------

    @staticmethod
    def set_page_anon_exclusive(folio: Folio, pfn: int) -> None:
        """Note that page *pfn* belongs to one process: SetPageAnonExclusive().

        Source: include/linux/page-flags.h, SetPageAnonExclusive()
        """
        if isinstance(folio, LargeFolio):
            folio.exclusive[pfn - folio.pfn] = 1
        else:
            folio.flags |= PG_anon_exclusive

    @staticmethod
    def clear_page_anon_exclusive(folio: Folio, pfn: int) -> None:
        """Note that page *pfn* may be shared: ClearPageAnonExclusive().

        Source: include/linux/page-flags.h, ClearPageAnonExclusive()
        """
        if isinstance(folio, LargeFolio):
            folio.exclusive[pfn - folio.pfn] = 0
        else:
            folio.flags &= ~PG_anon_exclusive
