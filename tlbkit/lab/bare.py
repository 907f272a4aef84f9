"""Machines without a kernel: translation tables written by hand.

What the chapters about the machine itself are about needs no Linux: a few tables, a
few CPUs, and an instruction at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.granule import GRANULE_4K, LAST_LEVEL, Granule
from tlbkit.arm64.regime import Regime
from tlbkit.arm64.registers import MAIR, TCR, TTBR
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from tlbkit.arm64.machine import Machine

NORMAL_MEMORY = 0xFF
"""MAIR byte of write-back cacheable memory."""

USER_PAGE = d.AF | d.NG | d.AP_EL0 | d.INNER_SHAREABLE << d.SH_SHIFT | d.PXN | d.UXN
"""Attributes of a page that a program reads and writes, as Linux gives them."""

FIRST_TABLE = 0x4000_0000
"""Where the first table stands, on most boards the first address with memory."""


class WritableMemory(Protocol):
    """What tables are written into."""

    def read(self, pa: int, /) -> int:
        """The aligned 64-bit word at *pa*."""

    def write(self, pa: int, value: int, /) -> None:
        """Store a word."""


class Tables:
    """The tables of one half of an address space, made as entries are asked for.

    Args:
        memory: Where they stand.
        granule: Their granule.
        va_bits: Address bits that a walk translates.
        first: Where the start table stands; the others follow it.

    Attributes:
        root: Physical address of the start table.
    """

    def __init__(
        self,
        memory: WritableMemory,
        granule: Granule = GRANULE_4K,
        va_bits: int = 48,
        first: int = FIRST_TABLE,
    ) -> None:
        self._memory = memory
        self.granule = granule
        self.va_bits = va_bits
        self.root = first
        self._free = first + granule.page_size

    def entry(self, va: int, level: int = LAST_LEVEL) -> int:
        """Physical address of the descriptor of *va* at *level*.

        Tables that are missing on the way to it are made.

        Raises:
            InputError: walks start below that level, or a block is in the way.
        """
        granule = self.granule
        start = granule.start_level(self.va_bits)
        if not start <= level <= LAST_LEVEL:
            raise InputError(f"level {level}: walks go from {start} to {LAST_LEVEL}")
        table = self.root
        for above in range(start, level):
            place = table + self._offset(va, above)
            found = self._memory.read(place)
            if not found & d.VALID:
                found = self._free | d.TYPE_TABLE
                self._memory.write(place, found)
                self._free += granule.page_size
            elif found & d.TYPE_MASK != d.TYPE_TABLE:
                raise InputError(f"va {va:#x}: a block stands at level {above}")
            table = d.ADDRESS_48.address(found, granule.page_shift)
        return table + self._offset(va, level)

    def map(
        self, va: int, pa: int, attributes: int = USER_PAGE, level: int = LAST_LEVEL
    ) -> int:
        """Map the page or block of *va* to *pa*; return where its descriptor is.

        Raises:
            InputError: as `entry`.
        """
        place = self.entry(va, level)
        self._memory.write(place, leaf(pa, attributes, level))
        return place

    def regime(self, asid: int = 1, **tcr: int) -> Regime:
        """The regime whose lower half these tables are; *tcr* as for `TCR.of`.

        Raises:
            InputError: the registers are not legal.
        """
        return Regime.of(
            tcr=TCR.of(self.granule, self.va_bits, **tcr),
            mair=MAIR.of(NORMAL_MEMORY),
            ttbr0=TTBR.at(self.root, asid),
            ttbr1=TTBR.at(self.root),
        )

    def _offset(self, va: int, level: int) -> int:
        """Where the entry of *va* stands in a table at *level*, in bytes."""
        entries = self.granule.table_entries(level, self.va_bits)
        return (va >> self.granule.shift(level) & entries - 1) * 8


def leaf(pa: int, attributes: int = USER_PAGE, level: int = LAST_LEVEL) -> int:
    """A page or block descriptor.

    >>> hex(leaf(0x8000_0000))
    '0x60000080000f43'
    """
    return pa | attributes | (d.TYPE_PAGE if level == LAST_LEVEL else d.TYPE_BLOCK)


def start(machine: Machine, asid: int = 1, **tcr: int) -> Tables:
    """Give every CPU of *machine* one empty address space, and return its tables.

    >>> from tlbkit.arm64.machine import Machine
    >>> machine = Machine(cpus=2)
    >>> tables = start(machine)
    >>> place = tables.map(0x7000, pa=0x8000_0000)
    >>> machine.cpu(0).write(0x7000, 5)
    >>> machine.cpu(1).read(0x7000)
    5
    """
    tables = Tables(machine.memory)
    regime = tables.regime(asid, **tcr)
    for cpu in machine.cpus:
        cpu.switch(regime)
    return tables
