"""The bits of a stage 1 descriptor, and what one descriptor says at its level.

The constants are plain integers, ready to be ORed into a 64-bit descriptor and
ANDed out of it. `describe` tells a person what each field of a descriptor means.

Source: Arm ARM (DDI 0487) D8.3 "Translation table descriptor formats".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tlbkit.arm64.granule import GRANULE_64K, LAST_LEVEL, Granule
from tlbkit.errors import InputError

MASK64 = (1 << 64) - 1

# The two low bits say what the descriptor is; what they mean depends on the level.
VALID = 1 << 0
TYPE_MASK = 0b11
TYPE_BLOCK = 0b01  # reserved, and so invalid, at level 3
TYPE_TABLE = 0b11  # levels above 3
TYPE_PAGE = 0b11  # level 3

# Fields of a leaf (block or page).
ATTR_INDEX_SHIFT = 2
ATTR_INDEX_MASK = 0b111 << ATTR_INDEX_SHIFT
NS = 1 << 5
AP_EL0 = 1 << 6  # AP[1]: EL0 may access
AP_READ_ONLY = 1 << 7  # AP[2]
SH_SHIFT = 8
SH_MASK = 0b11 << SH_SHIFT
AF = 1 << 10
NG = 1 << 11
NT = 1 << 16  # blocks only, FEAT_BBM level 1
GP = 1 << 50
DBM = 1 << 51
CONTIGUOUS = 1 << 52
PXN = 1 << 53
UXN = 1 << 54

NON_SHAREABLE, OUTER_SHAREABLE, INNER_SHAREABLE = 0b00, 0b10, 0b11

# Fields of a table descriptor.
PXN_TABLE = 1 << 59
UXN_TABLE = 1 << 60
AP_TABLE_NO_EL0 = 1 << 61  # APTable[0]: EL0 loses access below
AP_TABLE_READ_ONLY = 1 << 62  # APTable[1]: nobody writes below
NS_TABLE = 1 << 63
TABLE_LIMITS = PXN_TABLE | UXN_TABLE | AP_TABLE_NO_EL0 | AP_TABLE_READ_ONLY


class AddressFormat(NamedTuple):
    """Where a descriptor keeps the bits of the address it holds.

    Attributes:
        in_place: address bits below this one stand at their own position.
        moved: the descriptor bits that hold the address bits from there on.
        moved_up: by how much those bits move up to become address bits.
    """

    in_place: int
    moved: int
    moved_up: int

    @property
    def bits(self) -> int:
        """Width of the addresses that fit."""
        return self.in_place + self.moved.bit_count()

    def in_place_mask(self, shift: int) -> int:
        """Bits in place of the address of something ``1 << shift`` bytes big."""
        return (1 << self.in_place) - (1 << shift)

    def address(self, descriptor: int, shift: int) -> int:
        """Address that *descriptor* holds, of something ``1 << shift`` bytes big."""
        moved = (descriptor & self.moved) << self.moved_up
        return descriptor & self.in_place_mask(shift) | moved

    def place(self, address: int) -> int:
        """Descriptor bits that hold *address*.

        Raises:
            InputError: the address is wider than the format.
        """
        if address >> self.bits:
            raise InputError(
                f"address {address:#x}: these descriptors hold {self.bits} bits"
            )
        low = address & (1 << self.in_place) - 1
        return low | address >> self.moved_up & self.moved


# OA[47:n] in place; the only form before FEAT_LPA.
ADDRESS_48 = AddressFormat(in_place=48, moved=0, moved_up=0)
# FEAT_LPA, 64K granule: OA[51:48] in bits 15:12.
ADDRESS_LPA = AddressFormat(in_place=48, moved=0xF << 12, moved_up=36)
# FEAT_LPA2 (TCR_EL1.DS = 1), 4K and 16K: OA[49:48] in place, OA[51:50] in bits 9:8.
ADDRESS_LPA2 = AddressFormat(in_place=50, moved=0b11 << 8, moved_up=42)


class DescriptorKind(Enum):
    """What a descriptor is at its level."""

    INVALID = "invalid"
    RESERVED = "reserved"
    TABLE = "table"
    BLOCK = "block"
    PAGE = "page"


def kind_of(
    descriptor: int, level: int, granule: Granule, *, wide: bool = False
) -> DescriptorKind:
    """Tell what *descriptor* is at *level*; RESERVED faults like INVALID.

    *wide*: 52-bit descriptors are in use, which allows blocks one level higher.
    """
    if not descriptor & VALID:
        return DescriptorKind.INVALID
    if descriptor & TYPE_MASK == TYPE_TABLE:
        return DescriptorKind.PAGE if level == LAST_LEVEL else DescriptorKind.TABLE
    if level != LAST_LEVEL and granule.has_leaf(level, wide=wide):
        return DescriptorKind.BLOCK
    return DescriptorKind.RESERVED


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a descriptor: which bits, their value, and what that means."""

    name: str
    high: int
    low: int
    value: int
    meaning: str


