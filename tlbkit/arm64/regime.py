"""The EL1&0 translation regime: registers that have been judged, ready for walks.

`Regime.of` takes the registers, refuses what is illegal, and works out once what
every walk needs. A regime never changes; a context switch makes another one with
`Regime.with_ttbr`, which shares all that does not depend on the table bases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.granule import GRANULES, LAST_LEVEL, Granule
from tlbkit.arm64.permission import ANY_EXECUTE, EL0_ANY, allowed
from tlbkit.arm64.registers import (
    MAIR,
    PHYSICAL_SIZES,
    SCTLR,
    TCR,
    TTBR,
    effective_shareability,
)
from tlbkit.errors import InputError

SMALLEST_TXSZ = 16
SMALLEST_TXSZ_52 = 12
LARGEST_TXSZ = 39
LARGEST_TXSZ_TTST = {"4K": 48, "16K": 48, "64K": 47}
SMALLEST_TABLE_ALIGNMENT = 64
BIT_55 = 1 << 55
NEVER = -1  # a descriptor type that no descriptor has

LEVEL_0_TRANSLATION = Fault(FaultKind.TRANSLATION, 0)
LEVEL_0_ADDRESS_SIZE = Fault(FaultKind.ADDRESS_SIZE, 0)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this CPU implements of the optional parts; the default is everything.

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
        tbid: FEAT_PAuth's TBID, the top byte of fetches can be excluded from TBI.
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
class Leaf:
    """What a page or block is, apart from where it is and where it leads.

    Interned: all translations of a regime with the same attributes share one.

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


class _Rules(NamedTuple):
    """What turns the bits of a leaf into a `Leaf`, the same for a whole regime."""

    mair: MAIR
    hardware_af: bool
    hardware_dirty: bool
    wxn: bool
    epan: bool
    interned: dict[Leaf, Leaf]


class Outcomes(dict[int, "Leaf | Fault"]):
    """For one level of one half: attribute bits -> the leaf, or its fault.

    The key is the descriptor's attribute bits ORed with the limits of the tables
    above it (the two never share a bit). Each answer is worked out once.
    """

    __slots__ = ("_group_shift", "_level", "_rules", "_sh", "_shift")

    def __init__(
        self, rules: _Rules, level: int, shift: int, group_shift: int, sh: int | None
    ) -> None:
        """*sh*: shareability of all memory, or None when each leaf has its own."""
        super().__init__()
        self._rules = rules
        self._level = level
        self._shift = shift
        self._group_shift = group_shift
        self._sh = sh

    def __missing__(self, key: int) -> Leaf | Fault:
        """Work out one answer, and keep it."""
        answer = self[key] = self._judge(key)
        return answer

    def _judge(self, key: int) -> Leaf | Fault:
        """The leaf that attributes and limits *key* make, or why it cannot be used."""
        rules = self._rules
        if not key & d.AF and not rules.hardware_af:
            return Fault(FaultKind.ACCESS_FLAG, self._level)
        held_back = bool(key & d.AP_TABLE_READ_ONLY)
        read_only = held_back or bool(key & d.AP_READ_ONLY)

        def rights(*, read_only: bool) -> int:
            return allowed(
                user=key & (d.AP_EL0 | d.AP_TABLE_NO_EL0) == d.AP_EL0,
                read_only=read_only,
                uxn=bool(key & (d.UXN | d.UXN_TABLE)),
                pxn=bool(key & (d.PXN | d.PXN_TABLE)),
                wxn=rules.wxn,
                epan=rules.epan,
            )

        becomes_writable = rules.hardware_dirty and key & d.DBM and not held_back
        attr = rules.mair.attributes[(key & d.ATTR_INDEX_MASK) >> d.ATTR_INDEX_SHIFT]
        sh = (key & d.SH_MASK) >> d.SH_SHIFT if self._sh is None else self._sh
        leaf = Leaf(
            level=self._level,
            shift=self._shift,
            group_shift=self._group_shift if key & d.CONTIGUOUS else self._shift,
            not_global=bool(key & d.NG),
            permissions=rights(read_only=read_only),
            permissions_dirty=rights(read_only=read_only and not becomes_writable),
            young=bool(key & d.AF),
            attr=attr,
            sh=effective_shareability(attr, sh),
        )
        return rules.interned.setdefault(leaf, leaf)


