"""Who maps a page of a file, and how all of them are made to say when they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_mkclean,
    pte_present,
    pte_write,
    pte_wrprotect,
)
from tlbkit.linux.include.linux.mm import VM_SHARED
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_PROTECTION_PAGE
from tlbkit.linux.mm.rmap.walk import RmapWalk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea


class RmapFile(RmapWalk):
    """The walk from a folio of a file to its entries."""

    __slots__ = ()

    def rmap_walk_file(
        self, mapping: AddressSpace, index: int, nr: int
    ) -> Iterator[tuple[VmArea, int, int]]:
        """Yield where *nr* pages from *index* on of a file may be mapped.

        Each item is an area and the addresses, end not included. ``i_mmap_rwsem`` is
        held.
        """
        mapping.i_mmap_rwsem.assert_held()
        shift = self._kernel.pgtable.page_shift
        for vma in mapping.i_mmap:
            base = vma.start + (index - vma.pgoff << shift)
            start = max(base, vma.start)
            end = min(base + (nr << shift), vma.end)
            if start < end:
                yield vma, start, end

    def folio_mkclean(self, folio: Folio) -> int:
        """Write-protect a locked folio of a file wherever it is mapped shared.

        Each entry is flushed before the next is looked at. Who writes from now on
        faults, and is noticed.

        Returns:
            How many entries were dirty or writable.
        """
        mapping: AddressSpace | None = folio.mapping
        if not folio.mapcount or mapping is None:
            return 0
        cleaned = 0
        mapping.i_mmap_rwsem.down_read()
        for vma, start, end in self.rmap_walk_file(
            mapping, folio.index, folio.nr_pages
        ):
            if vma.flags & VM_SHARED:
                cleaned += self._page_vma_mkclean_one(folio, vma, start, end)
        mapping.i_mmap_rwsem.up_read()
        return cleaned

    def _page_vma_mkclean_one(
        self, folio: Folio, vma: VmArea, start: int, end: int
    ) -> int:
        """Do so in one area; return how many entries were dirty or writable."""
        kernel = self._kernel
        pgtable = kernel.pgtable
        frames = range(folio.pfn, folio.pfn + folio.nr_pages)
        cleaned = 0
        with kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_PROTECTION_PAGE, 0, vma.mm, start, end
        ):
            for pmdp, first, until in kernel.memory.pmd_entries(vma.mm, start, end):
                found = kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmdp, first)
                if found is None:
                    continue
                start_pte, ptl = found
                for addr in range(first, until, pgtable.page_size):
                    ptep = start_pte + (addr - first) // pgtable.page_size * 8
                    pte = pgtable.ptep_get(ptep)
                    if (
                        not pte_present(pte)
                        or pgtable.pte_pfn(pte) not in frames
                        or not (pte_dirty(pte) or pte_write(pte))
                    ):
                        continue
                    pte = kernel.pgtable_generic.ptep_clear_flush(vma, addr, ptep)
                    pte = pte_mkclean(pte_wrprotect(pte))
                    pgtable.set_ptes(vma.mm, addr, ptep, pte, 1)
                    cleaned += 1
                ptl.release()
        return cleaned
