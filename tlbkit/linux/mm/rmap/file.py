"""Who maps a page of a file, and how all of them are made to say when they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
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

        Source: mm/rmap.c, rmap_walk_file()
        """
        mapping.i_mmap_rwsem.assert_held()
        shift = self._kernel.pgtable.page_shift
        for vma in mapping.i_mmap:
            base = vma.start + (index - vma.pgoff << shift)
            start = max(base, vma.start)
            end = min(base + (nr << shift), vma.end)
            if start < end:
                yield vma, start, end

    def folio_referenced(self, folio: Folio) -> int:
        """Return in how many VMAs a locked folio was used; their flags are cleared.

        Entries of single pages are not flushed: a CPU that goes on by its TLB only lets
        the folio look idle. -1 if somebody has the lock of all its VMAs for writing.

        Source: mm/rmap.c, folio_referenced()
        """
        if not folio.mapcount or folio.mapping is None:
            return 0
        lock = folio.mapping.root.lock if folio.anon else folio.mapping.i_mmap_rwsem
        if not lock.down_read_trylock():
            return -1
        walk = self.rmap_walk_anon if folio.anon else self.rmap_walk_file
        referenced = sum(
            self.folio_referenced_one(folio, vma, start, end)
            for vma, start, end in walk(folio.mapping, folio.index, folio.nr_pages)
        )
        lock.up_read()
        return referenced

    def folio_referenced_one(
        self, folio: Folio, vma: VmArea, start: int, end: int
    ) -> bool:
        """Clear the access flags of the entries of one VMA; tell whether one was set.

        Source: mm/rmap.c, folio_referenced_one(), and lru_gen_look_around() of
        mm/vmscan.c
        Deviates: a locked VMA is not told of. Only the folio's own entries are looked
        at, not their neighbours.
        """
        kernel = self._kernel
        pgtable = kernel.pgtable
        generic = kernel.pgtable_generic
        frames = range(folio.pfn, folio.pfn + folio.nr_pages)
        referenced = False
        for pmdp, first, until in kernel.memory.pmd_entries(vma.mm, start, end):
            if pmd_trans_huge(pgtable.read(pmdp)):
                with kernel.memory.pmd_lockptr(pmdp):
                    pmd = pgtable.read(pmdp)
                    if pmd_trans_huge(pmd) and pgtable.pte_pfn(pmd) == folio.pfn:
                        young = generic.pmdp_clear_flush_young(vma, first, pmdp)
                        referenced = referenced or young
                continue
            found = generic.pte_offset_map_lock(vma.mm, pmdp, first)
            if found is None:
                continue
            ptep, ptl = found
            for _ in range(first, until, pgtable.page_size):
                pte = pgtable.ptep_get(ptep)
                if pte_present(pte) and pgtable.pte_pfn(pte) in frames:
                    young = pgtable.ptep_test_and_clear_young(ptep)
                    referenced = referenced or young
                ptep += 8
            ptl.release()
        return referenced

    def folio_mkclean(self, folio: Folio) -> int:
        """Write-protect a locked folio of a file wherever it is mapped shared.

        Each entry is flushed before the next is looked at. Who writes from now on
        faults, and is noticed.

        Returns:
            How many entries were dirty or writable.

        Source: mm/rmap.c, folio_mkclean()
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
