"""What a translation cache holds: a translation, or a table descriptor on its way."""

from __future__ import annotations

from typing import NamedTuple

# Compiled, a named tuple looks for the types of its fields when it is made.
from tlbkit.arm64.leaf import Leaf  # noqa: TC001 - see above
from tlbkit.arm64.walk import Table  # noqa: TC001 - the same

GLOBAL = 0x10000
"""The ASID of an entry that answers for every ASID (nG = 0)."""


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
