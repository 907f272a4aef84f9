"""What the TLBs of a machine hold, found by the descriptors that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tlbkit.arm64.cached import CachedTable
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.permission import EL0_EXECUTE, EL0_READ, EL0_WRITE
from tlbkit.arm64.tlb import WALK_CACHE
from tlbkit.arm64.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tlbkit.arm64.cached import Entry
    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.arm64.regime import Regime
    from tlbkit.arm64.walk import Memory, Table
    from tlbkit.observe.calls import Call

Key = tuple[int, "Entry | CachedTable"]
"""Names what is held: the (first) CPU of a TLB, and the item."""

SINCE_BEFORE: Final = 0
"""The step of what was filled before anybody listened."""


class Filled(NamedTuple):
    """How something got into a TLB.

    Attributes:
        step: The event, `SINCE_BEFORE` if nobody was listening yet.
        cpu: Who did it.
        calls: What was at work then.
    """

    step: int
    cpu: int
    calls: tuple[Call, ...]


class Held:
    """One item that a TLB holds, in one or more of its structures.

    Attributes:
        cpu: The (first) CPU of that TLB.
        what: The entry, or the table.
        regime: The registers under which it was filled.
        where: The structures, by name.
        filled: How it got there.
    """

    __slots__ = ("cpu", "filled", "regime", "what", "where")

    def __init__(
        self, cpu: int, what: Entry | CachedTable, regime: Regime, filled: Filled
    ) -> None:
        self.cpu = cpu
        self.what = what
        self.regime = regime
        self.filled = filled
        self.where: list[str] = []

    @property
    def asid(self) -> int:
        """The ASID under which it is found."""
        return self.what.asid

    @property
    def va(self) -> int:
        """The first address that it is for."""
        if isinstance(self.what, CachedTable):
            return self.what.table.va
        return self.what.va

    @property
    def pa(self) -> int:
        """The physical address that it leads to."""
        if isinstance(self.what, CachedTable):
            return self.what.table.pa
        return self.what.pa

    @property
    def size(self) -> int:
        """How many bytes of physical memory it reaches from there."""
        if isinstance(self.what, CachedTable):
            return 1
        return 1 << self.what.shift

    def descriptor(self, pa: int) -> int:
        """Return the descriptor at *pa*, one of its own, as it was at the fill."""
        what = self.what
        if isinstance(what, CachedTable):
            return what.table.descriptor
        leaf = what.leaf
        others = ((1 << max(what.shift, leaf.shift) - leaf.shift) - 1) << leaf.shift
        first = next(sources(what))
        return what.descriptor & ~others | (pa - first >> 3) << leaf.shift

    def __str__(self) -> str:
        """Say what it translates."""
        if isinstance(self.what, CachedTable):
            table = self.what.table
            return (
                f"level {table.level} table at {table.pa:#x} for {table.va:#x}, "
                f"asid {self.asid:#x}"
            )
        entry = self.what
        return (
            f"{entry.va:#x} -> {entry.pa:#x}, {1 << entry.shift - 10} KiB, "
            f"{rights(entry.leaf.permissions)}, asid {entry.asid:#x}"
        )

    def excess(self, memory: Memory, pa: int | None = None) -> str:
        """Return what it allows and the tables do not, in words; nothing if it is fine.

        An entry that only lacks permission is fine: whoever needs more faults. One
        whose descriptor lost its access flag allows no access that the tables forbid.

        Args:
            memory: Where the tables are.
            pa: Where the descriptor stands that changed, if only one did.
        """
        if isinstance(self.what, CachedTable):
            return self._excess_of_table(memory, self.what.table)
        for address in self._addresses(self.what, pa):
            problem = self._excess_of_entry(memory, self.what, address)
            if problem:
                return problem
        return ""

    @staticmethod
    def _addresses(entry: Entry, pa: int | None) -> Iterator[int]:
        """Yield one address for each descriptor (or for the one at *pa*)."""
        leaf = entry.leaf
        if entry.shift <= leaf.shift:
            yield entry.va
            return
        last = (1 << entry.shift - leaf.shift) - 1
        own = entry.descriptor >> leaf.shift & last
        first = entry.descriptor_pa - 8 * own
        if pa is not None and 0 <= pa - first <= 8 * last:
            yield entry.va + ((pa - first >> 3) << leaf.shift)
            return
        for n in range(last + 1):
            yield entry.va + (n << leaf.shift)

    def _excess_of_entry(self, memory: Memory, entry: Entry, va: int) -> str:
        found = walk(self.regime, memory, va)
        if isinstance(found, Fault):
            if found.kind is FaultKind.ACCESS_FLAG:
                return ""
            return f"the tables map nothing at {va:#x} any more"
        pa = found.pa + va - found.va
        if pa != entry.pa + va - entry.va:
            return f"the tables lead {va:#x} to {pa:#x}"
        more = entry.leaf.permissions & ~found.leaf.permissions_dirty
        if more:
            allowed = rights(found.leaf.permissions_dirty)
            return f"the tables allow only {allowed} at {va:#x}"
        return ""

    def _excess_of_table(self, memory: Memory, held: Table) -> str:
        tables: list[Table] = []
        walk(self.regime, memory, held.va, tables=tables)
        for table in tables:
            if table.level == held.level:
                if table.pa != held.pa:
                    return f"the tables go on at {table.pa:#x}"
                return ""
        return f"the tables have none of level {held.level} there any more"


class Holdings:
    """Everything that all TLBs hold, kept up by their events.

    What is held from the start under an ASID that nobody has any more is left out.

    Args:
        machine: Whose TLBs.
        regimes: The registers of every address space that there is.

    Attributes:
        held: All items.
        by_descriptor: What was made from the descriptor at an address.
        by_frame: Addresses of such descriptors, by the frame of their table.
    """

    __slots__ = ("_machine", "_owners", "_shift", "by_descriptor", "by_frame", "held")

    def __init__(self, machine: Machine, regimes: Iterable[Regime]) -> None:
        self._machine = machine
        self._shift = machine.model.page_shift
        self.held: dict[Key, Held] = {}
        self._owners: dict[tuple[int, int], dict[int, int]] = {}
        self.by_descriptor: dict[int, dict[Key, Held]] = {}
        self.by_frame: dict[int, set[int]] = {}
        known = {regime.asid: regime for regime in regimes}
        before = Filled(SINCE_BEFORE, 0, ())
        for tlb in machine.tlbs:
            for array in tlb.arrays:
                for entry in array:
                    self._note(tlb.cpu, array.name, entry, known, before)
            for cached in tlb.walk.items():
                self._note(tlb.cpu, WALK_CACHE, cached, known, before)

    def fill(self, event: Event, calls: tuple[Call, ...]) -> Held | None:
        """Note what was filled; return it if it was not held before."""
        number, regime = self._filler(event.cpu, event.what.asid)
        filled = Filled(event.number, number, calls)
        known = {} if regime is None else {regime.asid: regime}
        return self._note(event.cpu, event.new, event.what, known, filled)

    def drop(self, event: Event) -> Held | None:
        """Note what was dropped; return it if no structure holds it any more."""
        key = (event.cpu, event.what)
        held = self.held.get(key)
        if held is None:
            return None
        held.where.remove(event.old)
        if held.where:
            return None
        del self.held[key]
        owners = self._owners[event.cpu, event.what.asid]
        owners[held.regime.bases[0]] -= 1
        if not owners[held.regime.bases[0]]:
            del owners[held.regime.bases[0]]
        for pa in sources(event.what):
            made = self.by_descriptor[pa]
            del made[key]
            if not made:
                del self.by_descriptor[pa]
                frame = self.by_frame[pa >> self._shift]
                frame.discard(pa)
                if not frame:
                    del self.by_frame[pa >> self._shift]
        return held

    def of_others(self, cpu: int, regime: Regime) -> Held | None:
        """Return what a TLB holds under the ASID of *regime* that has other tables."""
        owners = self._owners.get((cpu, regime.asid), {})
        if not owners or tuple(owners) == (regime.bases[0],):
            return None
        return next(
            held
            for held in self.held.values()
            if (held.cpu, held.asid) == (cpu, regime.asid)
            and held.regime.bases[0] != regime.bases[0]
        )

    def _note(
        self,
        cpu: int,
        structure: str,
        what: Any,
        known: Mapping[int, Regime],
        filled: Filled,
    ) -> Held | None:
        key = (cpu, what)
        held = self.held.get(key)
        if held is not None:
            if structure not in held.where:
                held.where.append(structure)
            return None
        regime = known.get(what.asid)
        if regime is None:
            return None
        held = Held(cpu, what, regime, filled)
        held.where.append(structure)
        self.held[key] = held
        owners = self._owners.setdefault((cpu, what.asid), {})
        owners[regime.bases[0]] = owners.get(regime.bases[0], 0) + 1
        for pa in sources(what):
            self.by_descriptor.setdefault(pa, {})[key] = held
            self.by_frame.setdefault(pa >> self._shift, set()).add(pa)
        return held

    def _filler(self, cpu: int, asid: int) -> tuple[int, Regime | None]:
        """Return which CPU of a TLB translates under *asid*, and its registers."""
        last = cpu + self._machine.model.shared_tlb
        for one in self._machine.cpus[cpu:last]:
            regime = one.current
            if regime is not None and regime.asid == asid:
                return one.number, regime
        return cpu, None


def rights(permissions: int) -> str:
    """Return what user space may do, in words.

    >>> rights(EL0_READ | EL0_WRITE)
    'read and write'
    """
    names = [
        name
        for bit, name in (
            (EL0_READ, "read"),
            (EL0_WRITE, "write"),
            (EL0_EXECUTE, "execute"),
        )
        if permissions & bit
    ]
    return " and ".join(names) or "nothing for user space"


def sources(what: Entry | CachedTable) -> Iterator[int]:
    """Yield where each descriptor stands that *what* speaks for."""
    if isinstance(what, CachedTable):
        yield what.table.descriptor_pa
        return
    leaf = what.leaf
    if what.shift <= leaf.shift:
        yield what.descriptor_pa
        return
    last = (1 << what.shift - leaf.shift) - 1
    first = what.descriptor_pa - 8 * (what.descriptor >> leaf.shift & last)
    yield from range(first, first + 8 * last + 1, 8)
