"""How often a whole trace of accesses hits in each TLB.

`replay` makes the accesses one after the other on a CPU, as `Cpu.translate` would, and
leaves its TLBs as that would. `count` answers the same for a CPU whose TLBs are empty,
without making the accesses: with LRU replacement, whether one hits depends only on how
many others came between it and the last one like it. That can be asked of all accesses
of a NumPy array at once.

Nobody may change the tables meanwhile, but for what the accesses themselves do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlbkit.arm64.descriptor import MASK64
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.granule import LAST_LEVEL
from tlbkit.arm64.lru import lru_hits
from tlbkit.arm64.models import Replacement
from tlbkit.arm64.permission import ANY_EXECUTE, EL0_READ
from tlbkit.arm64.tlb_array import probe_of
from tlbkit.arm64.walk import Table, Translation, walk
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tlbkit.arm64.cached import Entry
    from tlbkit.arm64.cpu import Cpu
    from tlbkit.arm64.leaf import Leaf
    from tlbkit.arm64.regime import Regime
    from tlbkit.arm64.tlb_array import Probe, TlbArray

    Flags = NDArray[np.bool_]
    Positions = NDArray[np.int64]

UNIT_SHIFT = 12
"""Addresses within 4 KiB have one translation, whatever the granule."""

_PAGE_BITS = 52
# Bits of a descriptor on which leaf and fault depend: all but address bits 31:12, which
# any output size has room for.
_MATTERS = np.uint64(MASK64 & ~0xFFFF_F000)


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the accesses of a trace.

    Attributes:
        accesses: How many there were.
        l1_hits: Answered by the micro-TLB, if only with a permission fault.
        l2_hits: Answered by the main TLB.
        faults: Refused, whoever answered.
    """

    accesses: int
    l1_hits: int
    l2_hits: int
    faults: int

    @property
    def walks(self) -> int:
        """How many no TLB could answer."""
        return self.accesses - self.l1_hits - self.l2_hits


# -- one by one ------------------------------------------------------------------------


def replay(cpu: Cpu, vas: Iterable[int], need: int = EL0_READ) -> Counts:
    """Make the accesses to *vas* one by one on *cpu*, and count.

    Args:
        cpu: Its TLBs may hold something before, and hold what they hold afterwards.
        vas: Virtual addresses.
        need: The access bit of all accesses.

    While nobody listens and all are plain pages, a walk goes on from the last table,
    as from a walk cache with room for all: its own does not age by these accesses.
    """
    rest = iter(vas)
    hits = [0, 0, 0]  # by level; at 0 what no TLB could answer
    faults = 0
    odd: list[int] = []
    if _is_plain(cpu, need):
        faults, odd = _replay_plain(cpu, rest, need, hits)
    for va in chain(odd, rest):
        hits[_level(cpu, va, need)] += 1
        faults += isinstance(cpu.translate(va, need), Fault)
    return Counts(sum(hits), hits[1], hits[2], faults)


def _arrays(cpu: Cpu, need: int) -> tuple[TlbArray, TlbArray]:
    """The micro-TLB and the main TLB that accesses *need* go through."""
    tlb = cpu.tlb
    return (tlb.l1i if need & ANY_EXECUTE else tlb.l1d), tlb.l2


def _level(cpu: Cpu, va: int, need: int) -> int:
    """Which TLB answers an access, 0 for none; it is made young, as by the access."""
    regime = cpu.regime
    if regime.refusal(va, need) is None:
        probes = cpu.tlb.sizes.of(regime.asid)
        name = regime.canonical(va)
        for level, array in enumerate(_arrays(cpu, need), start=1):
            if array.lookup(name, probes) is not None:
                return level
    return 0


def _plain_probe(cpu: Cpu) -> Probe:
    """How pages of the lower half are found."""
    granule = cpu.regime.halves[0].granule
    return probe_of(cpu.regime.asid, granule.page_shift if granule else UNIT_SHIFT)


