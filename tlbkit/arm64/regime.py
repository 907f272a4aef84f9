"""The EL1&0 translation regime: registers that have been judged, ready for walks.

`Regime.of` takes the registers, refuses what is illegal, and works out once what
every walk needs. A regime never changes; a context switch makes another one with
`Regime.with_ttbr`, which shares all that does not depend on the table bases.

Source: Arm ARM (DDI 0487) D8.2 "Translation process"; TCR_EL1, TTBR0_EL1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.granule import GRANULE_64K, GRANULES, LAST_LEVEL, Granule
from tlbkit.arm64.leaf import ATTRIBUTES, LeafRules, Outcomes
from tlbkit.arm64.links import Links
from tlbkit.arm64.permission import ANY_EXECUTE, EL0_ANY
from tlbkit.arm64.registers import MAIR, PHYSICAL_SIZES, SCTLR, TCR, TTBR
from tlbkit.errors import InputError

SMALLEST_TXSZ = 16
SMALLEST_TXSZ_52 = 12
LARGEST_TXSZ = 39
SMALLEST_TABLE_ALIGNMENT = 64

LEVEL_0_TRANSLATION = Fault(FaultKind.TRANSLATION, 0)
LEVEL_0_ADDRESS_SIZE = Fault(FaultKind.ADDRESS_SIZE, 0)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a CPU implements of the optional parts; the default is everything.

    Attributes:
        pa_bits: ID_AA64MMFR0_EL1.PARange in bits; 52 means FEAT_LPA as well.
        asid16: ASIDs of 16 bits.
        lva: FEAT_LVA, 52-bit VAs with the 64K granule.
        lpa2: FEAT_LPA2, 52-bit VAs and PAs with 4K and 16K (TCR_EL1.DS).
        ttst: FEAT_TTST, small tables (TxSZ above 39).
        access_flag: FEAT_HAFDBS, hardware sets AF (TCR_EL1.HA).
        dirty: FEAT_HAFDBS, hardware manages the dirty state (TCR_EL1.HD).
        hpd: FEAT_HPDS, hierarchical limits can be switched off.
        e0pd: FEAT_E0PD.
        tbid: FEAT_PAuth, TBI can be kept from instruction addresses.
        pan3: FEAT_PAN3 (SCTLR_EL1.EPAN).
    """

    pa_bits: int = 52
    asid16: bool = True
    lva: bool = True
    lpa2: bool = True
    ttst: bool = True
    access_flag: bool = True
    dirty: bool = True
    hpd: bool = True
    e0pd: bool = True
    tbid: bool = True
    pan3: bool = True

    def __post_init__(self) -> None:
        """Refuse a width that no PARange code stands for."""
        if self.pa_bits not in PHYSICAL_SIZES:
            raise InputError(
                f"pa_bits {self.pa_bits}: a CPU has one of {list(PHYSICAL_SIZES)}"
            )


@dataclass(frozen=True, slots=True)
class Step:
    """One level of a walk, with what the walker needs when it ends there.

    Attributes:
        level: the level.
        shift: log2 of the bytes of VA that one entry translates.
        va_mask: the VA bits above those.
        leaf_mask: descriptor bits that hold a leaf's address in place.
        outcomes: what ends a walk here: judged bits to leaf or fault.
    """

    level: int
    shift: int
    va_mask: int
    leaf_mask: int
    outcomes: Outcomes


Hop: TypeAlias = tuple[int, int, Links | None, Step]
"""What a walk needs at a level, in the order in which it unpacks it.

- VA bits shifted right by the first number ...
- ... and masked by the second are the byte offset into the table.
- The third says where a table descriptor leads; at level 3 there are none.
- The step is for when the walk goes no further, and for telling of its tables.

A plain tuple, because unpacking a named one takes three times as long.
"""


@dataclass(frozen=True, slots=True)
class Half:
    """One half of the address space (TTBR0's or TTBR1's), worked out for walks.

    Attributes:
        granule: its granule; None when TCR_EL1.EPD switches walks off: no VA passes
            the checks below then, and the other fields mean nothing.
        input_bits: bits of VA that a walk translates.
        start_level: level where a walk starts.
        first: its first address, canonical: 0, or ones above what a walk translates.
        last: its last address, canonical.
        checked: VA bits that must equal ...
        expected: ... these, or there is no translation.
        offset_mask: the VA bits that a walk translates.
        forbidden: accesses that never translate here (E0PD).
        untagged: accesses for which the top byte is not ignored (TBID).
        highest_pa: highest address of the output size.
        table_alignment: bytes that the start table must be aligned to.
        wide_base: TTBR holds address bits 51:48 in bits 5:2.
        moved: descriptor bits that hold the address bits above those in place.
        moved_up: how far these move up.
        limits: table descriptor bits that limit what is below.
        attributes: bits of a leaf that decide what it is.
        judged: those and the bits that decide whether it is one: its type, and
            address bits beyond the output size.
        hops: for each level, what a walk needs from there to level 3.
    """

    granule: Granule | None = None
    input_bits: int = 0
    start_level: int = LAST_LEVEL
    first: int = 0
    last: int = -1
    checked: int = 0
    expected: int = 1
    offset_mask: int = 0
    forbidden: int = 0
    untagged: int = 0
    highest_pa: int = 0
    table_alignment: int = 1
    wide_base: bool = False
    moved: int = 0
    moved_up: int = 0
    limits: int = 0
    attributes: int = 0
    judged: int = 0
    hops: dict[int, tuple[Hop, ...]] = field(default_factory=lambda: {LAST_LEVEL: ()})


