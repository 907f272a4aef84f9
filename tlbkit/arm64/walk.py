"""The table walk: an address to a translation or a fault.

`walk` only reads; what it answers is a function of memory and registers. Who may
use the translation is in ``leaf.permissions``, and what hardware writes back to the
descriptor when it does is `hardware_update`: both belong to the access, not to the
walk, because a TLB entry can stand between the two.

Source: Arm ARM (DDI 0487) D8.2 "Translation process"; pseudocode AArch64.S1Walk.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.regime import (
    LEVEL_0_ADDRESS_SIZE,
    LEVEL_0_TRANSLATION,
    Leaf,
    Regime,
)

__all__ = ["Leaf", "Memory", "Table", "Translation", "hardware_update", "walk"]


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


def walk(
    regime: Regime,
    memory: Memory,
    va: int,
    resume: Table | None = None,
    tables: list[Table] | None = None,
) -> Translation | Fault:
    """Translate *va*, a 64-bit address, by the tables in *memory*.

    Faults come in the architecture's order: range or EPD, base of the start table,
    then level by level the descriptor's type and the size of its address, and at
    the leaf the access flag. Permission is for the caller to judge, as is what
    depends on who asks (`Regime.refusal`).

    Args:
        regime: the registers.
        memory: where the tables are; it is only read.
        va: the address; bits above 63 must be clear.
        resume: start below this table, which must be one that translates *va*.
        tables: every table followed is appended to it, in order.
    """
    upper = va >> 55 & 1
    half = regime.halves[upper]
    if va & half.checked != half.expected:
        return LEVEL_0_TRANSLATION
    if resume is None:
        base = regime.bases[upper]
        if base > half.highest_pa:
            return LEVEL_0_ADDRESS_SIZE
        steps = half.steps[half.start_level]
        limits = 0
    else:
        base = resume.pa
        steps = half.steps[resume.level]
        limits = resume.restrictions

    read = memory.read
    moved = half.moved
    for step in steps:
        descriptor_pa = base + (va >> step.index_shift & step.index_mask)
        descriptor = read(descriptor_pa)
        kind = descriptor & d.TYPE_MASK
        if kind == step.table_type:
            if descriptor & half.too_large:
                return step.too_large
            base = descriptor & half.table_mask
            if moved:
                base |= (descriptor & moved) << half.moved_up
            limits |= descriptor & half.limits
            if tables is not None:
                covered = half.offset_mask & -(1 << step.shift)
                tables.append(
                    Table(
                        step.level + 1,
                        half.high_bits | va & covered,
                        step.shift,
                        base,
                        limits,
                        descriptor_pa,
                        descriptor,
                    )
                )
            continue
        if kind != step.leaf_type:
            return step.invalid
        break
    if descriptor & half.too_large:
        return step.too_large
    leaf = step.outcomes[descriptor & half.attributes | limits]
    if type(leaf) is Fault:
        return leaf
    pa = descriptor & step.leaf_mask
    if moved:
        pa |= (descriptor & moved) << half.moved_up
    page = half.high_bits | va & half.offset_mask & -(1 << step.shift)
    return Translation(page, pa, leaf, descriptor, descriptor_pa)


def hardware_update(translation: Translation, need: int) -> int:
    """The descriptor as hardware leaves it after a permitted access *need*.

    The access flag is set, and AP[2] is cleared if the access is only allowed once
    the dirty state is. Equal to the descriptor that was read if nothing changes.
    """
    descriptor = translation.descriptor | d.AF
    if not translation.leaf.permissions & need:
        descriptor &= ~d.AP_READ_ONLY
    return descriptor
