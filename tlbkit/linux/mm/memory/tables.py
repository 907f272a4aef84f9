"""Page tables: their locks, how they are made, and the walk over PMD entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_none,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM
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
        """Return the lock of the PTE table that the entry *pmd* points to.

        Source: include/linux/mm.h, pte_lockptr()
        """
        table = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pmd))
        lock = table.mapping
        if not isinstance(lock, SpinLock):
            raise BadPageError(table, "it is taken for a page table, and is none")
        return lock

    def pmd_lockptr(self, pmdp: int) -> SpinLock:
        """Return the lock of the PMD table in which the entry at *pmdp* stands.

        Source: include/linux/mm.h, pmd_lockptr()
        """
        pfn = pmdp >> self._pgtable.page_shift
        lock = self._kernel.page_alloc.folio_of(pfn).mapping
        assert isinstance(lock, SpinLock)
        return lock

    @staticmethod
    def pud_lockptr(mm: MmStruct) -> SpinLock:
        """Return the lock of every PUD table of *mm*.

        Source: include/linux/mm.h, pud_lockptr()
        """
        return mm.page_table_lock

    def pud_alloc_(self, mm: MmStruct, p4dp: int) -> int:
        """Point an empty top-level entry to a new PUD table; 0 or ``-ENOMEM``.

        Source: mm/memory.c, __pud_alloc()
        """
        new = self._kernel.page_alloc.alloc_table("PUD table")
        if new is None:
            return -ENOMEM
        with mm.page_table_lock:
            empty = pte_none(self._pgtable.read(p4dp))
            empty = self._machine.holds("p4d_present", empty)
            if empty:
                mm.pgtables[1] += 1
                self._pgtable.p4d_populate(p4dp, new.pfn)
        if not empty:
            self._kernel.page_alloc.free(new)  # another CPU has populated it
        return 0

    def pmd_alloc_(self, mm: MmStruct, pudp: int) -> int:
        """Point an empty PUD entry to a new PMD table; 0 or ``-ENOMEM``.

        Source: mm/memory.c, __pmd_alloc()
        """
        new = self._kernel.page_alloc.alloc_table("PMD table")
        if new is None:
            return -ENOMEM
        with self.pud_lockptr(mm):
            empty = pte_none(self._pgtable.read(pudp))
            empty = self._machine.holds("pud_present", empty)
            if empty:
                mm.pgtables[2] += 1
                self._pgtable.pud_populate(pudp, new.pfn)
        if not empty:
            self._kernel.page_alloc.free(new)  # another CPU has populated it
        return 0

    def pmd_alloc(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PMD entry for *addr* stands, making tables; or ``None``.

        Source: include/linux/mm.h, pmd_alloc()
        Deviates: It begins at the top, and so makes the PUD table too.
        """
        pgtable = self._pgtable
        pmdp = pgtable.find_pmd(mm, addr)
        if pmdp is not None:
            return pmdp
        pudp = self.pud_alloc(mm, addr)
        if pudp is None:
            return None
        if pte_none(pgtable.read(pudp)) and self.pmd_alloc_(mm, pudp):
            return None
        return pgtable.pmd_offset(pudp, addr)

    def pud_alloc(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PUD entry for *addr* stands, making a table; or ``None``.

        Source: include/linux/mm.h, pud_alloc()
        Deviates: It begins at the top.
        """
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(mm, addr)
        if (
            not pgtable.folded_pud
            and pte_none(pgtable.read(pgdp))
            and self.pud_alloc_(mm, pgdp)
        ):
            return None
        return pgtable.pud_offset(pgdp, addr)

    def pte_alloc(self, mm: MmStruct, pmdp: int) -> bool:
        """Make sure that *pmdp* points to a PTE table; false without memory.

        Source: include/linux/mm.h, pte_alloc()
        """
        if self._memory.read(pmdp):
            return True
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            return False
        if not self.pmd_install(mm, pmdp, table):
            self._kernel.page_alloc.free(table)  # another CPU was first
        return True

    def pmd_install(self, mm: MmStruct, pmdp: int, table: Folio) -> bool:
        """Point *pmdp* to a table that was set aside; false if it has one already.

        Source: mm/memory.c, pmd_install()
        """
        with self.pmd_lockptr(pmdp):
            if not self._machine.holds("pmd_none", pte_none(self._pgtable.read(pmdp))):
                return False
            mm.pgtables[3] += 1
            self._pgtable.pmd_populate(pmdp, table.pfn)
        return True

    def pmd_entries(
        self, mm: MmStruct, addr: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield ``(pmdp, addr, next)`` for each PMD entry of a range that has a table.

        Upper entries that are empty are stepped over whole. The entry itself may be
        anything, also empty; callers read it.

        Source: none; it is the loops over the upper tables that each walk of the kernel
        has.
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
                pmdp += SLOT
                if addr >= end or crossed:
                    break