@dataclass(frozen=True, slots=True)
class Controls:
    """All of a regime but its tables: judged once, shared by every context.

    Raises:
        InputError: a register holds what the architecture or the CPU forbids.
    """

    tcr: TCR
    mair: MAIR
    sctlr: SCTLR
    capabilities: Capabilities
    halves: tuple[Half, Half] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Judge the registers and work out both halves."""
        _check(self.tcr, self.sctlr, self.capabilities)
        rules = LeafRules(
            mair=self.mair,
            hardware_af=bool(self.tcr.HA),
            hardware_dirty=bool(self.tcr.HA and self.tcr.HD),
            wxn=bool(self.sctlr.WXN),
            epan=bool(self.sctlr.EPAN),
            interned={},
        )
        halves = tuple(
            _half(shape, self.tcr, self.capabilities, rules)
            for shape in (_lower(self.tcr), _upper(self.tcr))
        )
        object.__setattr__(self, "halves", halves)


@dataclass(frozen=True, slots=True)
class Regime:
    """Everything that a walk at EL1&0 depends on, except memory.

    Attributes:
        controls: the registers that say how to walk.
        ttbr0: where walks of the lower half start; may hold the ASID.
        ttbr1: where walks of the upper half start; may hold the ASID.
        halves: ``controls.halves``, the lower half first.
        bases: physical addresses of the two start tables.
        starts: for each half, what a walk starts with: the half, its base, its hops.
        asid: the current ASID: TTBR1's with TCR_EL1.A1, else TTBR0's; 16 bits with
            TCR_EL1.AS, else 8.

    Raises:
        InputError: a table is not aligned to its size.
    """

    controls: Controls
    ttbr0: TTBR
    ttbr1: TTBR
    halves: tuple[Half, Half] = field(init=False, repr=False, compare=False)
    bases: tuple[int, int] = field(init=False, repr=False, compare=False)
    starts: tuple[tuple[Half, int, tuple[Hop, ...]], ...] = field(
        init=False, repr=False, compare=False
    )
    asid: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Judge the table bases and pick the ASID."""
        tcr = self.controls.tcr
        halves = lower, upper = self.controls.halves
        bases = low_base, high_base = (
            _base("TTBR0_EL1", self.ttbr0, lower),
            _base("TTBR1_EL1", self.ttbr1, upper),
        )
        starts = (
            (lower, low_base, lower.hops[lower.start_level]),
            (upper, high_base, upper.hops[upper.start_level]),
        )
        asid = (self.ttbr1 if tcr.A1 else self.ttbr0).ASID
        object.__setattr__(self, "halves", halves)
        object.__setattr__(self, "bases", bases)
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "asid", asid if tcr.AS else asid & 0xFF)

    @classmethod
    def of(
        cls,
        *,
        tcr: TCR,
        mair: MAIR,
        ttbr0: TTBR,
        ttbr1: TTBR,
        sctlr: SCTLR | None = None,
        capabilities: Capabilities | None = None,
    ) -> Regime:
        """The regime that these registers describe on a CPU that can do so much.

        Raises:
            InputError: a register holds what the architecture or the CPU forbids.
        """
        controls = Controls(tcr, mair, sctlr or SCTLR(), capabilities or Capabilities())
        return cls(controls, ttbr0, ttbr1)

    def with_ttbr(self, ttbr0: TTBR | None = None, ttbr1: TTBR | None = None) -> Regime:
        """The same regime with one or both tables replaced: a context switch.

        Raises:
            InputError: a table is not aligned to its size.
        """
        return Regime(self.controls, ttbr0 or self.ttbr0, ttbr1 or self.ttbr1)

    def half(self, va: int) -> Half:
        """The half that *va* belongs to, by its bit 55."""
        return self.halves[va >> 55 & 1]

    def canonical(self, va: int) -> int:
        """*va* as translations name it: an ignored top byte is replaced by bit 55.

        An address out of range comes back as it is, and equals no translation's.
        """
        half = self.halves[va >> 55 & 1]
        if va & half.checked != half.expected:
            return va
        return half.first | va & half.offset_mask

    def refusal(self, va: int, need: int) -> Fault | None:
        """The fault that an access of kind *need* takes before any look-up, if any.

        These depend on who asks, so neither a walk nor a TLB entry can answer
        them: E0PD (EL0 may not even ask about this half) and TBID (the top byte of
        an instruction address counts although TBI ignores that of data).
        """
        half = self.halves[va >> 55 & 1]
        if need & half.forbidden:
            return LEVEL_0_TRANSLATION
        if need & half.untagged and va >> 56 != half.first >> 56:
            return LEVEL_0_TRANSLATION
        return None