def _is_plain(cpu: Cpu, need: int) -> bool:
    """Whether a look-up is one look at each TLB, and nobody notices a short cut."""
    regime = cpu.regime
    probe = _plain_probe(cpu)
    micro, main = _arrays(cpu, need)
    entries = [item for ways in micro.sets for item in ways.items()]
    return not (
        cpu.machine.events.heard
        or micro.mask
        or any(half.forbidden & need for half in regime.halves)
        or any(other != probe for other in cpu.tlb.sizes.of(regime.asid))
        or any(
            array.geometry.replacement is not Replacement.LRU for array in (micro, main)
        )
        or any(probe[0] not in array.shifts for array in (micro, main))
        or any(_awaits_dirty(entry.leaf, need) for entry in (*micro, *main))
        or any(main.sets[key & main.mask].get(key, one) != one for key, one in entries)
    )


def _awaits_dirty(leaf: Leaf, need: int) -> bool:
    """Whether an access has hardware set the dirty state first."""
    return bool(leaf.permissions_dirty & ~leaf.permissions & need)


def _replay_plain(
    cpu: Cpu, vas: Iterator[int], need: int, hits: list[int]
) -> tuple[int, list[int]]:
    """Make accesses up to the first that is to something else than a plain page.

    Returns:
        How many of them faulted, and the access that ended it, if one did.
    """
    micro, main = _arrays(cpu, need)
    shift, tag = _plain_probe(cpu)
    before = dict(item for ways in micro.sets + main.sets for item in ways.items())
    # Of each entry a leaf, under its page number: little, so that it stays in the
    # caches of the host. (Keys of other ASIDs are not small.) Of what is held already
    # the leaf is a copy, by which it is known from what is walked for.
    old = {key: replace(entry.leaf) for key, entry in before.items()}
    (near,), far = (
        [{key ^ tag: old[key] for key in ways} for ways in array.sets]
        for array in (micro, main)
    )
    tables = _LastTables(cpu, need)
    index_bits, last, matters = tables.index_bits, tables.last, tables.matters
    spare, far_ways, far_mask = micro.ways - len(near), main.ways, main.mask
    some_refuse = any(not leaf.permissions & need for leaf in old.values())
    odd: list[int] = []
    near_hits = far_hits = refills = faults = 0
    for va in vas:
        page = va >> shift
        leaf = near.pop(page, None)
        if leaf is None:
            ways = far[page & far_mask]
            leaf = ways.pop(page, None)
            if leaf is None:
                try:
                    words, leaves = tables[page >> index_bits]
                    leaf = leaves[words[page & last] & matters]
                except KeyError:
                    leaf = tables.learn(va)
                    if leaf is None:
                        odd.append(va)
                        break
                    some_refuse = some_refuse or not leaf.permissions & need
                if len(ways) >= far_ways:
                    for oldest in ways:
                        del ways[oldest]
                        break
            else:
                far_hits += 1
            ways[page] = leaf
            refills += 1
            if refills > spare:
                for oldest in near:
                    del near[oldest]
                    break
        else:
            near_hits += 1
        near[page] = leaf
        if some_refuse and not leaf.permissions & need:
            faults += 1
    walks = refills - far_hits
    for level, number in enumerate((walks, near_hits, far_hits)):
        hits[level] += number
    if walks and tag not in cpu.tlb.sizes.tags:
        cpu.tlb.note(cpu.tlb.sizes, cpu.regime.asid, (shift, tag))
    for array, kept, new in ((micro, [near], refills), (main, far, walks)):
        array.refills += new
        array.held = sum(map(len, kept))
        array.sets = [
            {
                (key := page ^ tag): before[key]
                if old.get(key) is leaf
                else _entry(cpu, page << shift, need)
                for page, leaf in pages.items()
            }
            for pages in kept
        ]
    return faults, odd