class Step(NamedTuple):
    """One level of a walk, with everything that the walker needs at it.

    Attributes:
        level: the level.
        index_shift: VA bits shifted right by this and ...
        index_mask: ... masked by this are the byte offset into the table.
        shift: log2 of the bytes of VA that one entry translates.
        table_type: low two bits of a table descriptor here, or `NEVER`.
        leaf_type: low two bits of a leaf here, or `NEVER`.
        leaf_mask: descriptor bits that hold a leaf's address in place.
        outcomes: attribute bits -> leaf or fault.
        invalid: the translation fault of this level.
        too_large: the address size fault of this level.
    """

    level: int
    index_shift: int
    index_mask: int
    shift: int
    table_type: int
    leaf_type: int
    leaf_mask: int
    outcomes: Outcomes
    invalid: Fault
    too_large: Fault


@dataclass(frozen=True, slots=True)
class Half:
    """One half of the address space (TTBR0's or TTBR1's), worked out for walks.

    Attributes:
        granule: its granule; None when the half is switched off (EPD) and its
            other fields name none.
        input_bits: bits of VA that a walk translates.
        checked: VA bits that must equal ...
        expected: ... these, or there is no translation. A half that is switched
            off has a pair that no VA satisfies.
        offset_mask: the VA bits that a walk translates.
        high_bits: what stands above them in a canonical address.
        wide: 52-bit descriptors (LPA with 64K, LPA2 with 4K and 16K).
        table_mask: descriptor bits that hold a table's address in place.
        moved: descriptor bits that hold the address bits above those.
        moved_up: how far these move up.
        too_large: descriptor bits that make an address larger than the output size.
        highest_pa: highest address of the output size.
        attributes: descriptor bits of a leaf that decide its `Leaf`.
        limits: table descriptor bits that limit what is below.
        steps: for a level, the steps from there to level 3.
        start_level: level where a walk starts.
        forbidden: access bits that never translate here (E0PD).
        untagged: access bits for which the top byte is never ignored (TBID).
    """

    granule: Granule | None
    input_bits: int
    checked: int
    expected: int
    offset_mask: int
    high_bits: int
    wide: bool
    table_mask: int
    moved: int
    moved_up: int
    too_large: int
    highest_pa: int
    attributes: int
    limits: int
    steps: dict[int, tuple[Step, ...]]
    start_level: int
    forbidden: int
    untagged: int

    @property
    def enabled(self) -> bool:
        """False when TCR_EL1.EPD switches walks off."""
        return bool(self.steps)


@dataclass(frozen=True, slots=True)
class Controls:
    """All of a regime but its tables: judged once, shared by every context.

    Raises:
        InputError: a register holds what the architecture or this CPU forbids.
    """

    tcr: TCR
    mair: MAIR
    sctlr: SCTLR
    capabilities: Capabilities
    halves: tuple[Half, Half] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Judge the registers and work out both halves."""
        _check_capabilities(self.tcr, self.sctlr, self.capabilities)
        rules = _Rules(
            mair=self.mair,
            hardware_af=bool(self.tcr.HA),
            hardware_dirty=bool(self.tcr.HA and self.tcr.HD),
            wxn=bool(self.sctlr.WXN),
            epan=bool(self.sctlr.EPAN),
            interned={},
        )
        halves = tuple(_half(n, self.tcr, self.capabilities, rules) for n in (0, 1))
        object.__setattr__(self, "halves", halves)


@dataclass(frozen=True, slots=True)
class Regime:
    """Everything that a walk at EL1&0 depends on, except memory.

    Attributes:
        controls: the registers that say how to walk.
        ttbr0: where walks of the lower half start; may hold the ASID.
        ttbr1: where walks of the upper half start; may hold the ASID.
        halves: `controls.halves`, the lower half first.
        bases: physical addresses of the two start tables.
        asid: the current ASID: of TTBR1 with TCR_EL1.A1, else of TTBR0; 8 or 16
            bits by TCR_EL1.AS.

    Raises:
        InputError: a table is not aligned to its size.
    """

    controls: Controls
    ttbr0: TTBR
    ttbr1: TTBR
    halves: tuple[Half, Half] = field(init=False, repr=False, compare=False)
    bases: tuple[int, int] = field(init=False, repr=False, compare=False)
    asid: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Judge the table bases and pick the ASID."""
        tcr = self.controls.tcr
        halves = self.controls.halves
        bases = (
            _base("TTBR0_EL1", self.ttbr0, halves[0]),
            _base("TTBR1_EL1", self.ttbr1, halves[1]),
        )
        asid = (self.ttbr1 if tcr.A1 else self.ttbr0).ASID
        object.__setattr__(self, "halves", halves)
        object.__setattr__(self, "bases", bases)
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
        """*va* as a translation names it: an ignored top byte replaced by bit 55.

        Addresses outside the range come back with their top byte as it was, so
        that they still equal no translation's address.
        """
        half = self.halves[va >> 55 & 1]
        if va & half.checked != half.expected:
            return va
        return half.high_bits | va & half.offset_mask

    def refusal(self, va: int, need: int) -> Fault | None:
        """The fault that an access of kind *need* takes before any look-up, if any.

        These depend on who asks, so neither a walk nor a TLB entry can answer
        them: E0PD (EL0 may not ask about this half at all) and TBID (the top byte
        of a fetch address is not ignored).
        """
        half = self.halves[va >> 55 & 1]
        if need & half.forbidden:
            return LEVEL_0_TRANSLATION
        if need & half.untagged and va >> 56 != half.high_bits >> 56:
            return LEVEL_0_TRANSLATION
        return None


