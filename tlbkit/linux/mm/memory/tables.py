"""Page tables: their locks, how they are made, and the walk over PMD entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pte_none,
)
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


class MemoryTables:
    """What all of this part knows, and the tables that all of it walks."""

    __slots__ = ("_kernel", "_machine", "_memory", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._memory = kernel.machine.memory
        self._pgtable = kernel.pgtable

    # -- tables ----------------------------------------------------------------------

    def pte_lockptr(self, pmd: int) -> SpinLock:
        """Return the lock of the PTE table that the entry *pmd* points to."""
        table = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pmd))
        lock = table.mapping
        if not isinstance(lock, SpinLock):
            raise BadPageError(table, "it is taken for a page table, and is none")
        return lock

    def pmd_lockptr(self, pmdp: int) -> SpinLock:
        """Return the lock of the PMD table in which the entry at *pmdp* stands."""
        pfn = pmdp >> self._pgtable.page_shift
        lock = self._kernel.page_alloc.folio_of(pfn).mapping
        assert isinstance(lock, SpinLock)
        return lock

    @staticmethod
    def pud_lockptr(mm: MmStruct) -> SpinLock:
        """Return the lock of every PUD table of *mm*."""
        return mm.page_table_lock

    def _table_alloc(self, mm: MmStruct, entryp: int, level: int, name: str) -> bool:
        """Point an empty upper entry to a new table at *level*; false without memory.

        Source: __pmd_alloc() and __pud_alloc().
        """
        if not pte_none(self._pgtable.read(entryp)):
            return True
        table = self._kernel.page_alloc.alloc_table(name)
        if table is None:
            return False
        with mm.page_table_lock:
            if self._machine.holds("pud_present", pte_none(self._pgtable.read(entryp))):
                self._pgtable.populate(entryp, table.pfn)
                mm.pgtables[level] += 1
                return True
        self._kernel.page_alloc.free(table)  # another CPU was first
        return True

    def pmd_alloc(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PMD entry for *addr* stands, making tables; or ``None``."""
        pgtable = self._pgtable
        pmdp = pgtable.find_pmd(mm, addr)
        if pmdp is not None:
            return pmdp
        pudp = self.pud_alloc(mm, addr)
        if pudp is None or not self._table_alloc(mm, pudp, 2, "PMD table"):
            return None
        return pgtable.pmd_offset(pudp, addr)

    def pud_alloc(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PUD entry for *addr* stands, making a table; or ``None``."""
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(mm, addr)
        if not pgtable.folded_pud and not self._table_alloc(mm, pgdp, 1, "PUD table"):
            return None
        return pgtable.pud_offset(pgdp, addr)

    def pte_alloc(self, mm: MmStruct, pmdp: int) -> bool:
        """Make sure that *pmdp* points to a PTE table; false without memory."""
        if self._memory.read(pmdp):
            return True
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            return False
        if not self.pmd_install(mm, pmdp, table):
            self._kernel.page_alloc.free(table)  # another CPU was first
        return True

    def pmd_install(self, mm: MmStruct, pmdp: int, table: Folio) -> bool:
        """Point *pmdp* to a table that was set aside; false if it has one already."""
        with self.pmd_lockptr(pmdp):
            if not self._machine.holds("pmd_none", pte_none(self._pgtable.read(pmdp))):
                return False
            self._pgtable.populate(pmdp, table.pfn)
            mm.pgtables[3] += 1
        return True

    def pmd_entries(
        self, mm: MmStruct, addr: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield ``(pmdp, addr, next)`` for each PMD entry of a range that has a table.

        Upper entries that are empty are stepped over whole. The entry itself may be
        anything, also empty; callers read it.
        """
        pgtable = self._pgtable
        while addr < end:
            pgdp = pgtable.pgd_offset(mm, addr)
            if not pmd_table(pgtable.read(pgdp)):
                shift = pgtable.pud_shift if pgtable.folded_pud else pgtable.pgdir_shift
                addr = pgtable.addr_end(addr, end, shift)
                continue
            pudp = pgtable.pud_offset(pgdp, addr)
            if not pmd_table(pgtable.read(pudp)):
                addr = pgtable.addr_end(addr, end, pgtable.pud_shift)
                continue
            pmdp = pgtable.pmd_offset(pudp, addr)
            for _ in range(pgtable.ptrs_per_pte):
                following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
                yield pmdp, addr, following
                crossed = (addr ^ following) >> pgtable.pud_shift
                addr = following
                pmdp += 8
                if addr >= end or crossed:
                    break

    def pud_leaves(
        self, mm: MmStruct, addr: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield ``(pudp, addr, next)`` for each block of a range that a PUD maps."""
        pgtable = self._pgtable
        if pgtable.folded_pud:
            return
        while addr < end:
            following = pgtable.addr_end(addr, end, pgtable.pud_shift)
            pgdp = pgtable.pgd_offset(mm, addr)
            if not pmd_table(pgtable.read(pgdp)):
                following = pgtable.addr_end(addr, end, pgtable.pgdir_shift)
            else:
                pudp = pgtable.pud_offset(pgdp, addr)
                if pmd_leaf(pgtable.read(pudp)):
                    yield pudp, addr, following
            addr = following
