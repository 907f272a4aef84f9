"""What an entry promises of its page: whose it is, who holds it, whether it is written.

Entries of one table change under its lock, often by way of an invalid one. So they are
compared when the CPU that changed them has no lock of a table any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pte_dirty,
    pte_present,
    pte_special,
    pte_write,
)
from tlbkit.linux.fs.disk import DiskPages
from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
from tlbkit.linux.include.linux.mm_types import (
    PG_dirty,
    PG_reserved,
    PG_swapbacked,
    PG_swapcache,
    PG_zone_device,
)
from tlbkit.linux.include.linux.swapops import (
    is_migration_entry,
    is_migration_entry_dirty,
    pte_none_mostly,
    pte_to_swp_entry,
)
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.observe.calls import path
from tlbkit.observe.rules.rule import Allowance, Report, Rule, Section
from tlbkit.observe.rules.tables import LEAVES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from tlbkit.arm64.events import Event
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.observe.rules.tables import Table, Tables

_IN_HAND: Final = Allowance(
    "in hand",
    "an entry and what is known of its page change one after the other, under the lock "
    "of the table; they are compared when that lock is released",
)

EXCLUSIVE: Final = Rule(
    "anon-exclusive",
    "A writable entry of anonymous memory maps a page that is exclusive to it.",
    (
        "include/linux/page-flags.h: PG_anon_exclusive",
        "mm/memory.c: do_wp_page() reuses what is exclusive, and copies the rest",
    ),
    (_IN_HAND,),
)
PINNED: Final = Rule(
    "pinned-page",
    "An exclusive page that is pinned is not replaced under who pinned it.",
    (
        "Documentation/core-api/pin_user_pages.rst",
        (
            "mm/rmap.c: folio_try_share_anon_rmap_pte() fails for a page that may be "
            "pinned"
        ),
    ),
    (
        _IN_HAND,
        Allowance(
            "given up",
            "its owner may unmap it or discard it; the device keeps the page, and the "
            "address is free for another one",
        ),
        Allowance(
            "not exclusive",
            "GUP-fast may hold a page that fork is about to share, and lets go of it",
        ),
    ),
)
DIRTY: Final = Rule(
    "dirty-bit",
    "What was written stays dirty, in an entry or in its folio, until it is written "
    "out or given up; fork loses no dirty bit.",
    (
        "mm/rmap.c: who takes an entry away moves its dirty bit to the folio",
        "mm/memory.c: copy_present_ptes() keeps the bit for private memory",
    ),
    (
        _IN_HAND,
        Allowance("MADV_FREE", "who calls it gives the contents up"),
        Allowance(
            "no copy elsewhere",
            "anonymous memory that is in no swap file, and was not given up, is "
            "written before it is reclaimed, dirty or not",
        ),
        Allowance(
            "never written out",
            "pages of a pool of huge pages, and memory that is storage itself",
        ),
    ),
)


class Before(NamedTuple):
    """What stood at a place before a CPU began to change it.

    Attributes:
        entry: The descriptor.
        folio: What it mapped, if it is a page that somebody counts.
        pinned: Whether that page was exclusive and pinned.
        event: The first change.
    """

    entry: int
    folio: Folio | None
    pinned: bool
    event: Event


class Pages:
    """Watches entries against what is known of their pages."""

    def __init__(
        self, kernel: Kernel, tables: Tables, report: Callable[[Report], None]
    ) -> None:
        self._cpus = kernel.machine.cpus
        self._memory = kernel.machine.memory
        self._shift = kernel.pgtable.page_shift
        self._pfn = kernel.pgtable.pte_pfn
        self._find = kernel.page_alloc.folio
        self._huge_memory = kernel.huge_memory
        self._tables = tables
        self._report = report
        self._places: dict[int, set[int]] = {}
        self._in_hand: dict[int, dict[int, Before]] = {}
        self._calls: dict[int, str] = {}
        for table in tables.all():
            first = table.pfn << self._shift
            for n, entry in enumerate(self._memory.frame(table.pfn)):
                if entry and self._folio(table, entry) is not None:
                    self._places.setdefault(self._pfn(entry), set()).add(first + 8 * n)

    def call(self, event: Event) -> None:
        """A CPU begins a system call."""
        self._calls[event.cpu] = event.what

    def store(self, event: Event, table: Table) -> None:
        """An entry changed."""
        place, old, new = event.what, event.old, event.new
        folio = self._folio(table, old) if old else None
        hand = self._in_hand.setdefault(event.cpu, {})
        if place not in hand:
            pinned = (
                folio is not None
                and folio.anon
                and folio.maybe_dma_pinned()
                and folio.page_exclusive(self._pfn(old))
            )
            hand[place] = Before(old, folio, pinned, event)
        if folio is not None:
            self._places.get(self._pfn(old), set()).discard(place)
        if new and self._folio(table, new) is not None:
            self._places.setdefault(self._pfn(new), set()).add(place)

    def released(self, lock: object, held: Collection[object], event: Event) -> None:
        """A lock was released; with no table locked, what was in hand is compared.

        Args:
            lock: Which.
            held: What this CPU still holds.
            event: The release.
        """
        hand = self._in_hand.get(event.cpu)
        if not hand or not isinstance(lock, SpinLock):
            return
        if any(isinstance(other, SpinLock) for other in held):
            return
        self._in_hand[event.cpu] = {}
        for place, before in hand.items():
            problem = self._problem(place, before, hand, event.cpu)
            if problem is not None:
                rule, headline = problem
                change = before.event
                who = (
                    Section(f"Compared by CPU {event.cpu}", (), path(4)),
                    Section(
                        f"Changed by CPU {change.cpu} from step {change.number} on",
                        (
                            (
                                f"entry at {place:#x}: {before.entry:#x} becomes "
                                f"{self._memory.read(place):#x} ({change.why})"
                            ),
                        ),
                    ),
                )
                self._report(Report(rule, headline, event.cpu, event.number, who))

    def forget(self, pfn: int, order: int) -> None:
        """Frames change their owner: no entry maps them, and they hold no table."""
        for frame in range(pfn, pfn + (1 << order)):
            self._places.pop(frame, None)

    # -- one place -------------------------------------------------------------------

    def _problem(
        self, place: int, before: Before, hand: dict[int, Before], cpu: int
    ) -> tuple[Rule, str] | None:
        """Return which rule a change of one entry broke, and how."""
        table = self._tables.find(place >> self._shift)
        if table is None:
            return None
        entry = self._memory.read(place)
        folio = self._folio(table, entry) if entry else None
        leaves = table.level == LEAVES
        if before.pinned and self._replaced(before, entry, leaves=leaves):
            return PINNED, f"{before.folio!r} is pinned, and {entry:#x} replaces it"
        if folio is not None and folio.anon:
            problem = self._shared(folio, self._pfn(entry), cpu)
            if problem:
                return EXCLUSIVE, problem
        if before.folio is not None and pte_dirty(before.entry):
            problem = self._cleaned(before.folio, before.entry, entry, hand, cpu)
            if problem:
                return DIRTY, problem
        if folio is None or not folio.anon or pte_dirty(entry):
            return None
        page = self._pfn(entry)
        new = page != self._pfn(before.entry)
        if new and self._lost_by_fork(folio, page, table, cpu):
            problem = f"{folio!r} is dirty for the parent, and clean for the child"
            return DIRTY, problem
        return None

    def _shared(self, folio: Folio, page: int, cpu: int) -> str:
        """Say what is wrong with who may write to an anonymous page."""
        if isinstance(folio, HugetlbFolio) and page != folio.pfn:
            return ""
        exclusive = folio.page_exclusive(page)
        places = self._settled(page, cpu)
        if exclusive:
            if len(places) > 1:
                return f"{folio!r} is exclusive, and {len(places)} entries map it"
            return ""
        for place in places:
            entry = self._memory.read(place)
            if pte_write(entry):
                return f"{entry:#x} allows writes, and {folio!r} is not exclusive"
        return ""

    def _settled(self, page: int, cpu: int) -> list[int]:
        """Return where entries map a page that no other CPU is changing."""
        return [
            place
            for place in sorted(self._places.get(page, ()))
            if not any(
                place in hand for other, hand in self._in_hand.items() if other != cpu
            )
        ]

    def _replaced(self, before: Before, entry: int, *, leaves: bool) -> bool:
        """Tell whether an entry leads elsewhere, and its page is pinned still."""
        folio = before.folio
        if folio is None or pte_none_mostly(entry) or not folio.maybe_dma_pinned():
            return False
        if not leaves and pmd_table(entry):
            return False  # a huge page that is mapped by its pages now
        return not pte_present(entry) or self._pfn(entry) != self._pfn(before.entry)

    def _cleaned(
        self,
        folio: Folio,
        old: int,
        entry: int,
        hand: dict[int, Before],
        cpu: int,
    ) -> str:
        """Say how the dirty bit of an entry was lost, if it was."""
        page = self._pfn(old)
        if (
            self._find(page) is not folio
            or folio.flags & (PG_dirty | PG_zone_device)
            or isinstance(folio, HugetlbFolio)
            or any(pte_dirty(entry) for entry in self._entries(page))
        ):
            return ""
        lost = f"{old:#x} was dirty, and neither {folio!r} nor an entry is"
        if not folio.anon:
            return "" if self._on_disk(folio, page) else lost
        if not pte_present(entry) and not pte_none_mostly(entry):
            swap = pte_to_swp_entry(entry)
            kept = is_migration_entry(swap) and is_migration_entry_dirty(swap)
            return "" if kept else lost
        moved = any(
            place in hand and self._pfn(hand[place].entry) != page
            for place in self._places.get(page, ())
        )
        stays = pte_present(entry) and self._pfn(entry) == page
        if not stays and not moved:
            return ""
        given_up = not folio.flags & PG_swapbacked and self._calls.get(cpu) != "madvise"
        return lost if given_up or folio.flags & PG_swapcache else ""

    def _on_disk(self, folio: Folio, page: int) -> bool:
        """Tell whether a page of a file was written out, or is none of it any more."""
        mapping = folio.mapping
        if mapping is None or not isinstance(mapping.ops, DiskPages):
            return mapping is None
        index = folio.index + page - folio.pfn
        block = mapping.ops.blocks.get(mapping.host, {}).get(index)
        return block is not None and block == self._memory.frame(page)

    def _lost_by_fork(self, folio: Folio, page: int, child: Table, cpu: int) -> bool:
        """Tell whether an entry of the parent is dirty, and its copy is not.

        The parent is the one whose address space this CPU has locked for writing. Who
        shared the page before may know better: MADV_FREE cleans only its caller's
        entry of a small folio.
        """
        if folio.flags & PG_dirty or isinstance(folio, HugetlbFolio):
            return False
        core = self._cpus[cpu]
        return any(
            pte_dirty(self._memory.read(place))
            for place in self._places.get(page, ())
            if (table := self._tables.find(place >> self._shift))
            and table.mm is not None
            and table.mm is not child.mm
            and table.mm.mmap_lock.written_by(core)
        )

    def _entries(self, page: int) -> Iterator[int]:
        return map(self._memory.read, self._places.get(page, ()))

    def _folio(self, table: Table, entry: int) -> Folio | None:
        """Return what an entry maps, if it is a page that is somebody's."""
        if table.level == LEAVES:
            if not pte_present(entry):
                return None
        elif not pmd_leaf(entry):
            return None
        if pte_special(entry):
            return None
        folio = self._find(self._pfn(entry))
        if (
            folio is None
            or folio.flags & PG_reserved
            or folio is self._huge_memory.huge_zero_folio
        ):
            return None
        return folio
