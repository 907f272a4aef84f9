"""What software may not do to a live translation, named: the errors, and how to tell.

Hardware answers such misuse with a TLB conflict abort, or with any mixture of the old
and the new translation. Here it stops the run with an error that says what happened.

- Break-before-make: a valid descriptor is replaced by another valid one that a TLB
  could not hold beside it (`needs_break`), with no invalid step in between. Every
  descriptor store is checked.
- The same with a break but without its flush: `tlbkit.observe` can tell when a
  descriptor becomes valid while a TLB still holds the one before.
- Contiguous misuse: the entries of a group do not agree. Checked when a TLB takes in a
  whole group.
- TLB conflict: two entries of one TLB answer for one address. Checked at each look-up.

Source: Arm ARM (DDI 0487) D8.16.1 "Using break-before-make when updating translation
table entries", D8.7 "The Contiguous bit".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.arm64 import descriptor as d
from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.arm64.cached import Entry
    from tlbkit.arm64.walk import Translation

_SOFTWARE: Final = 0x1FF << 55  # bits 63 to 55; in a table 63 to 59 are limits
# What may change in place: rights, access flag and dirty state, software's own bits.
_FREE: Final = (
    d.AP_EL0 | d.AP_READ_ONLY | d.AF | d.DBM | d.PXN | d.UXN | d.GP | _SOFTWARE
)
_SIZE: Final = d.TYPE_MASK | d.CONTIGUOUS


class MisuseError(TlbkitError):
    """Software did to a translation what the architecture does not allow."""


class BreakBeforeMakeError(MisuseError):
    """A live translation was replaced without the steps that this needs."""

    def __init__(self, pa: int, old: int, new: int, missing: str) -> None:
        super().__init__(
            f"descriptor at {pa:#x}: {old:#x} became {new:#x}, {missing}; store an "
            "invalid descriptor, flush, and only then store the new one"
        )
        self.pa = pa
        self.old = old
        self.new = new


class ContiguousMisuseError(MisuseError):
    """A contiguous group was used whose descriptors do not agree."""

    def __init__(self, pa: int, descriptor: int, expected: int) -> None:
        super().__init__(
            f"descriptor at {pa:#x} is {descriptor:#x}, but its contiguous group was "
            f"used through another that makes it {expected:#x}; give all of a group "
            "the Contiguous bit, consecutive addresses and equal attributes"
        )
        self.pa = pa
        self.descriptor = descriptor
        self.expected = expected


class TlbConflictError(MisuseError):
    """Two entries of one TLB answer for one address."""

    def __init__(self, array: str, va: int, one: Entry, other: Entry) -> None:
        super().__init__(
            f"{array}: two entries answer for va {va:#x}, one of {1 << one.shift:#x} "
            f"bytes from {one.va:#x} (asid {one.asid:#x}) and one of "
            f"{1 << other.shift:#x} from {other.va:#x} (asid {other.asid:#x}); flush "
            "the old one before the new one becomes valid"
        )
        self.va = va
        self.entries = (one, other)


def fixed_bits(*, resizes: bool = False) -> int:
    """The bits that may not differ between a valid descriptor and its replacement.

    Args:
        resizes: The CPU lets size and Contiguous bit change in place (FEAT_BBM, 2).

    The architecture lets the output address change in place while neither translation
    is writable and the memory at both addresses is the same. That exception is not made
    here, because a store cannot tell whether it holds:

    - how much memory must be the same depends on level and granule, and a descriptor
      that ends in 0b11 may as well be that of a table;
    - "writable" depends on the limits of all tables above it, and on TCR_EL1.HD, of
      every CPU and address space that walks to it;
    - the contents must stay the same for as long as a TLB may hold the old translation,
      and they can be written through any other mapping of either page.

    Linux does without it as well: ``pgattr_change_is_safe`` (arch/arm64/mm/mmu.c)
    takes no change of a live entry's page for safe.
    """
    return d.MASK64 & ~(_FREE | _SIZE if resizes else _FREE)


def needs_break(old: int, new: int, *, resizes: bool = False) -> bool:
    """Tell whether *old* may only become *new* by way of an invalid descriptor."""
    return bool(old & new & d.VALID and (old ^ new) & fixed_bits(resizes=resizes))


def check_group(read: Callable[[int], int], found: Translation) -> None:
    """Make sure that a contiguous group may be cached as one.

    Args:
        read: Reads a word of physical memory.
        found: What a walk found, a page or block of the group.

    A descriptor that is not valid is about to be made or unmade, and disagrees with
    nothing. Access flags may differ, and with hardware dirty management AP[2]: what one
    of a group is, all are.

    Raises:
        ContiguousMisuseError: the descriptors of the group do not agree.
    """
    leaf, descriptor = found.leaf, found.descriptor
    last = (1 << leaf.group_shift - leaf.shift) - 1
    index = found.va >> leaf.shift & last
    first = found.descriptor_pa - 8 * index
    compared = d.MASK64 & ~(d.AF | _SOFTWARE)
    if descriptor & d.DBM:
        compared &= ~d.AP_READ_ONLY
    for n in range(last + 1):
        expected = descriptor & ~(last << leaf.shift) | n << leaf.shift
        other = read(first + 8 * n)
        if other & d.VALID and (other ^ expected) & compared:
            raise ContiguousMisuseError(first + 8 * n, other, expected)
