"""The table walk: an address to a translation or a fault.

`walk` only reads; what it answers is a function of memory and registers. Who may
use the translation stands in its leaf, and what hardware writes to the descriptor
when somebody does is `hardware_update`: both belong to the access and not to the
walk, because a TLB entry can stand between the two. `translate` puts them together
for an access with no TLB.

    >>> from tlbkit.arm64.granule import GRANULE_4K
    >>> from tlbkit.arm64.memory import PhysicalMemory
    >>> from tlbkit.arm64.registers import MAIR, TCR, TTBR
    >>> regime = Regime.of(
    ...     tcr=TCR.of(GRANULE_4K, va_bits=39),
    ...     mair=MAIR.of(0xFF),
    ...     ttbr0=TTBR.at(0x1000, asid=5),
    ...     ttbr1=TTBR.at(0x9000),
    ... )
    >>> memory = PhysicalMemory()
    >>> memory.write(0x1000, 0x2003)  # level 1: a table at 0x2000
    >>> memory.write(0x2008, 0x4060_0741)  # level 2: a block of 2 MiB
    >>> found = walk(regime, memory, 0x20_1234)
    >>> hex(found.va), hex(found.pa), found.leaf.level
    ('0x200000', '0x40600000', 2)
    >>> print(walk(regime, memory, 0x40_0000))
    translation fault, level 2

Source: Arm ARM (DDI 0487) D8.2 "Translation process"; pseudocode AArch64.S1Walk.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from tlbkit.arm64.descriptor import AF, AP_READ_ONLY
from tlbkit.arm64.fault import REFUSED, Fault
from tlbkit.arm64.leaf import Leaf
from tlbkit.arm64.regime import LEVEL_0_ADDRESS_SIZE, LEVEL_0_TRANSLATION, Regime

__all__ = [
    "Leaf",
    "Memory",
    "Table",
    "Translation",
    "hardware_update",
    "translate",
    "walk",
]


class Memory(Protocol):
    """What a walk needs of memory."""

    def read(self, pa: int, /) -> int:
        """The aligned 64-bit word at *pa*; 0 where nothing was written."""


class Translation(NamedTuple):
    """Where an address leads.

    Attributes:
        va: first address of the page or block, canonical, 64 bits.
        pa: first physical address of the page or block.
        leaf: what the page or block is.
        descriptor: the descriptor that says so, as the walk read it.
        descriptor_pa: where the descriptor is.
    """

    va: int
    pa: int
    leaf: Leaf
    descriptor: int
    descriptor_pa: int


class Table(NamedTuple):
    """A table descriptor that a walk followed: what a walk cache may hold.

    Attributes:
        level: level of the table that it points to.
        va: first address that this table translates, canonical, 64 bits.
        shift: log2 of the bytes of VA that the whole table translates.
        pa: where the table is.
        restrictions: limits of this descriptor and all above, at their bits.
        descriptor_pa: where the descriptor is.
        descriptor: the table descriptor.
    """

    level: int
    va: int
    shift: int
    pa: int
    restrictions: int
    descriptor_pa: int
    descriptor: int


# Makes a named tuple of a plain one without the detour through its keyword-taking
# constructor, which would be a fifth of the time of a walk.
_tuple_new = tuple.__new__


def walk(
    regime: Regime,
    memory: Memory,
    va: int,
    resume: Table | None = None,
    tables: list[Table] | None = None,
) -> Translation | Fault:
    """Translate *va* by the tables in *memory*.

    Faults come in the architecture's order: range or EPD, base of the start table,
    then level by level the type of the descriptor and the size of its address, and
    at the leaf the access flag. Permission is for the caller to judge, and so is
    what depends on who asks (`Regime.refusal`).

    Args:
        regime: the registers.
        memory: where the tables are; it is only read.
        va: the address, 64 bits and no more.
        resume: start at this table, which must be one that translates *va*.
        tables: every table followed is appended to it, in order.
    """
    half, base, hops = regime.starts[va >> 55 & 1]
    if not half.first <= va <= half.last:
        if va & half.checked != half.expected:
            return LEVEL_0_TRANSLATION
        va = half.first | va & half.offset_mask  # the top byte is ignored
    limits = 0
    if resume is not None:
        base = resume.pa
        hops = half.hops[resume.level]
        limits = resume.restrictions
    elif base > half.highest_pa:
        return LEVEL_0_ADDRESS_SIZE

    read = memory.read
    for index_shift, index_mask, links, step in hops:
        descriptor_pa = base + (va >> index_shift & index_mask)
        descriptor = read(descriptor_pa)
        if links is None:  # at level 3
            break
        link = links[descriptor]
        if link is None:  # no table: the walk ends here
            break
        base, limit = link
        limits |= limit
        if tables is not None:
            table = (
                step.level + 1,
                va & step.va_mask,
                step.shift,
                base,
                limits,
                descriptor_pa,
                descriptor,
            )
            tables.append(_tuple_new(Table, table))

    leaf = step.outcomes[descriptor & half.judged | limits]
    if type(leaf) is Fault:
        return leaf
    pa = descriptor & step.leaf_mask
    if half.moved:
        pa |= (descriptor & half.moved) << half.moved_up
    page = va & step.va_mask
    return _tuple_new(Translation, (page, pa, leaf, descriptor, descriptor_pa))


def translate(
    regime: Regime, memory: Memory, va: int, need: int
) -> Translation | Fault:
    """The answer to one access *need* (an access bit) to *va*, with no TLB.

    A write that only waits for hardware to set the dirty state is allowed; nothing
    is written here, see `hardware_update`.
    """
    fault = regime.refusal(va, need)
    if fault is not None:
        return fault
    outcome = walk(regime, memory, va)
    if isinstance(outcome, Fault):
        return outcome
    leaf = outcome.leaf
    if not need & (leaf.permissions | leaf.permissions_dirty):
        return REFUSED[leaf.level]
    return outcome


def hardware_update(translation: Translation, need: int) -> int:
    """The descriptor as hardware leaves it after an allowed access *need*.

    The access flag is set, and AP[2] is cleared if only the dirty state allows the
    access. The same as the descriptor that was read when nothing is to be done.
    """
    descriptor = translation.descriptor | AF
    if not need & translation.leaf.permissions:
        descriptor &= ~AP_READ_ONLY
    return descriptor