def _check(tcr: TCR, sctlr: SCTLR, cpu: Capabilities) -> None:
    """Refuse what does not depend on a half.

    Raises:
        InputError: the registers ask for what the CPU or this model lacks.
    """
    if not sctlr.M:
        raise InputError("SCTLR_EL1.M is 0: stage 1 is off, there is nothing to walk")
    if sctlr.EE:
        raise InputError("SCTLR_EL1.EE is 1: big-endian tables are not modelled")
    if tcr.IPS not in range(len(PHYSICAL_SIZES)):
        raise InputError(f"TCR_EL1.IPS is {tcr.IPS}: reserved, 0 to 6 are sizes")
    wanted = (
        ("TCR_EL1.AS", tcr.AS, cpu.asid16, "16-bit ASIDs"),
        ("TCR_EL1.HA", tcr.HA, cpu.access_flag, "FEAT_HAFDBS"),
        ("TCR_EL1.HD", tcr.HD, cpu.dirty, "FEAT_HAFDBS with dirty state"),
        ("TCR_EL1.HPD0", tcr.HPD0, cpu.hpd, "FEAT_HPDS"),
        ("TCR_EL1.HPD1", tcr.HPD1, cpu.hpd, "FEAT_HPDS"),
        ("TCR_EL1.E0PD0", tcr.E0PD0, cpu.e0pd, "FEAT_E0PD"),
        ("TCR_EL1.E0PD1", tcr.E0PD1, cpu.e0pd, "FEAT_E0PD"),
        ("TCR_EL1.TBID0", tcr.TBID0, cpu.tbid, "FEAT_PAuth"),
        ("TCR_EL1.TBID1", tcr.TBID1, cpu.tbid, "FEAT_PAuth"),
        ("TCR_EL1.DS", tcr.DS, cpu.lpa2, "FEAT_LPA2"),
        ("SCTLR_EL1.EPAN", sctlr.EPAN, cpu.pan3, "FEAT_PAN3"),
    )
    for name, asked, able, feature in wanted:
        if asked and not able:
            raise InputError(f"{name} is 1: this CPU does not have {feature}")


class _Shape(NamedTuple):
    """The fields of TCR_EL1 that belong to one half."""

    half: int
    granules: dict[int, Granule]
    tg: int
    size: int
    off: int
    tbi: int
    tbid: int
    hpd: int
    e0pd: int
    sh: int


def _lower(tcr: TCR) -> _Shape:
    """The fields of the TTBR0 half."""
    return _Shape(
        half=0,
        granules={granule.tg0: granule for granule in GRANULES},
        tg=tcr.TG0,
        size=tcr.T0SZ,
        off=tcr.EPD0,
        tbi=tcr.TBI0,
        tbid=tcr.TBID0,
        hpd=tcr.HPD0,
        e0pd=tcr.E0PD0,
        sh=tcr.SH0,
    )


def _upper(tcr: TCR) -> _Shape:
    """The fields of the TTBR1 half."""
    return _Shape(
        half=1,
        granules={granule.tg1: granule for granule in GRANULES},
        tg=tcr.TG1,
        size=tcr.T1SZ,
        off=tcr.EPD1,
        tbi=tcr.TBI1,
        tbid=tcr.TBID1,
        hpd=tcr.HPD1,
        e0pd=tcr.E0PD1,
        sh=tcr.SH1,
    )


def _granule(shape: _Shape) -> Granule:
    """The granule that TG0 or TG1 names.

    Raises:
        InputError: the code is reserved.
    """
    try:
        return shape.granules[shape.tg]
    except KeyError:
        codes = ", ".join(
            f"{code:#04b} ({granule.name})" for code, granule in shape.granules.items()
        )
        raise InputError(
            f"TCR_EL1.TG{shape.half} is {shape.tg:#04b}: reserved, use one of {codes}"
        ) from None


