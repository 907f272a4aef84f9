"""What the kernel counts about pages is what its tables say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_present,
    pte_special,
)
from tlbkit.linux.include.linux.huge_mm import pmd_is_migration_entry
from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
from tlbkit.linux.include.linux.mm_types import PG_reserved
from tlbkit.linux.include.linux.swapops import (
    is_migration_entry,
    migration_entry_pfn,
    pte_to_swp_entry,
)
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.observe.calls import path
from tlbkit.observe.rules.rule import Allowance, Report, Rule, Section
from tlbkit.observe.rules.tables import LEAVES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from tlbkit.arm64.events import Event
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct
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
_POOL: Final = Allowance(
    "huge page of a pool",
    "hugetlb counts mappings and not entries, and no page of it as resident",
)

MAPCOUNT: Final = Rule(
    "mapcount",
    "The map count of a folio is the number of the entries that map it or its pages.",
    ("include/linux/mm_types.h: _mapcount, _large_mapcount, _entire_mapcount",),
    (_IN_HAND, _NO_PAGE, _POOL),
)
REFERENCES: Final = Rule(
    "references",
    "A folio has at least one reference for each entry that maps it.",
    ("mm/rmap.c and include/linux/mm.h: a mapping holds a reference",),
    (_IN_HAND, _NO_PAGE, _POOL),
)
RESIDENT: Final = Rule(
    "resident-set",
    "The resident set of an address space is the pages that its entries map.",
    ("include/linux/mm_types.h: mm->rss_stat", "mm/memory.c: add_mm_rss_vec()"),
    (
        _IN_HAND,
        _NO_PAGE,
        _POOL,
        Allowance("migrating", "a page on its way to another frame still counts"),
        Allowance("pools", "huge pages of hugetlb are counted apart"),
        Allowance(
            "foreign frames",
            "an address space that maps frames which no allocator knows is left out",
        ),
    ),
)
AT_EXIT: Final = Rule(
    "exit-counts",
    "When an address space ends, nothing is counted for it any more.",
    ("kernel/fork.c: check_mm() reports a bad rss-counter state and bytes of tables",),
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
        self._mm_in_hand: dict[int, dict[MmStruct, Event]] = {}
        self._resident: dict[MmStruct, int] = {}
        self._foreign: set[MmStruct | None] = set()
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
        if table.mm is not None:
            self._mm_in_hand.setdefault(event.cpu, {})[table.mm] = event

    def _count(self, table: Table, entry: int, by: int) -> Folio | None:
        """Count an entry, and return the folio that it maps if there is one."""
        if table.level == LEAVES:
            if not pte_present(entry):
                moving = pte_to_swp_entry(entry)
                if is_migration_entry(moving) and not isinstance(
                    self._folio(migration_entry_pfn(moving)), HugetlbFolio
                ):
                    self._reside(table, by)
                return None
            counts = self._pages
        else:
            if not pmd_leaf(entry):
                if pmd_is_migration_entry(entry):
                    huge = self._folio(migration_entry_pfn(pte_to_swp_entry(entry)))
                    if huge is not None and not isinstance(huge, HugetlbFolio):
                        self._reside(table, by * huge.nr_pages)
                return None
            counts = self._blocks
        if pte_special(entry):
            return None
        pfn = self._pfn(entry)
        folio = self._folio(pfn)
        if folio is None:
            self._foreign.add(table.mm)
            return None
        if folio.flags & PG_reserved or self._is_huge_zero(folio):
            return None
        if isinstance(folio, HugetlbFolio):
            # Mapped once by all entries of its run, and in no resident set.
            if pfn == folio.pfn:
                self._blocks[pfn] = self._blocks.get(pfn, 0) + by
            return folio
        self._reside(table, by if counts is self._pages else by * folio.nr_pages)
        counts[pfn] = counts.get(pfn, 0) + by
        if not counts[pfn]:
            del counts[pfn]
        known = self._sums.get(folio.pfn)
        if known is not None:
            self._sums[folio.pfn] = (known[0], known[1] + by)
        return folio

    def _reside(self, table: Table, pages: int) -> None:
        """Count pages in the address space of a table, once it has one."""
        table.resident += pages
        if table.mm is not None:
            self._resident[table.mm] = self._resident.get(table.mm, 0) + pages

    def hooked(self, table: Table) -> None:
        """A table hangs in an address space for the first time, with what it holds."""
        if table.mm is not None and table.resident:
            known = self._resident.get(table.mm, 0)
            self._resident[table.mm] = known + table.resident

    def _is_huge_zero(self, folio: Folio) -> bool:
        return folio is self._kernel.huge_memory.huge_zero_folio

    def _entries(self, folio: Folio) -> int:
        """Return how many entries map a folio or a page of it."""
        if isinstance(folio, HugetlbFolio):
            return self._blocks.get(folio.pfn, 0)
        known = self._sums.get(folio.pfn)
        if known is not None and known[0] is folio:
            return known[1]
        total = self._blocks.get(folio.pfn, 0) + sum(
            self._pages.get(pfn, 0)
            for pfn in range(folio.pfn, folio.pfn + folio.nr_pages)
        )
        self._sums[folio.pfn] = (folio, total)
        return total

    def released(
        self, lock: object, locks: Mapping[int, Collection[object]], event: Event
    ) -> None:
        """A lock was released; with no table locked, what was in hand is compared.

        Args:
            lock: Which.
            locks: What each CPU still holds.
            event: The release.
        """
        held = locks[event.cpu]
        if not held:
            self._check_resident(event, locks)
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
        problem = self._problem(folio)
        if problem is not None:
            rule, headline = problem
            who = (self._now(event), self._last(store))
            self._report(Report(rule, headline, event.cpu, event.number, who))

    def _problem(self, folio: Folio) -> tuple[Rule, str] | None:
        """Return which count of a folio is wrong, and how."""
        entries = self._entries(folio)
        if folio.mapcount != entries:
            rule, has = MAPCOUNT, f"a map count of {folio.mapcount}"
        elif folio.refcount < entries:
            rule, has = REFERENCES, f"{folio.refcount} references"
        else:
            return None
        return rule, f"{folio!r} has {has}, and {entries} entries map it"

    def audit(self, step: int) -> None:
        """Compare every folio and address space, when nobody is changing any."""
        pfns = {*self._pages, *self._blocks}
        folios = {folio.pfn: folio for pfn in pfns if (folio := self._folio(pfn))}
        for folio in folios.values():
            problem = self._problem(folio)
            if problem is not None:
                self._report(Report(*problem, 0, step, ()))
        for mm in self._kernel.fork.mmlist:
            wrong = self._wrong_resident(mm)
            if wrong:
                self._report(Report(RESIDENT, wrong, 0, step, ()))

    def _wrong_resident(self, mm: MmStruct) -> str:
        """Return how the resident set of *mm* is wrong; nothing if it is right."""
        counted = mm.anonpages + mm.filepages + mm.shmempages
        pages = self._resident.get(mm, 0)
        if counted == pages or mm in self._foreign:
            return ""
        return (
            f"the resident set is {counted} pages (anonymous {mm.anonpages}, file "
            f"{mm.filepages}, shmem {mm.shmempages}), and {pages} are mapped"
        )

    def _check_resident(
        self, event: Event, locks: Mapping[int, Collection[object]]
    ) -> None:
        """A CPU has no lock any more: compare the resident sets that it changed.

        Another one that has locked a table may have counted a page and not stored its
        entry yet; then it is for that one to compare.
        """
        hand = self._mm_in_hand.get(event.cpu)
        if not hand:
            return
        self._mm_in_hand[event.cpu] = {}
        for cpu, held in locks.items():
            if any(isinstance(other, SpinLock) for other in held):
                self._mm_in_hand[cpu] = hand | self._mm_in_hand.get(cpu, {})
                return
        for mm, store in hand.items():
            if any(mm in others for others in self._mm_in_hand.values()):
                continue
            wrong = self._wrong_resident(mm)
            if wrong:
                who = (self._now(event), self._last(store))
                self._report(Report(RESIDENT, wrong, event.cpu, event.number, who))

    @staticmethod
    def _last(store: Event) -> Section:
        change = f"{store.old:#x} becomes {store.new:#x} ({store.why})"
        return Section(
            f"Last changed by CPU {store.cpu} at step {store.number}",
            (f"entry at {store.what:#x}: {change}",),
        )

    @staticmethod
    def _now(event: Event) -> Section:
        return Section(f"Compared by CPU {event.cpu}", (), path(5))

    def free(self, event: Event, table: Table) -> None:
        """A table was freed: with the top one goes the address space."""
        mm = table.mm
        if table.level or mm is None:
            return
        left = {
            name: count
            for name in ("anonpages", "filepages", "shmempages", "swapents")
            if (count := getattr(mm, name))
        }
        if any(mm.pgtables):
            left["tables"] = sum(mm.pgtables)
        self._resident.pop(mm, None)
        for hand in self._mm_in_hand.values():
            hand.pop(mm, None)
        if left:
            names = ", ".join(f"{name} {count}" for name, count in left.items())
            headline = f"an address space ends, and still counts {names}"
            freed = Section(f"Freed by CPU {event.cpu}", (), path(4))
            self._report(Report(AT_EXIT, headline, event.cpu, event.number, (freed,)))

    def forget(self, pfn: int, order: int) -> None:
        """Frames change their owner."""
        for frame in range(pfn, pfn + (1 << order)):
            self._sums.pop(frame, None)