_IGNORED = "ignored in Non-secure state"
_SHAREABILITY = ("non-shareable", "reserved", "outer shareable", "inner shareable")

# A field of one bit: name, bit, what 1 means, what 0 means.
_Flag = tuple[str, int, str, str]
_TABLE_FLAGS: tuple[_Flag, ...] = (
    ("NSTable", 63, _IGNORED, _IGNORED),
    ("APTable[1]", 62, "nobody writes below this table", "no limit on writing"),
    ("APTable[0]", 61, "EL0 reads and writes nothing below", "no limit on EL0"),
    ("UXNTable", 60, "EL0 executes nothing below", "no limit on EL0 execution"),
    ("PXNTable", 59, "EL1 executes nothing below", "no limit on EL1 execution"),
)
_LEAF_FLAGS: tuple[_Flag, ...] = (
    ("UXN", 54, "EL0 may not execute", "EL0 may execute"),
    ("PXN", 53, "EL1 may not execute", "EL1 may execute"),
    ("Contiguous", 52, "one of a contiguous group", "stands alone"),
    ("DBM", 51, "hardware may clear AP[2] on a write", "AP[2] is software's"),
    ("GP", 50, "guarded page (BTI)", "not guarded"),
    ("nG", 11, "belongs to one ASID", "global, for every ASID"),
    ("AF", 10, "accessed", "not accessed yet"),
    ("AP[2]", 7, "read-only", "writable"),
    ("AP[1]", 6, "EL0 may access", "EL1 only"),
    ("NS", 5, _IGNORED, _IGNORED),
)
_BLOCK_FLAGS: tuple[_Flag, ...] = (
    ("nT", 16, "should not be cached in a TLB", "may be cached"),
)


def describe(
    descriptor: int, level: int, granule: Granule, *, wide: bool = False
) -> list[Field]:
    """Fields of *descriptor* at *level*, highest bit first, for people.

    Bits that the architecture leaves to software are not listed, and of an invalid
    descriptor only the type is. *wide* as in `kind_of`.
    """
    kind = kind_of(descriptor, level, granule, wide=wide)
    fields = [Field("type", 1, 0, descriptor & TYPE_MASK, kind.value)]
    if kind in {DescriptorKind.INVALID, DescriptorKind.RESERVED}:
        return fields

    layout = address_format(granule, wide=wide)
    if kind is DescriptorKind.TABLE:
        flags = _TABLE_FLAGS
        name, shift = "next table", granule.page_shift
    else:
        flags = _LEAF_FLAGS + (_BLOCK_FLAGS if kind is DescriptorKind.BLOCK else ())
        name, shift = "output address", granule.shift(level)
        index = (descriptor & ATTR_INDEX_MASK) >> ATTR_INDEX_SHIFT
        fields.append(Field("AttrIndx", 4, 2, index, f"byte {index} of MAIR_EL1"))
        if not layout.moved & SH_MASK:
            sh = (descriptor & SH_MASK) >> SH_SHIFT
            fields.append(Field("SH", 9, 8, sh, _SHAREABILITY[sh]))
    fields += [
        Field(
            flag,
            bit,
            bit,
            descriptor >> bit & 1,
            one if descriptor >> bit & 1 else zero,
        )
        for flag, bit, one, zero in flags
    ]
    address = f"{layout.address(descriptor, shift):#x}"
    top = layout.in_place - 1
    in_place = (descriptor & layout.in_place_mask(shift)) >> shift
    fields.append(Field(f"{name} [{top}:{shift}]", top, shift, in_place, address))
    if layout.moved:
        high = layout.moved.bit_length() - 1
        low = high + 1 - layout.moved.bit_count()
        moved = (descriptor & layout.moved) >> low
        span = f"[{layout.bits - 1}:{layout.in_place}]"
        fields.append(Field(f"{name} {span}", high, low, moved, address))
    return sorted(fields, key=lambda field: field.high, reverse=True)


def address_format(granule: Granule, *, wide: bool) -> AddressFormat:
    """Where descriptors of *granule* keep their address; *wide* as in `kind_of`."""
    if not wide:
        return ADDRESS_48
    return ADDRESS_LPA if granule is GRANULE_64K else ADDRESS_LPA2