def _input_bits(shape: _Shape, granule: Granule, *, ds: bool, cpu: Capabilities) -> int:
    """Bits of VA that T0SZ or T1SZ asks for.

    Raises:
        InputError: the granule and the CPU do not allow that size.
    """
    long = ds or (granule is GRANULE_64K and cpu.lva)
    smallest = SMALLEST_TXSZ_52 if long else SMALLEST_TXSZ
    largest = granule.largest_txsz if cpu.ttst else LARGEST_TXSZ
    if smallest <= shape.size <= largest:
        return 64 - shape.size
    raise InputError(
        f"TCR_EL1.T{shape.half}SZ is {shape.size}: with the {granule.name} granule "
        f"this CPU allows {smallest} to {largest}"
    )


def _half(shape: _Shape, tcr: TCR, cpu: Capabilities, rules: LeafRules) -> Half:
    """Work out one half.

    Raises:
        InputError: TCR_EL1 holds what cannot be for it.
    """
    if shape.off:
        return Half()
    granule = _granule(shape)
    ds = bool(tcr.DS) and granule is not GRANULE_64K
    # With FEAT_LPA, descriptors hold 52 bits whatever IPS says; bits beyond IPS are an
    # address size fault. TTBR is different: it holds 52 bits only if IPS says so.
    lpa = granule is GRANULE_64K and cpu.pa_bits == PHYSICAL_SIZES[-1]
    layout = d.address_format(granule, wide=ds or lpa)
    configured_bits = PHYSICAL_SIZES[tcr.IPS]
    output_bits = min(configured_bits, cpu.pa_bits, layout.bits)
    too_large = layout.place((1 << layout.bits) - (1 << output_bits))
    input_bits = _input_bits(shape, granule, ds=ds, cpu=cpu)
    sh = shape.sh if layout is d.ADDRESS_LPA2 else None
    limits = 0 if shape.hpd else d.TABLE_LIMITS
    links = Links(
        layout, page_shift=granule.page_shift, too_large=too_large, limits=limits
    )
    start = granule.start_level(input_bits)
    entries = granule.table_entries(start, input_bits)
    levels = range(start, LAST_LEVEL + 1)
    hops = tuple(
        (
            granule.shift(level) - 3,
            8 * (granule.table_entries(level, input_bits) - 1),
            links if level < LAST_LEVEL else None,
            _step(
                level,
                granule,
                input_bits=input_bits,
                layout=layout,
                too_large=too_large,
                sh=sh,
                rules=rules,
            ),
        )
        for level in levels
    )

    attributes = ATTRIBUTES & ~layout.moved
    offset_mask = (1 << input_bits) - 1
    above = d.MASK64 & ~offset_mask
    checked = above & (d.MASK64 >> 8 if shape.tbi else d.MASK64)
    return Half(
        granule=granule,
        input_bits=input_bits,
        start_level=start,
        first=above if shape.half else 0,
        last=d.MASK64 if shape.half else offset_mask,
        checked=checked,
        expected=checked if shape.half else 0,
        offset_mask=offset_mask,
        forbidden=EL0_ANY if shape.e0pd else 0,
        untagged=ANY_EXECUTE if shape.tbi and shape.tbid else 0,
        highest_pa=(1 << output_bits) - 1,
        table_alignment=max(8 * entries, SMALLEST_TABLE_ALIGNMENT),
        wide_base=ds or (lpa and configured_bits == layout.bits),
        moved=layout.moved,
        moved_up=layout.moved_up,
        limits=limits,
        attributes=attributes,
        judged=attributes | d.TYPE_MASK | too_large,
        hops={level: hops[level - start :] for level in levels},
    )


def _step(
    level: int,
    granule: Granule,
    *,
    input_bits: int,
    layout: d.AddressFormat,
    too_large: int,
    sh: int | None,
    rules: LeafRules,
) -> Step:
    """Work out one level of a walk; *too_large* and *sh* as in `Outcomes`."""
    shift = granule.shift(level)
    group_shift = granule.group_shift(level)
    leaf_type = None
    if level == LAST_LEVEL:
        leaf_type = d.TYPE_PAGE
    elif granule.has_leaf(level, wide=layout is not d.ADDRESS_48):
        leaf_type = d.TYPE_BLOCK
    return Step(
        level=level,
        shift=shift,
        va_mask=d.MASK64 & -1 << shift,
        leaf_mask=layout.in_place_mask(shift),
        outcomes=Outcomes(
            rules,
            level=level,
            shift=shift,
            # A group larger than the half is none: the bit is a hint.
            group_shift=group_shift if group_shift <= input_bits else shift,
            leaf_type=leaf_type,
            too_large=too_large,
            sh=sh,
        ),
    )


def _base(name: str, ttbr: TTBR, half: Half) -> int:
    """Address of the start table of *half*.

    Raises:
        InputError: the table is not aligned to its size (64 bytes at least).
    """
    base = ttbr.base(wide=half.wide_base)
    if half.granule and base % half.table_alignment:
        raise InputError(
            f"{name}: the table at {base:#x} is not aligned to its size, "
            f"{half.table_alignment} bytes"
        )
    return base
