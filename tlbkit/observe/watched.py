"""What the page tables say of some pages, kept up as descriptors change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.tlb import Entry
from tlbkit.arm64.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tlbkit.arm64.machine import Machine
    from tlbkit.arm64.memory import PhysicalMemory
    from tlbkit.arm64.regime import Regime
    from tlbkit.arm64.walk import Table

Said = tuple[tuple[Any, ...], Any]
"""A key of a state (`tlbkit.observe.recording`), and its value."""


class _Reads:
    """Memory that notes where a walk has looked."""

    __slots__ = ("_memory", "places")

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self.places: list[int] = []

    def read(self, pa: int, /) -> int:
        """The word at *pa*."""
        self.places.append(pa)
        return self._memory.read(pa)


class _Walked(NamedTuple):
    """What one walk found: the entry or the invalid descriptor, and the tables."""

    found: Entry | int | None
    tables: tuple[Table, ...]
    places: tuple[int, ...]


class Watched:
    """The watched pages of every address space that has been met.

    An address space is met when a CPU runs it. Each answer is a walk of its own through
    memory as it stands, and only a store to a descriptor that the last walk has read
    asks for another.

    Args:
        machine: Whose memory is walked.
        pages: Addresses, in every address space alike.
    """

    __slots__ = ("_machine", "_pages", "_readers", "_spaces", "_walked")

    def __init__(self, machine: Machine, pages: Iterable[int]) -> None:
        self._machine = machine
        self._pages = tuple(pages)
        self._spaces: dict[int, Regime] = {}
        self._readers: dict[int, set[tuple[int, int]]] = {}
        self._walked: dict[tuple[int, int], _Walked] = {}

    def meet(self, regime: Regime) -> Iterator[Said]:
        """Begin to watch an address space; yield what its tables say."""
        known = self._spaces.get(regime.asid)
        if not self._pages or (known and known.ttbr0 == regime.ttbr0):
            return
        self._spaces[regime.asid] = regime
        for va in self._pages:
            yield from self._walk(regime.asid, va)

    def stored(self, pa: int) -> Iterator[Said]:
        """Walk again wherever the word at *pa* was read; yield what is new."""
        for asid, va in sorted(self._readers.get(pa, ())):
            yield from self._walk(asid, va)

    def freed(self, pfn: int) -> Iterator[Said]:
        """Forget an address space whose first table was frame *pfn*."""
        place = pfn << self._machine.model.page_shift
        for asid, regime in tuple(self._spaces.items()):
            if regime.bases[0] == place:
                del self._spaces[asid]
                for va in self._pages:
                    yield from self._tell(asid, va, _Walked(None, (), ()))

    def _walk(self, asid: int, va: int) -> Iterator[Said]:
        regime = self._spaces[asid]
        memory = _Reads(self._machine.memory)
        tables: list[Table] = []
        outcome = walk(regime, memory, va, None, tables)
        found: Entry | int | None
        if isinstance(outcome, Fault):
            # Of an empty entry above the last level there is nothing to tell.
            found = self._machine.memory.read(memory.places[-1]) or None
        else:
            leaf = outcome.leaf
            found = Entry(
                outcome.va,
                outcome.pa,
                leaf.shift,
                leaf,
                asid,
                outcome.descriptor_pa,
                outcome.descriptor,
            )
        walked = _Walked(found, tuple(tables), tuple(memory.places))
        yield from self._tell(asid, va, walked)

    def _tell(self, asid: int, va: int, walked: _Walked) -> Iterator[Said]:
        """Keep the outcome of a walk, and yield what differs from the last one."""
        last = self._walked.get((asid, va), _Walked(None, (), ()))
        self._walked[asid, va] = walked
        if walked.places != last.places:
            for place in last.places:
                self._readers[place].discard((asid, va))
            for place in walked.places:
                self._readers.setdefault(place, set()).add((asid, va))
        if walked.found != last.found:
            yield ("page", asid, va), walked.found
        if walked.tables != last.tables:
            yield ("tables", asid, va), walked.tables or None
