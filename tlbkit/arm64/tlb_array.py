"""One translation cache, and what it holds: a TLB array, or a walk cache.

A cached item is found by one number, its key: page number, ASID and size in one. Which
sizes are cached for an ASID is noted (`Sizes`), so that a look-up tries no others.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from tlbkit.arm64.cached import GLOBAL, CachedTable, Entry
from tlbkit.arm64.conflicts import TlbConflictError
from tlbkit.arm64.models import Replacement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tlbkit.arm64.models import TlbGeometry
    from tlbkit.arm64.walk import Table

# A key is the page number with a tag above it, which is the ASID and the size.
_PAGE_BITS = 52
_SHIFT_BITS = 6

Probe = tuple[int, int]
"""What a look-up tries: log2 of a size, and the tag of its keys."""


def probe_of(asid: int, shift: int) -> Probe:
    """The probe for items of ``1 << shift`` bytes that belong to *asid*."""
    return shift, (asid << _SHIFT_BITS | shift) << _PAGE_BITS


class Sizes:
    """Which sizes have been cached for each ASID since it was last forgotten.

    Attributes:
        tags: Of every probe that may find something.
    """

    __slots__ = ("_probes", "tags")

    def __init__(self) -> None:
        self.tags: set[int] = set()
        self._probes: dict[int, list[Probe]] = {GLOBAL: []}

    def of(self, asid: int) -> list[Probe]:
        """What to try for *asid*, small sizes first; the list is kept up to date."""
        probes = self._probes.get(asid)
        if probes is None:
            probes = self._probes[asid] = self._probes[GLOBAL].copy()
        return probes

    def every(self) -> set[Probe]:
        """What to try to find an address under any ASID."""
        return set().union(*self._probes.values())

    def note(self, asid: int, probe: Probe) -> None:
        """Take note that an item of *asid* is cached, a global one for every ASID."""
        self.tags.add(probe[1])
        for probes in self._probes.values() if asid == GLOBAL else (self.of(asid),):
            insort(probes, probe)

    def forget(self, asid: int) -> None:
        """Take note that nothing is cached for *asid* itself any more."""
        probes = self.of(asid)
        common = self._probes[GLOBAL]
        self.tags.difference_update(tag for _, tag in set(probes).difference(common))
        probes[:] = common

    def forget_all(self) -> None:
        """Take note that nothing is cached."""
        self.tags.clear()
        for probes in self._probes.values():
            probes.clear()


class TlbArray:
    """One TLB structure: sets of entries, and a rule which of a set is replaced.

    Args:
        name: For people and events: ``"L1I"``, ``"L1D"`` or ``"L2"``.
        geometry: Sets, ways, sizes held and replacement.
        overlaps: Two entries may answer for one address (FEAT_BBM, level 2).

    Attributes:
        held: How many entries are held.
        refills: How many were ever put in; what the PMU counts as a refill.
        pieces: Whether a piece of a larger block may be held.
        shifts: log2 of the sizes that can be held.
        sets: The entries of each set by key, the next to be replaced first.
        mask: What of a key is the number of its set.
        ways: How many entries a set has room for.
    """

    __slots__ = (
        "_fit",
        "_overlaps",
        "_promotes",
        "_random",
        "geometry",
        "held",
        "mask",
        "name",
        "pieces",
        "refills",
        "sets",
        "shifts",
        "ways",
    )

    def __init__(
        self, name: str, geometry: TlbGeometry, *, overlaps: bool = False
    ) -> None:
        self.name = name
        self.geometry = geometry
        self.shifts = geometry.shifts
        self.held = 0
        self.refills = 0
        self.pieces = False
        # One dictionary for all, as most sets of most CPUs never hold anything: `fill`
        # gives a set its own.
        self.sets: list[dict[int, Entry]] = [{}] * geometry.sets
        self.mask = geometry.sets - 1
        self.ways = geometry.ways
        self._overlaps = overlaps
        self._promotes = geometry.replacement is Replacement.LRU
        self._random = 1 if geometry.replacement is Replacement.RANDOM else 0
        self._fit: dict[int, int | None] = {}

    def lookup(self, va: int, probes: Iterable[Probe]) -> Entry | None:
        """Return the entry that answers *va*; used last, it is replaced last.

        Where entries may overlap, the smallest answers: software sees either.

        Raises:
            TlbConflictError: two entries answer, and may not.
        """
        found: Entry | None = None
        for shift, tag in probes:
            key = va >> shift | tag
            ways = self.sets[key & self.mask]
            entry = ways.get(key)
            if entry is not None:
                if found is not None:
                    if self._overlaps:
                        break
                    raise TlbConflictError(self.name, va, found, entry)
                found = entry
                if self._promotes:
                    del ways[key]
                    ways[key] = entry
        return found

    def fill(self, entry: Entry, key: int) -> Entry | None:
        """Keep *entry* as the youngest of its set; return the one it replaced."""
        self.refills += 1
        ways = self.sets[key & self.mask]
        victim = None
        if key in ways:
            victim = ways.pop(key)
        elif len(ways) < self.ways:
            self.held += 1
            if not ways:
                self.sets[key & self.mask] = ways = {}
        elif self._random:
            victim = ways.pop(self._any(ways))
        else:
            victim = ways.pop(next(iter(ways)))
        ways[key] = entry
        return victim

    def drop(self, entry: Entry) -> bool:
        """Drop *entry* if it is here; tell whether it was."""
        key = entry.va >> entry.shift | probe_of(entry.asid, entry.shift)[1]
        ways = self.sets[key & self.mask]
        held = ways.get(key)
        if held is not entry and held != entry:
            return False
        del ways[key]
        self.held -= 1
        return True

    def fit(self, shift: int) -> int | None:
        """The largest size held that is not larger than ``1 << shift``, as log2."""
        if shift not in self._fit:
            held = [size for size in self.shifts if size <= shift]
            self._fit[shift] = max(held, default=None)
        return self._fit[shift]

    def candidates(
        self, first: int, last: int, probes: Iterable[Probe]
    ) -> Iterable[Entry]:
        """Return all entries that might answer for addresses *first* to *last*."""
        if self.pieces:
            return self
        found = []
        for shift, tag in probes:
            page, final = first >> shift, last >> shift
            if final - page >= self.held:
                return self
            while page <= final:
                entry = self.sets[page & self.mask].get(page | tag)
                if entry is not None:
                    found.append(entry)
                page += 1
        return found

    def __iter__(self) -> Iterator[Entry]:
        """Go over all entries, in each set the next to be replaced first."""
        for ways in self.sets:
            yield from ways.values()

    def __len__(self) -> int:
        """Return how many entries are held."""
        return self.held

    def _any(self, ways: dict[int, Entry]) -> int:
        """The key of some entry: xorshift, so that every run is the same."""
        x = self._random
        x ^= x << 13 & 0xFFFF_FFFF
        x ^= x >> 17
        self._random = x = x ^ (x << 5 & 0xFFFF_FFFF)
        return list(ways)[x % len(ways)]


class WalkCache:
    """Table descriptors met on earlier walks, which let a new walk start further down.

    It is a structure of its own: last-level invalidations leave it alone.

    Args:
        entries: How many descriptors it keeps, the oldest use replaced first.

    Attributes:
        sizes: What is held of which ASID.
    """

    __slots__ = ("_held", "entries", "sizes")

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.sizes = Sizes()
        self._held: dict[int, CachedTable] = {}

    def lookup(self, va: int, probes: Iterable[Probe]) -> Table | None:
        """Return the deepest table known on the way to *va*."""
        for shift, tag in probes:
            key = va >> shift | tag
            cached = self._held.pop(key, None)
            if cached is not None:
                self._held[key] = cached
                return cached.table
        return None

    def fill(self, cached: CachedTable, key: int) -> CachedTable | None:
        """Keep a table; return what it replaced."""
        victim = self._held.pop(key, None)
        if victim is None and len(self._held) >= self.entries:
            victim = self._held.pop(next(iter(self._held)))
        self._held[key] = cached
        return victim

    def drop(self, cached: CachedTable) -> bool:
        """Drop a table if it is here; tell whether it was."""
        asid, table = cached
        key = table.va >> table.shift | probe_of(asid, table.shift)[1]
        if self._held.get(key) != cached:
            return False
        del self._held[key]
        return True

    def items(self) -> Iterator[CachedTable]:
        """Go over all tables, the oldest use first."""
        return iter(self._held.values())

    def __len__(self) -> int:
        """Return how many tables are held."""
        return len(self._held)
