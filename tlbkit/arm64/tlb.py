"""The translation caches of one CPU: micro-TLBs, main TLB, and a separate walk cache.

A cached item is found by one number, its key: page number, ASID and size in one. Which
sizes are cached for an ASID is noted, so a look-up tries no others, and an
invalidation passes by what cannot concern it.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.conflicts import TlbConflictError
from tlbkit.arm64.models import Replacement
from tlbkit.arm64.tlbi import OPERATIONS, By

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from tlbkit.arm64.events import Stream
    from tlbkit.arm64.leaf import Leaf
    from tlbkit.arm64.models import CpuModel, TlbGeometry
    from tlbkit.arm64.tlbi import Operation, Target
    from tlbkit.arm64.walk import Table

GLOBAL = 0x10000
"""The ASID of an entry that answers for every ASID (nG = 0)."""

WALK_CACHE = "walk cache"
"""How events name the walk cache; the arrays are named L1I, L1D and L2."""

# A key is the page number with a tag above it, which is the ASID and the size.
_PAGE_BITS = 52
_SHIFT_BITS = 6

Probe = tuple[int, int]
"""What a look-up tries: log2 of a size, and the tag of its keys."""


def probe_of(asid: int, shift: int) -> Probe:
    """The probe for items of ``1 << shift`` bytes that belong to *asid*."""
    return shift, (asid << _SHIFT_BITS | shift) << _PAGE_BITS


class Entry(NamedTuple):
    """One cached translation.

    Attributes:
        va: First virtual address that it answers for.
        pa: The physical address of that one.
        shift: log2 of the bytes that it answers for: a page, a block, a contiguous
            group, or a piece of one in an array that does not hold such sizes.
        leaf: Attributes and permissions, as they stood when it was filled.
        asid: The ASID at the fill, or `GLOBAL`.
        descriptor_pa: Where the descriptor stands that it was made from.
        descriptor: That descriptor, as the walk read it.
    """

    va: int
    pa: int
    shift: int
    leaf: Leaf
    asid: int
    descriptor_pa: int
    descriptor: int

    def piece(self, va: int, shift: int) -> Entry:
        """The ``1 << shift`` bytes around *va* of this entry, as one of its own."""
        first = va >> shift << shift
        return self._replace(va=first, pa=self.pa + first - self.va, shift=shift)


class CachedTable(NamedTuple):
    """One table descriptor in a walk cache.

    Attributes:
        asid: The ASID at the fill.
        table: The descriptor, and where it leads.
    """

    asid: int
    table: Table


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

    def __init__(self, name: str, geometry: TlbGeometry) -> None:
        self.name = name
        self.geometry = geometry
        self.shifts = geometry.shifts
        self.held = 0
        self.refills = 0
        self.pieces = False
        self.sets: list[dict[int, Entry]] = [{} for _ in range(geometry.sets)]
        self.mask = geometry.sets - 1
        self.ways = geometry.ways
        self._promotes = geometry.replacement is Replacement.LRU
        self._random = 1 if geometry.replacement is Replacement.RANDOM else 0
        self._fit: dict[int, int | None] = {}

    def lookup(self, va: int, probes: Iterable[Probe]) -> Entry | None:
        """Return the entry that answers *va*; used last, it is replaced last.

        Raises:
            TlbConflictError: two entries answer.
        """
        found: Entry | None = None
        for shift, tag in probes:
            key = va >> shift | tag
            ways = self.sets[key & self.mask]
            entry = ways.get(key)
            if entry is not None:
                if found is not None:
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
        victim = ways.pop(key, None)
        if victim is None:
            if len(ways) < self.ways:
                self.held += 1
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
        if ways.get(key) != entry:
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


class Tlb:
    """All translation caches of one CPU, or of several that share theirs.

    Args:
        cpu: Number of the (first) CPU, for events.
        model: Geometry.
        events: Told of each ``fill`` and ``drop``; ``what`` is the `Entry` (or, of the
            walk cache, the `CachedTable`), ``new`` or ``old`` names the structure.
            Replaying them from an empty TLB gives what is held.
        holders: For each ASID the TLBs that may hold something of it; shared by all
            of a machine, and kept up by each.

    Attributes:
        cpu: As given.
        l1i, l1d, l2: The micro-TLBs and the main TLB behind both.
        arrays: The three.
        walk: The walk cache.
        sizes: What the arrays hold of which ASID.
    """

    __slots__ = (
        "_events",
        "_holders",
        "_over_invalidates",
        "arrays",
        "cpu",
        "l1d",
        "l1i",
        "l2",
        "sizes",
        "walk",
    )

    def __init__(
        self,
        cpu: int,
        model: CpuModel,
        events: Stream,
        holders: dict[int, dict[int, Tlb]],
    ) -> None:
        self.cpu = cpu
        self._events = events
        self._holders = holders
        self._over_invalidates = model.over_invalidates
        self.l1i = TlbArray("L1I", model.l1i)
        self.l1d = TlbArray("L1D", model.l1d)
        self.l2 = TlbArray("L2", model.l2)
        self.arrays = (self.l1i, self.l1d, self.l2)
        self.walk = WalkCache(model.walk_cache)
        self.sizes = Sizes()

    # -- looking up and filling ------------------------------------------------------

    def refill(self, va: int, probes: Iterable[Probe], micro: TlbArray) -> Entry | None:
        """Return the main TLB's entry for *va*, and keep it in *micro* as well."""
        entry = self.l2.lookup(va, probes)
        if entry is not None:
            self._keep(micro, entry, va)
        return entry

    def fill(self, entry: Entry, va: int, micro: TlbArray) -> None:
        """Keep *entry*, just walked for *va*, in the main TLB and in *micro*."""
        main, shift = self.l2, entry.shift
        if shift not in main.shifts or shift not in micro.shifts:
            self._keep(main, entry, va)
            self._keep(micro, entry, va)
            return
        # The same as that, with one key for both.
        tag = (entry.asid << _SHIFT_BITS | shift) << _PAGE_BITS
        if tag not in self.sizes.tags:
            self.note(self.sizes, entry.asid, (shift, tag))
        key = va >> shift | tag
        for array in (main, micro):
            victim = array.fill(entry, key)
            if self._events.heard:
                self._tell_fill(entry, victim, array.name)

    def fill_table(self, table: Table, asid: int) -> None:
        """Keep *table* in the walk cache."""
        if not self.walk.entries:
            return
        shift, tag = probe = probe_of(asid, table.shift)
        if tag not in self.walk.sizes.tags:
            self.note(self.walk.sizes, asid, probe)
        cached = CachedTable(asid, table)
        victim = self.walk.fill(cached, table.va >> shift | tag)
        if self._events.heard:
            self._tell_fill(cached, victim, WALK_CACHE)

    def _keep(self, array: TlbArray, entry: Entry, va: int) -> None:
        """Keep *entry*, or the largest piece around *va* that *array* can hold."""
        shift = entry.shift
        if shift not in array.shifts:
            fit = array.fit(shift)
            if fit is None:
                return
            shift = fit
            entry = entry.piece(va, shift)
            array.pieces = array.pieces or shift < entry.leaf.shift
        tag = (entry.asid << _SHIFT_BITS | shift) << _PAGE_BITS
        if tag not in self.sizes.tags:
            self.note(self.sizes, entry.asid, (shift, tag))
        victim = array.fill(entry, va >> shift | tag)
        if self._events.heard:
            self._tell_fill(entry, victim, array.name)

    def note(self, sizes: Sizes, asid: int, probe: Probe) -> None:
        """Take note of the first item of a size and ASID, here and for broadcasts."""
        sizes.note(asid, probe)
        self._holders.setdefault(asid, {})[self.cpu] = self

    # -- dropping --------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return each distinct translation held, in whichever structure."""
        return list(dict.fromkeys(entry for array in self.arrays for entry in array))

    def answers(self, va: int, asid: int) -> list[Entry]:
        """Return each distinct entry that answers for *va*, and change nothing."""
        probes = self.sizes.of(asid)
        return list(
            dict.fromkeys(
                entry
                for array in self.arrays
                for entry in array.candidates(va, va, probes)
                if entry.asid in (asid, GLOBAL)
                and entry.va >> entry.shift == va >> entry.shift
            )
        )

    def drop(self, what: Entry | CachedTable, why: str = "dropped by the CPU") -> None:
        """Drop an entry wherever it is held, or a table; a CPU may at any time."""
        if isinstance(what, CachedTable):
            if self.walk.drop(what):
                self._tell_drops([(WALK_CACHE, what)], why)
            return
        self._tell_drops(
            [(array.name, what) for array in self.arrays if array.drop(what)], why
        )

    def invalidate(
        self, operation: Operation, target: Target, spared: Collection[int] = ()
    ) -> None:
        """Drop exactly what one TLBI names; everything, on a CPU that does so.

        Args:
            operation: The TLBI.
            target: Its operand, decoded.
            spared: Where descriptors stand whose change the TLBI did not wait for:
                what was made from them stays.
        """
        if self._over_invalidates:
            operation = _EVERYTHING
        whole = operation.by is By.ALL or operation.by is By.ASID
        probes: Iterable[Probe] = ()
        if not whole:
            any_asid = operation.any_asid
            probes = self.sizes.every() if any_asid else self.sizes.of(target.asid)
        dropped: list[tuple[str, Entry | CachedTable]] = []
        for array in self.arrays:
            if not array.held:
                continue
            entries: Iterable[Entry] = array
            if not whole:
                entries = array.candidates(target.first, target.last, probes)
            for entry in tuple(entries):
                if entry.descriptor_pa not in spared and names_entry(
                    operation, target, entry
                ):
                    array.drop(entry)
                    dropped.append((array.name, entry))
        if not operation.last_level:
            for cached in tuple(self.walk.items()):
                if cached.table.descriptor_pa not in spared and names_table(
                    operation, target, cached
                ):
                    self.walk.drop(cached)
                    dropped.append((WALK_CACHE, cached))
        if whole and not spared:
            self._forget(operation, target)
        if dropped:
            self._tell_drops(dropped, operation.name)

    def _forget(self, operation: Operation, target: Target) -> None:
        """Take note of what was dropped whole, by ASID or all."""
        if operation.by is By.ASID:
            self.sizes.forget(target.asid)
            self.walk.sizes.forget(target.asid)
            self._holders.get(target.asid, {}).pop(self.cpu, None)
            return
        self.sizes.forget_all()
        self.walk.sizes.forget_all()
        for holders in self._holders.values():
            holders.pop(self.cpu, None)
        for array in self.arrays:
            array.pieces = False

    # -- events ----------------------------------------------------------------------

    def _tell_fill(
        self,
        what: Entry | CachedTable,
        victim: Entry | CachedTable | None,
        structure: str,
    ) -> None:
        if victim is not None:
            self._tell_drops([(structure, victim)], "replaced")
        if "fill" in self._events.heard:
            self._events.emit(self.cpu, "fill", what, new=structure)

    def _tell_drops(
        self, dropped: Iterable[tuple[str, Entry | CachedTable]], why: str
    ) -> None:
        events = self._events
        if "drop" in events.heard:
            began = events.hold()
            for structure, what in dropped:
                events.emit(self.cpu, "drop", what, old=structure, why=why)
            if began:
                events.release()


_EVERYTHING = OPERATIONS["VMALLE1"]


def names_entry(operation: Operation, target: Target, entry: Entry) -> bool:
    """Tell whether a TLBI must drop *entry*."""
    by, asid = operation.by, entry.asid
    if by is By.ALL:
        return True
    if by is By.ASID:
        return asid == target.asid
    if not operation.any_asid and asid not in (target.asid, GLOBAL):
        return False
    if not target.fits_leaf(entry.leaf.shift):
        return False
    # A piece goes when any address of its block is named.
    shift = max(entry.shift, entry.leaf.shift)
    return target.first >> shift <= entry.va >> shift <= target.last >> shift


def names_table(operation: Operation, target: Target, cached: CachedTable) -> bool:
    """Tell whether a TLBI that is not last-level only must drop a cached table."""
    if operation.by is By.ALL:
        return True
    asid, table = cached
    if not operation.any_asid and asid != target.asid:
        return False
    if operation.by is By.ASID:
        return True
    if not target.fits_table(table.shift, table.level):
        return False
    shift = table.shift
    return target.first >> shift <= table.va >> shift <= target.last >> shift
