"""What a process can read of its memory: fs/proc/task_mmu.c.

smaps adds up what an area has in memory; pagemap says what each page is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pte_dirty,
    pte_none,
    pte_present,
    pte_uffd_wp,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm_types import LargeFolio, PG_dirty, PG_swapbacked
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_GUARD,
    is_migration_entry,
    pte_marker_get,
    pte_to_swp_entry,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

PM_MMAP_EXCLUSIVE: Final = 1 << 56
PM_UFFD_WP: Final = 1 << 57
PM_GUARD_REGION: Final = 1 << 58
PM_FILE: Final = 1 << 61
PM_SWAP: Final = 1 << 62
PM_PRESENT: Final = 1 << 63
PM_PFRAME_MASK: Final = (1 << 55) - 1


@dataclass(slots=True)
class MemSizeStats:
    """What an area has in memory, in bytes: struct mem_size_stats.

    Attributes:
        resident: All of it: Rss.
        pss: Each page divided by those who map it.
        anonymous: What belongs to no file.
        referenced: What was used lately.
        shared_clean, shared_dirty, private_clean, private_dirty: By who maps it, and
            whether it was written.
        anonymous_thp, shmem_thp, file_thp: What blocks map.
        shared_hugetlb, private_hugetlb: Huge pages of pools, which are in no other sum.
        swap: What is on its way, or away.
    """

    resident: int = 0
    pss: int = 0
    anonymous: int = 0
    referenced: int = 0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    anonymous_thp: int = 0
    shmem_thp: int = 0
    file_thp: int = 0
    shared_hugetlb: int = 0
    private_hugetlb: int = 0
    swap: int = 0

    @property
    def lines(self) -> dict[str, int]:
        """The lines of the file that are about this, in KiB.

        Source: fs/proc/task_mmu.c, __show_smap()
        """
        names = {
            "Rss": self.resident,
            "Pss": self.pss,
            "Shared_Clean": self.shared_clean,
            "Shared_Dirty": self.shared_dirty,
            "Private_Clean": self.private_clean,
            "Private_Dirty": self.private_dirty,
            "Referenced": self.referenced,
            "Anonymous": self.anonymous,
            "AnonHugePages": self.anonymous_thp,
            "ShmemPmdMapped": self.shmem_thp,
            "FilePmdMapped": self.file_thp,
            "Shared_Hugetlb": self.shared_hugetlb,
            "Private_Hugetlb": self.private_hugetlb,
            "Swap": self.swap,
        }
        return {name: size >> 10 for name, size in names.items()}


class TaskMmu:
    """The files smaps and pagemap of a process."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    # -- smaps -----------------------------------------------------------------------

    def smap_gather_stats(self, vma: VmArea) -> MemSizeStats:
        """Add up what *vma* has in memory; the address space is locked for reading.

        Source: fs/proc/task_mmu.c, smap_gather_stats()
        """
        stats = MemSizeStats()
        if is_vm_hugetlb_page(vma):
            for ptep, _, pte in self._huge_entries(vma, vma.start, vma.end):
                self.smaps_hugetlb_range(stats, vma, ptep, pte)
            return stats
        for entry, addr, level_size in self._entries(vma.mm, vma.start, vma.end):
            if level_size == self._pgtable.page_size:
                self.smaps_pte_entry(stats, vma, addr, entry)
            else:
                self.smaps_pmd_entry(stats, vma, addr, entry)
        return stats

    def smaps_pte_entry(
        self, stats: MemSizeStats, vma: VmArea, addr: int, pte: int
    ) -> None:
        """Add one page entry.

        Source: fs/proc/task_mmu.c, smaps_pte_entry()
        """
        if not pte_present(pte):
            stats.swap += self._pgtable.page_size * (not pte_none(pte))
            return
        page = self._kernel.memory.vm_normal_page(vma, addr, pte)
        if page is not None:
            folio = self._kernel.page_alloc.folio_of(page)
            self.smaps_account(stats, folio, page, 1, pte)

    def smaps_pmd_entry(
        self, stats: MemSizeStats, vma: VmArea, addr: int, pmd: int
    ) -> None:
        """Add what a block entry maps.

        Source: fs/proc/task_mmu.c, smaps_pmd_entry()
        """
        if not pte_present(pmd):
            return
        page = self._kernel.memory.vm_normal_page_pmd(vma, addr, pmd)
        if page is None:
            return
        folio = self._kernel.page_alloc.folio_of(page)
        size = self._pgtable.pmd_size
        if folio.anon:
            stats.anonymous_thp += size
        elif folio.flags & PG_swapbacked:
            stats.shmem_thp += size
        else:
            stats.file_thp += size
        self.smaps_account(stats, folio, page, self._pgtable.hpage_pmd_nr, pmd)

    def smaps_account(
        self, stats: MemSizeStats, folio: Folio, page: int, nr: int, entry: int
    ) -> None:
        """Add *nr* pages of a folio that *entry* maps.

        Source: fs/proc/task_mmu.c, smaps_account()
        """
        size = self._pgtable.page_size
        dirty = pte_dirty(entry) or bool(folio.flags & PG_dirty)
        stats.resident += nr * size
        if folio.anon:
            stats.anonymous += nr * size
        if pte_young(entry):
            stats.referenced += nr * size
        for number in range(page, page + nr):
            maps, private = self._mapcount(folio, number)
            stats.pss += size // maps
            if private and dirty:
                stats.private_dirty += size
            elif private:
                stats.private_clean += size
            elif dirty:
                stats.shared_dirty += size
            else:
                stats.shared_clean += size

    # -- huge pages of pools ---------------------------------------------------------

    def smaps_hugetlb_range(
        self, stats: MemSizeStats, vma: VmArea, ptep: int, pte: int
    ) -> None:
        """Add one huge page: shared if others map it, or use the table that maps it.

        Source: fs/proc/task_mmu.c, smaps_hugetlb_range()
        """
        size = self._kernel.hugetlb.hstate_vma(vma).size
        if pte_present(pte):
            if self._hugetlb_exclusive(ptep, pte):
                stats.private_hugetlb += size
            else:
                stats.shared_hugetlb += size
        elif not pte_none(pte) and is_migration_entry(pte_to_swp_entry(pte)):
            stats.shared_hugetlb += size

    def pagemap_hugetlb_range(
        self, vma: VmArea, ptep: int, pte: int, offset: int
    ) -> int:
        """Return the word of the page at *offset*, in pages, of a huge page.

        Source: fs/proc/task_mmu.c, pagemap_hugetlb_range()
        """
        if not pte_present(pte):
            return 0
        folio = self._kernel.hugetlb.folio(pte)
        word = PM_PRESENT | (folio.pfn + offset) & PM_PFRAME_MASK
        if not folio.anon:
            word |= PM_FILE
        if self._hugetlb_exclusive(ptep, pte):
            word |= PM_MMAP_EXCLUSIVE
        if pte_uffd_wp(pte):
            word |= PM_UFFD_WP
        del vma
        return word

    def _hugetlb_exclusive(self, ptep: int, pte: int) -> bool:
        """Tell whether nobody else can reach the huge page of an entry."""
        hugetlb = self._kernel.hugetlb
        folio = hugetlb.folio(pte)
        return not folio.maybe_mapped_shared and not hugetlb.hugetlb_pmd_shared(ptep)

    def _huge_entries(
        self, vma: VmArea, start: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield where each entry of huge pages stands, its address, and what it says.

        Its table, and the area, are locked meanwhile.
        """
        hugetlb = self._kernel.hugetlb
        size = hugetlb.hstate_vma(vma).size
        hugetlb.hugetlb_vma_lock_read(vma)
        for addr, ptep in hugetlb.huge_entries(vma, start & -size, end):
            with hugetlb.huge_pte_lockptr(vma, ptep):
                yield ptep, addr, self._kernel.hugetlbpage.huge_ptep_get(ptep, size)
        hugetlb.hugetlb_vma_unlock_read(vma)

    # -- counts ----------------------------------------------------------------------

    def _mapcount(self, folio: Folio, page: int) -> tuple[int, bool]:
        """Return by how many entries a page is mapped, and whether by one process.

        Without counts for pages it is the folio's average, rounded up.
        """
        if not isinstance(folio, LargeFolio):
            maps = folio.mapcount
        elif self._kernel.config.page_mapcount:
            maps = folio.page_mapcount[page - folio.pfn] + folio.entire_mapcount
        else:
            entries = folio.mapcount - folio.entire_mapcount
            maps = -(-entries // folio.nr_pages) + folio.entire_mapcount
            return max(maps, 1), not folio.maybe_mapped_shared
        return max(maps, 1), maps < 2

    # -- pagemap ---------------------------------------------------------------------

    def pagemap_read(self, mm: MmStruct, start: int, end: int) -> list[int]:
        """Return a word for each page of [start, end); the lock is held for reading.

        Source: fs/proc/task_mmu.c, pagemap_read()
        """
        pgtable = self._pgtable
        words = dict.fromkeys(range(start, end, pgtable.page_size), 0)
        for vma in self._kernel.vma.overlapping(mm, start, end):
            first, last = max(vma.start, start), min(vma.end, end)
            if is_vm_hugetlb_page(vma):
                size = self._kernel.hugetlb.hstate_vma(vma).size
                for ptep, addr, pte in self._huge_entries(vma, first, last):
                    for at in range(
                        max(addr, first), min(addr + size, last), pgtable.page_size
                    ):
                        offset = at - addr >> pgtable.page_shift
                        words[at] = self.pagemap_hugetlb_range(vma, ptep, pte, offset)
                continue
            for entry, addr, size in self._entries(mm, first, last):
                if size == pgtable.page_size:
                    words[addr] = self.pte_to_pagemap_entry(vma, addr, entry)
                    continue
                base = addr & -pgtable.pmd_size
                for at in range(addr, min(base + size, last), pgtable.page_size):
                    words[at] = self.pmd_to_pagemap_entry(vma, at, entry)
        return list(words.values())

    def pte_to_pagemap_entry(self, vma: VmArea, addr: int, pte: int) -> int:
        """Return the word of a page entry.

        Source: fs/proc/task_mmu.c, pte_to_pagemap_entry()
        """
        if not pte_present(pte):
            if pte_none(pte):
                return 0
            guard = pte_marker_get(pte) & PTE_MARKER_GUARD
            return PM_SWAP | PM_GUARD_REGION * bool(guard)
        page = self._kernel.memory.vm_normal_page(vma, addr, pte)
        return self._word(page, self._pgtable.pte_pfn(pte), pte)

    def pmd_to_pagemap_entry(self, vma: VmArea, addr: int, pmd: int) -> int:
        """Return the word of one page of a block.

        Source: fs/proc/task_mmu.c, pagemap_pmd_range()
        """
        if not pte_present(pmd):
            return 0 if pte_none(pmd) else PM_SWAP
        offset = (addr & self._pgtable.pmd_size - 1) >> self._pgtable.page_shift
        page = self._kernel.memory.vm_normal_page_pmd(vma, addr, pmd)
        if page is not None:
            page += offset
        return self._word(page, self._pgtable.pmd_pfn(pmd) + offset, pmd)

    def _word(self, page: int | None, frame: int, entry: int) -> int:
        """Return the word of a present page, normal or not."""
        word = PM_PRESENT | frame & PM_PFRAME_MASK
        if pte_uffd_wp(entry):
            word |= PM_UFFD_WP
        if page is not None:
            folio = self._kernel.page_alloc.folio_of(page)
            if not folio.anon:
                word |= PM_FILE
            if self._mapcount(folio, page)[1]:
                word |= PM_MMAP_EXCLUSIVE
        return word

    # --------------------------------------------------------------------------------

    def _entries(
        self, mm: MmStruct, start: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield each leaf of a range, its address, and what it maps in bytes.

        The lock of its table is held meanwhile.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        for pmdp, addr, until in memory.pmd_entries(mm, start, end):
            pmd = pgtable.read(pmdp)
            if pmd_table(pmd):
                found = self._kernel.pgtable_generic.pte_offset_map_lock(mm, pmdp, addr)
                if found is None:
                    continue
                ptep, ptl = found
                try:
                    for at in range(addr, until, pgtable.page_size):
                        yield pgtable.ptep_get(ptep), at, pgtable.page_size
                        ptep += SLOT
                finally:
                    ptl.release()
            elif pmd_leaf(pmd):
                with memory.pmd_lockptr(pmdp):
                    yield pmd, addr, pgtable.pmd_size
