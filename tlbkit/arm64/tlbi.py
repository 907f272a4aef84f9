"""TLB invalidate operations: their names, their operands, and what each one drops."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.granule import GRANULES, LAST_LEVEL
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

ASID_MASK = 0xFFFF
_VA_MASK = (1 << 44) - 1  # operand bits 43:0 hold VA[55:12]
_ABOVE_VA = 0xFF << 56  # and an address has VA[55] in these as well
_RANGE_BITS = 37  # operand bits 36:0 hold the base address
_TG_SHIFT = {granule.tlbi: granule.page_shift for granule in GRANULES}
_SHIFT_TG = {shift: code for code, shift in _TG_SHIFT.items()}
# Smallest level that a hint may name; with LPA2, 4K and 16K have one more.
_FIRST_LEVEL = {12: 1, 14: 2, 16: 1}


class By(Enum):
    """What the operand of an operation names."""

    ALL = "all"
    ASID = "asid"
    VA = "va"
    RANGE = "range"


class Scope(Enum):
    """Which CPUs an operation reaches."""

    LOCAL = ""
    INNER = "IS"
    OUTER = "OS"


@dataclass(frozen=True, slots=True)
class Operation:
    """One TLBI instruction.

    Attributes:
        name: As assemblers spell it, for example ``"RVALE1IS"``.
        by: What its operand names.
        last_level: Drops leaf entries only, and leaves cached tables alone.
        any_asid: Drops entries of every ASID at the address.
        scope: Which CPUs it reaches.
        nxs: Completion need not wait for accesses with the XS attribute (FEAT_XS).
        broadcast: Whether other CPUs are reached too.
        whole: Whether it names no addresses, but an ASID or all.
        single: Whether it names one address.
        ranged: Whether it names a range of them.

    Source: Arm ARM (DDI 0487), D8.14 "TLB maintenance" and C5.5.
    """

    name: str
    by: By
    last_level: bool
    any_asid: bool
    scope: Scope
    nxs: bool
    broadcast: bool = field(init=False)
    whole: bool = field(init=False)
    single: bool = field(init=False)
    ranged: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "broadcast", self.scope is not Scope.LOCAL)
        object.__setattr__(self, "whole", self.by in (By.ALL, By.ASID))
        object.__setattr__(self, "single", self.by is By.VA)
        object.__setattr__(self, "ranged", self.by is By.RANGE)

    @property
    def local_name(self) -> str:
        """The name of the same operation on this CPU only."""
        return self.name.removesuffix("nXS").removesuffix(self.scope.value)


_FAMILIES = (
    ("VMALLE1", By.ALL, False, True),
    ("ASIDE1", By.ASID, False, False),
    ("VAE1", By.VA, False, False),
    ("VALE1", By.VA, True, False),
    ("VAAE1", By.VA, False, True),
    ("VAALE1", By.VA, True, True),
    ("RVAE1", By.RANGE, False, False),
    ("RVALE1", By.RANGE, True, False),
    ("RVAAE1", By.RANGE, False, True),
    ("RVAALE1", By.RANGE, True, True),
)

OPERATIONS = {
    operation.name: operation
    for family, by, last_level, any_asid in _FAMILIES
    for scope in Scope
    for nxs in (False, True)
    for operation in (
        Operation(
            f"{family}{scope.value}{'nXS' if nxs else ''}",
            by,
            last_level,
            any_asid,
            scope,
            nxs,
        ),
    )
}


def find_operation(name: str) -> Operation:
    """Return the operation called *name*; `InputError` says which names there are."""
    try:
        return OPERATIONS[name]
    except KeyError:
        raise InputError(
            f"no TLBI operation is called {name!r}; known: {', '.join(OPERATIONS)}"
        ) from None


class Target(NamedTuple):
    """What one TLBI names, decoded from its operand.

    Attributes:
        asid: The ASID whose entries go; meaningless where the operation says so.
        first: First virtual address named, canonical, 64 bits.
        last: Last virtual address named.
        level: The level that the TTL field names, or ``None`` for any.
        tg_shift: log2 of the granule that the operand names, or ``None`` for any.

    A hint that names another granule or level than an entry's promises nothing: the
    entry need not go.
    """

    asid: int
    first: int
    last: int
    level: int | None
    tg_shift: int | None

    def fits_leaf(self, shift: int) -> bool:
        """Tell whether pages or blocks of ``1 << shift`` bytes are among the named."""
        page = self.tg_shift
        if page is None:
            return True
        if self.level is None:
            return (shift - page) % (page - 3) == 0
        return shift == page + (LAST_LEVEL - self.level) * (page - 3)

    def fits_table(self, shift: int, level: int) -> bool:
        """Tell whether tables at *level*, each for ``1 << shift`` bytes, are.

        Where the level of the leaf is named, a table below it is none on the way.
        """
        page = self.tg_shift
        if page is None:
            return True
        return (shift - page) % (page - 3) == 0 and (
            self.level is None or level <= self.level
        )


# Makes a named tuple of a plain one without the detour through its keyword-taking
# constructor.
_new = tuple.__new__


def _canonical(va: int, top: int) -> int:
    """Copy bit *top* of *va* into all bits above it, as a 64-bit address."""
    low = va & ((1 << (top + 1)) - 1)
    return low | (((1 << (63 - top)) - 1) << (top + 1) if low >> top & 1 else 0)


def encode_asid(asid: int) -> int:
    """Return the operand of the ASIDE1 family."""
    return (asid & ASID_MASK) << 48


def encode_va(
    va: int, asid: int = 0, level: int | None = None, granule_shift: int = 12
) -> int:
    """Return the operand of the VAE1 family.

    Args:
        va: Any address inside what is to be dropped; VA[55:12] is sent whatever the
            granule.
        asid: Bits 63:48.
        level: The level of the leaf for the TTL field; ``None`` gives no hint.
        granule_shift: log2 of the granule; it only matters beside a level.

    >>> hex(encode_va(0xFFFF_B7E3_1000, 0x25, 3))
    '0x25700ffffb7e31'
    """
    ttl = 0 if level is None else _SHIFT_TG[granule_shift] << 2 | (level & 3)
    page = va >> 12 & _VA_MASK
    return (asid & ASID_MASK) << 48 | ttl << 44 | page


def encode_range(
    va: int,
    asid: int,
    scale: int,
    num: int,
    level: int | None = None,
    granule_shift: int = 12,
    *,
    lpa2: bool = False,
) -> int:
    """Return the operand of the RVAE1 family.

    Args:
        va: First address; aligned to 64 KiB where *lpa2* is set.
        asid: Bits 63:48.
        scale: 0 to 3.
        num: 0 to 31; the range has ``(num + 1) << (5 * scale + 1)`` pages.
        level: 1 to 3 for the TTL field; anything else gives no hint.
        granule_shift: log2 of the granule, for the TG field.
        lpa2: Whether TCR_EL1.DS is set, so that the base counts 64 KiB units.

    Errors:
        InputError: *scale* or *num* does not fit its field.

    >>> hex(encode_range(0xFFFF_B7E3_1000, 0x25, scale=1, num=7, level=3))
    '0x2553effffb7e31'
    """
    if not (0 <= scale <= 3 and 0 <= num <= 31):
        raise InputError(f"scale {scale}, num {num}: they go from 0 to 3 and 0 to 31")
    ttl = level if level is not None and 1 <= level <= 3 else 0
    base = va >> (16 if lpa2 else granule_shift) & ((1 << _RANGE_BITS) - 1)
    return (
        (asid & ASID_MASK) << 48
        | _SHIFT_TG[granule_shift] << 46
        | scale << 44
        | num << 39
        | ttl << 37
        | base
    )


def range_pages(scale: int, num: int) -> int:
    """Return how many pages a range operation covers.

    >>> range_pages(1, 7)
    512
    """
    return (num + 1) << (5 * scale + 1)


def pages_named(operation: Operation, operand: int) -> int:
    """Return how many pages an operation by address names; 0 if it names none.

    One of a single address names one, whatever the size of the leaf there.

    >>> pages_named(OPERATIONS["RVAE1IS"], encode_range(0x7000, 5, scale=1, num=7))
    512
    >>> pages_named(OPERATIONS["ASIDE1IS"], encode_asid(5))
    0
    """
    if operation.ranged:
        return range_pages(operand >> 44 & 3, operand >> 39 & 31)
    return int(operation.single)


def _hint(tg_shift: int, level: int, *, lpa2: bool) -> int | None:
    """The level that a hint names; ``None`` where its value is reserved."""
    first = _FIRST_LEVEL[tg_shift]
    return level if level >= (first - 1 if lpa2 and tg_shift != 16 else first) else None


def decode(
    operation: Operation, operand: int, *, lpa2: bool = False, asid_bits: int = 16
) -> Target:
    """Return what *operation* with *operand* names.

    Args:
        operation: The instruction.
        operand: Its register.
        lpa2: Whether TCR_EL1.DS is set.
        asid_bits: 8 where TCR_EL1.AS is clear: the upper half of the field is ignored.

    A reserved TTL is no hint. A range operation with the reserved TG of 0 names nothing
    that software may rely on; this model takes it as 4 KiB units.
    """
    asid = operand >> 48 & ((1 << asid_bits) - 1)
    if operation.single:
        tg_shift = level = None
        ttl = operand >> 44 & 0xF
        if ttl:
            tg_shift = _TG_SHIFT.get(ttl >> 2)
            level = None if tg_shift is None else _hint(tg_shift, ttl & 3, lpa2=lpa2)
            if level is None:
                tg_shift = None
        first = (operand & _VA_MASK) << 12
        if first >> 55:
            first |= _ABOVE_VA
        # It names one page of the granule, of which VA[55:12] is any 4 KiB part.
        return _new(Target, (asid, first, first, level, tg_shift))
    if operation.ranged:
        shift = _TG_SHIFT.get(operand >> 46 & 3, 12)
        unit = 16 if lpa2 else shift
        pages = range_pages(operand >> 44 & 3, operand >> 39 & 31)
        first = _canonical(
            (operand & ((1 << _RANGE_BITS) - 1)) << unit, unit + _RANGE_BITS - 1
        )
        level = _hint(shift, operand >> 37 & 3, lpa2=lpa2)
        return Target(asid, first, first + (pages << shift) - 1, level or None, shift)
    return Target(asid, 0, (1 << 64) - 1, None, None)


def describe(operation: Operation, operand: int, *, lpa2: bool = False) -> str:
    """Return the operation in words, for people.

    >>> describe(OPERATIONS["VALE1IS"], encode_va(0x7000, 5, 3))
    'TLBI VALE1IS asid 0x5 va 0x7000 level 3'
    """
    return " ".join(_words(operation, decode(operation, operand, lpa2=lpa2)))


def _words(operation: Operation, target: Target) -> Iterator[str]:
    yield f"TLBI {operation.name}"
    if operation.by is not By.ALL and not operation.any_asid:
        yield f"asid {target.asid:#x}"
    if operation.single:
        yield f"va {target.first:#x}"
    if operation.ranged:
        yield f"va {target.first:#x} to {target.last:#x}"
    if target.level is not None:
        yield f"level {target.level}"