def _check_capabilities(tcr: TCR, sctlr: SCTLR, cpu: Capabilities) -> None:
    """Refuse registers that ask for what the CPU or this model does not have."""
    if not sctlr.M:
        raise InputError("SCTLR_EL1.M is 0: stage 1 is off, there is nothing to walk")
    if sctlr.EE:
        raise InputError("SCTLR_EL1.EE is 1: big-endian tables are not modelled")
    if tcr.IPS >= len(PHYSICAL_SIZES):
        raise InputError(f"TCR_EL1.IPS {tcr.IPS}: reserved; 0 to 6 are sizes")
    wanted = (
        ("TCR_EL1.AS", tcr.AS, cpu.asid16, "16-bit ASIDs"),
        ("TCR_EL1.HA", tcr.HA, cpu.access_flag, "FEAT_HAFDBS"),
        ("TCR_EL1.HD", tcr.HD, cpu.dirty, "FEAT_HAFDBS dirty state"),
        ("TCR_EL1.HPD0/1", tcr.HPD0 | tcr.HPD1, cpu.hpd, "FEAT_HPDS"),
        ("TCR_EL1.E0PD0/1", tcr.E0PD0 | tcr.E0PD1, cpu.e0pd, "FEAT_E0PD"),
        ("TCR_EL1.TBID0/1", tcr.TBID0 | tcr.TBID1, cpu.tbid, "FEAT_PAuth"),
        ("TCR_EL1.DS", tcr.DS, cpu.lpa2, "FEAT_LPA2"),
        ("SCTLR_EL1.EPAN", sctlr.EPAN, cpu.pan3, "FEAT_PAN3"),
    )
    for name, asked, able, feature in wanted:
        if asked and not able:
            raise InputError(f"{name} is set: this CPU does not have {feature}")


class _Shape(NamedTuple):
    """The fields of TCR_EL1 that belong to one half."""

    size: int
    granule: Granule | None
    off: int
    tbi: int
    tbid: int
    hpd: int
    e0pd: int
    sh: int


def _shape(half: int, tcr: TCR) -> _Shape:
    """The fields of TCR_EL1 that belong to *half*."""
    if half == 0:
        granule = next((g for g in GRANULES if g.tg0 == tcr.TG0), None)
        return _Shape(
            tcr.T0SZ,
            granule,
            tcr.EPD0,
            tcr.TBI0,
            tcr.TBID0,
            tcr.HPD0,
            tcr.E0PD0,
            tcr.SH0,
        )
    granule = next((g for g in GRANULES if g.tg1 == tcr.TG1), None)
    return _Shape(
        tcr.T1SZ,
        granule,
        tcr.EPD1,
        tcr.TBI1,
        tcr.TBID1,
        tcr.HPD1,
        tcr.E0PD1,
        tcr.SH1,
    )


