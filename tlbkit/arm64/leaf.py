"""What a page or block is, apart from where it is and where it leads.

A descriptor has few attribute bits, so a regime sees few different leaves, however
many pages there are. `Outcomes` works each one out when it is first met and keeps
it: a walk turns attribute bits into rights, memory type and group with one look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.permission import allowed
from tlbkit.arm64.registers import MAIR, effective_shareability

ATTRIBUTES = (
    d.ATTR_INDEX_MASK
    | d.AP_EL0
    | d.AP_READ_ONLY
    | d.SH_MASK
    | d.AF
    | d.NG
    | d.DBM
    | d.CONTIGUOUS
    | d.PXN
    | d.UXN
)
"""Bits of a leaf that decide what it is; with LPA2 the SH bits are not among them."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a page or block is.

    Interned: all translations of a regime whose leaves are alike share one.

    What may be written may, by two rules, not be executed (WXN; EL1 where EL0 writes).
    For a page that hardware would make writable these rules follow AP[2] as it
    stands, as QEMU does; Arm's pseudocode already counts such a page as writable. It
    makes no difference to Linux, which sets PXN on user pages and does without WXN.

    Attributes:
        level: level of the descriptor.
        shift: log2 of the bytes of the page or block.
        group_shift: log2 of the bytes that one TLB entry may cover: the
            contiguous group, else the same as ``shift``.
        not_global: nG, the translation belongs to one ASID.
        permissions: accesses allowed as the descriptor stands.
        permissions_dirty: accesses allowed once hardware has set the dirty state;
            the same unless only AP[2] withholds writing and hardware may clear it.
        young: AF. False only if hardware sets it, which it must before use.
        attr: MAIR byte.
        sh: shareability of the memory, 0b10 for Device and Non-cacheable.
    """

    level: int
    shift: int
    group_shift: int
    not_global: bool
    permissions: int
    permissions_dirty: int
    young: bool
    attr: int
    sh: int


class LeafRules(NamedTuple):
    """What turns attribute bits into a `Leaf`, the same for a whole regime.

    Attributes:
        mair: the memory types.
        hardware_af: TCR_EL1.HA, hardware sets the access flag.
        hardware_dirty: TCR_EL1.HA and HD, hardware also sets the dirty state.
        wxn: SCTLR_EL1.WXN.
        epan: SCTLR_EL1.EPAN.
        interned: every leaf met so far, by value.
    """

    mair: MAIR
    hardware_af: bool
    hardware_dirty: bool
    wxn: bool
    epan: bool
    interned: dict[Leaf, Leaf]


class Outcomes(dict[int, Leaf | Fault]):
    """For one level of one half: what a descriptor makes there that is no table.

    The key is the judged bits of the descriptor (`Half.judged`) ORed with the limits
    of the tables above it; the two never share a bit. A missing key is worked out, and
    kept if it is a leaf's, or that of an empty descriptor: of other invalid ones there
    are as many as software likes.
    """

    __slots__ = (
        "_group_shift",
        "_leaf_type",
        "_level",
        "_rules",
        "_sh",
        "_shift",
        "_too_large",
    )

    def __init__(
        self,
        rules: LeafRules,
        *,
        level: int,
        shift: int,
        group_shift: int,
        leaf_type: int | None,
        too_large: int,
        sh: int | None,
    ) -> None:
        """Nothing is worked out yet.

        Args:
            rules: the regime's.
            level: level of the leaves.
            shift: log2 of their bytes.
            group_shift: log2 of the bytes of a contiguous group of them.
            leaf_type: their low two bits, or None where there are none.
            too_large: descriptor bits of addresses beyond the output size.
            sh: shareability of them all, or None when each leaf has its own.
        """
        super().__init__()
        self._rules = rules
        self._level = level
        self._shift = shift
        self._group_shift = group_shift
        self._leaf_type = leaf_type
        self._too_large = too_large
        self._sh = sh

    def __missing__(self, key: int) -> Leaf | Fault:
        """Work out the answer for *key*, and keep it if it can come again."""
        kind = self._refusal(key)
        if kind is None:
            leaf = self[key] = self._leaf(key)
            return leaf
        fault = Fault(kind, self._level)
        if not key & ~d.TABLE_LIMITS:  # nothing stands there
            self[key] = fault
        return fault

    def _refusal(self, key: int) -> FaultKind | None:
        """Which fault *key* makes, if any; the first that applies."""
        # A table comes here too, but only for the sake of its address.
        if key & d.TYPE_MASK not in (d.TYPE_TABLE, self._leaf_type):
            return FaultKind.TRANSLATION
        if key & self._too_large:
            return FaultKind.ADDRESS_SIZE
        if not (key & d.AF or self._rules.hardware_af):
            return FaultKind.ACCESS_FLAG
        return None

    def _leaf(self, key: int) -> Leaf:
        """The leaf that attributes and limits *key* make."""
        rules = self._rules
        limited = bool(key & d.AP_TABLE_READ_ONLY)
        clean = bool(key & d.AP_READ_ONLY)
        managed = rules.hardware_dirty and bool(key & d.DBM)
        rights = partial(
            allowed,
            user=key & (d.AP_EL0 | d.AP_TABLE_NO_EL0) == d.AP_EL0,
            uxn=bool(key & (d.UXN | d.UXN_TABLE)),
            pxn=bool(key & (d.PXN | d.PXN_TABLE)),
            wxn=rules.wxn,
            epan=rules.epan,
        )
        attr = rules.mair.attributes[(key & d.ATTR_INDEX_MASK) >> d.ATTR_INDEX_SHIFT]
        sh = (key & d.SH_MASK) >> d.SH_SHIFT if self._sh is None else self._sh
        leaf = Leaf(
            level=self._level,
            shift=self._shift,
            group_shift=self._group_shift if key & d.CONTIGUOUS else self._shift,
            not_global=bool(key & d.NG),
            permissions=rights(read_only=limited or clean),
            permissions_dirty=rights(read_only=limited or (clean and not managed)),
            young=bool(key & d.AF),
            attr=attr,
            sh=effective_shareability(attr, sh),
        )
        return rules.interned.setdefault(leaf, leaf)
