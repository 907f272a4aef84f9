"""The translation caches of one CPU: micro-TLBs, main TLB, and a separate walk cache."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.tlbi import By

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.events import Stream
    from tlbkit.arm64.models import CpuModel, TlbGeometry
    from tlbkit.arm64.tlbi import Operation, Target
    from tlbkit.arm64.walk import Leaf, Table

GLOBAL = 0x10000
"""The tag of an entry that answers for every ASID (nG = 0)."""

_WALK_CACHE = "walk cache"
_SHIFT_BITS = 8
_TAG_BITS = 17 + _SHIFT_BITS


class Entry(NamedTuple):
    """One cached translation.

    Attributes:
        va: First virtual address that it answers for.
        pa: The physical address of that one.
        shift: log2 of the bytes that it answers for: a page, a block, or a contiguous group.
        leaf: Attributes and permissions, as they stood when it was filled.
        asid: The ASID at the fill, or `GLOBAL`.
        descriptor_pa: Where the descriptor stands that it was made from.
    """

    va: int
    pa: int
    shift: int
    leaf: Leaf
    asid: int
    descriptor_pa: int


def _key(va: int, shift: int, asid: int) -> int:
    """Return the one number that tells an entry from all others in its array."""
    return va >> shift << _TAG_BITS | asid << _SHIFT_BITS | shift


class TlbArray:
    """One TLB structure: sets of entries, the oldest use replaced first.

    Args:
        name: For people, for example ``"L1D"``.
        geometry: Sets, ways and sizes held.
    """

    __slots__ = ("asids", "geometry", "mask", "name", "sets", "shifts", "ways")

    def __init__(self, name: str, geometry: TlbGeometry) -> None:
        self.name = name
        self.geometry = geometry
        self.mask = geometry.sets - 1
        self.ways = geometry.ways
        self.sets: list[dict[int, Entry]] = [{} for _ in range(geometry.sets)]
        self.shifts: Counter[int] = Counter()
        self.asids: Counter[int] = Counter()

    def lookup(self, va: int, asid: int) -> Entry | None:
        """Return the entry that answers *va* under *asid*, and make it the youngest."""
        for shift in self.shifts:
            page = va >> shift
            ways = self.sets[page & self.mask]
            key = page << _TAG_BITS | asid << _SHIFT_BITS | shift
            entry = ways.pop(key, None)
            if entry is None and GLOBAL in self.asids:
                key = page << _TAG_BITS | GLOBAL << _SHIFT_BITS | shift
                entry = ways.pop(key, None)
            if entry is not None:
                ways[key] = entry
                return entry
        return None

    def fill(self, entry: Entry) -> Entry | None:
        """Keep *entry* as the youngest of its set; return the one it replaced, if any."""
        ways = self.sets[entry.va >> entry.shift & self.mask]
        key = _key(entry.va, entry.shift, entry.asid)
        victim = ways.pop(key, None)
        if victim is None and len(ways) >= self.ways:
            victim = ways.pop(next(iter(ways)))
        ways[key] = entry
        if victim is None:
            self.shifts[entry.shift] += 1
            self.asids[entry.asid] += 1
            return None
        if victim.shift != entry.shift or victim.asid != entry.asid:
            self.shifts[entry.shift] += 1
            self.asids[entry.asid] += 1
            self._forget(victim)
        return victim

    def drop(self, entry: Entry) -> bool:
        """Drop *entry* if it is here, as a TLB may at any time; tell whether it was."""
        ways = self.sets[entry.va >> entry.shift & self.mask]
        if ways.pop(_key(entry.va, entry.shift, entry.asid), None) is None:
            return False
        self._forget(entry)
        return True

    def __iter__(self) -> Iterator[Entry]:
        """Go over all entries, the oldest use of each set first."""
        for ways in self.sets:
            yield from ways.values()

    def __len__(self) -> int:
        """Return how many entries are held."""
        return self.asids.total()

    def invalidate(
        self, operation: Operation, target: Target, granule_shift: int
    ) -> list[Entry]:
        """Drop exactly the entries that the operation names, and return them."""
        if not self.asids:
            return []
        dropped = [
            entry
            for entry in self._candidates(operation, target)
            if _level_matches(entry.leaf.level, target, granule_shift)
        ]
        for entry in dropped:
            self.drop(entry)
        return dropped

    def _candidates(self, operation: Operation, target: Target) -> list[Entry]:
        """Return what the operation would drop if it gave no level hint."""
        if operation.by is By.ALL:
            return list(self)
        if operation.by is By.ASID:
            if target.asid not in self.asids:
                return []
            return [entry for entry in self if entry.asid == target.asid]
        tags = [
            tag
            for tag in self.asids
            if operation.any_asid or tag in (target.asid, GLOBAL)
        ]
        if not tags:
            return []
        found: list[Entry] = []
        for shift in self.shifts:
            first, last = target.first >> shift, target.last >> shift
            if last - first > len(self):
                found += [
                    entry
                    for entry in self
                    if entry.shift == shift
                    and entry.asid in tags
                    and first <= entry.va >> shift <= last
                ]
                continue
            for page in range(first, last + 1):
                ways = self.sets[page & self.mask]
                for tag in tags:
                    entry = ways.get(page << _TAG_BITS | tag << _SHIFT_BITS | shift)
                    if entry is not None:
                        found.append(entry)
        return found

    def _forget(self, entry: Entry) -> None:
        """Keep the counts of sizes and ASIDs true after *entry* has gone."""
        for counts, key in ((self.shifts, entry.shift), (self.asids, entry.asid)):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]


def _level_matches(level: int, target: Target, granule_shift: int) -> bool:
    """Tell whether a leaf at *level* is among those that a level hint lets go.

    A hint that names another granule or another level promises nothing, so the exact
    model drops nothing for it.
    """
    if target.level is None:
        return True
    return target.tg_shift == granule_shift and target.level == level


class CachedTable(NamedTuple):
    """One table descriptor in a walk cache.

    Attributes:
        asid: The ASID at the fill.
        table: The descriptor, and where it leads.
    """

    asid: int
    table: Table


class WalkCache:
    """Table descriptors met on earlier walks, which let a new walk start further down.

    It is a structure of its own: last-level invalidations leave it alone.

    Args:
        entries: How many descriptors it keeps, the oldest use replaced first.
    """

    __slots__ = ("_tables", "entries", "shifts")

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._tables: dict[tuple[int, int, int], Table] = {}
        self.shifts: list[int] = []

    def lookup(self, va: int, asid: int) -> Table | None:
        """Return the deepest table known on the way to *va* under *asid*."""
        for shift in self.shifts:
            key = (va >> shift, shift, asid)
            table = self._tables.pop(key, None)
            if table is not None:
                self._tables[key] = table
                return table
        return None

    def fill(self, table: Table, asid: int) -> CachedTable | None:
        """Keep *table* for walks under *asid*; return what it replaced, if anything."""
        if not self.entries:
            return None
        key = (table.va >> table.shift, table.shift, asid)
        victim = self._tables.pop(key, None)
        replaced = None if victim is None else CachedTable(asid, victim)
        if victim is None:
            if len(self._tables) >= self.entries:
                oldest = next(iter(self._tables))
                replaced = CachedTable(oldest[2], self._tables.pop(oldest))
            if table.shift not in self.shifts:
                self.shifts = sorted([*self.shifts, table.shift])
        self._tables[key] = table
        return replaced

    def items(self) -> Iterator[tuple[int, Table]]:
        """Go over all (ASID, table) pairs, the oldest use first."""
        for (_, _, asid), table in self._tables.items():
            yield asid, table

    def __len__(self) -> int:
        """Return how many tables are held."""
        return len(self._tables)

    def drop(self, table: Table, asid: int) -> bool:
        """Drop *table* if it is here, as a CPU may at any time; tell whether it was."""
        key = (table.va >> table.shift, table.shift, asid)
        return self._tables.pop(key, None) is not None

    def invalidate(
        self, operation: Operation, target: Target, granule_shift: int
    ) -> list[tuple[int, Table]]:
        """Drop exactly the tables that the operation names, and return them."""
        if operation.last_level or not self._tables:
            return []
        dropped = [
            (asid, table)
            for asid, table in self.items()
            if self._named(operation, target, asid, table, granule_shift)
        ]
        for asid, table in dropped:
            self.drop(table, asid)
        return dropped

    @staticmethod
    def _named(
        operation: Operation,
        target: Target,
        asid: int,
        table: Table,
        granule_shift: int,
    ) -> bool:
        if operation.by is By.ALL:
            return True
        if not operation.any_asid and asid != target.asid:
            return False
        if operation.by is By.ASID:
            return True
        if target.level is not None and (
            target.tg_shift != granule_shift or table.level > target.level
        ):
            # With a level hint the leaf is at that level: tables below it are not named.
            return False
        shift = table.shift
        return target.first >> shift <= table.va >> shift <= target.last >> shift


class Tlb:
    """All translation caches of one CPU.

    Args:
        cpu: Number of the CPU, for events.
        model: Geometry.
        events: Told of each ``fill`` and ``drop``; ``what`` is the `Entry` (or, of the
            walk cache, the `CachedTable`), ``new`` or ``old`` names the structure.
    """

    __slots__ = (
        "_cpu",
        "_events",
        "arrays",
        "granule_shift",
        "l1d",
        "l1i",
        "l2",
        "walk",
    )

    def __init__(self, cpu: int, model: CpuModel, events: Stream) -> None:
        self._cpu = cpu
        self._events = events
        self.granule_shift = model.page_shift
        self.l1i = TlbArray("L1I", model.l1i)
        self.l1d = TlbArray("L1D", model.l1d)
        self.l2 = TlbArray("L2", model.l2)
        self.arrays = (self.l1i, self.l1d, self.l2)
        self.walk = WalkCache(model.walk_cache)

    def lookup(self, va: int, asid: int, micro: TlbArray) -> Entry | None:
        """Return the entry for *va* from *micro* or, then refilling it, the main TLB."""
        entry = micro.lookup(va, asid)
        if entry is None and (entry := self.l2.lookup(va, asid)) is not None:
            self._keep(micro, entry)
        return entry

    def fill(self, entry: Entry, micro: TlbArray) -> None:
        """Keep *entry* in the main TLB and in *micro*."""
        self._keep(self.l2, entry)
        self._keep(micro, entry)

    def fill_table(self, table: Table, asid: int) -> None:
        """Keep *table* in the walk cache."""
        replaced = self.walk.fill(table, asid)
        heard = self._events.heard
        if replaced is not None and "drop" in heard:
            self._drop_event(replaced, _WALK_CACHE, "replaced")
        if "fill" in heard:
            self._events.emit(
                self._cpu, "fill", CachedTable(asid, table), new=_WALK_CACHE
            )

    def entries(self) -> list[Entry]:
        """Return each distinct translation held, in whichever structure."""
        return list(dict.fromkeys(entry for array in self.arrays for entry in array))

    def drop(self, entry: Entry, why: str = "dropped by the CPU") -> None:
        """Drop *entry* wherever it is held; a TLB may do so at any time."""
        for array in self.arrays:
            if array.drop(entry) and "drop" in self._events.heard:
                self._drop_event(entry, array.name, why)

    def invalidate(self, operation: Operation, target: Target) -> None:
        """Drop exactly what one TLBI names."""
        heard = self._events.heard
        for array in self.arrays:
            if not array.asids:
                continue
            dropped = array.invalidate(operation, target, self.granule_shift)
            if "drop" in heard:
                for entry in dropped:
                    self._drop_event(entry, array.name, operation.name)
        if operation.last_level:
            return
        tables = self.walk.invalidate(operation, target, self.granule_shift)
        if "drop" in heard:
            for asid, table in tables:
                self._drop_event(CachedTable(asid, table), _WALK_CACHE, operation.name)

    def _keep(self, array: TlbArray, entry: Entry) -> None:
        if entry.shift not in array.geometry.shifts:
            return
        victim = array.fill(entry)
        heard = self._events.heard
        if victim is not None and "drop" in heard:
            self._drop_event(victim, array.name, "replaced")
        if "fill" in heard:
            self._events.emit(self._cpu, "fill", entry, new=array.name)

    def _drop_event(self, what: Entry | CachedTable, array: str, why: str) -> None:
        self._events.emit(self._cpu, "drop", what, old=array, why=why)
