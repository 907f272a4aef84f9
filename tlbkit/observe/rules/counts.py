"""What the kernel counts about pages is what its tables say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_present,
    pte_special,
)
from tlbkit.linux.include.linux.mm_types import PG_reserved
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.observe.calls import path
from tlbkit.observe.rules.rule import Allowance, Report, Rule, Section
from tlbkit.observe.rules.tables import LEAVES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tlbkit.arm64.events import Event
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.observe.rules.tables import Table, Tables

_IN_HAND: Final = Allowance(
    "in hand",
    "entry and count change one after the other, under the lock of the table; they are "
    "compared when that lock is released",
)
_NO_PAGE: Final = Allowance(
    "not a normal page",
    "zero pages, and frames that a driver maps (special entries), are not counted",
)

MAPCOUNT: Final = Rule(
    "mapcount",
    "The map count of a folio is the number of the entries that map it or its pages.",
    ("include/linux/mm_types.h: _mapcount, _large_mapcount, _entire_mapcount",),
    (_IN_HAND, _NO_PAGE),
)
REFERENCES: Final = Rule(
    "references",
    "A folio has at least one reference for each entry that maps it.",
    ("mm/rmap.c and include/linux/mm.h: a mapping holds a reference",),
    (_IN_HAND, _NO_PAGE),
)


class Counts:
    """Counts again what entries map, and compares."""

    def __init__(
        self, kernel: Kernel, tables: Tables, report: Callable[[Report], None]
    ) -> None:
        self._kernel = kernel
        self._pfn = kernel.pgtable.pte_pfn
        self._folio = kernel.page_alloc.folio
        self._report = report
        self._pages: dict[int, int] = {}
        self._blocks: dict[int, int] = {}
        self._sums: dict[int, tuple[Folio, int]] = {}
        self._in_hand: dict[int, dict[int, Event]] = {}
        memory = kernel.machine.memory
        for table in tables.all():
            for entry in memory.frame(table.pfn):
                if entry:
                    self._count(table, entry, 1)

    def store(self, event: Event, table: Table) -> None:
        """An entry changed: count what it maps and what it mapped."""
        hand = self._in_hand.get(event.cpu)
        if hand is None:
            hand = self._in_hand[event.cpu] = {}
        for entry, by in ((event.old, -1), (event.new, 1)):
            if entry:
                folio = self._count(table, entry, by)
                if folio is not None:
                    hand[folio.pfn] = event

    def _count(self, table: Table, entry: int, by: int) -> Folio | None:
        """Count an entry, and return the folio that it maps if there is one."""
        if table.level == LEAVES:
            if not pte_present(entry):
                return None
            counts = self._pages
        else:
            if not pmd_leaf(entry):
                return None
            counts = self._blocks
        if pte_special(entry):
            return None
        pfn = self._pfn(entry)
        folio = self._folio(pfn)
        if folio is None or folio.flags & PG_reserved or self._is_huge_zero(folio):
            return None
        counts[pfn] = counts.get(pfn, 0) + by
        if not counts[pfn]:
            del counts[pfn]
        known = self._sums.get(folio.pfn)
        if known is not None:
            self._sums[folio.pfn] = (known[0], known[1] + by)
        return folio

    def _is_huge_zero(self, folio: Folio) -> bool:
        return folio is self._kernel.huge_memory.huge_zero_folio

    def _entries(self, folio: Folio) -> int:
        """Return how many entries map a folio or a page of it."""
        known = self._sums.get(folio.pfn)
        if known is not None and known[0] is folio:
            return known[1]
        total = self._blocks.get(folio.pfn, 0) + sum(
            self._pages.get(pfn, 0)
            for pfn in range(folio.pfn, folio.pfn + folio.nr_pages)
        )
        self._sums[folio.pfn] = (folio, total)
        return total

    def released(self, lock: object, held: Iterable[object], event: Event) -> None:
        """A lock was released; with no table locked, what was in hand is compared."""
        hand = self._in_hand.get(event.cpu)
        if not hand or not isinstance(lock, SpinLock):
            return
        if any(isinstance(other, SpinLock) for other in held):
            return
        self._in_hand[event.cpu] = {}
        for pfn, store in hand.items():
            if not any(pfn in others for others in self._in_hand.values()):
                folio = self._folio(pfn)
                if folio is not None:
                    self._compare(folio, store, event)

    def _compare(self, folio: Folio, store: Event, event: Event) -> None:
        entries = self._entries(folio)
        if folio.mapcount != entries:
            rule, has = MAPCOUNT, f"a map count of {folio.mapcount}"
        elif folio.refcount < entries:
            rule, has = REFERENCES, f"{folio.refcount} references"
        else:
            return
        change = f"{store.old:#x} becomes {store.new:#x} ({store.why})"
        last = Section(
            f"Last changed by CPU {store.cpu} at step {store.number}",
            (f"entry at {store.what:#x}: {change}",),
        )
        now = Section(f"Compared by CPU {event.cpu}", (), path(4))
        headline = f"{folio!r} has {has}, and {entries} entries map it"
        self._report(Report(rule, headline, event.cpu, event.number, (now, last)))

    def forget(self, pfn: int, order: int) -> None:
        """Frames change their owner."""
        for frame in range(pfn, pfn + (1 << order)):
            self._sums.pop(frame, None)