def _half(n: int, tcr: TCR, cpu: Capabilities, rules: _Rules) -> Half:
    """Work out half *n*.

    Raises:
        InputError: a reserved granule code, or a TxSZ that is not legal with it.
    """
    shape = _shape(n, tcr)
    if shape.off:
        return _HALVES_OFF[n]
    granule = shape.granule
    if granule is None:
        raise InputError(
            f"TCR_EL1.TG{n}: {(tcr.TG0, tcr.TG1)[n]:#04b} is reserved; want one of "
            + ", ".join(f"{(g.tg0, g.tg1)[n]:#04b} ({g.name})" for g in GRANULES)
        )
    lpa = granule.tg0 == 1 and cpu.pa_bits == PHYSICAL_SIZES[-1]
    lpa2 = granule.tg0 != 1 and bool(tcr.DS)
    wide = lpa or lpa2
    long_va = lpa2 or (granule.tg0 == 1 and cpu.lva)
    smallest = SMALLEST_TXSZ_52 if long_va else SMALLEST_TXSZ
    largest = LARGEST_TXSZ_TTST[granule.name] if cpu.ttst else LARGEST_TXSZ
    if not (smallest <= shape.size <= largest):
        raise InputError(
            f"TCR_EL1.T{n}SZ: {shape.size} is not legal; with the {granule.name} "
            f"granule this CPU takes {smallest} to {largest}"
        )

    input_bits = 64 - shape.size
    offset_mask = (1 << input_bits) - 1
    high_bits = d.MASK64 & ~offset_mask
    checked = high_bits & ((1 << 56) - 1 if shape.tbi else d.MASK64)
    output_bits = min(PHYSICAL_SIZES[tcr.IPS], cpu.pa_bits, 52 if wide else 48)
    layout = d.address_format(granule, wide=wide)
    unusable = (1 << layout.bits) - (1 << output_bits)
    start = granule.start_level(input_bits)
    steps = tuple(
        _step(level, granule, input_bits, shape, layout, rules)
        for level in range(start, LAST_LEVEL + 1)
    )
    attributes = (
        d.ATTR_INDEX_MASK
        | d.AP_EL0
        | d.AP_READ_ONLY
        | d.AF
        | d.NG
        | d.DBM
        | d.CONTIGUOUS
        | d.PXN
        | d.UXN
    )
    return Half(
        granule=granule,
        input_bits=input_bits,
        checked=checked,
        expected=checked if n else 0,
        offset_mask=offset_mask,
        high_bits=high_bits if n else 0,
        wide=wide,
        table_mask=layout.address_mask(granule.page_shift) & ~layout.moved,
        moved=layout.moved,
        moved_up=layout.moved_up,
        too_large=layout.place(unusable),
        highest_pa=(1 << output_bits) - 1,
        attributes=attributes | (0 if lpa2 else d.SH_MASK),
        limits=0 if shape.hpd else d.TABLE_LIMITS,
        steps={step.level: steps[i:] for i, step in enumerate(steps)},
        start_level=start,
        forbidden=EL0_ANY if shape.e0pd else 0,
        untagged=ANY_EXECUTE if shape.tbi and shape.tbid else 0,
    )


def _step(
    level: int,
    granule: Granule,
    input_bits: int,
    shape: _Shape,
    layout: d.AddressFormat,
    rules: _Rules,
) -> Step:
    """Work out one level of a walk."""
    shift = granule.shift(level)
    group_shift = granule.group_shift(level)
    last = level == LAST_LEVEL
    has_leaf = granule.has_leaf(level, wide=layout is not d.ADDRESS_48)
    return Step(
        level=level,
        index_shift=shift - 3,
        index_mask=granule.table_entries(level, input_bits) - 1 << 3,
        shift=shift,
        table_type=NEVER if last else d.TYPE_TABLE,
        leaf_type=d.TYPE_PAGE if last else d.TYPE_BLOCK if has_leaf else NEVER,
        leaf_mask=layout.address_mask(shift) & ~layout.moved,
        outcomes=Outcomes(
            rules,
            level,
            shift,
            # A group larger than the address space is no group; the bit is a hint.
            group_shift if group_shift <= input_bits else shift,
            shape.sh if layout is d.ADDRESS_LPA2 else None,
        ),
        invalid=Fault(FaultKind.TRANSLATION, level),
        too_large=Fault(FaultKind.ADDRESS_SIZE, level),
    )


def _half_off(n: int) -> Half:
    """The half that TCR_EL1.EPD switches off: nothing in it ever translates."""
    return Half(
        granule=None,
        input_bits=0,
        checked=BIT_55,
        expected=0 if n else BIT_55,
        offset_mask=0,
        high_bits=0,
        wide=False,
        table_mask=0,
        moved=0,
        moved_up=0,
        too_large=0,
        highest_pa=0,
        attributes=0,
        limits=0,
        steps={},
        start_level=0,
        forbidden=0,
        untagged=0,
    )


_HALVES_OFF = (_half_off(0), _half_off(1))


def _base(name: str, ttbr: TTBR, half: Half) -> int:
    """Address of the start table of *half*.

    Raises:
        InputError: the table is not aligned to its size (64 bytes at least).
    """
    if not half.enabled:
        return 0
    base = ttbr.base(wide=half.wide)
    size = max(half.steps[half.start_level][0].index_mask + 8, SMALLEST_TABLE_ALIGNMENT)
    if base % size:
        raise InputError(
            f"{name}: the table at {base:#x} is not aligned to its size, {size} bytes"
        )
    return base
