"""Entries whose pages are on their way: mm/migrate.c.

While a page must not be touched, every entry that maps it says so instead. Who faults
on such an entry waits for the page's lock.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkold,
    pte_mkuffd_wp,
    pte_none,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.mm import VM_LOCKED
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_locked
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.linux.swapops import (
    SWP_MIGRATION_READ,
    SWP_MIGRATION_WRITE,
    is_migration_entry,
    is_migration_entry_dirty,
    is_migration_entry_young,
    migration_entry_pfn,
    pte_swp_uffd_wp,
    pte_to_swp_entry,
)
from tlbkit.linux.mm.rmap.walk import TTU_RMAP_LOCKED

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import AnonVma, VmArea
    from tlbkit.linux.include.linux.swapops import SwpEntry
    from tlbkit.linux.kernel.kernel import Kernel


class Migrate:
    """Waits for migrating pages, and maps them again."""

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    def migration_entry_wait(self, entry: SwpEntry) -> None:
        """Wait until the page of *entry* is unlocked; no lock is held.

        Source: mm/migrate.c, migration_entry_wait()
        """
        pfn = migration_entry_pfn(entry)
        folio = self._kernel.page_alloc.folio_of(pfn)
        self._machine.wait(
            lambda: not folio.flags & PG_locked, f"the migration of page {pfn:#x}"
        )

    def remove_migration_ptes(
        self,
        anon_vma: AnonVma,
        first: int,
        nr: int,
        index: int,
        *,
        unused_to_zeropage: bool,
    ) -> None:
        """Map pages again wherever an entry says that they migrate.

        Args:
            anon_vma: Of the pages; it is locked.
            first: The first frame.
            nr: How many.
            index: Of the first page in its area, in pages.
            unused_to_zeropage: Map the zero page in place of a page of zeros.

        Source: mm/migrate.c, remove_migration_ptes()
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        for vma, start, end in self._kernel.rmap.rmap_walk_anon(anon_vma, index, nr):
            for pmdp, addr, until in memory.pmd_entries(vma.mm, start, end):
                found = self._kernel.pgtable_generic.pte_offset_map_lock(
                    vma.mm, pmdp, addr
                )
                if found is None:
                    continue
                ptep, ptl = found
                for at in range(addr, until, pgtable.page_size):
                    self._remove_migration_pte(
                        vma,
                        at,
                        ptep,
                        range(first, first + nr),
                        zeropage=unused_to_zeropage,
                    )
                    ptep += SLOT
                ptl.release()

    def _remove_migration_pte(
        self, vma: VmArea, addr: int, ptep: int, frames: range, *, zeropage: bool
    ) -> None:
        """Map one page again, if its entry is for one of *frames*."""
        pgtable = self._pgtable
        old = pgtable.read(ptep)
        if pte_none(old) or pte_present(old):
            return
        entry = pte_to_swp_entry(old)
        pfn = migration_entry_pfn(entry)
        if not is_migration_entry(entry) or pfn not in frames:
            return
        if (
            zeropage
            and not vma.flags & VM_LOCKED
            and self._machine.memory.is_clear(pfn)
        ):
            # The page stays out of every table, and goes with its last reference.
            pte = pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot)
            pte = pgtable.pte_mkspecial(pte)
            vma.mm.anonpages -= 1
        else:
            folio = self._kernel.page_alloc.folio_of(pfn)
            pte = pgtable.pfn_pte(pfn, vma.page_prot)
            if not is_migration_entry_young(entry):
                pte = pte_mkold(pte)
            if folio.flags & PG_dirty and is_migration_entry_dirty(entry):
                pte = pte_mkdirty(pte)
            if entry.type == SWP_MIGRATION_WRITE:
                pte = pgtable.pte_mkwrite(pte)
            folio.refcount += 1
            self._kernel.rmap.folio_add_anon_rmap_pte(
                folio, pfn, vma, exclusive=entry.type != SWP_MIGRATION_READ
            )
        if pte_swp_uffd_wp(old):
            pte = pte_mkuffd_wp(pte)
        pgtable.set_ptes(vma.mm, addr, ptep, pte, 1)

    # -- huge pages ------------------------------------------------------------------

    def unmap_and_move_huge_page(self, folio: HugetlbFolio) -> bool:
        """Move a huge page of a file to another frame of its pool; tell of success.

        The caller has a reference. Whoever shared the table that maps it is unshared,
        up to the last one, whose entry leads to the new frame in the end; the others
        find it by a fault.

        Source: mm/migrate.c, unmap_and_move_huge_page()
        """
        mapping = folio.mapping
        if folio.anon or mapping is None or not folio_trylock(folio):
            return False
        hugetlb = self._kernel.hugetlb
        new = hugetlb.alloc_migrate_hugetlb_folio(folio.hstate)
        if new is None:
            folio_unlock(self._machine, folio)
            return False
        folio_lock(self._machine, new)
        moved = False
        if mapping.i_mmap_rwsem.down_write_trylock():
            rmap = self._kernel.rmap
            if folio.mapcount:
                rmap.try_to_migrate(folio, TTU_RMAP_LOCKED)
            if not folio.mapcount:
                hugetlb.move_hugetlb_state(folio, new)
                moved = True
            self.remove_migration_ptes_hugetlb(folio, new if moved else folio)
            mapping.i_mmap_rwsem.up_write()
        folio_unlock(self._machine, new)
        folio_unlock(self._machine, folio)
        self._kernel.swap.folio_put(new)
        return moved

    def remove_migration_ptes_hugetlb(
        self, folio: HugetlbFolio, target: HugetlbFolio
    ) -> None:
        """Let every entry that waits for *folio* map *target*; the file is locked.

        Source: mm/migrate.c, remove_migration_pte()
        """
        huge = self._kernel.hugetlbpage
        hugetlb = self._kernel.hugetlb
        size = folio.hstate.size
        nr = target.nr_pages
        walk = self._kernel.rmap.rmap_walk_file(target.mapping, target.index, nr)
        for vma, addr, _ in list(walk):
            ptep = huge.huge_pte_offset(vma.mm, addr, size)
            if ptep is None:
                continue
            with hugetlb.huge_pte_lockptr(vma, ptep):
                old = huge.huge_ptep_get(ptep, size)
                entry = pte_to_swp_entry(old)
                if (
                    pte_none(old)
                    or pte_present(old)
                    or not is_migration_entry(entry)
                    or migration_entry_pfn(entry) != folio.pfn
                ):
                    continue
                write = entry.type == SWP_MIGRATION_WRITE
                pte = hugetlb.make_huge_pte(vma, target, try_mkwrite=write)
                if pte_swp_uffd_wp(old):
                    pte = pte_mkuffd_wp(pte)
                target.refcount += 1
                self._kernel.rmap.hugetlb_add_file_rmap(target, vma)
                huge.set_huge_pte_at(vma.mm, addr, ptep, pte, size)
