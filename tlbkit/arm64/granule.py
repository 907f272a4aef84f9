"""The three translation granules and what each of them fixes.

A granule is the size of a page and of a full table. Everything else about the
shape of a walk follows from it: how many address bits one level resolves, where a
walk starts, at which levels a leaf may stand, how many leaves a contiguous group
has, and by which code a register or a TLBI operand names the granule.

Source: Arm ARM (DDI 0487) D8.2 "Translation process", D8.7 "Contiguous bit",
TCR_EL1 and the TLBI operand descriptions.
"""

from __future__ import annotations

from dataclasses import dataclass

LAST_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Granule:
    """What one granule fixes about tables, blocks, groups and register codes.

    Attributes:
        name: "4K", "16K" or "64K".
        page_shift: log2 of the page size in bytes.
        first_block_level: lowest-numbered level with blocks, 48-bit descriptors.
        first_block_level_52: the same with 52-bit descriptors (LPA or LPA2).
        contiguous: for each level that has groups, the level and log2 of the entries
            that make a contiguous group.
        largest_txsz: largest T0SZ and T1SZ with FEAT_TTST.
        tg0: code in TCR_EL1.TG0.
        tg1: code in TCR_EL1.TG1.
        tlbi: code in the TTL and TG fields of a TLBI operand.
    """

    name: str
    page_shift: int
    first_block_level: int
    first_block_level_52: int
    contiguous: tuple[tuple[int, int], ...]
    largest_txsz: int
    tg0: int
    tg1: int
    tlbi: int

    @property
    def page_size(self) -> int:
        """Bytes in a page, and in a full table."""
        return 1 << self.page_shift

    @property
    def bits_per_level(self) -> int:
        """Address bits that a full table resolves: log2 of its 8-byte entries."""
        return self.page_shift - 3

    def shift(self, level: int) -> int:
        """log2 of the bytes that one entry at *level* translates."""
        return self.page_shift + (LAST_LEVEL - level) * self.bits_per_level

    def start_level(self, input_bits: int) -> int:
        """Level at which the walk of an address of *input_bits* bits starts.

        The fewest levels that resolve all bits above the page offset; -1 is
        possible with the 4K granule and more than 48 bits.
        """
        levels = -(-(input_bits - self.page_shift) // self.bits_per_level)
        return LAST_LEVEL + 1 - levels

    def table_entries(self, level: int, input_bits: int) -> int:
        """Entries of a table at *level* when addresses have *input_bits* bits.

        Only the table where the walk starts can have fewer than a full one.
        """
        return 1 << min(self.bits_per_level, input_bits - self.shift(level))

    def has_leaf(self, level: int, *, wide: bool = False) -> bool:
        """Tell whether a page or a block may stand at *level*.

        *wide*: 52-bit descriptors are in use (FEAT_LPA with 64K, TCR_EL1.DS
        with 4K and 16K), which allows blocks one level higher.
        """
        first = self.first_block_level_52 if wide else self.first_block_level
        return first <= level <= LAST_LEVEL

    def group_shift(self, level: int) -> int:
        """log2 of the bytes of a contiguous group at *level*.

        Where the Contiguous bit has no meaning the group is the single entry.
        """
        return self.shift(level) + dict(self.contiguous).get(level, 0)


GRANULE_4K = Granule(
    name="4K",
    page_shift=12,
    first_block_level=1,
    first_block_level_52=0,
    contiguous=((1, 4), (2, 4), (3, 4)),
    largest_txsz=48,
    tg0=0b00,
    tg1=0b10,
    tlbi=1,
)
GRANULE_16K = Granule(
    name="16K",
    page_shift=14,
    first_block_level=2,
    first_block_level_52=1,
    contiguous=((2, 5), (3, 7)),
    largest_txsz=48,
    tg0=0b10,
    tg1=0b01,
    tlbi=2,
)
GRANULE_64K = Granule(
    name="64K",
    page_shift=16,
    first_block_level=2,
    first_block_level_52=1,
    contiguous=((2, 5), (3, 5)),
    largest_txsz=47,
    tg0=0b01,
    tg1=0b11,
    tlbi=3,
)

GRANULES = (GRANULE_4K, GRANULE_16K, GRANULE_64K)