class _LastTables(dict[int, "tuple[array[int], dict[int, Leaf]]"]):
    """The last tables that accesses met, by the address bits that lead to them.

    With each go the leaves that it is known to hold, by what of a descriptor decides.

    Args:
        cpu: Who walks.
        need: The access bit of all accesses.

    Attributes:
        index_bits: How many bits of a page number are the index into such a table.
        last: The last index.
        matters: Bits of a descriptor on which its leaf depends.
    """

    def __init__(self, cpu: Cpu, need: int) -> None:
        super().__init__()
        self._cpu = cpu
        self._need = need
        halves = cpu.regime.halves
        self.index_bits = _plain_probe(cpu)[0] - 3
        self.last = (1 << self.index_bits) - 1
        self.matters = 0
        for half in halves:
            self.matters |= half.judged

    def learn(self, va: int) -> Leaf | None:
        """Walk for *va* in full; return its leaf if it is that of a plain page."""
        cpu, memory = self._cpu, self._cpu.machine.memory
        found = cpu.resolve(va, self._need)
        if isinstance(found, Fault) or not _is_page(cpu, va, found):
            return None
        followed: list[Table] = []
        walk(cpu.regime, memory, va, None, followed)
        if not followed or found.descriptor_pa - followed[-1].pa >> 3 != (
            va >> found.leaf.shift & self.last
        ):
            return None
        place = found.leaf.shift + self.index_bits
        words = memory.frame(found.descriptor_pa >> memory.page_shift)
        _, leaves = self.setdefault(va >> place, (words, {}))
        leaves[found.descriptor & self.matters] = found.leaf
        return found.leaf


def _is_page(cpu: Cpu, va: int, found: Translation) -> bool:
    """Whether what was found is kept as an entry for one page and the current ASID."""
    leaf = found.leaf
    shift = leaf.shift
    return (
        found.va == va >> shift << shift
        and shift == _plain_probe(cpu)[0]
        and (leaf.group_shift == shift or leaf.group_shift not in cpu.tlb.l2.shifts)
        and leaf.not_global
        and leaf.young
    )


def _entry(cpu: Cpu, va: int, need: int) -> Entry:
    """The entry of a page that was walked for before."""
    found = cpu.resolve(va, need)
    assert not isinstance(found, Fault)
    return cpu.entry(found)


# -- all at once -----------------------------------------------------------------------


def count(cpu: Cpu, vas: NDArray[Any], need: int = EL0_READ) -> Counts:
    """Count what `replay` would, were the TLBs of *cpu* empty; touch nothing.

    Args:
        cpu: Whose registers, memory and geometry count.
        vas: Virtual addresses, an array of one dimension and any integer type.
        need: The access bit of all accesses.

    Contiguous groups are taken to agree.

    Raises:
        InputError: a TLB does not replace the least recently used, or the micro-TLB
            holds sizes that the main TLB does not.
    """
    arrays = _arrays(cpu, need)
    for array in arrays:
        if array.geometry.replacement is not Replacement.LRU:
            raise InputError(
                f"{array.name} replaces {array.geometry.replacement.value}; only with "
                "LRU can a trace be counted at once, so replay it"
            )
        if not array.shifts <= cpu.tlb.l2.shifts:
            raise InputError(f"{array.name} holds sizes that L2 does not: replay it")
    units, unit = _distinct(vas.astype(np.uint64) >> np.uint64(UNIT_SHIFT))
    found = _translate(cpu, units, need)
    going_on = unit if found.kept.all() else unit[found.kept[unit]]
    hits = []
    for array in arrays:
        hit = _hits(array, found, going_on)
        hits.append(int(hit.sum()))
        going_on = going_on[~hit]
    return Counts(len(vas), hits[0], hits[1], int(found.refused[unit].sum()))


class _Found(NamedTuple):
    """What walks find for units, one element each.

    Attributes:
        va: First address of the unit, canonical.
        shift: log2 of the bytes of the largest entry that a TLB could make of it.
        kept: Whether a TLB keeps the translation.
        refused: Whether the access is.
    """

    va: NDArray[np.uint64]
    shift: NDArray[np.uint8]
    kept: Flags
    refused: Flags


def _distinct(numbers: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Positions]:
    """The distinct *numbers* in order, and where among them each number stands."""
    low = numbers.min(initial=np.iinfo(np.uint64).max)
    span = int(numbers.max(initial=low) - low) + 1
    if span > 8 * len(numbers):
        return np.unique(numbers, return_inverse=True)
    place = (numbers - low).astype(np.int64)
    there = np.zeros(span, np.bool_)
    there[place] = True
    return np.flatnonzero(there).astype(np.uint64) + low, (np.cumsum(there) - 1)[place]


