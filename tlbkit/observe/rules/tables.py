"""Which frames hold page tables, of which level, and where they hang."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_table
from tlbkit.linux.include.linux.mm_types import PG_table
from tlbkit.linux.kernel.locking import SpinLock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.events import Event
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

LEAVES: Final = 3
"""The level of the tables whose entries can only be pages."""

_LEVELS: Final = {"PGD": 0, "PUD": 1, "PMD": 2, "PTE": LEAVES}


class Table:
    """One frame that holds a page table.

    Attributes:
        pfn: The frame.
        level: 0 for a top-level table to 3 for one of pages.
        lock: Protects its entries.
        parents: Where the entries stand that point to it.
        mm: Whose it is, or was; ``None`` if it never hung anywhere.
        unhooked: The step in which the last such entry went.
        resident: Pages that its entries map.
    """

    __slots__ = ("level", "lock", "mm", "parents", "pfn", "resident", "unhooked")

    def __init__(self, pfn: int, level: int, lock: SpinLock) -> None:
        self.pfn = pfn
        self.level = level
        self.lock = lock
        self.parents: set[int] = set()
        self.mm: MmStruct | None = None
        self.unhooked: int | None = None
        self.resident = 0


class Tables:
    """All page tables of a kernel, kept up by the stores to them."""

    __slots__ = ("_folio", "_kernel", "_shift", "_tables")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._shift = kernel.pgtable.page_shift
        self._folio = kernel.page_alloc.folio
        self._tables: dict[int, Table | None] = {}
        for mm in kernel.fork.mmlist:
            root = self.find(mm.pgd >> self._shift)
            if root is not None:
                self._hook_below(root)

    def find(self, pfn: int) -> Table | None:
        """Return the table in a frame, or ``None`` if it holds none."""
        try:
            return self._tables[pfn]
        except KeyError:
            return self._look(pfn)

    def known(self, pfn: int) -> Table | None:
        """Return the table in a frame if it was met before."""
        return self._tables.get(pfn)

    def _look(self, pfn: int) -> Table | None:
        """Return what a frame that was not met before holds."""
        folio = self._folio(pfn)
        table = None
        if folio is not None and folio.flags & PG_table:
            lock = folio.mapping
            assert isinstance(lock, SpinLock)
            level = _LEVELS.get(lock.name[:3])
            if level is not None:
                table = Table(pfn, level, lock)
            if level == 0 and table is not None:
                pgd = pfn << self._shift
                mms = [mm for mm in self._kernel.fork.mmlist if mm.pgd == pgd]
                table.mm = mms[0] if mms else None
        self._tables[pfn] = table
        return table

    def all(self) -> Iterator[Table]:
        """Go over all tables that are known."""
        return (table for table in tuple(self._tables.values()) if table is not None)

    def forget(self, pfn: int, order: int) -> None:
        """Forget frames that change their owner."""
        for frame in range(pfn, pfn + (1 << order)):
            self._tables.pop(frame, None)

    def unhook(self, event: Event) -> Table | None:
        """Note that an upper-level entry changed; return the table that it let go."""
        if not pmd_table(event.old):
            return None
        child = self.find(self.pfn(event.old))
        if child is not None and event.what in child.parents:
            child.parents.discard(event.what)
            if child.parents:  # it was shared, and is somebody else's from now on
                left = self.find(min(child.parents) >> self._shift)
                child.mm = None if left is None else left.mm
            else:
                child.unhooked = event.number
        return child

    def hook(self, table: Table, event: Event) -> Table | None:
        """Note what an upper-level entry points to; return it if it is new there."""
        if not pmd_table(event.new):
            return None
        child = self.find(self.pfn(event.new))
        if child is None:
            return None
        child.parents.add(event.what)
        child.unhooked = None
        if child.mm is table.mm:
            return None
        child.mm = table.mm
        return child

    def pfn(self, entry: int) -> int:
        """Return the frame that an entry names."""
        return self._kernel.pgtable.pte_pfn(entry)

    def _hook_below(self, table: Table) -> None:
        """Take note of all tables below *table*."""
        for child, pa in self.children(table):
            child.parents.add(pa)
            child.mm = table.mm
            self._hook_below(child)

    def children(self, table: Table) -> Iterator[tuple[Table, int]]:
        """Yield the tables that a table points to, and where it does."""
        if table.level == LEAVES:
            return
        for place, entry in enumerate(self._kernel.machine.memory.frame(table.pfn)):
            if pmd_table(entry):
                child = self.find(self.pfn(entry))
                if child is not None:
                    yield child, (table.pfn << self._shift) + 8 * place
