"""The translation caches of one CPU: micro-TLBs, main TLB, and a separate walk cache.

They are filled together, dropped from one by one, and tell of both; what a TLBI must
drop is decided by two pure functions, `names_entry` and `names_table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.cached import GLOBAL, CachedTable, Entry
from tlbkit.arm64.tlb_array import Sizes, TlbArray, WalkCache, probe_of
from tlbkit.arm64.tlbi import OPERATIONS, By

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tlbkit.arm64.events import Stream
    from tlbkit.arm64.models import CpuModel
    from tlbkit.arm64.tlb_array import Probe
    from tlbkit.arm64.tlbi import Operation, Target
    from tlbkit.arm64.walk import Table

__all__ = [
    "GLOBAL",
    "WALK_CACHE",
    "CachedTable",
    "Entry",
    "Tlb",
    "names_entry",
    "names_table",
]

WALK_CACHE = "walk cache"
"""How events name the walk cache; the arrays are named L1I, L1D and L2."""

_EVERYTHING = OPERATIONS["VMALLE1"]


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
        overlaps = model.bbml2_noabort
        self.l1i = TlbArray("L1I", model.l1i, overlaps=overlaps)
        self.l1d = TlbArray("L1D", model.l1d, overlaps=overlaps)
        self.l2 = TlbArray("L2", model.l2, overlaps=overlaps)
        self.arrays = (self.l1i, self.l1d, self.l2)
        self.walk = WalkCache(model.walk_cache)
        self.sizes = Sizes()

    # -- filling ---------------------------------------------------------------------

    def fill(self, entry: Entry, va: int, micro: TlbArray) -> None:
        """Keep *entry*, just walked for *va*, in the main TLB and in *micro*."""
        main = self.l2
        _, _, shift, _, asid, _, _ = entry
        if shift not in main.shifts or shift not in micro.shifts:
            self.keep(main, entry, va)
            self.keep(micro, entry, va)
            return
        # The same as that, with one key for both.
        _, tag = probe = probe_of(asid, shift)
        if tag not in self.sizes.tags:
            self.note(self.sizes, asid, probe)
        key = va >> shift | tag
        victim = main.fill(entry, key)
        micro_victim = micro.fill(entry, key)
        if self._events.heard:
            self._tell_fill(entry, victim, main.name)
            self._tell_fill(entry, micro_victim, micro.name)

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

    def keep(self, array: TlbArray, entry: Entry, va: int) -> None:
        """Keep *entry*, or the largest piece around *va* that *array* can hold."""
        shift = entry.shift
        if shift not in array.shifts:
            fit = array.fit(shift)
            if fit is None:
                return
            shift = fit
            entry = entry.piece(va, shift)
            array.pieces = array.pieces or shift < entry.leaf.shift
        _, tag = probe = probe_of(entry.asid, shift)
        if tag not in self.sizes.tags:
            self.note(self.sizes, entry.asid, probe)
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

    def lose(self, why: str) -> None:
        """Drop everything, as a TLB does whose power goes."""
        for entry in self.entries():
            self.drop(entry, why)
        for cached in tuple(self.walk.items()):
            self.drop(cached, why)
        self._forget_all()

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
        asid, first, last, _, hint = target
        whole, single = operation.whole, operation.single
        probes: Iterable[Probe] = ()
        if not whole:
            any_asid = operation.any_asid
            probes = self.sizes.every() if any_asid else self.sizes.of(asid)
        told = "drop" in self._events.heard
        dropped: list[tuple[str, Entry | CachedTable]] = []
        for array in self.arrays:
            if not array.held:
                continue
            if single and not array.pieces:
                # Who is found by this key is named, but for the hint.
                for shift, tag in probes:
                    key = first >> shift | tag
                    ways = array.sets[key & array.mask]
                    held = ways.get(key)
                    if (
                        held is not None
                        and (not spared or held.descriptor_pa not in spared)
                        and (hint is None or target.fits_leaf(held.leaf.shift))
                    ):
                        del ways[key]
                        array.held -= 1
                        if told:
                            dropped.append((array.name, held))
                continue
            entries: Iterable[Entry] = array
            if not whole:
                entries = array.candidates(first, last, probes)
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
        if told and dropped:
            self._tell_drops(dropped, operation.name)

    def _forget(self, operation: Operation, target: Target) -> None:
        """Take note of what was dropped whole, by ASID or all."""
        if operation.by is By.ASID:
            self.sizes.forget(target.asid)
            self.walk.sizes.forget(target.asid)
            self._holders.get(target.asid, {}).pop(self.cpu, None)
        else:
            self._forget_all()

    def _forget_all(self) -> None:
        """Take note that nothing is held."""
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


def names_entry(operation: Operation, target: Target, entry: Entry) -> bool:
    """Tell whether a TLBI must drop *entry*."""
    asid = entry.asid
    if operation.whole:
        return operation.any_asid or asid == target.asid
    if not operation.any_asid and asid not in (target.asid, GLOBAL):
        return False
    if not target.fits_leaf(entry.leaf.shift):
        return False
    # A piece goes when any address of its block is named.
    shift = max(entry.shift, entry.leaf.shift)
    return target.first >> shift <= entry.va >> shift <= target.last >> shift


def names_table(operation: Operation, target: Target, cached: CachedTable) -> bool:
    """Tell whether a TLBI that is not last-level only must drop a cached table."""
    asid, table = cached
    if not operation.any_asid and asid != target.asid:
        return False
    if operation.whole:
        return True
    if not target.fits_table(table.shift, table.level):
        return False
    shift = table.shift
    return target.first >> shift <= table.va >> shift <= target.last >> shift