def _translate(cpu: Cpu, units: NDArray[np.uint64], need: int) -> _Found:
    """Walk for sorted *units*: once for all that is alike in the same last table."""
    regime, memory = cpu.regime, cpu.machine.memory
    addresses = units << np.uint64(UNIT_SHIFT)
    shifts = np.empty(len(units), np.uint8)
    kept, refused = np.empty((2, len(units)), np.bool_)
    start = 0
    while start < len(units):
        first = int(addresses[start])
        tables: list[Table] = []
        outcome = walk(regime, memory, first, None, tables)
        last = tables[-1] if tables and tables[-1].level == LAST_LEVEL else None
        shift = _reach(regime, first, outcome) if last is None else last.shift
        end = (first >> shift) + 1 << shift - UNIT_SHIFT
        part = slice(start, int(np.searchsorted(units, end)))
        some, kind = addresses[start : start + 1], np.zeros(1, np.int64)
        if last is not None:
            some, kind = _alike(cpu, addresses[part], last)
        answers = [_answer(cpu, int(va), need, last) for va in some]
        shifts[part], kept[part], refused[part] = np.array(answers).T[:, kind]
        addresses[part] += np.uint64(regime.canonical(first) - first & MASK64)
        start = part.stop
    return _Found(addresses, shifts, kept, refused)


def _reach(regime: Regime, va: int, outcome: Translation | Fault) -> int:
    """log2 of the bytes for which a walk that found no last table says the same."""
    if isinstance(outcome, Translation):
        return outcome.leaf.shift
    half = regime.half(va)
    if half.granule is None or outcome.level < half.start_level:
        return UNIT_SHIFT  # an address out of range, whose neighbours need not be
    return half.granule.shift(outcome.level)


def _alike(
    cpu: Cpu, addresses: NDArray[np.uint64], table: Table
) -> tuple[NDArray[np.uint64], Positions]:
    """Addresses that stand for all of *addresses*, and for each the one that does.

    All are translated by *table*. Descriptors that differ in nothing but low bits of
    the output address make the same leaf, or the same fault.
    """
    memory = cpu.machine.memory
    granule = cpu.regime.half(int(addresses[0])).granule
    assert granule is not None  # there is a table
    entries = 1 << table.shift - granule.page_shift
    if entries == memory.words and not table.pa % granule.page_size:
        words = np.frombuffer(memory.frame(table.pa >> memory.page_shift), np.uint64)
    else:
        places = range(table.pa, table.pa + 8 * entries, 8)
        words = np.array([memory.read(pa) for pa in places], np.uint64)
    page = addresses >> np.uint64(granule.page_shift) & np.uint64(entries - 1)
    _, some, kind = np.unique(
        words[page] & _MATTERS, return_index=True, return_inverse=True
    )
    return addresses[some], kind


def _answer(cpu: Cpu, va: int, need: int, resume: Table | None) -> tuple[int, ...]:
    """The shift, kept and refused of `_Found` for *va*."""
    regime = cpu.regime
    if regime.refusal(va, need) is not None:
        return UNIT_SHIFT, False, True
    outcome = walk(regime, cpu.machine.memory, va, resume)
    if isinstance(outcome, Fault):
        return UNIT_SHIFT, False, True
    leaf = outcome.leaf
    allowed = bool((leaf.permissions | leaf.permissions_dirty) & need)
    group = leaf.group_shift in cpu.tlb.l2.shifts
    shift = leaf.group_shift if group else leaf.shift
    return shift, leaf.young or allowed, not allowed


def _hits(array: TlbArray, found: _Found, unit: Positions) -> Flags:
    """Tell which accesses to *unit* hit in *array*, from empty, if all come to it."""
    fit = np.array([array.fit(shift) or 0 for shift in range(64)], np.uint64)
    size = fit[found.shift]
    page = found.va >> size
    _, entry = np.unique(page | size << np.uint64(_PAGE_BITS), return_inverse=True)
    if not array.mask:
        return lru_hits(entry[unit], array.ways)
    # Sets do not meddle with each other: put their accesses one set after the other.
    number = (page & np.uint64(array.mask)).astype(np.uint16)
    order = np.argsort(number[unit], kind="stable")
    hits = np.empty(len(unit), np.bool_)
    hits[order] = lru_hits(entry[unit[order]], array.ways)
    return hits
